"""What class names mean to people, and names that are to mean another class.

Folders and tables call the same finding `NORMAL`, `Normal`, `No Finding` or `healthy`;
whatever depends on the meaning of such a word stands here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from cxr import cli

# Of the negative class, as `_words` gives them, and what a name of it begins with.
_HEALTHY = frozenset(
    ("normal", "normals", "healthy", "negative", "neg", "none", "clear", "control")
    + ("controls", "absent", "false", "0", "benign", "unremarkable", "nofinding")
    + ("nofindings", "noncovid", "nontb")
)
_NOT = ("no", "non", "not", "without")
# Words in names of findings. They only tell a folder of films of a class from one of a
# patient, view or hospital, so the list need not be complete.
_DIAGNOSES = frozenset(
    ("pneumonia", "covid", "covid19", "sars", "mers", "virus", "viral", "bacteria")
    + ("bacterial", "tuberculosis", "tb", "cancer", "malignant", "nodule", "mass")
    + ("effusion", "edema", "oedema", "atelectasis", "cardiomegaly", "consolidation")
    + ("opacity", "opacities", "infiltration", "infiltrate", "pneumothorax", "fibrosis")
    + ("emphysema", "hernia", "fracture", "lesion", "finding", "findings", "positive")
    + ("disease", "abnormal", "sick", "ill", "pathology", "silicosis", "asthma")
)


def means_healthy(name: str) -> bool:
    """Whether a class means that nothing was found."""
    words = _words(name)
    joined = "".join(words)
    return bool(words) and (
        joined in _HEALTHY or words[-1] in _HEALTHY - {"0"} or words[0] in _NOT
    )


def means_diagnosis(name: str) -> bool:
    """Whether a name is that of a finding, or of none."""
    return means_healthy(name) or not _DIAGNOSES.isdisjoint(_words(name))


def positive(names: Sequence[str], chosen: str = "") -> str:
    """Returns the class whose probability thresholds speak of.

    Args:
      names: sorted class names.
      chosen: by a person; empty for the class that its name makes the finding: of two
        the one that is not healthy, else, as of more than two, the last.
    """
    if chosen:
        return chosen
    if len(names) == 2 and means_healthy(names[1]) and not means_healthy(names[0]):
        return names[0]
    return names[-1]


def parse_map(flag: str, pairs: Iterable[str]) -> dict[str, str]:
    """Returns what each name is to be called, of `--class_map=Normal=NORMAL,...`.

    Args:
      flag: the flag's name, for the message.
      pairs: each `NAME=CLASS`.

    Raises:
      UsageError: a pair of another form, or a name given twice.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        name, _, to = (part.strip() for part in pair.partition("="))
        if not name or not to:
            raise cli.UsageError(
                f"--{flag}={pair}: expected NAME=CLASS, such as Healthy=NORMAL"
            )
        if mapping.setdefault(name, to) != to:
            raise cli.UsageError(f"--{flag}: {name!r} is given two classes")
    return mapping


def check_map(flag: str, mapping: Mapping[str, str], known: Iterable[str]) -> None:
    """Raises UsageError for a name of `mapping` that nothing is called."""
    names = sorted(known)
    if unknown := sorted(mapping.keys() - set(names)):
        raise cli.UsageError(
            f"--{flag}={unknown[0]}={mapping[unknown[0]]}: nothing is called "
            f"{unknown[0]!r}; there are {', '.join(map(repr, names[:12]))}"
        )


def merge_cases(counts: Mapping[str, int]) -> dict[str, str]:
    """Returns the one spelling of names that differ in case or surrounding space alone.

    Args:
      counts: films of each name; the commonest spelling stays, of equal ones the first.

    Returns:
      only the names that change.
    """
    spellings: dict[str, list[str]] = {}
    for name in sorted(counts):
        spellings.setdefault(" ".join(name.casefold().split()), []).append(name)
    return {
        name: kept
        for names in spellings.values()
        for kept in [max(names, key=lambda name: counts[name])]
        for name in names
        if name != kept
    }


def _words(name: str) -> list[str]:
    """`No_Finding`, `NoFinding` and `no finding` are ["no", "finding"]."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[\W_]+", parted.casefold()) if word]
