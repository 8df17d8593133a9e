"""Plans a conversion: patients, labels, splits and shards.

A pure function of what was found in the sources and of the flags: the same
images give the same plan on any machine, in any order, with any number of
workers.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cxr import cli, records
from cxr.conversion import near_duplicates, patients, splitting, trivial_scores
from cxr.conversion.splitting import Example
from cxr.conversion.spool import Converted
from cxr.reasons import Rejected

SHARD_BYTES = 64 << 20  # 64 MiB: few files, and eight readers still find work
_SHARD_EXAMPLES = 256  # below 64 MiB: one shard for so many examples, up to ...
_MIN_SHARDS = 8
_MOST_ALIKE = 16  # images of one film; more look alike for another reason
_MOST_SHOWN = 100


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """The flags that decide labels, patients, splits and shards."""

    split_policy: str = cli.option(
        "auto",
        "'official': keep the source's test split, pool its val into train, cut "
        "validation from train by patient; 'grouped': pool all, cut all three by "
        "patient; 'blocks': hold out a contiguous block of patient numbers as test "
        "(--seed chooses which; 0 is the lowest) and cut validation by patient; "
        "'counter': hold out as test the patients whose films trivial statistics of "
        "brightness and sharpness get wrong, a rehearsal of a shift, no estimate; "
        "'test_only': everything is test; 'auto': official where the source has a test "
        "folder, test_only where it has nothing else, else grouped",
        choices=("auto", *records.SPLIT_POLICIES),
        heading="splits, patients and shards",
    )
    counter_strength: float = cli.option(
        1.0,
        "of --split_policy=counter: 1 holds out those that the statistics get most "
        "wrong, 0 a random cut",
        lower=0,
        upper=1,
    )
    validation_fraction: float = cli.option(
        0.15, "share of each class's images that validates", lower=0, upper=0.9
    )
    test_fraction: float = cli.option(
        0.15, "share of each class's images that tests", lower=0, upper=0.9
    )
    seed: int = cli.option(0, "salt of the order of patients and examples", lower=0)
    patient_pattern: str = cli.option(
        "",
        "regular expression with a group 'patient' (and optionally 'subtype'), "
        "searched in the path below --input_dir; default: the reference set's two "
        "patterns of file names. A file that does not match is its own patient",
    )
    labels: str = cli.option(
        "folder",
        "'folder': the class folder's name; 'subtype': the subtype in the file name, "
        "in capitals, or the folder's name where names have none",
        choices=("folder", "subtype"),
    )
    folds: int = cli.option(
        0,
        "patient-grouped folds beside the splits, for cxr.train --fold=I; with "
        "--split_policy=blocks of contiguous patient numbers; a test split that the "
        "source has stays apart",
        lower=0,
        upper=records.MAX_FOLDS,
    )
    positive_class: str = cli.option(
        "",
        "class that thresholds speak of, the default of training; else of two classes "
        "the one whose name is no word for healthy",
    )
    num_shards: int = cli.option(
        0, "shards of each split; 0 chooses from the bytes", lower=0, upper=10_000
    )

    def validate(self) -> None:
        """Raises UsageError for a pattern or a sum of fractions that cannot work."""
        if self.patient_pattern:
            patients.compile_pattern(self.patient_pattern)
        if self.folds in (1, 2):
            raise cli.UsageError(
                f"--folds={self.folds}: one is test, one validation and the rest "
                "trains; expected 3 or more, or 0 for none"
            )
        held_out = self.validation_fraction + self.test_fraction
        if held_out >= 1:
            raise cli.UsageError(
                f"--validation_fraction={self.validation_fraction} and "
                f"--test_fraction={self.test_fraction} leave nothing to train on; "
                "their sum must be below 1"
            )


class Alike(NamedTuple):
    """Two images on two sides that look alike.

    Attributes:
      bits: that differ, as `near_duplicates.Pair`'s.
      path: of one.
      split: where it stands.
      other: path of the other.
      other_split: where that stands.
      turned: whether one is the other mirrored or turned.
    """

    bits: int
    path: str
    split: str
    other: str
    other_split: str
    turned: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where every image goes.

    Attributes:
      policy: the split policy used, `auto` resolved.
      class_names: sorted; label i is `class_names[i]`.
      shards: split name to its shards in order, each a tuple of examples in order.
      rejected: readable images that are kept out, with the reason.
      unmatched: number of images whose name told no patient.
      copies: number of images whose names say that they are copies of another.
      joined: number of images that were kept on the side of one that they look like.
      apart: the closest pairs that look alike and stand on two sides.
      folds: of the images that have one, by path.
    """

    policy: str
    class_names: tuple[str, ...]
    shards: dict[str, tuple[tuple[Example, ...], ...]]
    rejected: tuple[Rejected, ...]
    unmatched: int
    copies: int = 0
    joined: int = 0
    apart: tuple[Alike, ...] = ()
    folds: Mapping[str, int] = dataclasses.field(default_factory=dict)


