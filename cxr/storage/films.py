"""Fetches a folder of films out of a bucket, for a conversion that walks it here."""

import pathlib

from cxr import cli
from cxr.storage import cache, places
from cxr.storage.remote import Remote


def fetch(input_dir: str) -> pathlib.Path:
    """Returns the folder of copies, each fetched where the bucket has another content.

    Args:
      input_dir: `--input_dir`, a URL.

    Raises:
      UsageError: nothing lies there.
      CommandError: as `remote.Remote`'s.
    """
    remote, folder = (
        Remote(input_dir, "input_dir"),
        places.local(input_dir, places.FILMS),
    )
    listed = remote.list()
    if not listed:
        raise cli.UsageError(f"--input_dir={input_dir}: no objects there")
    wanted = {name: cache.Wanted(o.size, "", o.tag) for name, o in listed.items()}
    with cache.alone(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.rglob("*"):  # a film that was removed there is none here
            if path.is_file() and path.relative_to(folder).as_posix() not in listed:
                path.unlink()
        cache.fetch(remote, folder, wanted)
    return folder
