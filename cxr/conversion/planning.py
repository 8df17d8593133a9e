"""Plans a conversion: patients, labels, splits and shards.

A pure function of what was found in the sources and of the flags: the same
images give the same plan on any machine, in any order, with any number of
workers.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Sequence

from cxr import cli, records, reference_set
from cxr.conversion import splitting
from cxr.conversion.splitting import Example
from cxr.conversion.spool import Converted
from cxr.reasons import Rejected

SHARD_BYTES = 64 << 20  # 64 MiB: few files, and eight readers still find work
_SHARD_EXAMPLES = 256  # below 64 MiB: one shard for so many examples, up to ...
_MIN_SHARDS = 8


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """The flags that decide labels, patients, splits and shards."""

    split_policy: str = cli.option(
        "auto",
        "'official': keep the source's test split, pool its val into train, cut "
        "validation from train by patient; 'grouped': pool all, cut all three by "
        "patient; 'blocks': hold out a contiguous block of patient numbers as test "
        "(--seed chooses which; 0 is the lowest) and cut validation by patient; "
        "'auto': official where the source has a test folder, else grouped",
        choices=("auto", "official", "grouped", "blocks"),
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
        "searched in the file name; default: the reference set's two patterns. A file "
        "that does not match is its own patient",
    )
    labels: str = cli.option(
        "folder",
        "'folder': the class folder's name; 'subtype': the subtype in the file name, "
        "in capitals, or the folder's name where names have none",
        choices=("folder", "subtype"),
    )
    num_shards: int = cli.option(
        0, "shards of each split; 0 chooses from the bytes", lower=0, upper=10_000
    )

    def validate(self) -> None:
        """Raises UsageError for a pattern or a sum of fractions that cannot work."""
        if self.patient_pattern:
            _compile(self.patient_pattern)
        held_out = self.validation_fraction + self.test_fraction
        if held_out >= 1:
            raise cli.UsageError(
                f"--validation_fraction={self.validation_fraction} and "
                f"--test_fraction={self.test_fraction} leave nothing to train on; "
                "their sum must be below 1"
            )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where every image goes.

    Attributes:
      policy: the split policy used, `auto` resolved.
      class_names: sorted; label i is `class_names[i]`.
      shards: split name to its shards in order, each a tuple of examples in order.
      rejected: readable images that are kept out, with the reason.
      unmatched: number of images whose name told no patient.
    """

    policy: str
    class_names: tuple[str, ...]
    shards: dict[str, tuple[tuple[Example, ...], ...]]
    rejected: tuple[Rejected, ...]
    unmatched: int


def make(images: Sequence[Converted], config: PlanConfig) -> Plan:
    """Plans a conversion.

    Args:
      images: in any order.
      config: the flags.

    Raises:
      DataError: a class has too few patients for the sides, or the policy does
        not fit the sources.
    """
    policy = _policy(images, config)
    rejected: list[Rejected] = []
    examples = _identify(images, config, rejected)
    examples = _drop_conflicts(examples, rejected)
    sides: dict[str, list[Example]] = {name: [] for name in records.SPLITS}
    if policy == "official":
        examples = _drop_leaks(examples, rejected)
        sides["test"] = [e for e in examples if e.image.side == "test"]
        examples = [e for e in examples if e.image.side != "test"]
    class_names = tuple(sorted({e.label for e in examples + sides["test"]}))
    _check_classes(class_names, sides["test"] if policy == "official" else None)
    # The sides that we cut: official keeps the source's test.
    shares = splitting.Shares(
        validation=config.validation_fraction,
        test=0.0 if policy == "official" else config.test_fraction,
        test_in_blocks=policy == "blocks",
        seed=config.seed,
    )
    for side, members in splitting.cut(examples, shares).items():
        sides[side] += members
    placed = itertools.chain.from_iterable(sides.values())
    unmatched = sum(e.patient_id == e.image.path for e in placed)
    del examples, members  # large: each side goes as soon as its shards are planned
    shards = {}
    for side in records.SPLITS:
        if members := _mark_duplicates(sides.pop(side)):
            shards[side] = _shards(members, config)
    return Plan(policy, class_names, shards, tuple(sorted(rejected)), unmatched)


