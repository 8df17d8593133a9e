"""Lists, reads and writes objects of a bucket: the one room of fsspec.

Credentials and endpoints are those of the environment, as fsspec's file systems find
them. Whatever they raise becomes one error that names URL and flag.
"""

import concurrent.futures
import contextlib
import errno
import pathlib
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cxr import cli, console

_AT_ONCE = 16  # objects under way: a round trip each would cost more than the bytes
_OF_THIS_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Object(NamedTuple):
    """What a listing says of an object: its bytes, and a tag that a new content has."""

    size: int
    tag: str


class Remote:
    """Objects below a URL, by their names relative to it.

    Args:
      url: such as `s3://bucket/prefix`.
      flag: that named it, for messages.

    Raises:
      UsageError: no URL of a bucket.
      UnavailableError: the packages for it are not installed.
    """

    def __init__(self, url: str, flag: str):
        self.url, self._flag = url.rstrip("/"), flag
        scheme, _, self._root = self.url.partition("://")
        if any(part in ("", ".", "..") for part in self._root.split("/")):
            raise cli.UsageError(
                f"--{flag}={url}: expected {scheme}://BUCKET or {scheme}://BUCKET/PATH"
            )
        self._files = self._open(scheme)

    def below(self, *names: str) -> "Remote":
        """Returns the objects below a name."""
        return Remote("/".join((self.url, *names)), self._flag)

    def list(self) -> dict[str, Object]:
        """Returns every object below, by name; nothing where there is none.

        Raises:
          DataError: a name that is no path of plain parts, which no folder can hold.
        """
        with self._telling():
            self._files.invalidate_cache()
            try:
                listed = self._files.find(self._root, detail=True)
            except FileNotFoundError:
                if not self._files.exists(self._root.partition("/")[0]):
                    raise
                return {}
        found = {}
        for path, info in listed.items():
            name = path.removeprefix(self._root).removeprefix("/")
            if name and not name.endswith("/"):  # else the mark of an empty folder
                self.check_name(name)
                tag = info.get("ETag") or info.get("etag") or info.get("LastModified")
                found[name] = Object(int(info["size"] or 0), str(tag))
        return found

    def read(self, name: str) -> bytes | None:
        """Returns an object's bytes, None where there is none."""
        with self._telling(name):
            try:
                content: bytes = self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, data: bytes) -> None:
        """Writes an object whole: readers see the old one or the new one."""
        with self._telling(name):
            self._files.pipe_file(self._path(name), data)

    def get(self, wanted: Mapping[str, pathlib.Path]) -> Iterator[str]:
        """Fetches objects to files; yields the name of each that is complete."""
        yield from self._each(wanted, self._get)

    def put(self, sent: Mapping[str, pathlib.Path]) -> None:
        """Writes files as objects."""
        for _ in self._each(sent, self._put):
            pass

    def copy(self, name: str, other: str) -> None:
        """Gives an object another name, too, without its bytes coming here."""
        with self._telling(name):
            self._files.cp_file(self._path(name), self._path(other))

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects; one that is gone already is no error."""
        with self._telling():
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._files.rm_file(self._path(name))

    def _each(
        self, pairs: Mapping[str, pathlib.Path], move: Callable[..., None]
    ) -> Iterator[str]:
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            moved = {pool.submit(move, name, pairs[name]): name for name in pairs}
            try:
                for future in concurrent.futures.as_completed(moved):
                    future.result()
                    yield moved[future]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _get(self, name: str, path: pathlib.Path) -> None:
        with self._telling(name):
            self._files.get_file(self._path(name), str(path))

    def _put(self, name: str, path: pathlib.Path) -> None:
        with self._telling(name):
            self._files.put_file(str(path), self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def check_name(self, name: str) -> None:
        """Raises DataError for a name that is no path of plain parts."""
        plain = posixpath.normpath(name) == name and not name.startswith("..")
        if not plain or "\\" in name or console.holds_controls(name):
            raise cli.DataError(
                f"--{self._flag}: {self.url}/{name!a}: no name that a folder could hold"
            )

    def _open(self, scheme: str) -> Any:
        try:
            return _file_system(scheme)
        except ImportError as error:
            raise cli.UnavailableError(
                f"--{self._flag}={self.url}: needs the extra 'cloud' "
                f"(pip install 'cxr[cloud]'): {error}"
            ) from error
        except Exception as error:  # e.g. an account that the environment must name
            raise self._failure(error, self.url) from error

    @contextlib.contextmanager
    def _telling(self, name: str = "") -> Iterator[None]:
        """Names what could not be reached; the libraries have no error in common."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _OF_THIS_DISK:
                raise
            url = f"{self.url}/{name}" if name else self.url
            raise self._failure(error, url) from error

    def _failure(self, error: Exception, url: str) -> cli.CommandError:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        text = f"--{self._flag}: {url}: {reason}"
        denied = isinstance(error, PermissionError) or "redentials" in reason
        if denied:
            return cli.UnavailableError(
                f"{text}; credentials are taken from the environment"
            )
        if isinstance(error, FileNotFoundError):
            return cli.DataError(text)
        return cli.StorageError(f"{text}; the same command again goes on from here")


def _file_system(scheme: str) -> Any:
    import fsspec  # late: an extra, and only for URLs

    return fsspec.filesystem(scheme, use_listings_cache=False)
