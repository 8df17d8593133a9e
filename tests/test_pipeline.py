"""Order, coverage, resume and damage, in both modes of the input pipeline."""

import dataclasses
import gc
import subprocess
import sys
import textwrap
import threading
import types
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr import cli, files, images, platforms, records, tfrecord
from cxr.benchmark import roofline
from cxr.input import orders, pipeline, resident
from cxr.input.jpeg import decoder as jpeg
from cxr.input.reader import Reader, _position

pytestmark = pytest.mark.slow  # each test reads a set through tf.data

MODES = ("ram", "none", "hybrid")
N = 43  # prime: no batch size divides it


def opened(record_set, split="train", *, image_size=16, **options):
    return pipeline.open_split(
        record_set, split, image_size=image_size, progress=False, **options
    )


def take(source, dataset, count):
    """Returns `count` batches as `(films, labels, indices)` numpy arrays."""
    batches = source.batches(dataset)
    return [tuple(x.numpy() for x in next(batches)) for _ in range(count)]


def all_films(source):
    batches = [batch[0].numpy() for batch in source.batches(source.evaluation(16))]
    return np.concatenate(batches)


def corrupt(record_set, record, find, replace, *, keep_crc=True):
    """Replaces bytes inside one record of the first shard, its length unchanged."""
    path = record_set.shard_paths("train")[0]
    payload = list(tfrecord.read_frames(path))[record]
    assert payload.count(find) == 1
    assert len(find) == len(replace)
    changed = payload.replace(find, replace)
    if not keep_crc:
        payload, changed = tfrecord.frame(payload), tfrecord.frame(changed)
    path.write_bytes(path.read_bytes().replace(payload, changed))
    return path


# --- order


def test_epoch_order_is_pinned():
    # A changed order would make a resumed run see films twice: these never change.
    assert orders.shuffled(8, 0, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert orders.shuffled(8, 0, 1).tolist() == [5, 3, 7, 2, 4, 1, 0, 6]
    assert orders.shuffled(8, 7, 0).tolist() == [4, 1, 6, 3, 2, 7, 5, 0]
    assert orders.shuffled_near((5, 3), 0, 0).tolist() == [1, 3, 4, 5, 7, 2, 6, 0]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**40), st.integers(0, 1000))
def test_epoch_order_is_a_permutation(n, seed, epoch):
    order = orders.shuffled(n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(0, 99))
def test_stream_order_is_a_permutation(shard_sizes, seed):
    order = orders.shuffled_near(tuple(shard_sizes), seed, 3)
    assert sorted(order.tolist()) == list(range(sum(shard_sizes)))


@pytest.mark.parametrize(
    "order",
    [
        lambda seed, epoch: orders.shuffled(5216, seed, epoch),
        lambda seed, epoch: orders.shuffled_near((1304,) * 4, seed, epoch),
        lambda seed, epoch: orders.shuffled_near((5000,) * 8, seed, epoch),
    ],
    ids=["resident", "streaming", "streaming many windows"],
)
def test_epochs_and_seeds_are_uncorrelated(order):
    pairs = [(0, 0), (0, 1), (0, 2), (1, 0)]
    ranks = [np.argsort(order(*pair)) for pair in pairs]
    rho = np.corrcoef([*ranks, np.arange(len(ranks[0]))])
    off_diagonal = rho[~np.eye(len(rho), dtype=bool)]
    # The blocks of a stream move together: 625 of them scatter by 1/sqrt(625).
    bound = 0.05 if len(ranks[0]) == 5216 else 0.13
    assert np.abs(off_diagonal).max() < bound


