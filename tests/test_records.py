import csv
import json
import struct
import types

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from cxr import cli, files, records, tfrecord


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_frames_round_trip(tmp_path_factory, payloads):
    path = tmp_path_factory.mktemp("frames") / "shard"
    path.write_bytes(b"".join(map(tfrecord.frame, payloads)))
    assert list(tfrecord.read_frames(path)) == payloads


def test_tensorflow_reads_and_writes_the_same_frames(tmp_path):
    payloads = [b"", b"abc", bytes(range(256)) * 9]
    with tf.io.TFRecordWriter(str(tmp_path / "tf")) as writer:
        for payload in payloads:
            writer.write(payload)
    ours = b"".join(map(tfrecord.frame, payloads))
    assert (tmp_path / "tf").read_bytes() == ours


@pytest.mark.parametrize(
    ("damage", "index", "reason"),
    [
        (lambda b: b[:-1], 1, "cut"),
        (lambda b: b[: len(b) // 2 + 5], 1, "header"),
        (lambda b: b"\x01" + b[1:], 0, "length's CRC"),
        (lambda b: b[:14] + b"\xff" + b[15:], 0, "payload's CRC"),
        (lambda b: b[:-2] + b"zz", 1, "payload's CRC"),
    ],
)
def test_damage_names_file_and_record(tmp_path, damage, index, reason):
    path = tmp_path / "shard"
    path.write_bytes(damage(tfrecord.frame(b"a" * 40) + tfrecord.frame(b"b" * 40)))
    with pytest.raises(tfrecord.CorruptShard, match=reason) as caught:
        list(tfrecord.read_frames(path))
    assert (caught.value.path, caught.value.index) == (path, index)
    assert caught.value.exit_code == 65


def test_a_forged_length_is_refused_before_it_is_allocated(tmp_path):
    length = struct.pack("<Q", 1 << 60)
    crc = struct.pack("<I", tfrecord._masked_crc(length))
    (tmp_path / "shard").write_bytes(length + crc + b"x" * 20)
    with pytest.raises(tfrecord.CorruptShard, match="cut inside"):
        list(tfrecord.read_frames(tmp_path / "shard"))


FIELDS = {"image/encoded": b"\x00\xff", "image/class/label": 1, "image/format": "raw"}


def test_tensorflow_parses_our_example():
    payload = tfrecord.encode_example(FIELDS)
    example = tf.train.Example.FromString(payload).features.feature
    assert example["image/encoded"].bytes_list.value[0] == b"\x00\xff"
    assert example["image/class/label"].int64_list.value[0] == 1
    assert tfrecord.decode_example(payload) == {**FIELDS, "image/format": b"raw"}


def test_equal_fields_give_equal_bytes_in_any_order():
    turned = dict(reversed(FIELDS.items()))
    assert tfrecord.encode_example(FIELDS) == tfrecord.encode_example(turned)


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"\x0a\x04\x0a\x02\x0a\x00"])
def test_what_is_no_flat_example_is_a_value_error(payload):
    with pytest.raises(ValueError, match=r"Example|values"):
        tfrecord.decode_example(payload)


def test_manifest_round_trip_and_fingerprint(make_records):
    manifest = make_records({"train": 6, "test": 4}).manifest
    text = manifest.to_json()
    assert records.Manifest.from_json(text) == manifest
    assert json.loads(text)["schema"] == records.SCHEMA
    document = json.loads(text)
    document["splits"]["train"]["shards"][0]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="fingerprint"):
        records.Manifest.from_json(json.dumps(document))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 99}', "null"])
def test_what_is_no_manifest_is_a_value_error(text):
    with pytest.raises(ValueError):
        records.Manifest.from_json(text)


def test_find_takes_the_highest_complete_version(make_records, tmp_path):
    record_set = make_records({"train": 4})
    root = record_set.path.parent
    for version in ("1.9.0", "1.10.0", "1.11.0"):
        (root / version).mkdir()
    text = (record_set.path / "manifest.json").read_text()
    for version in ("1.9.0", "1.10.0"):
        (root / version / "manifest.json").write_text(text)
    assert records.find(tmp_path / "data", "tiny").path.name == "1.10.0"


def test_find_says_how_to_make_a_set(tmp_path):
    with pytest.raises(cli.DataError, match=r"tools\.make_tfrecords") as caught:
        records.find(tmp_path, "nothing")
    assert "--dataset=nothing" in str(caught.value)


