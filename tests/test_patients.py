"""cxr.conversion.patients: whose a film is."""

import pytest

from cxr import cli
from cxr.conversion import patients
from cxr.conversion.source import Source
from cxr.conversion.spool import Converted


def films(*paths: str, label: str = "", patient: str = "") -> list[Converted]:
    return [
        Converted(Source(path, label or path.split("/")[0], "", patient))
        for path in sorted(paths)
    ]


def ids(images: list[Converted], pattern: str = "") -> dict[str, str]:
    found, _ = patients.identify(images, pattern)
    return {i.path: f.patient_id for i, f in zip(images, found, strict=True)}


def test_a_pattern_sees_the_whole_path_then_the_name():
    images = films("A/patient00001/study1/view1.jpg", "A/patient00002/study1/view1.jpg")
    found = ids(images, r"(?P<patient>patient\d+)")
    assert set(found.values()) == {"patient00001", "patient00002"}
    assert ids(films("A/17_x.png"), r"^(?P<patient>\d+)_") == {"A/17_x.png": "17"}


@pytest.mark.parametrize(
    "copy",
    [
        "aug_1_X.png",
        "aug_12_X.png",
        "X - Copy.png",
        "X - Copy (2).png",
        "X (1).png",
        "X(1).png",
        "X_flipped.png",
        "X_rot90.png",
        "hflip_X.jpg",
        "X copy 2.png",
        "X_rotated_15.png",
        "X_brightness.png",
        "Copy of X.png",
    ],
)
def test_a_copy_belongs_to_its_original(copy):
    images = films("A/X.png", f"A/{copy}", "A/Y.png")
    assert ids(images)[f"A/{copy}"] == "A/X.png"
    assert patients.identify(images, "")[1] == 1


def test_copies_of_the_reference_set_have_its_patient():
    images = films("A/IM-0001-0001.jpeg", "A/aug_3_IM-0001-0001.jpeg")
    assert set(ids(images).values()) == {"IM-0001"}


def test_numbers_in_brackets_alone_are_no_copies():
    names = [f"A/COVID ({i}).png" for i in range(3)]
    assert len(set(ids(films(*names)).values())) == 3


def test_augmented_files_without_their_original_belong_together():
    found = ids(films("A/aug_1_X.png", "A/aug_2_X.png", "A/aug_1_Y.png"))
    assert found["A/aug_1_X.png"] == found["A/aug_2_X.png"] != found["A/aug_1_Y.png"]


def test_an_original_is_looked_for_in_the_folder_first():
    images = films("A/1/X.png", "A/2/X.png", "A/2/X - Copy.png", "A/3/X - Copy.png")
    found = ids(images)
    assert found["A/2/X - Copy.png"] == "A/2/X.png"
    assert found["A/3/X - Copy.png"] == "A/3/X.png"  # of neither


def test_a_table_goes_before_names():
    images = films("A/IM-0001-0001.jpeg", patient="17")
    assert ids(images) == {"A/IM-0001-0001.jpeg": "17"}


def test_names_of_viewers_are_no_patients():
    images = films(*(f"A/{p}/IM-0001-{i:04d}.jpg" for p in range(12) for i in (1, 2)))
    with pytest.raises(cli.DataError) as caught:
        patients.identify(images, "")
    message = str(caught.value)
    assert "IM-0001-0001.jpg" in message
    assert "would make 12 patients" in message
    pattern = message.split("--patient_pattern='")[1].split("'")[0]
    assert len(set(ids(images, pattern).values())) == 12


def test_a_class_of_one_patient_is_told_without_folders():
    with pytest.raises(cli.DataError, match="1 patient of 40 films"):
        ids(films(*(f"A/IM-0001-{i:04d}.jpg" for i in range(40))))


def test_the_reference_sets_own_names_are_taken():
    images = films(
        *(
            f"{side}/N/IM-{p:04d}-0001.jpeg"
            for side in ("train", "test")
            for p in range(9)
        ),
        label="N",
    )
    assert len(set(ids(images).values())) == 9


@pytest.mark.parametrize(
    ("paths", "patients_there"),
    [
        ([f"A/patient{p:05d}/study1/v{i}.jpg" for p in range(5) for i in (1, 2)], 5),
        ([f"A/{p}/{i}.png" for p in range(4) for i in (1, 2)], 4),
    ],
)
def test_advice_names_a_pattern_that_works(paths, patients_there):
    text = patients.advice(paths, ["A"])
    assert f"would make {patients_there} patients" in text
    pattern = text.split("--patient_pattern='")[1].split("'")[0]
    assert len(set(ids(films(*paths), pattern).values())) == patients_there


def test_no_advice_for_a_flat_folder():
    assert patients.advice([f"A/{i}.png" for i in range(9)], ["A"]) == ""
    paths = [f"{c}/images/{i}.png" for c in "ABCDE" for i in range(3)]
    assert patients.advice(paths, "ABCDE") == ""
    assert patients.advice([f"{c}/1.png" for c in "abcde"], "ABCDE") == ""


@pytest.mark.parametrize("pattern", ["(", "no group"])
def test_a_wrong_pattern_is_refused(pattern):
    with pytest.raises(cli.UsageError, match="--patient_pattern="):
        patients.parser(pattern)
