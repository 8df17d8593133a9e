"""Conversion with Apache Beam: the same bytes as with local workers.

Beam lowers what other packages are installed as, so it is no part of the extra `test`:
what needs it is collected where it is installed alone.
"""

import importlib.util
import sys

import pytest

from cxr import cli
from cxr.conversion import converter, spool
from tests.sample_images import config_for, contents, convert, make_source

TWO_PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "CHUNK_IMAGES", 8)
    return make_source(tmp_path / "films", 16)


if importlib.util.find_spec("apache_beam"):

    @pytest.mark.slow
    @pytest.mark.parametrize("options", [(), TWO_PROCESSES], ids=["one", "two"])
    def test_beam_writes_the_same_bytes(source, tmp_path, options):
        here = convert(source, num_shards=3)
        there = convert(
            source,
            num_shards=3,
            output_dir=str(tmp_path / "beam"),
            runner="beam",
            beam_options=options,
        )
        assert contents(here.path) == contents(there.path)


def test_without_beam_the_extra_is_named(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(cli.UnavailableError, match=r"cxr\[beam\]"):
        convert(source, runner="beam")


def test_options_of_another_runner_are_refused(source):
    argv = ["convert", f"--input_dir={source}", "--beam_options=--direct_num_workers=2"]
    with pytest.raises(cli.UsageError, match=r"--beam_options=.*--runner=beam alone"):
        cli.parse(argv, converter.ConversionConfig, usage="")


def test_a_chunk_that_is_done_is_not_decoded_again(source, tmp_path, monkeypatch):
    tree = converter.find_sources(config_for(source))
    chunk = spool.Chunk(
        tree.root,
        tree.sources,
        tmp_path / "chunk",
        spool.Encoding(24, "raw", 95),
        tmp_path / "key",
    )
    count = spool.convert(chunk)
    monkeypatch.setattr(spool.images, "read", None)  # any decoding would fail
    assert spool.convert(chunk) == count == len(tree.sources)
