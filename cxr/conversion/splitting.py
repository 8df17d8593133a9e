"""Divides images into train, validation and test by groups of patients.

Patients who share an image, byte-identical or by its look, are one group, and a group
is never divided. Each class is cut apart, so the sides keep the classes' proportions; a
group with several labels goes with the class of most of its images.
"""

import collections
import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cxr import cli
from cxr.conversion.components import Components
from cxr.conversion.spool import Converted


class Example(NamedTuple):
    """One image of the plan.

    Attributes:
      image: the readable image it is made from.
      label: class name.
      patient_id: `SUBTYPE:PATIENT`, `PATIENT`, or the path of an image whose name
        tells no patient.
      subtype: empty where the name tells none.
      duplicate_of: path of the first byte-identical image; empty for itself.
    """

    image: Converted
    label: str
    patient_id: str
    subtype: str
    duplicate_of: str = ""


@dataclasses.dataclass(frozen=True)
class Shares:
    """How much each side gets; 0 means that there is no such side.

    Attributes:
      validation: share of each class's images.
      test: share of each class's images.
      test_in_blocks: hold out contiguous patient numbers instead of a random cut.
      seed: salt of the order, and number of the block.
      scores: of images by path; where given, test takes those that score lowest.
      strength: of the scores against chance, 0..1: 0 is a random cut.
    """

    validation: float
    test: float
    test_in_blocks: bool
    seed: int
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    strength: float = 1.0


@dataclasses.dataclass(slots=True)
class _Group:
    """Patients that must stay together: one, or several sharing an image."""

    key: str
    label: str
    members: tuple[Example, ...]


def cut(
    examples: list[Example],
    shares: Shares,
    joined: Iterable[Sequence[str]] = (),
) -> dict[str, list[Example]]:
    """Returns the members of each side.

    Args:
      examples: to be divided.
      shares: how.
      joined: patients, by their ids, who must stay together for other reasons.

    Raises:
      DataError: naming a class with fewer groups than sides.
    """
    groups = collections.defaultdict(list)
    for group in _groups(examples, joined):
        groups[group.label].append(group)
    sides: dict[str, list[Example]] = collections.defaultdict(list)
    for label in sorted({example.label for example in examples}):
        for side, members in _cut_class(label, groups[label], shares).items():
            sides[side] += [example for group in members for example in group.members]
    return sides


