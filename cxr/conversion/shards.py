"""Writes each shard from the spool, apart from the others and only once."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cxr import files, records, tfrecord
from cxr.conversion import planning, spool


class Member(NamedTuple):
    """One record to write.

    Attributes:
      chunk: the spool file that holds its stored image.
      offset: of the stored image.
      length: its bytes.
      source: SHA-256 of the image it was made from.
      filename: the image's path.
      label: index of its class.
      text: name of its class.
      patient_id: whose image it is.
      subtype: may be empty.
    """

    chunk: pathlib.Path
    offset: int
    length: int
    source: bytes
    filename: str
    label: int
    text: str
    patient_id: str
    subtype: str


@dataclasses.dataclass(frozen=True)
class Job:
    """One shard to write.

    Attributes:
      path: its final name.
      receipt: where its checksum is noted, so that a later run can trust it.
      encoding: how the images are stored.
      members: its records in order.
    """

    path: pathlib.Path
    receipt: pathlib.Path
    encoding: spool.Encoding
    members: tuple[Member, ...]


def names(plan: planning.Plan, dataset: str) -> dict[str, list[str]]:
    """Returns the file names of every split's shards."""
    return {
        split: [
            records.shard_name(dataset, split, index, len(shards))
            for index in range(len(shards))
        ]
        for split, shards in plan.shards.items()
    }


def jobs(
    plan: planning.Plan,
    converted: Sequence[spool.Converted],
    chunks: Sequence[spool.Chunk],
    *,
    folder: pathlib.Path,
    dataset: str,
) -> Iterator[Job]:
    """Yields the job of every shard, split by split in order.

    Args:
      plan: refers to readable images by their index in `converted`.
      converted: the readable images that the plan was made from.
      chunks: the spool.
      folder: where the shards go.
      dataset: the set's name.
    """
    encoding = chunks[0].encoding
    for split, file_names in names(plan, dataset).items():
        for file_name, examples in zip(file_names, plan.shards[split], strict=True):
            members = tuple(
                _member(example, converted[example.image], chunks, plan.class_names)
                for example in examples
            )
            receipt = chunks[0].path.parent / f"{file_name}.json"
            yield Job(folder / file_name, receipt, encoding, members)


def write(job: Job) -> records.Shard:
    """Writes one shard, unless it lies there already, complete and the same.

    Raises:
      StorageError: the disk refused.
    """
    key = _key(job)
    if done := _already(job, key):
        return done
    size = sum(member.length for member in job.members)
    digest, count = hashlib.sha256(), 0
    try:
        with files.publishing(job.path) as temporary, open(temporary, "wb") as file:
            for member in job.members:
                framed = tfrecord.frame(tfrecord.encode_example(_fields(member, job)))
                digest.update(framed)
                count += file.write(framed)
    except OSError as error:
        raise spool.storage_error(job.path, size, error) from error
    shard = records.Shard(job.path.name, len(job.members), count, digest.hexdigest())
    receipt = {"key": key, "shard": dataclasses.asdict(shard)}
    spool.store(job.receipt, json.dumps(receipt))
    return shard


def _member(
    example: planning.PlannedExample,
    image: spool.Converted,
    chunks: Sequence[spool.Chunk],
    class_names: tuple[str, ...],
) -> Member:
    return Member(
        chunk=chunks[image.chunk].path,
        offset=image.offset,
        length=image.length,
        source=image.digest,
        filename=image.path,
        label=class_names.index(example.label),
        text=example.label,
        patient_id=example.patient_id,
        subtype=example.subtype,
    )


def _fields(member: Member, job: Job) -> dict[str, bytes | str | int]:
    stored = spool.read_stored(member.chunk, member.offset, member.length)
    return {
        "image/encoded": stored,
        "image/format": job.encoding.encoding,
        "image/height": job.encoding.image_size,
        "image/width": job.encoding.image_size,
        "image/key/sha256": files.sha256_bytes(stored),
        "image/filename": member.filename,
        "image/class/label": member.label,
        "image/class/text": member.text,
        "image/patient_id": member.patient_id,
        "image/subtype": member.subtype,
    }


def _key(job: Job) -> str:
    """Returns a hash over everything that shapes the shard's bytes."""
    digest = hashlib.sha256()
    for shared in (dataclasses.asdict(job.encoding), spool.versions()):
        digest.update(json.dumps(shared).encode())
    for member in job.members:
        digest.update(member.source)
        digest.update(json.dumps(member[4:]).encode())  # wherever the spool has it
    return digest.hexdigest()


def _already(job: Job, key: str) -> records.Shard | None:
    """Returns the shard that an earlier run left, when it is the one wanted."""
    try:
        receipt = json.loads(job.receipt.read_bytes())
        shard = records.Shard(**receipt["shard"])
        same = receipt["key"] == key and os.stat(job.path).st_size == shard.bytes
        return shard if same and files.sha256_file(job.path) == shard.sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