def make(
    images: Sequence[Converted],
    config: PlanConfig,
    pairs: Sequence[near_duplicates.Pair] = (),
    statistics: np.ndarray | None = None,
) -> Plan:
    """Plans a conversion.

    Args:
      images: in any order.
      config: the flags.
      pairs: of `images` that look alike.
      statistics: of `images`, float32 [N, 9], for the policy `counter`.

    Raises:
      DataError: a class has too few patients for the sides, or the policy does
        not fit the sources.
    """
    policy = _policy(images, config)
    rejected: list[Rejected] = []
    examples, copies = _identify(images, config, rejected)
    examples = _drop_conflicts(examples, rejected)
    clusters = _clusters(images, pairs, examples)
    sides: dict[str, list[Example]] = {name: [] for name in records.SPLITS}
    if policy == "official":
        examples = _drop_leaks(examples, clusters, rejected)
        sides["test"] = [e for e in examples if e.image.side == "test"]
        examples = [e for e in examples if e.image.side != "test"]
    elif policy == "test_only":
        sides["test"], examples = examples, []
    class_names = tuple(sorted({e.label for e in examples + sides["test"]}))
    _check_classes(class_names, config, policy, sides["test"])
    joined = [[e.patient_id for e in cluster] for cluster in clusters]
    folds = _folds(examples, config, policy, joined)
    shares = _shares(config, policy)
    if policy == "counter":
        scores = _scores(examples, images, statistics, config, joined)
        shares = dataclasses.replace(shares, scores=scores)
    for side, members in splitting.cut(examples, shares, joined).items():
        sides[side] += members
    placed = itertools.chain(*sides.values())
    unmatched = sum(e.patient_id == e.image.path for e in placed)
    alike = sum(len({e.image.digest for e in c}) - 1 for c in clusters)
    apart = _apart(images, pairs, sides)
    del examples, clusters  # large: a side goes as soon as its shards are planned
    shards = {}
    for side in records.SPLITS:
        if members := _mark_duplicates(sides.pop(side)):
            shards[side] = _shards(members, config, folds)
    return Plan(
        policy,
        class_names,
        shards,
        rejected=tuple(sorted(rejected)),
        unmatched=unmatched,
        copies=copies,
        joined=alike,
        apart=apart,
        folds=folds,
    )


def _scores(
    examples: list[Example],
    images: Sequence[Converted],
    statistics: np.ndarray | None,
    config: PlanConfig,
    joined: list[list[str]],
) -> dict[str, float]:
    """Returns how sure the trivial baseline is of each example's class, by its path."""
    assert statistics is not None
    at = {image.path: index for index, image in enumerate(images)}
    mine = statistics[[at[example.image.path] for example in examples]]
    return trivial_scores.of_own_class(examples, mine, config.seed, joined)


