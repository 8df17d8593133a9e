"""Connected components: what links put together, directly or by way of others."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", int, str)


class Components(Generic[Key]):
    """Sets of keys that links connect; a key that no link names stands alone.

    Args:
      links: keys that belong together, at least one each.
    """

    def __init__(self, links: Iterable[Sequence[Key]]):
        self._parent: dict[Any, Any] = {}  # of all keys but components' first
        for link in links:
            for other in link[1:]:
                low, high = sorted((self.first(link[0]), self.first(other)))
                if low != high:
                    self._parent[high] = low

    def first(self, key: Key) -> Key:
        """Returns the smallest key of the component."""
        parent = self._parent
        while key in parent:
            parent[key] = parent.get(parent[key], parent[key])  # halves the way
            key = parent[key]
        return key

    def __iter__(self) -> Iterator[list[Key]]:
        """Yields the components of more than one key, each sorted, by their first."""
        members: dict[Key, list[Key]] = {}
        for key in sorted(self._parent):
            first = self.first(key)
            members.setdefault(first, [first]).append(key)
        for first in sorted(members):
            yield members[first]