def folds(
    examples: list[Example],
    count: int,
    seed: int,
    joined: Iterable[Sequence[str]] = (),
    *,
    in_blocks: bool = False,
    flag: str = "",
) -> dict[str, int]:
    """Returns the fold of each example by its path: groups whole, classes even.

    Args:
      examples: to be divided.
      count: of folds.
      seed: salt of the order.
      joined: as `cut`'s.
      in_blocks: contiguous patient numbers instead of a random order.
      flag: that asked for them, for the error.

    Raises:
      DataError: naming a class with fewer groups than folds.
    """
    by_label = collections.defaultdict(list)
    for group in _groups(examples, joined):
        by_label[group.label].append(group)
    found = {}
    for label, groups in sorted(by_label.items()):
        if len(groups) < count:
            raise cli.DataError(
                f"{flag}: class {label!r} has {len(groups)} patient groups, fewer than "
                f"one for each of {count} folds"
            )
        order = sorted(groups, key=lambda group: salted(seed, group.key))
        if in_blocks:
            order = sorted(groups, key=lambda group: _natural(group.key))
        total, before = sum(len(group.members) for group in order), 0
        for index, group in enumerate(order):
            # By images, but so that no fold is left without a group.
            fold = min(before * count // total, index)
            fold = max(fold, count - (len(order) - index))
            before += len(group.members)
            for example in group.members:
                found[example.image.path] = fold
    return found


def identical(examples: Sequence[Example]) -> list[list[Example]]:
    """Returns the groups of images with the same bytes, each in the order given."""
    # Sorted instead of counted in a table, which would be a tenth of a plan's memory.
    digests = sorted(example.image.digest for example in examples)
    repeated = {one for one, next in itertools.pairwise(digests) if one == next}
    groups = collections.defaultdict(list)
    for example in examples:
        if example.image.digest in repeated:
            groups[example.image.digest].append(example)
    return list(groups.values())


def salted(seed: int, key: str) -> bytes:
    """Returns a sort key that shuffles: stable per key, another order per seed."""
    # Half of the hash: equal halves will not be met, and a sort holds all keys.
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()[:16]


def _groups(examples: list[Example], joined: Iterable[Sequence[str]]) -> list[_Group]:
    same = ([e.patient_id for e in copies] for copies in identical(examples))
    together = Components(itertools.chain(same, joined))

    def key(example: Example) -> str:
        return together.first(example.patient_id)

    # Sorted runs instead of lists in a table: half of the memory of a plan.
    runs = itertools.groupby(sorted(examples, key=key), key=key)
    members = ((name, tuple(run)) for name, run in runs)
    return [_Group(name, _majority(group), group) for name, group in members]


def _majority(members: tuple[Example, ...]) -> str:
    """Returns the commonest label; among equals the first by name."""
    counts = collections.Counter(example.label for example in members)
    return min(counts, key=lambda label: (-counts[label], label))


def _cut_class(
    label: str, groups: list[_Group], shares: Shares
) -> dict[str, list[_Group]]:
    fractions = {"validation": shares.validation, "test": shares.test}
    fractions = {side: share for side, share in fractions.items() if share}
    if len(groups) <= len(fractions):
        raise cli.DataError(
            f"class {label!r}: {len(groups)} patient groups, fewer than one for each "
            f"of train, {', '.join(fractions)}; add images, or set a fraction to 0"
        )
    total = sum(len(group.members) for group in groups)
    order = sorted(groups, key=lambda group: salted(shares.seed, group.key))
    sides = {}
    if shares.test and (shares.test_in_blocks or shares.scores):
        share = fractions.pop("test")
        at_most = len(groups) - len(fractions) - 1
        if shares.test_in_blocks:
            held = _blocks(groups, share, shares.seed, at_most)
        else:
            held = _lowest(order, share * total, shares, at_most)
        sides["test"] = [group for group in order if group.key in held]
        order = [group for group in order if group.key not in held]
    for index, (side, share) in enumerate(fractions.items()):
        reserve = len(fractions) - index  # a group for each side yet to come
        count = _count(order, share * total, len(order) - reserve)
        sides[side], order = order[:count], order[count:]
    sides["train"] = order
    return sides


def _count(groups: list[_Group], target: float, at_most: int) -> int:
    """Returns how many leading groups come nearest to `target` images, at least 1."""
    best, images = 1, len(groups[0].members)
    gap = abs(images - target)
    for count, group in enumerate(groups[1:at_most], start=2):
        images += len(group.members)
        if abs(images - target) >= gap:
            break
        best, gap = count, abs(images - target)
    return best


def _blocks(groups: list[_Group], share: float, seed: int, at_most: int) -> set[str]:
    """Returns the keys of one contiguous block of numbers out of every series.

    The reference set's own test images are such blocks: the lowest numbers of
    each series of names, which makes them a slightly different population.

    Args:
      groups: of one class.
      share: of the images that the blocks should hold.
      seed: chooses the block; 0 is the one with the lowest numbers.
      at_most: groups that may be held out.
    """
    held: list[str] = []
    for members in _all_series(groups, math.ceil(1 / share)):
        images = sum(len(group.members) for group in members)
        blocks = int(1 / share)
        to_skip = seed % blocks * images / blocks
        start = 0
        while to_skip >= 1 and start < len(members) - 1:
            to_skip -= len(members[start].members)
            start += 1
        count = _count(members[start:], share * images, len(members))
        held += [group.key for group in members[start : start + count]]
    return set(held[:at_most])


def _lowest(
    order: list[_Group], target: float, shares: Shares, at_most: int
) -> set[str]:
    """Returns the keys of the groups that score lowest, `target` images of them.

    Groups stand by (1 - strength) u + strength r, where u is a group's rank in `order`
    and r its rank by the mean score of its images.

    Args:
      order: the groups of one class by salted hash, which decides between equals.
      target: images to be held out.
      shares: scores and strength.
      at_most: groups that may be held out.
    """

    def score(group: _Group) -> float:
        scores = [shares.scores[example.image.path] for example in group.members]
        return sum(scores) / len(scores)

    scored = [score(group) for group in order]
    by_score = sorted(range(len(order)), key=scored.__getitem__)
    places = {
        index: (1 - shares.strength) * index + shares.strength * rank
        for rank, index in enumerate(by_score)
    }
    ranked = [order[index] for index in sorted(sorted(places), key=places.__getitem__)]
    return {group.key for group in ranked[: _count(ranked, target, at_most)]}


def _all_series(groups: list[_Group], shortest: int) -> list[list[_Group]]:
    """Splits groups into numbered series, each in the order of its numbers.

    A series is what stands before a key's last number: `NORMAL2-IM-` for
    `NORMAL2-IM-0255`. Those with fewer than `shortest` groups form one together.
    """
    series = collections.defaultdict(list)
    for group in sorted(groups, key=lambda group: _natural(group.key)):
        prefix = re.match(r"^(.*\D|)\d+\D*$", group.key)
        series[prefix[1] if prefix else ""].append(group)
    whole = [members for members in series.values() if len(members) >= shortest]
    rest = [group for m in series.values() if len(m) < shortest for group in m]
    return [*whole, rest] if rest else whole


def _natural(key: str) -> tuple:
    """Sort key under which 9 comes before 10; text and numbers alternate."""
    parts = re.split(r"(\d+)", key)
    return tuple(int(p) if i % 2 else p for i, p in enumerate(parts))