def _policy(images: Sequence[Converted], config: PlanConfig) -> str:
    source_sides = {image.side for image in images}
    if config.split_policy == "auto":
        if source_sides == {"test"}:
            return "test_only"
        return "official" if "test" in source_sides else "grouped"
    if config.split_policy == "official" and "test" not in source_sides:
        raise cli.DataError(
            "--split_policy=official: the source has no test folder with readable "
            "images; use --split_policy=grouped"
        )
    return config.split_policy


def _identify(
    images: Sequence[Converted], config: PlanConfig, rejected: list[Rejected]
) -> tuple[list[Example], int]:
    """Gives every image its label and patient, in the order of paths.

    Returns:
      the examples, and how many images are copies by their names.
    """
    images = sorted(images, key=lambda image: image.path)
    identities, copies = patients.identify(images, config.patient_pattern)
    with_subtypes = set()
    if config.labels == "subtype":
        with_subtypes = {
            image.label
            for image, identity in zip(images, identities, strict=True)
            if identity.subtype
        }
        if not with_subtypes:
            raise cli.DataError(
                "--labels=subtype: no file name tells a subtype; use --labels=folder, "
                "or a --patient_pattern with a group 'subtype'"
            )
    examples = []
    for image, (patient_id, subtype) in zip(images, identities, strict=True):
        label = image.label
        if config.labels == "subtype":
            if not subtype and label in with_subtypes:
                detail = f"others in {label!r} have a subtype in their name"
                rejected.append(Rejected(image.path, "no_subtype", detail))
                continue
            label = subtype.upper() or label
        examples.append(Example(image, label, patient_id, subtype))
    return examples, copies


def _clusters(
    images: Sequence[Converted],
    pairs: Sequence[near_duplicates.Pair],
    examples: list[Example],
) -> list[list[Example]]:
    """Returns the groups of examples that look alike and belong together.

    Not those of more than `_MOST_ALIKE` images, which are rather of one kind than of
    one film, nor those with two labels: they are listed for a person to look at.
    """
    by_path = {example.image.path: example for example in examples} if pairs else {}
    clusters = []
    for indices in near_duplicates.clusters(pairs):
        paths = [images[index].path for index in indices]
        members = [by_path[path] for path in sorted(paths) if path in by_path]
        one_label = len({example.label for example in members}) == 1
        if one_label and 1 < len(members) <= _MOST_ALIKE:
            clusters.append(members)
    return clusters


def _apart(
    images: Sequence[Converted],
    pairs: Sequence[near_duplicates.Pair],
    sides: Mapping[str, list[Example]],
) -> tuple[Alike, ...]:
    """Returns the closest pairs that stand on two sides, for a person to look at."""
    if not pairs:
        return ()
    split_of = {e.image.path: name for name, side in sides.items() for e in side}
    found = []
    for bits, first, second, turned in pairs:
        low, high = sorted((images[first].path, images[second].path))
        split, other = split_of.get(low), split_of.get(high)
        if split and other and split != other:
            found.append(Alike(bits, low, split, high, other, turned))
    return tuple(sorted(found)[:_MOST_SHOWN])


def _drop_conflicts(examples: list[Example], rejected: list[Rejected]) -> list[Example]:
    """Removes all copies of images that stand under several labels."""
    dropped = set()
    for copies in splitting.identical(examples):
        labels = sorted({example.label for example in copies})
        if len(labels) > 1:
            dropped.add(copies[0].image.digest)
            paths = [example.image.path for example in copies]
            for path in paths:
                other = next(p for p in paths if p != path)
                detail = f"identical to {other}; labels {', '.join(labels)}"
                rejected.append(Rejected(path, "label_conflict", detail))
    return [example for example in examples if example.image.digest not in dropped]


