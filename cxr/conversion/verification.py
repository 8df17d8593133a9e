"""Checks a record set completely against its manifest, without TensorFlow.

Every byte is read: framing, both CRCs, the Example, the stored image's SHA-256,
its row in examples.csv, and each file's own SHA-256. Faults are collected, not
raised, so that one run names them all.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import numpy as np

from cxr import cli, files, records, tfrecord
from cxr.conversion import workers

_MAX_RECORD_FAULTS = 20  # a shard; a shifted shard would name every record


class Fault(NamedTuple):
    """Something that is not as the manifest says.

    Attributes:
      file: its name in the set's folder.
      record: index in the shard, None where the whole file is meant.
      what: what is wrong.
    """

    file: str
    record: int | None
    what: str

    def __str__(self) -> str:
        where = "" if self.record is None else f" record {self.record}"
        return f"{self.file}{where}: {self.what}"


class Expected(NamedTuple):
    """What examples.csv says of one record."""

    filename: str
    label: str
    patient_id: str
    subtype: str


@dataclasses.dataclass(frozen=True)
class _Job:
    """One shard to check; `expected` and `starts` are None where no file says it."""

    path: pathlib.Path
    shard: records.Shard
    class_names: tuple[str, ...]
    expected: tuple[Expected, ...] | None
    starts: np.ndarray | None


def find_sets(
    data_dir: str, *, dataset: str = "", version: str = ""
) -> list[pathlib.Path]:
    """Returns the version folders below a root, narrowed where asked.

    A folder counts when it holds a manifest or any shard, so that a set whose
    manifest is gone is found and named.

    Raises:
      UsageError: no such root.
      DataError: no set there.
    """
    root = pathlib.Path(data_dir)
    if not root.is_dir():
        raise cli.UsageError(f"--data_dir={data_dir}: no such folder")
    if _holds_set(root):
        return [root]
    pattern = f"{dataset or '*'}/{version or '*'}"
    folders = sorted(path for path in root.glob(pattern) if _holds_set(path))
    if not folders:
        raise cli.DataError(
            f"--data_dir={data_dir}: no converted set at {root / pattern}\n"
            f"make one: {records.CONVERT_COMMAND} --output_dir={data_dir}"
        )
    return folders


def verify(path: pathlib.Path, pool: workers.WorkerPool) -> list[Fault]:
    """Checks one set completely.

    Args:
      path: the version folder.
      pool: reads the shards.

    Returns:
      faults by file and record; none for a sound set.
    """
    if not (path / records.MANIFEST).is_file():
        return [Fault(records.MANIFEST, None, "missing: the set is incomplete")]
    try:
        manifest = records.load(path).manifest
    except cli.DataError as error:
        return [Fault(records.MANIFEST, None, str(error))]
    record_set = records.RecordSet(path, manifest)
    faults = _side_faults(path, manifest)
    rows, starts = None, {}
    if not any(fault.file == records.EXAMPLES for fault in faults):
        rows = records.group(record_set.examples(), "shard")
        faults += _set_faults(manifest, rows)
    if not any(fault.file == records.OFFSETS for fault in faults):
        try:
            starts = record_set.stored_starts()
        except cli.DataError as error:
            faults.append(Fault(records.OFFSETS, None, str(error)))
    jobs = [
        _Job(
            path=path / shard.file,
            shard=shard,
            class_names=manifest.class_names,
            expected=None if rows is None else _expected(rows[shard.file]),
            starts=starts.get(shard.file),
        )
        for shard in manifest.shards
    ]
    results = pool.map(_check_shard, jobs)
    total = sum(split.num_examples for split in manifest.splits.values())
    shown = workers.watch(results, total=total, label="verifying", unit="image")
    faults += [fault for _, shard_faults in shown for fault in shard_faults]
    return sorted(faults, key=lambda fault: (fault.file, fault.record or 0))


def _holds_set(path: pathlib.Path) -> bool:
    if not path.is_dir():
        return False
    return (path / records.MANIFEST).exists() or any(path.glob("*.tfrecord-*"))


def _side_faults(path: pathlib.Path, manifest: records.Manifest) -> list[Fault]:
    """Checks the files beside the shards, and that no shard is unlisted."""
    faults = []
    for name, listed in manifest.files.items():
        file = path / name
        if not file.is_file():
            faults.append(Fault(name, None, "missing"))
        elif files.sha256_file(file) != listed["sha256"]:
            faults.append(Fault(name, None, "its sha256 is not the manifest's"))
    found = {file.name for file in path.glob("*.tfrecord*")}
    unlisted = found - {shard.file for shard in manifest.shards}
    return faults + [Fault(name, None, "not in the manifest") for name in unlisted]


def _set_faults(
    manifest: records.Manifest, rows: dict[str, list[dict[str, str]]]
) -> list[Fault]:
    """Checks what holds over shards: counts, and no patient on two sides."""
    faults = []
    for split in manifest.splits.values():
        listed = sum(len(rows[shard.file]) for shard in split.shards)
        counted = sum(shard.count for shard in split.shards)
        if not listed == counted == split.num_examples:
            what = (
                f"{split.name}: {split.num_examples} examples, its shards hold "
                f"{counted}, {records.EXAMPLES} lists {listed}"
            )
            faults.append(Fault(records.MANIFEST, None, what))
    try:
        records.check_disjoint([row for shard in rows.values() for row in shard])
    except cli.DataError as error:
        faults.append(Fault(records.EXAMPLES, None, str(error)))
    return faults


def _expected(rows: list[dict[str, str]]) -> tuple[Expected, ...]:
    return tuple(Expected(*(row[name] for name in Expected._fields)) for row in rows)


def _check_shard(job: _Job) -> tuple[int, list[Fault]]:
    """Returns the number of records that should be there, and the faults."""
    name = job.path.name
    try:
        faults, count = _check_records(job)
        cut = any(fault.what.startswith("cut") for fault in faults)
        if count != job.shard.count and not cut:
            what = f"{count} records, the manifest says {job.shard.count}"
            faults.append(Fault(name, min(count, job.shard.count), what))
        size = job.path.stat().st_size
        if size != job.shard.bytes:
            what = f"{size} bytes, the manifest says {job.shard.bytes}"
            faults.append(Fault(name, None, what))
        elif files.sha256_file(job.path) != job.shard.sha256:
            faults.append(Fault(name, None, "its sha256 is not the manifest's"))
        if not faults and not _starts_agree(job):
            what = f"not where the records of {name} begin"
            faults.append(Fault(records.OFFSETS, None, what))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        what = "missing" if missing else f"unreadable: {error.strerror or error}"
        faults = [Fault(name, None, what)]
    return job.shard.count, faults


def _starts_agree(job: _Job) -> bool:
    return job.starts is None or np.array_equal(
        tfrecord.record_starts(job.path), job.starts
    )


def _check_records(job: _Job) -> tuple[list[Fault], int]:
    """Returns the faults of single records, and how many records were seen."""
    faults: list[Fault] = []
    count = 0
    for index, (payload, fault) in enumerate(tfrecord.scan_frames(job.path)):
        count += 1
        fault = fault or _fault_of(payload, job, index)
        if fault and len(faults) < _MAX_RECORD_FAULTS:
            faults.append(Fault(job.path.name, index, fault))
    return faults, count


def _fault_of(payload: bytes, job: _Job, index: int) -> str:
    """Returns what is wrong with a record whose framing is sound."""
    try:
        fields = tfrecord.decode_example(payload)
        names = ("filename", "class/text", "patient_id", "subtype")
        held = Expected(*(fields[f"image/{name}"].decode() for name in names))
        label, text = fields["image/class/label"], held.label
        if not 0 <= label < len(job.class_names) or job.class_names[label] != text:
            return f"label {label} is not class {text!r} of {job.class_names}"
        key = fields["image/key/sha256"].decode()
        if files.sha256_bytes(fields["image/encoded"]) != key:
            return "the image's sha256 is not its key"
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        return f"not an image's record: {error!r}"
    if job.expected is None:
        return ""
    if index >= len(job.expected):
        return f"surplus: {held.filename!r} is not listed here"
    if held != job.expected[index]:
        return f"holds {held.filename!r}, expected {job.expected[index].filename!r}"
    return ""