def test_check_accepts_a_clean_set(make_records):
    records.check(make_records({"train": 5, "validation": 3, "test": 4}))


def test_check_finds_a_shard_of_another_size(make_records):
    record_set = make_records({"train": 5})
    path = record_set.shard_paths("train")[0]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(cli.DataError, match=path.name):
        records.check(record_set)
    path.unlink()
    with pytest.raises(cli.DataError, match="missing"):
        records.check(record_set)


def test_check_finds_a_changed_examples_csv(make_records):
    record_set = make_records({"train": 5})
    path = record_set.path / "examples.csv"
    path.write_text(path.read_text().replace("NORMAL", "OTHER", 1))
    with pytest.raises(cli.DataError, match=r"examples\.csv"):
        records.check(record_set)


@pytest.mark.parametrize("column", ["patient_id", "source_sha256"])
def test_a_patient_or_file_on_two_sides_is_refused(column):
    row = {"patient_id": "a", "source_sha256": "b", "filename": "f", "split": "train"}
    other = {**row, "patient_id": "c", "source_sha256": "d", "split": "test"}
    records.check_disjoint([row, other])
    with pytest.raises(cli.DataError, match=column):
        records.check_disjoint([row, {**other, column: row[column]}])


def test_unknown_split_is_named(make_records):
    with pytest.raises(cli.DataError, match="'test'"):
        make_records({"train": 2}).shard_paths("test")


def set_with_examples(folder, rows, line_end):
    """Returns a set that has nothing but examples.csv."""
    columns = records.EXAMPLE_COLUMNS
    rows = [(*row, *[""] * (len(columns) - len(row))) for row in rows]
    with open(folder / records.EXAMPLES, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator=line_end).writerows([columns, *rows])
    path = folder / records.EXAMPLES
    listed = {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}
    manifest = types.SimpleNamespace(files={records.EXAMPLES: listed})
    return records.RecordSet(folder, manifest), columns


PLAIN = ["a.png", "b 1.png", "line\u2028 and \x0bend.png", "R\u00f6ntgen.png"]
QUOTED = ["a,b.png", 'say "c".png', "two\nlines.png"]
RETURN = ["return\r.png", "\r", "ends\r", "two\r\nends"]  # quoted where lines end so


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "names", [PLAIN, QUOTED, PLAIN + QUOTED, RETURN, RETURN + QUOTED + PLAIN, []]
)
def test_examples_come_back_whatever_their_names(tmp_path, names, line_end):
    rows = [(name, ("train", "test")[i % 2], "X", "") for i, name in enumerate(names)]
    record_set, columns = set_with_examples(tmp_path, rows, line_end)
    rest = [""] * (len(columns) - 4)
    expected = [dict(zip(columns, (*row, *rest), strict=True)) for row in rows]
    assert record_set.examples() == expected
    assert record_set.examples("train") == expected[::2]


@given(
    st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    st.integers(0, 3),
    st.data(),
)
def test_any_changed_byte_of_a_record_shows(payloads, which, data):
    framed = [tfrecord.frame(payload)[12:] for payload in payloads]
    assert tfrecord.intact(framed, tfrecord.stored_crcs(framed)) == [True] * len(framed)
    which %= len(framed)
    at = data.draw(st.integers(0, len(framed[which]) - 1))
    changed = bytearray(framed[which])
    changed[at] ^= data.draw(st.integers(1, 255))
    framed[which] = bytes(changed)
    expected = [index != which for index in range(len(framed))]
    assert tfrecord.intact(framed, tfrecord.stored_crcs(framed)) == expected


def test_a_record_cut_short_shows():
    whole = tfrecord.frame(b"a film")[12:]
    for length in range(len(whole)):
        framed = [whole[:length]]
        assert tfrecord.intact(framed, tfrecord.stored_crcs(framed)) == [False]


@pytest.mark.parametrize("header", ["path,reason", "path,reason,detail", "path"])
def test_a_quarantine_needs_two_columns(make_records, monkeypatch, header):
    record_set = make_records({"train": 4})
    table = f"{header}\n{header}\n".encode()
    monkeypatch.setattr(records.RecordSet, "_side_file", lambda *_: table)
    if "reason" in header:
        assert record_set.quarantine()[0]["reason"] == "reason"
    else:
        with pytest.raises(cli.DataError, match="no columns 'path', 'reason'"):
            record_set.quarantine()