def _drop_leaks(
    examples: list[Example], clusters: list[list[Example]], rejected: list[Rejected]
) -> list[Example]:
    """Removes training images whose bytes, look or patient the source's test has."""
    test = [example for example in examples if example.image.side == "test"]
    contents = {example.image.digest: example.image.path for example in test}
    patients = {example.patient_id: example.image.path for example in test}
    looks = {
        example.image.path: in_test[0].image.path
        for cluster in clusters
        if (in_test := [e for e in cluster if e.image.side == "test"])
        for example in cluster
    }
    kept = []
    for example in examples:
        image = example.image
        if image.side == "test":
            kept.append(example)
        elif image.digest in contents:
            detail = f"identical to {contents[image.digest]}"
            rejected.append(Rejected(image.path, "duplicate_in_test", detail))
        elif example.patient_id in patients:
            detail = f"patient {example.patient_id}, as {patients[example.patient_id]}"
            rejected.append(Rejected(image.path, "patient_in_test", detail))
        elif image.path in looks:
            detail = f"the same film as {looks[image.path]}, by its look"
            rejected.append(Rejected(image.path, "duplicate_in_test", detail))
        else:
            kept.append(example)
    return kept


def _check_classes(
    class_names: tuple[str, ...],
    config: PlanConfig,
    policy: str,
    test: list[Example],
) -> None:
    if config.positive_class and config.positive_class not in class_names:
        raise cli.UsageError(
            f"--positive_class={config.positive_class}: expected one of "
            f"{', '.join(class_names)}"
        )
    if policy == "test_only":
        return
    if len(class_names) < 2:
        held = ", ".join(class_names) or "none"
        raise cli.DataError(
            f"classes with readable images: {held}; at least two are needed"
        )
    missing = set(class_names) - {example.label for example in test}
    if policy == "official" and missing:
        raise cli.DataError(
            f"class {min(missing)!r}: the source's test folder holds none of it; "
            "use --split_policy=grouped"
        )


def _shares(config: PlanConfig, policy: str) -> splitting.Shares:
    """Returns how much the sides get that we cut: official keeps the source's test."""
    return splitting.Shares(
        validation=config.validation_fraction,
        test=0.0 if policy == "official" else config.test_fraction,
        test_in_blocks=policy == "blocks",
        seed=config.seed,
        strength=config.counter_strength,
    )


def _folds(
    examples: list[Example], config: PlanConfig, policy: str, joined: list[list[str]]
) -> dict[str, int]:
    """Returns the fold of each example by its path; nothing where none are asked."""
    if not config.folds:
        return {}
    return splitting.folds(
        examples,
        config.folds,
        config.seed,
        joined,
        in_blocks=policy == "blocks",
        flag=f"--folds={config.folds}",
    )


def _mark_duplicates(members: list[Example]) -> list[Example]:
    order = sorted(members, key=lambda example: example.image.path)
    originals = {
        copy.image.path: copies[0].image.path
        for copies in splitting.identical(order)
        for copy in copies[1:]
    }
    return [
        example._replace(duplicate_of=originals[example.image.path])
        if example.image.path in originals
        else example
        for example in order
    ]


def _shards(
    members: list[Example], config: PlanConfig, folds: Mapping[str, int]
) -> tuple[tuple[Example, ...], ...]:
    """Orders a split by salted hash, so that classes mix, and cuts it evenly.

    A shard holds one fold alone: then a fold is made of whole shards.
    """
    by_fold: dict[int, list[Example]] = {}
    for example in members:
        by_fold.setdefault(folds.get(example.image.path, -1), []).append(example)
    parts = [_cut_evenly(part, config) for _, part in sorted(by_fold.items())]
    return tuple(itertools.chain.from_iterable(parts))


def _cut_evenly(
    members: list[Example], config: PlanConfig
) -> list[tuple[Example, ...]]:
    order = sorted(members, key=lambda e: splitting.salted(config.seed, e.image.path))
    total = sum(example.image.length for example in members)
    count = min(config.num_shards or _num_shards(total, len(members)), len(members))
    edges = [index * len(order) // count for index in range(count + 1)]
    return [tuple(order[low:high]) for low, high in itertools.pairwise(edges)]


def _num_shards(num_bytes: int, examples: int) -> int:
    return max(
        math.ceil(num_bytes / SHARD_BYTES),
        min(_MIN_SHARDS, math.ceil(examples / _SHARD_EXAMPLES)),
    )