def patient_parser(pattern: str) -> Callable[[str], tuple[str, str]]:
    """Returns a function from a file's path to (subtype, patient), '' where unknown.

    Args:
      pattern: `--patient_pattern`; empty for the reference set's two.
    """
    patterns = [pattern] if pattern else reference_set.PATIENT_PATTERNS
    compiled = [_compile(pattern) for pattern in patterns]

    def parse(path: str) -> tuple[str, str]:
        name = path.rpartition("/")[2]
        for expression in compiled:
            if match := expression.search(name):
                groups = match.groupdict()
                return groups.get("subtype") or "", groups["patient"] or ""
        return "", ""

    return parse


def _compile(pattern: str) -> re.Pattern:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise cli.UsageError(
            f"--patient_pattern={pattern}: not a regular expression: {error}"
        ) from error
    if "patient" not in compiled.groupindex:
        raise cli.UsageError(
            f"--patient_pattern={pattern}: needs a named group 'patient', such as "
            r"'^(?P<patient>\d+)_'"
        )
    return compiled


def _policy(images: Sequence[Converted], config: PlanConfig) -> str:
    has_test = any(image.side == "test" for image in images)
    if config.split_policy == "auto":
        return "official" if has_test else "grouped"
    if config.split_policy == "official" and not has_test:
        raise cli.DataError(
            "--split_policy=official: the source has no test folder with readable "
            "images; use --split_policy=grouped"
        )
    return config.split_policy


def _identify(
    images: Sequence[Converted], config: PlanConfig, rejected: list[Rejected]
) -> list[Example]:
    """Gives every image its label and patient, in the order of paths."""
    parse = patient_parser(config.patient_pattern)
    with_subtypes = set()
    if config.labels == "subtype":
        with_subtypes = {image.folder for image in images if parse(image.path)[0]}
        if not with_subtypes:
            raise cli.DataError(
                "--labels=subtype: no file name tells a subtype; use --labels=folder, "
                "or a --patient_pattern with a group 'subtype'"
            )
    examples = []
    for image in sorted(images, key=lambda image: image.path):
        subtype, patient = parse(image.path)
        label = image.folder
        if config.labels == "subtype":
            if not subtype and image.folder in with_subtypes:
                detail = f"others in {image.folder!r} have a subtype in their name"
                rejected.append(Rejected(image.path, "no_subtype", detail))
                continue
            label = subtype.upper() or image.folder
        key = f"{subtype}:{patient}" if subtype else patient
        patient_id = key if patient else image.path
        examples.append(Example(image, label, patient_id, subtype))
    return examples


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


def _drop_leaks(examples: list[Example], rejected: list[Rejected]) -> list[Example]:
    """Removes training images whose bytes or patient the source's test holds too."""
    test = [example for example in examples if example.image.side == "test"]
    contents = {example.image.digest: example.image.path for example in test}
    patients = {example.patient_id: example.image.path for example in test}
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
        else:
            kept.append(example)
    return kept


def _check_classes(class_names: tuple[str, ...], test: list[Example] | None) -> None:
    if len(class_names) < 2:
        held = ", ".join(class_names) or "none"
        raise cli.DataError(
            f"classes with readable images: {held}; at least two are needed"
        )
    if test is not None:
        missing = set(class_names) - {example.label for example in test}
        if missing:
            raise cli.DataError(
                f"class {min(missing)!r}: the source's test folder holds none of it; "
                "use --split_policy=grouped"
            )


def _mark_duplicates(members: list[Example]) -> list[Example]:
    first: dict[bytes, str] = {}
    marked = []
    for example in sorted(members, key=lambda example: example.image.path):
        path = example.image.path
        original = first.setdefault(example.image.digest, path)
        copy = original != path
        marked.append(example._replace(duplicate_of=original) if copy else example)
    return marked


def _shards(
    members: list[Example], config: PlanConfig
) -> tuple[tuple[Example, ...], ...]:
    """Orders a split by salted hash, so that classes mix, and cuts it evenly."""
    order = sorted(members, key=lambda e: splitting.salted(config.seed, e.image.path))
    total = sum(example.image.length for example in members)
    count = min(config.num_shards or _num_shards(total, len(members)), len(members))
    edges = [index * len(order) // count for index in range(count + 1)]
    return tuple(tuple(order[low:high]) for low, high in itertools.pairwise(edges))


def _num_shards(num_bytes: int, examples: int) -> int:
    return max(
        math.ceil(num_bytes / SHARD_BYTES),
        min(_MIN_SHARDS, math.ceil(examples / _SHARD_EXAMPLES)),
    )