def test_a_stream_window_touches_few_places_of_the_disk():
    order = orders.shuffled_near((40_000,), 0, 0)
    first = np.unique(order[: orders._WINDOW] // orders._BLOCK)
    assert len(first) == orders._WINDOW // orders._BLOCK


# --- training


@pytest.mark.parametrize("cache", MODES)
@pytest.mark.parametrize("encoding", ("raw", "jpeg", "png"))
def test_training_batches_are_the_films_they_say(make_records, cache, encoding):
    record_set = make_records({"train": N}, encoding=encoding)
    source = opened(record_set, cache=cache)
    batches = take(source, source.training(8, 3), 12)
    films = all_films(source)
    for film, label, index in batches:
        assert film.shape == (8, 16, 16, 1)
        assert film.dtype == np.uint8
        assert label.dtype == np.int32
        assert index.dtype == np.int64
        np.testing.assert_array_equal(film, films[index])
        np.testing.assert_array_equal(label, source.labels[index])


def test_both_modes_read_the_pixels_that_were_written(make_records):
    record_set = make_records({"train": N}, encoding="jpeg")
    payloads = [
        tfrecord.decode_example(payload)["image/encoded"]
        for path in record_set.shard_paths("train")
        for payload in tfrecord.read_frames(path)
    ]
    written = np.stack([images.to_grey(payload, 16) for payload in payloads])
    for cache in MODES:
        read = all_films(opened(record_set, cache=cache))
        np.testing.assert_array_equal(read[..., 0], written)


@pytest.mark.parametrize("cache", MODES)
def test_no_example_twice_in_an_epoch_and_the_rest_changes(make_records, cache):
    source = opened(make_records({"train": N}), cache=cache)
    indices = [batch[2] for batch in take(source, source.training(8, 0), 5 * 6)]
    epochs = np.array(indices).reshape(6, 40)
    assert all(len(set(epoch)) == 40 for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6
    rests = {frozenset(range(N)) - frozenset(epoch) for epoch in epochs.tolist()}
    assert len(rests) > 1


@pytest.mark.parametrize("cache", MODES)
def test_resume_at_any_step_continues_the_same_sequence(make_records, cache):
    record_set = make_records({"train": N})
    source = opened(record_set, cache=cache)
    whole = [batch[2].tolist() for batch in take(source, source.training(8, 5), 16)]
    for start in (1, 4, 5, 6, 13):
        fresh = opened(record_set, cache=cache)
        resumed = take(fresh, fresh.training(8, 5, start_step=start), 16 - start)
        assert [batch[2].tolist() for batch in resumed] == whole[start:]


@pytest.mark.parametrize("cache", MODES)
def test_order_does_not_depend_on_threads(make_records, cache):
    record_set = make_records({"train": N})
    sequences = []
    for threads in (1, 5):
        source = opened(record_set, cache=cache)
        source._threads = threads
        batches = take(source, source.training(4, 1), 30)
        sequences.append([batch[2].tolist() for batch in batches])
    assert sequences[0] == sequences[1]


def test_resident_order_is_epoch_order(make_records):
    source = opened(make_records({"train": N}), cache="ram")
    batches = take(source, source.training(8, 9), 10)
    indices = np.concatenate([batch[2] for batch in batches])
    for epoch in (0, 1):
        expected = orders.shuffled(N, 9, epoch)[:40]
        np.testing.assert_array_equal(indices[epoch * 40 :][:40], expected)


def test_a_plain_loop_over_the_dataset_gives_the_same_batches(make_records):
    source = opened(make_records({"train": N}))
    dataset = source.training(8, 2)
    fast = take(source, dataset, 7)
    for (films, _, indices), expected in zip(dataset, fast, strict=False):
        np.testing.assert_array_equal(films, expected[0])
        np.testing.assert_array_equal(indices, expected[2])


def test_more_than_the_split_holds_is_refused(make_records):
    source = opened(make_records({"train": 5}))
    with pytest.raises(cli.UsageError, match=r"--batch_size=8.* 5 images"):
        source.training(8, 0)


@pytest.mark.slow
def test_replicas_share_each_batch_without_loss():
    # In a process of its own: two CPU devices must exist before TensorFlow starts.
    program = """
        import pathlib, sys, tempfile
        import tensorflow as tf
        from cxr.input import pipeline
        from tests.fabricated import write_records

        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        records = write_records(pathlib.Path(tempfile.mkdtemp()), {"train": 43})
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        for cache in ("ram", "none"):
            source = pipeline.open_split(records, "train", image_size=16, cache=cache)
            dataset = source.training(8, 3)
            shared = iter(strategy.experimental_distribute_dataset(dataset))
            for _, (_, _, whole) in zip(range(11), dataset):
                parts = strategy.experimental_local_results(next(shared)[2])
                assert [len(part) for part in parts] == [4, 4], parts
                assert tf.concat(parts, 0).numpy().tolist() == whole.numpy().tolist()
        print("SHARED")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "SHARED" in done.stdout, done.stderr[-2000:]


# --- evaluation


@pytest.mark.parametrize("cache", MODES)
@pytest.mark.parametrize("batch_size", [1, 8, N, 100])
def test_evaluation_covers_every_example_once(make_records, cache, batch_size):
    source = opened(make_records({"train": N}), cache=cache)
    dataset = source.evaluation(batch_size)
    for _ in range(2):  # a dataset may be read again
        indices = [batch[2].numpy() for batch in source.batches(dataset)]
        assert np.concatenate(indices).tolist() == list(range(N))
        assert {len(part) for part in indices[:-1]} <= {batch_size}


@pytest.mark.parametrize("cache", MODES)
def test_evaluation_can_start_anywhere(make_records, cache):
    source = opened(make_records({"train": N}), cache=cache)
    batches = source.batches(source.evaluation(8, start=30))
    films, indices = zip(*[(b[0].numpy(), b[2].numpy()) for b in batches], strict=True)
    assert np.concatenate(indices).tolist() == list(range(30, N))
    np.testing.assert_array_equal(np.concatenate(films), all_films(source)[30:])


@pytest.mark.parametrize("cache", MODES)
def test_a_smaller_size_is_one_area_reduction(make_records, cache):
    record_set = make_records({"train": N}, encoding="png")
    stored = all_films(opened(record_set, cache=cache))[..., 0]
    for size in (8, 7):
        smaller = all_films(opened(record_set, cache=cache, image_size=size))
        expected = images.area_resize(stored, size)
        np.testing.assert_array_equal(smaller[..., 0], expected)


# --- the mode


def test_auto_is_resident_within_the_budget(make_records, capsys):
    record_set = make_records({"train": N})
    nbytes = N * 16 * 16
    within = pipeline.open_split(
        record_set, "train", image_size=16, ram_budget_bytes=nbytes
    )
    assert (within.mode, within.nbytes) == ("ram", nbytes)
    assert "in memory" in capsys.readouterr().err
    beyond = opened(record_set, ram_budget_bytes=nbytes - 1)
    assert beyond.mode == "stream"
    assert opened(record_set, cache="none").mode == "stream"
    assert opened(record_set, cache="ram", ram_budget_bytes=0).mode == "ram"


def test_half_in_memory_is_the_stream_and_reads_half(make_records, monkeypatch):
    record_set = make_records({"train": N}, encoding="jpeg")
    half = N // 2
    source = opened(record_set, cache="hybrid", ram_budget_bytes=half * 16 * 16)
    assert source.mode == "hybrid"
    streamed = opened(record_set, cache="none")
    epochs = 3 * (N // 8)
    pairs = zip(
        take(source, source.training(8, 3), epochs),
        take(streamed, streamed.training(8, 3), epochs),
        strict=True,
    )
    for found, expected in pairs:
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    all_films(source)  # whatever the epochs left out
    read, images_of = [], Reader.images

    def counted(reader, indices):
        read.extend(indices)
        return images_of(reader, indices)

    monkeypatch.setattr(Reader, "images", counted)
    films = all_films(source)
    assert sorted(read) == list(range(half, N))
    np.testing.assert_array_equal(films, all_films(streamed))


def test_ram_beyond_the_free_memory_is_refused(make_records, monkeypatch):
    monkeypatch.setattr(platforms, "free_memory_bytes", lambda: 100)
    record_set = make_records({"train": N})
    with pytest.raises(cli.UnavailableError, match="--cache=ram"):
        opened(record_set, cache="ram")


# --- JPEG, with Numba and without


@pytest.fixture
def no_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it were not installed
    monkeypatch.setattr(jpeg, "_loop", jpeg._Loop())
    monkeypatch.setattr(jpeg, "_WORTHWHILE", 10)


def test_without_numba_libjpeg_turbo_decodes(make_records, no_numba):
    record_set = make_records({"train": N}, encoding="jpeg")
    streamed = all_films(opened(record_set, cache="none"))
    resident = all_films(opened(record_set, cache="ram"))
    np.testing.assert_array_equal(streamed, resident)
    encoded = Reader(record_set, "train", image_size=16).encoded(np.arange(N))
    expected = np.stack([images.to_grey(data, 16) for data in encoded])
    np.testing.assert_array_equal(streamed[..., 0], expected)
    assert jpeg._loop.thread is None  # N are four times worth a try


def test_the_roofline_needs_no_numba(make_records, no_numba):
    record_set = make_records({"train": N}, encoding="jpeg")
    reader = Reader(record_set, "train", image_size=16)
    workload = types.SimpleNamespace(image_check=types.SimpleNamespace(reader=reader))
    assert roofline._bare_decode_case(workload).advance() == N
    assert jpeg._loop.thread is None


@pytest.mark.parametrize("missing", [False, True])
def test_who_decodes_a_stream_of_jpeg_is_said_once(
    make_records, monkeypatch, capsys, missing
):
    if missing:
        monkeypatch.setitem(sys.modules, "numba", None)
    pipeline._say_decoder.cache_clear()
    record_set = make_records({"train": N, "test": 5}, encoding="jpeg")
    opened(record_set, cache="none")  # without progress
    pipeline.open_split(record_set, "train", image_size=16, cache="ram")
    assert "JPEG" not in capsys.readouterr().err
    for split in ("train", "test"):
        pipeline.open_split(record_set, split, image_size=16, cache="none")
    said = [line for line in capsys.readouterr().err.splitlines() if "JPEG" in line]
    expected = "libjpeg-turbo; the extra fast-jpeg" if missing else "loop (numba)"
    assert len(said) == 1
    assert expected in said[0]


def test_numba_is_not_imported_before_a_stream_is_worth_it(make_records):
    record_set = make_records({"train": N}, encoding="jpeg")
    program = f"""
        import sys
        from cxr import records
        from cxr.benchmark import roofline
        from cxr.input import pipeline

        record_set = records.load({str(record_set.path)!r})
        for cache in ("none", "ram"):
            source = pipeline.open_split(
                record_set, "train", image_size=16, cache=cache
            )
            list(source.batches(source.evaluation(8)))
        print("numba" in sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.stdout == "False\n", done.stderr[-2000:]


# --- damage


@pytest.mark.parametrize("cache", MODES)
@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_a_changed_film_is_named(make_records, cache, encoding):
    record_set = make_records({"train": N}, encoding=encoding)
    film = tfrecord.decode_example(
        list(tfrecord.read_frames(record_set.shard_paths("train")[0]))[3]
    )["image/encoded"]
    path = corrupt(record_set, 3, film, film[:-1] + bytes([film[-1] ^ 1]))
    source = opened(record_set, cache=cache)
    with pytest.raises(cli.DataError, match=rf"{path.name}: record 3: .*CRC"):
        take(source, source.training(8, 0), 12)
    assert isinstance(source.fault, tfrecord.CorruptShard)


@pytest.mark.parametrize("cache", MODES)
@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_a_film_that_is_not_its_key_is_named(make_records, cache, encoding):
    record_set = make_records({"train": N}, encoding=encoding)
    film = tfrecord.decode_example(
        list(tfrecord.read_frames(record_set.shard_paths("train")[0]))[3]
    )["image/encoded"]
    other = film[:-1] + bytes([film[-1] ^ 1])
    corrupt(record_set, 3, film, other, keep_crc=False)
    source = opened(record_set, cache=cache)
    with pytest.raises(cli.DataError, match=r"record 3: .*sha256"):
        take(source, source.training(8, 0), 12)


@pytest.mark.parametrize(("remember", "parsed"), [(True, 2 * 8), (False, 3 * 8)])
def test_a_record_is_verified_in_full_once(make_records, monkeypatch, remember, parsed):
    record_set = make_records({"train": 8}, encoding="jpeg")
    reader = Reader(record_set, "train", image_size=16, remember=remember)
    other = Reader(record_set, "train", image_size=16, remember=remember)
    calls = []
    for one in (reader, other):  # not for all: other tests' sources may read ahead
        right = one._verified
        monkeypatch.setattr(
            one, "_verified", lambda *a, right=right: calls.append(a) or right(*a)
        )
    first = reader.images(np.arange(8))
    np.testing.assert_array_equal(reader.images(np.arange(8)), first)
    np.testing.assert_array_equal(other.images(np.arange(8)[::-1]), first[::-1])
    assert len(calls) == parsed


# Of two letters, so that a film's first bytes often stand before it, too.
few_letters = st.lists(st.sampled_from(b"ab"), max_size=60).map(bytes)


@given(few_letters, few_letters.filter(bool), few_letters)
def test_a_film_is_found_behind_bytes_that_begin_like_it(before, film, behind):
    record = before + film[:20] + before + film + behind
    assert _position(film, record) == record.index(film)


def test_a_record_that_changes_between_epochs_is_verified_again(make_records):
    record_set = make_records({"train": 8}, encoding="raw", num_shards=1)
    source = opened(record_set, cache="none")
    assert len(all_films(source)) == 8
    payload = list(tfrecord.read_frames(record_set.shard_paths("train")[0]))[3]
    film = tfrecord.decode_example(payload)["image/encoded"]
    corrupt(record_set, 3, film, film[:-1] + bytes([film[-1] ^ 1]), keep_crc=False)
    with pytest.raises(cli.DataError, match=r"record 3: .*sha256"):
        all_films(source)


@pytest.mark.parametrize("cache", MODES)
def test_a_source_is_kept_by_its_datasets_and_goes_with_them(make_records, cache):
    source = opened(make_records({"train": N}), cache=cache)
    iterators = [iter(source.training(8, 0)), iter(source.evaluation(8))]
    known = weakref.ref(source)
    del source
    gc.collect()
    assert [len(next(iterator)[0]) for iterator in iterators] == [8, 8]
    del iterators
    gc.collect()
    assert known() is None


@pytest.mark.slow
def test_a_program_ends_after_the_reads_under_way(make_records):
    """One that wanted Python's lock while the interpreter winds up hung for ever."""
    record_set = make_records({"train": 8}, num_shards=1)
    program = f"""
        import time
        from cxr import records
        from cxr.input import pipeline, reader

        right = reader.Reader.images
        def slow(*args):
            print("begin", flush=True)
            time.sleep(0.3)  # a slow disk
            print("end", flush=True)
            return right(*args)
        reader.Reader.images = slow
        source = pipeline.open_split(
            records.load({str(record_set.path)!r}), "train", image_size=16, cache="none"
        )
        batches = source.batches(source.training(1, 0))
        next(batches)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("begin") == done.stdout.count("end") > 1


@pytest.mark.parametrize("cache", MODES)
def test_a_changed_label_is_named(make_records, cache):
    record_set = make_records({"train": N})
    # The label 1 is field 3 (int64_list) of the feature: 0x1a 3 0x0a 1 1.
    key = b"image/class/label\x12\x05\x1a\x03\x0a\x01"
    corrupt(record_set, 1, key + b"\x01", key + b"\x07", keep_crc=False)
    source = opened(record_set, cache=cache)
    with pytest.raises(cli.DataError, match="record 1: image/class/label is 7"):
        list(source.batches(source.evaluation(8)))


def test_a_cut_shard_is_named_before_anything_is_read(make_records):
    record_set = make_records({"train": N})
    path = record_set.shard_paths("train")[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(cli.DataError, match=f"{path.name}: .* bytes"):
        opened(record_set)
    path.unlink()
    with pytest.raises(cli.DataError, match=f"{path.name}: missing"):
        opened(record_set)


@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("at", [0, 11])
def test_a_changed_length_is_named(make_records, at, offsets):
    record_set = make_records({"train": N}, offsets=offsets)
    path = record_set.shard_paths("train")[0]
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(cli.DataError, match=f"{path.name}: record 0: .*length"):
        all_films(opened(record_set))


def test_a_size_above_the_stored_one_is_refused(make_records):
    with pytest.raises(cli.UsageError, match=r"--image_size=32.*\n?.*16"):
        opened(make_records({"train": N}), image_size=32)


@pytest.mark.parametrize(
    ("encoding", "offsets"), [("raw", True), ("raw", False), ("jpeg", False)]
)
def test_swapped_records_are_refused(make_records, encoding, offsets):
    """Sound records in another order: row i would no longer be example i."""
    options = {"encoding": encoding, "num_shards": 1, "offsets": offsets}
    record_set = make_records({"train": 8}, **options)
    path = record_set.shard_paths("train")[0]
    payloads = list(tfrecord.read_frames(path))
    # Films 2 and 4 have the same label; the manifest's size still holds.
    swapped = [payloads[i] for i in (0, 1, 4, 3, 2, 5, 6, 7)]
    data = b"".join(map(tfrecord.frame, swapped))
    assert len(data) == path.stat().st_size
    path.write_bytes(data)
    source = pipeline.open_split(record_set, "train", image_size=16, progress=False)
    with pytest.raises(cli.DataError, match="image/filename"):
        list(source.batches(source.evaluation(4)))


@pytest.mark.parametrize("num_shards", [1, 3])
def test_a_set_without_offsets_is_walked(make_records, num_shards):
    options = {"encoding": "jpeg", "num_shards": num_shards}
    counts = {"train": N, "validation": 5, "test": 7}
    told = make_records(counts, **options)
    walked = make_records(counts, **options, name="older", offsets=False)
    assert not (walked.path / records.OFFSETS).exists()
    for split in counts:
        np.testing.assert_array_equal(
            walked.record_spans(split), told.record_spans(split)
        )
        np.testing.assert_array_equal(
            all_films(opened(walked, split)), all_films(opened(told, split))
        )


def rewrite_offsets(record_set, change):
    """Changes offsets.npy, and what the manifest says of it; returns that set."""
    path = record_set.path / records.OFFSETS
    np.save(path, change(np.load(path)))
    listed = {**record_set.manifest.files[records.OFFSETS]}
    listed |= {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}
    changed = {**record_set.manifest.files, records.OFFSETS: listed}
    return dataclasses.replace(
        record_set, manifest=dataclasses.replace(record_set.manifest, files=changed)
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda starts: starts[:-1],
        lambda starts: starts[1:],
        lambda starts: starts + 1,
        lambda starts: starts * 1000,
        lambda starts: starts[::-1],
        lambda starts: np.append(starts, 1 << 40),
    ],
    ids=["one less", "first missing", "moved", "beyond", "turned", "one more"],
)
def test_offsets_that_do_not_fit_the_shards_are_refused(make_records, change):
    record_set = rewrite_offsets(make_records({"train": N}), change)
    words = r"tfrecord-0000\d-of-00002: .* records|offsets\.npy: .* whole numbers"
    with pytest.raises(cli.DataError, match=words):
        opened(record_set)


def test_offsets_changed_since_the_conversion_are_refused(make_records):
    record_set = make_records({"train": N})
    path = record_set.path / records.OFFSETS
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(cli.DataError, match=r"offsets\.npy: .*changed"):
        opened(record_set)


def test_an_offset_within_its_shard_that_is_wrong_gives_no_wrong_film(make_records):
    def change(starts):
        return starts + (np.arange(len(starts)) == 3)

    source = opened(rewrite_offsets(make_records({"train": N}), change))
    with pytest.raises(cli.DataError, match=r"record [23]: .*CRC"):
        all_films(source)


@pytest.mark.parametrize("cache", MODES)
@pytest.mark.parametrize(("image_size", "batch_size"), [(15, 1), (15, 3), (16, 5)])
def test_batches_whose_memory_is_not_aligned(
    make_records, cache, image_size, batch_size
):
    source = opened(make_records({"train": N}), image_size=image_size, cache=cache)
    films = all_films(source)
    for film, label, index in take(source, source.training(batch_size, 1), 60):
        np.testing.assert_array_equal(film, films[index])
        np.testing.assert_array_equal(label, source.labels[index])


@pytest.mark.parametrize("cache", MODES)
@pytest.mark.parametrize("n", [1, 5, 8, 12, 31, 32, 33])
def test_a_small_split(make_records, cache, n):
    source = opened(make_records({"train": n}, num_shards=1), cache=cache)
    [(_, _, indices)] = take(source, source.training(n, 0), 1)
    assert sorted(indices.tolist()) == list(range(n))
    assert len(all_films(source)) == n


def test_a_batch_waits_for_its_own_films_only(make_records, monkeypatch):
    """The other films arrive when the disk lets them, and then nothing waits."""
    source = opened(make_records({"train": 200}), cache="ram")
    source._resident._threads = 1  # or the first films would be one of two chunks
    right, disk, asked = source._reader.images, threading.Event(), []

    def films(indices):
        asked.extend(indices.tolist())
        if len(asked) > len(indices):
            assert disk.wait(20)
        return right(indices)

    monkeypatch.setattr(source._reader, "images", films)
    batches = source.batches(source.training(8, 0))
    first = next(batches)[2].numpy().tolist()
    assert first == asked[:8]  # and next(batches) would not have come otherwise
    assert source._resident._missing == 200 - resident._CHUNK
    disk.set()
    rest = [next(batches)[2].numpy() for _ in range(24)]
    assert asked == orders.shuffled(200, 0, 0).tolist()
    assert len(set(first).union(*map(set, rest))) == 200
    assert source._resident._missing == 0
