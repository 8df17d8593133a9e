"""cxr.conversion.existing_set: sets of earlier versions, which know fewer flags."""

import dataclasses

import pytest

from cxr import cli, records
from cxr.conversion import converter
from tests.sample_images import config_for, contents, convert, make_source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Later(converter.ConversionConfig):
    """The flags of a version to come."""

    lamps: tuple[str, ...] = cli.option((), "globs to leave aside")
    sharpness: str = cli.option("drop", "what becomes of sharpness labels")


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "films")


def later(source, **flags):
    return Later(**dataclasses.asdict(config_for(source)) | flags)


def test_a_manifest_lists_these_flags(source):
    """A golden: another list would be another manifest of the same set."""
    assert convert(source).manifest.flags == {
        "dataset": "tiny",
        "encoding": "raw",
        "image_size": 24,
        "labels": "folder",
        "num_shards": 0,
        "patient_pattern": "",
        "quality": 95,
        "seed": 0,
        "split_policy": "auto",
        "test_fraction": 0.15,
        "validation_fraction": 0.15,
        "version": "1.0.0",
    }


def test_a_set_that_does_not_know_a_flag_has_its_default(source):
    before = contents(convert(source).path)
    lines = []
    again = converter.convert(later(source), log=lines.append)
    assert any("complete already" in line for line in lines)
    assert contents(again.path) == before
    with pytest.raises(
        cli.UsageError, match=r"(?m)--sharpness=positive \(there: drop\)$"
    ):
        converter.convert(later(source, sharpness="positive"), log=lines.append)
    wrong = r"--lamps=\['x'\] \(there: \[\]\), --seed=1 \(there: 0\)$"
    with pytest.raises(cli.UsageError, match=f"(?m){wrong}"):
        converter.convert(later(source, lamps=("x",), seed=1), log=lines.append)


def test_a_later_flag_s_default_leaves_the_manifest_as_it_was(source, tmp_path):
    expected = contents(convert(source).path)
    config = later(source, output_dir=str(tmp_path / "later"))
    assert contents(converter.convert(config, log=str).path) == expected


def test_a_later_flag_s_value_is_listed_and_known_again(source):
    lines = []
    config = later(source, lamps=("a", "b"))
    flags = converter.convert(config, log=lines.append).manifest.flags
    assert flags["lamps"] == ["a", "b"]
    assert "sharpness" not in flags
    converter.convert(config, log=lines.append)
    assert any("complete already" in line for line in lines)
    with pytest.raises(cli.UsageError, match=r"--lamps=\[\] \(there: \['a', 'b'\]\)"):
        converter.convert(later(source), log=lines.append)
    with pytest.raises(cli.UsageError, match=r"--lamps=None \(there: \['a', 'b'\]\)"):
        convert(source)  # by the version that does not know the flag
    assert records.load(config.folder).manifest.flags == flags
