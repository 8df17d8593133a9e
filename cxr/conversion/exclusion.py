"""Leaves aside what `--exclude` names."""

import collections
import fnmatch
import re
from collections.abc import Sequence

from cxr.reporting.formatting import counted


class Exclusion:
    """Globs of paths to leave aside.

    A glob without a slash matches the name of a file or of any folder, one with a slash
    the path below the input folder; `*` also matches slashes. What lies in a matched
    folder is left aside, too.

    Args:
      globs: of `--exclude`.

    Attributes:
      counts: files left aside by each glob.
    """

    def __init__(self, globs: Sequence[str] = ()):
        self.counts = collections.Counter({glob: 0 for glob in globs})
        # What is inside a folder goes with it: `*/test/*` is the folder `*/test`.
        bare = {glob: re.sub(r"(/\*+)*/?$", "", glob).lstrip("/") for glob in globs}
        self._patterns = [
            (glob, re.compile(fnmatch.translate(folder)), "/" in folder)
            for glob, folder in bare.items()
        ]

    def matching(self, path: str) -> str | None:
        """Returns the glob that a file's or folder's path matches, None without one."""
        if not self._patterns:
            return None
        names = path.split("/")
        above = ["/".join(names[: end + 1]) for end in range(len(names))]
        for glob, pattern, of_path in self._patterns:
            if any(map(pattern.match, above if of_path else names)):
                return glob
        return None

    def drops(self, path: str) -> bool:
        """Whether a file is left aside; counts it."""
        glob = self.matching(path)
        if glob is not None:
            self.counts[glob] += 1
        return glob is not None

    def notes(self) -> list[str]:
        """Returns what was left aside, a line a glob, for people."""
        return [
            f"left aside: {counted(count, 'file')}, by --exclude={glob}"
            if count
            else f"warning: --exclude={glob}: no file has such a path"
            for glob, count in self.counts.items()
        ]
