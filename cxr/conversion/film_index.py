"""Finds the film in a folder that a table means, by its path, name or stem."""

import os
import pathlib
import re
from collections.abc import Sequence

from cxr import cli, folders, images
from cxr.conversion.exclusion import Exclusion
from cxr.reasons import Rejected


class FilmIndex:
    """The films of a folder, to be found by what a table calls them.

    Args:
      root: the folder.
      exclude: what is left aside.
      rejected: receives what is named like a film and cannot be read.

    Attributes:
      films: paths of what is named like a film, sorted.
    """

    def __init__(
        self, root: pathlib.Path, exclude: Exclusion, rejected: list[Rejected]
    ):
        self.films: list[str] = []
        self._excluded: set[str] = set()
        self._by_name: dict[str, list[str]] = {}
        for entry in folders.walk(root, "."):
            path = entry.path.removeprefix("./")
            if os.path.splitext(path)[1].lower() not in images.SUFFIXES:
                continue
            if entry.rejected:
                rejected.append(entry.rejected._replace(path=path))
                continue
            if exclude.drops(path):
                self._excluded.add(path)
            else:
                self.films.append(path)
            name = path.rpartition("/")[2]
            for key in {name, os.path.splitext(name)[0]}:
                self._by_name.setdefault(key, []).append(path)
        self.films.sort()
        self._known = set(self.films)

    def find(self, value: str) -> str | None:
        """Returns the path of the film that a table calls `value`.

        Returns:
          '' for a film that is left aside, None for no film.

        Raises:
          DataError: several films could be meant.
        """
        wanted = [part for part in re.split(r"[/\\]", value) if part not in ("", ".")]
        path = "/".join(wanted)
        if path in self._known:
            return path
        name = wanted[-1] if wanted else ""
        stem, suffix = os.path.splitext(name)
        candidates = self._by_name.get(name, [])
        if not candidates and suffix.lower() in images.SUFFIXES:
            candidates = self._by_name.get(stem, [])  # saved as another format since
        tail = {c: _common_tail(wanted[:-1], c.split("/")[:-1]) for c in candidates}
        best = max(tail.values(), default=0)
        nearest = [c for c in candidates if tail[c] == best]
        if len(nearest) > 1:
            exact = [c for c in nearest if c.rpartition("/")[2] == wanted[-1]]
            if len(exact) != 1:
                raise cli.DataError(
                    f"the table's {value!r} could be {nearest[0]} or {nearest[1]}; "
                    "give the films' paths below --input_dir in the table, or leave "
                    "one aside with --exclude"
                )
            nearest = exact
        if not nearest:
            return None
        return "" if nearest[0] in self._excluded else nearest[0]


def _common_tail(wanted: Sequence[str], there: Sequence[str]) -> int:
    count = 0
    for mine, other in zip(reversed(wanted), reversed(there), strict=False):
        if mine != other:
            break
        count += 1
    return count
