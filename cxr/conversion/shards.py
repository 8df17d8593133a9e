"""Writes each shard from the spool, apart from the others and only once."""

import dataclasses
import hashlib
import json
import os
import pathlib

from cxr import files, records, tfrecord
from cxr.conversion import planning, spool
from cxr.conversion.splitting import Example


@dataclasses.dataclass(frozen=True)
class Job:
    """One shard to write.

    Attributes:
      path: its final name.
      receipt: where its checksum is noted, so that a later run can trust it.
      encoding: how the images are stored.
      class_names: label i is `class_names[i]`.
      examples: its records in order.
    """

    path: pathlib.Path
    receipt: pathlib.Path
    encoding: spool.Encoding
    class_names: tuple[str, ...]
    examples: tuple[Example, ...]


def jobs(
    plan: planning.Plan,
    encoding: spool.Encoding,
    *,
    folder: pathlib.Path,
    work: pathlib.Path,
    dataset: str,
) -> dict[str, list[Job]]:
    """Returns the jobs of every split's shards, in order.

    Args:
      plan: what goes into which shard.
      encoding: how the images are stored.
      folder: where the shards go.
      work: where their receipts go.
      dataset: the set's name.
    """
    by_split: dict[str, list[Job]] = {}
    for split, shards in plan.shards.items():
        by_split[split] = []
        for index, examples in enumerate(shards):
            name = records.shard_name(dataset, split, index, len(shards))
            receipt = work / f"{name}.json"
            by_split[split].append(
                Job(folder / name, receipt, encoding, plan.class_names, examples)
            )
    return by_split


def write(job: Job) -> records.Shard:
    """Writes one shard, unless it lies there already, complete and the same.

    Raises:
      StorageError: the disk refused.
    """
    key = _key(job)
    if done := _already(job, key):
        return done
    size = sum(example.image.length for example in job.examples)
    digest, count = hashlib.sha256(), 0
    with (
        spool.storing(job.path, size),
        files.publishing(job.path) as temporary,
        open(temporary, "wb") as file,
    ):
        for example in job.examples:
            framed = tfrecord.frame(tfrecord.encode_example(_fields(example, job)))
            digest.update(framed)
            count += file.write(framed)
    shard = records.Shard(job.path.name, len(job.examples), count, digest.hexdigest())
    receipt = {"key": key, "shard": dataclasses.asdict(shard)}
    spool.store(job.receipt, json.dumps(receipt))
    return shard


def _fields(example: Example, job: Job) -> dict[str, bytes | str | int]:
    stored = spool.read_stored(example.image)
    return {
        "image/encoded": stored,
        "image/format": job.encoding.encoding,
        "image/height": job.encoding.image_size,
        "image/width": job.encoding.image_size,
        "image/key/sha256": files.sha256_bytes(stored),
        "image/filename": example.image.path,
        "image/class/label": job.class_names.index(example.label),
        "image/class/text": example.label,
        "image/patient_id": example.patient_id,
        "image/subtype": example.subtype,
    }


def _key(job: Job) -> str:
    """Returns a hash over everything that shapes the shard's bytes."""
    digest = hashlib.sha256()
    for shared in (dataclasses.asdict(job.encoding), spool.versions(), job.class_names):
        digest.update(json.dumps(shared).encode())
    for example in job.examples:  # wherever the spool has it
        digest.update(example.image.digest)
        digest.update(json.dumps([example.image.path, *example[1:]]).encode())
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
