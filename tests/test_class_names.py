"""cxr.class_names: what a class means, which is positive, maps and spellings."""

import pytest

from cxr import class_names, cli


@pytest.mark.parametrize(
    "name",
    ["NORMAL", "Normal", "No Finding", "no_finding", "NoFinding", "healthy", "negative"]
    + ["NOT_Pneumonia", "non-COVID", "COVID negative", "0", "0_normal", "control"],
)
def test_names_of_the_healthy(name):
    assert class_names.means_healthy(name)


@pytest.mark.parametrize("name", ["PNEUMONIA", "Abnormal", "COVID", "1", "nodule", ""])
def test_names_of_findings(name):
    assert not class_names.means_healthy(name)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("COVID", "NORMAL"), "COVID"),
        (("NORMAL", "PNEUMONIA"), "PNEUMONIA"),
        (("No Finding", "Pneumonia"), "Pneumonia"),
        (("Effusion", "NOT_Effusion"), "Effusion"),
        (("benign", "malignant"), "malignant"),
        (("A", "B"), "B"),
        (("healthy", "normal"), "normal"),
        (("BACTERIA", "NORMAL", "VIRUS"), "VIRUS"),
        (("COVID", "LUNG", "NORMAL"), "NORMAL"),  # three: as ever, the last
    ],
)
def test_the_positive_class_is_the_finding(names, expected):
    assert class_names.positive(names) == expected
    assert class_names.positive(names, names[0]) == names[0]


def test_a_map_of_names():
    found = class_names.parse_map("class_map", ("Normal=NORMAL", " Healthy = NORMAL"))
    assert found == {"Normal": "NORMAL", "Healthy": "NORMAL"}
    class_names.check_map("class_map", found, {"Normal", "Healthy", "TB"})
    with pytest.raises(cli.UsageError, match=r"--class_map=Healthy=NORMAL.*'TB'"):
        class_names.check_map("class_map", found, {"Normal", "TB"})


@pytest.mark.parametrize("pairs", [("Normal",), ("=NORMAL",), ("A=B", "A=C")])
def test_a_wrong_map_is_refused(pairs):
    with pytest.raises(cli.UsageError, match="--class_map"):
        class_names.parse_map("class_map", pairs)


def test_one_spelling_of_names_that_differ_in_case():
    counts = {"Normal": 2, "NORMAL": 9, "normal ": 1, "TB": 3}
    assert class_names.merge_cases(counts) == {"Normal": "NORMAL", "normal ": "NORMAL"}
    assert class_names.merge_cases({"A": 1, "a": 1}) == {"a": "A"}
