"""Finds converted sets in folders and in buckets; publishes one to a bucket.

A set in a bucket is read through a copy that holds what its manifest lists, each file
checked against it, so whatever reads sets reads a folder. All of a set is fetched:
training and evaluation look at every split. Both here and there the manifest comes
last, so its presence means complete.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping

from cxr import cli, documents, files, records
from cxr.storage import cache, places
from cxr.storage.remote import Object, Remote

_BATCH = 64  # files sent between two notes of what has arrived
_FOR_PEOPLE = ("report.html", records.REPORT_JSON)  # the manifest does not list them


def find(data_dir: str, dataset: str, *, preferred: str = "") -> records.RecordSet:
    """Returns a converted set's preferred version if it is there, else its highest.

    Args:
      data_dir: root of the sets, a path or URL.
      dataset: the set's name.
      preferred: a version.

    Raises:
      DataError: no complete version, or one that is damaged.
      CommandError: as `remote.Remote`'s.
    """
    if not places.is_remote(data_dir):
        folder = pathlib.Path(data_dir, dataset, preferred)
        if preferred and (folder / records.MANIFEST).is_file():
            return records.load(folder)
        return records.find(data_dir, dataset)
    remote = Remote(data_dir, "data_dir")
    versions = _complete(remote.below(dataset))
    if not versions:
        raise cli.DataError(
            f"--data_dir={data_dir} --dataset={dataset}: no complete set below "
            f"{data_dir}/{dataset}\nmake one: {records.CONVERT_COMMAND} "
            f"--output_dir={data_dir} --dataset={dataset}"
        )
    highest = max(versions, key=records.version_key)
    version = preferred if preferred in versions else highest
    there = remote.below(dataset, version)
    with cache.alone(_copy(there)):
        return records.load(_fetch(there))


def fetch_all(data_dir: str, *, dataset: str, version: str) -> str:
    """Returns a folder with the sets of a root; empty names stand for all of them."""
    if not places.is_remote(data_dir):
        return data_dir
    remote = Remote(data_dir, "data_dir")
    for name in _complete(remote, depth=2):
        parts = name.split("/")
        if dataset in ("", parts[0]) and version in ("", parts[1]):
            there = remote.below(*parts)
            with cache.alone(_copy(there)):
                _fetch(there)
    return str(places.local(data_dir, places.SETS))


@contextlib.contextmanager
def published(
    output_dir: str, dataset: str, version: str, log: Callable[[str], None]
) -> Iterator[str]:
    """Yields the root to write a set below; sends the set when the block succeeds.

    A set that the bucket has already is fetched first: what is done with it is decided
    as in a folder. What a kill left in the copy is gone on with.

    Args:
      output_dir: `--output_dir`; of a path, it is yielded, and nothing is sent.
      dataset: the set's name.
      version: likewise.
      log: receives what happens.
    """
    if not places.is_remote(output_dir):
        yield files.without_links(output_dir)
        return
    remote = Remote(output_dir, "output_dir").below(dataset, version)
    folder = _copy(remote)
    with cache.alone(folder):
        listed = remote.list()
        if records.MANIFEST in listed:
            _fetch(remote, listed)
        elif listed and not any(name.startswith(f"{dataset}-") for name in listed):
            raise cli.UsageError(
                f"--output_dir={output_dir}: {remote.url} holds {len(listed)} objects "
                f"that no conversion left, such as {next(iter(listed))!r}"
            )
        log(f"{remote.url} is prepared in {folder}")
        yield str(places.local(output_dir, places.SETS))
        _send(folder, remote, log)


def _copy(remote: Remote) -> pathlib.Path:
    return places.local(remote.url, places.SETS)


def _complete(remote: Remote, depth: int = 1) -> list[str]:
    """Returns the folders that hold a manifest, so deep below."""
    names = [name.split("/") for name in remote.list()]
    return [
        "/".join(parts[:-1])
        for parts in names
        if len(parts) == depth + 1 and parts[-1] == records.MANIFEST
    ]


def _fetch(remote: Remote, listed: Mapping[str, Object] | None = None) -> pathlib.Path:
    """Makes the copy of a set what its manifest says; returns its folder."""
    folder, listed = _copy(remote), remote.list() if listed is None else listed
    url = f"{remote.url}/{records.MANIFEST}"
    content = remote.read(records.MANIFEST)
    if content is None:
        raise cli.DataError(f"{url}: missing: no complete set")
    with documents.reading(url):
        manifest = records.Manifest.from_json(content.decode())
    held = folder / records.MANIFEST
    if held.is_file() and held.read_bytes() != content:
        held.unlink()  # complete again only when the rest is
    expected = _files(manifest)
    expected |= {n: (listed[n].size, "") for n in _FOR_PEOPLE if n in listed}
    wanted = {}
    for name, (size, sha256) in expected.items():
        there = listed.get(name)
        if there is None or there.size != size:
            found = f"{there.size} bytes" if there else "missing"
            raise cli.DataError(
                f"{remote.url}/{name}: {found}, the manifest says {size} bytes; "
                "publish the set again"
            )
        wanted[name] = cache.Wanted(size, sha256, there.tag)
    cache.fetch(remote, folder, wanted)
    if not held.is_file():
        files.publish(held, content)
    return folder


def _files(manifest: records.Manifest) -> dict[str, tuple[int, str]]:
    """Returns the size in bytes and SHA-256 of every file that a manifest lists."""
    found = {shard.file: (shard.bytes, shard.sha256) for shard in manifest.shards}
    return found | {n: (f["bytes"], f["sha256"]) for n, f in manifest.files.items()}


def _send(folder: pathlib.Path, remote: Remote, log: Callable[[str], None]) -> None:
    """Sends what the bucket lacks of a complete set, its manifest last."""
    manifest = records.load(folder).manifest
    hashes = {name: sha256 for name, (_, sha256) in _files(manifest).items()}
    hashes |= {name: "" for name in _FOR_PEOPLE if (folder / name).is_file()}
    note, listed = cache.Note(folder), remote.list()
    missing = [
        name
        for name, sha256 in hashes.items()
        if name not in listed or not note.holds(name, sha256, listed[name].tag)
    ]
    content = (folder / records.MANIFEST).read_bytes()
    complete = remote.read(records.MANIFEST) == content
    if not complete:
        old = [name for name in listed if ".tfrecord-" in name and name not in hashes]
        remote.remove([records.MANIFEST, *old])
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        remote.put({name: folder / name for name in batch})
        arrived = remote.list()
        for name in batch:
            note.add(name, hashes[name], arrived[name].tag)
        note.save()
    if not complete:
        remote.write(records.MANIFEST, content)
    if missing or not complete:
        log(f"sent {len(missing)} files to {remote.url}")
