"""Keeps a run folder in a bucket: sent at each checkpoint, fetched to go on.

`commit.json` there lists every file with its SHA-256 and the object that holds it. It
speaks only of objects that nobody writes any more: a file that changed is sent under
another name first, and takes its own only after a commit that no longer needs that.
So a kill between any two objects leaves the whole of one commit or of the next.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cxr import cli, console, documents, files
from cxr.storage import cache, places
from cxr.storage.remote import Remote

COMMIT = "commit.json"
_SCHEMA = 1
_NEW = ".incoming"  # objects of files whose own name an older commit still needs
# Of this machine alone, or made again from the rest.
_LEFT_OUT = frozenset((".lock", ".lock-owner", "features"))


class _File(NamedTuple):
    size: int
    sha256: str
    object: str


class RunFolder:
    """A run folder; of a path, it is that, and nothing is fetched or sent.

    Args:
      workdir: `--workdir`, a path or URL.

    Attributes:
      folder: the folder on this machine.
    """

    def __init__(self, workdir: str):
        self.folder = places.local(workdir, places.RUNS)
        self._remote = Remote(workdir, "workdir") if places.is_remote(workdir) else None
        self._hashes: dict[tuple[str, int, int], str] = {}

    def fetch(self) -> None:
        """Makes the folder what the bucket has, unless it is that or goes beyond it.

        Raises:
          UsageError: the run is gone from the bucket.
          DataError: an object is not what was sent; names it.
        """
        if self._remote is None:
            return
        with cache.alone(self.folder):
            text = self._remote.read(COMMIT)
            if text is None and self._bases() and self.folder.is_dir():
                raise cli.UsageError(
                    f"--workdir={self._remote.url}: was there and is gone; its copy is "
                    f"{self.folder}: remove that to begin anew"
                )
            digest = files.sha256_bytes(text) if text else ""
            if text is None or (digest in self._bases() and self.folder.is_dir()):
                return
            self._note()
            self._take(self._parse(text))
            self._note(digest)

    def send(self) -> None:
        """Sends what is new in the folder.

        Raises:
          UsageError: somebody else has sent to this run since.
        """
        if self._remote is None:
            return
        with cache.alone(self.folder):
            text = self._remote.read(COMMIT)
            digest = files.sha256_bytes(text) if text else ""
            if text and digest not in self._bases():
                raise cli.UsageError(
                    f"--workdir={self._remote.url}: another process has written there "
                    f"since; what this one did is in {self.folder}"
                )
            before = self._parse(text) if text else {}
            now = {path: self._sent(path, before) for path in self._paths()}
            if now != before:
                digest = self._commit(now, digest)
                self._settle(now, before, digest)

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Sends when the block ends, however it ends."""
        try:
            yield
        except BaseException:
            with _told():  # how the block failed is what counts
                self.send()
            raise
        self.send()

    def try_sending(self) -> None:
        """Sends; where the bucket can't be reached, tells and goes on."""
        with _told():
            self.send()

    def _paths(self) -> list[str]:
        found = []
        for path in sorted(self.folder.rglob("*")):
            relative = path.relative_to(self.folder)
            hidden = any(p.startswith(files.TEMPORARY_PREFIX) for p in relative.parts)
            if path.is_file() and not hidden and relative.parts[0] not in _LEFT_OUT:
                found.append(relative.as_posix())
        return found

    def _sent(self, path: str, before: dict[str, _File]) -> _File:
        """Sends one file where it changed; one that grows meanwhile, once more."""
        assert self._remote is not None
        local = self.folder / path
        while True:
            status = os.stat(local)
            key = (path, status.st_size, status.st_mtime_ns)
            if key not in self._hashes:
                self._hashes[key] = files.sha256_file(local)
            sha256, old = self._hashes[key], before.get(path)
            if old and old.sha256 == sha256:
                return old
            name = f"{_NEW}/{sha256}" if old else path
            self._remote.put({name: local})
            after = os.stat(local)
            if (path, after.st_size, after.st_mtime_ns) == key:
                return _File(status.st_size, sha256, name)

    def _settle(
        self, now: dict[str, _File], before: dict[str, _File], digest: str
    ) -> None:
        """Gives changed files their own names, and removes what no commit needs."""
        assert self._remote is not None
        moved = {p: f for p, f in now.items() if f.object != p}
        settled = dict(now)
        for path, file in moved.items():
            self._remote.copy(file.object, path)
            settled[path] = file._replace(object=path)
        if moved:
            self._commit(settled, digest)
        held = {file.object for file in settled.values()}
        kept = {file.object for file in (*now.values(), *before.values())}
        self._remote.remove(sorted(kept - held))

    def _commit(self, held: dict[str, _File], before: str) -> str:
        assert self._remote is not None
        listed = {path: file._asdict() for path, file in held.items()}
        text = json.dumps({"schema": _SCHEMA, "files": listed}, indent=1).encode()
        digest = files.sha256_bytes(text)
        self._note(before, digest)  # first: ours, whichever a kill leaves there
        self._remote.write(COMMIT, text)
        self._note(digest)
        return digest

    def _parse(self, text: bytes) -> dict[str, _File]:
        assert self._remote is not None
        with documents.reading(f"{self._remote.url}/{COMMIT}"):
            fields = documents.parse(text.decode())
            fields.integer("schema", _SCHEMA, _SCHEMA)
            listed, found = fields.section("files"), {}
            for path in listed.content:
                self._remote.check_name(path)
                file = listed.section(path)
                name = file.text("object")
                self._remote.check_name(name)
                size, sha256 = file.integer("size", 0), file.sha256("sha256")
                found[path] = _File(size, sha256, name)
        return found

    def _take(self, held: dict[str, _File]) -> None:
        """Makes the folder what a commit lists."""
        assert self._remote is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        files.refuse_links(self.folder)
        for path in set(self._paths()) - held.keys():
            (self.folder / path).unlink()
        missing = {
            path: file
            for path, file in held.items()
            if not _is(self.folder / path, file.sha256)
        }
        console.note(f"fetching {len(missing)} files of the run {self._remote.url}")
        for path, file in missing.items():
            with files.publishing(self.folder / path) as temporary:
                for _ in self._remote.get({file.object: temporary}):
                    if files.sha256_file(temporary) != file.sha256:
                        raise cli.DataError(
                            f"{self._remote.url}/{file.object}: not the bytes that "
                            f"{COMMIT} lists (SHA-256)"
                        )

    def _bases(self) -> list[str]:
        """Returns the commits that the folder is, or goes beyond."""
        with contextlib.suppress(OSError, ValueError):
            return list(json.loads(cache.beside(self.folder, "json").read_text()))
        return []

    def _note(self, *digests: str) -> None:
        text = json.dumps([digest for digest in digests if digest])
        files.publish(cache.beside(self.folder, "json"), text)


def opened(workdirs: Iterable[str]) -> list[RunFolder]:
    """Fetches runs; the folder above seed-0, seed-1, ... stands for all of them."""
    found = []
    for workdir in workdirs:
        names = [workdir]
        if places.is_remote(workdir):
            listed = Remote(workdir, "workdir").list()
            seeds = [n for n in listed if n.count("/") == 1 and n.endswith(COMMIT)]
            if COMMIT not in listed and seeds:
                parts = (name.partition("/")[0] for name in seeds)
                names = [places.joined(workdir, part) for part in parts]
        found += [RunFolder(name) for name in names]
    for run in found:
        run.fetch()
    return found


def fetched(workdir: str) -> pathlib.Path:
    """Returns the folder of a run that is only read."""
    run = RunFolder(workdir)
    run.fetch()
    return run.folder


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (cli.StorageError, cli.UnavailableError) as error:
        console.warn(f"{error}")


def _is(path: pathlib.Path, sha256: str) -> bool:
    return path.is_file() and files.sha256_file(path) == sha256
