"""Says where on this machine lies what a flag names: a path, or a URL of a bucket.

A URL such as `s3://bucket/sets` stands for a folder of the cache, which is read and
written like any other; `sets`, `films` and `run_folders` fill it from the bucket and
send back what is new. Nothing here asks the network.
"""

import hashlib
import os
import pathlib

from cxr import cli

FILMS, SETS, RUNS = "films", "sets", "runs"
_CACHE = "CXR_CACHE_DIR"
# What decides, beside the URL, which bucket it means.
_ENDPOINTS = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "STORAGE_EMULATOR_HOST",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_CONNECTION_STRING",
)


def is_remote(place: str | os.PathLike) -> bool:
    """Whether a path is a URL of a bucket."""
    return os.fspath(place).startswith(tuple(f"{s}://" for s in cli.REMOTE_SCHEMES))


def local(place: str | os.PathLike, kind: str) -> pathlib.Path:
    """Returns the folder that a path, or a URL of a bucket, stands for here.

    Args:
      place: the path or URL.
      kind: `FILMS`, `SETS` or `RUNS`: copies of one bucket lie apart by what they are.
    """
    text = os.fspath(place)
    if not is_remote(text):
        return pathlib.Path(text)
    scheme, _, key = text.partition("://")
    named = {name: os.environ.get(name) for name in _ENDPOINTS}
    if any(named.values()):
        digest = hashlib.sha256(repr(sorted(named.items())).encode())
        scheme = f"{scheme}-{digest.hexdigest()[:12]}"
    return cache_folder() / kind / scheme / key.strip("/")


def joined(place: str, *names: str) -> str:
    """Returns what lies below a path or a URL under these names."""
    if is_remote(place):
        return "/".join((place.rstrip("/"), *names))
    return str(pathlib.Path(place, *names))


def absolute(place: str) -> str:
    """Returns what names the same from any working folder; a URL does."""
    return place if is_remote(place) else str(pathlib.Path(place).resolve())


def cache_folder() -> pathlib.Path:
    """Where copies of what lies in buckets are kept."""
    if named := os.environ.get(_CACHE):
        return pathlib.Path(named).absolute()
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return pathlib.Path(home).expanduser().absolute() / "cxr"
