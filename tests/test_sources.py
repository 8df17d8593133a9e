"""cxr.conversion.sources: what a folder offers, what is left aside, what is refused."""

import os
import pathlib
import sys

import pytest

from cxr import cli
from cxr.conversion import sources


def touch(root: pathlib.Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.rpartition("/")[2].encode())


def offered(root: pathlib.Path) -> list[str]:
    return [source.path for source in sources.find(root).sources]


def test_class_folders(tmp_path):
    touch(tmp_path, "B/2.png", "A/1.png", "A/deeper/3.png", "notes.txt")
    tree = sources.find(tmp_path)
    assert [tuple(source[:3]) for source in tree.sources] == [
        ("A/1.png", "A", ""),
        ("A/deeper/3.png", "A", ""),
        ("B/2.png", "B", ""),
    ]
    assert any("notes.txt" in note for note in tree.notes)


def test_split_folders(tmp_path):
    touch(tmp_path, "train/A/1.png", "test/B/2.png", "val/A/3.png", "other/x.png")
    tree = sources.find(tmp_path)
    assert [(source.side, source.label) for source in tree.sources] == [
        ("test", "B"),
        ("train", "A"),
        ("val", "A"),
    ]
    assert any("other/" in note for note in tree.notes)


def test_archive_litter_is_ignored(tmp_path):
    touch(tmp_path, "A/1.png", "B/2.png", "A/.DS_Store", "A/._1.png", ".git/x")
    touch(tmp_path, "__MACOSX/A/._1.png", "A/__MACOSX/y", "A/Thumbs.db", "desktop.ini")
    assert offered(tmp_path) == ["A/1.png", "B/2.png"]
    assert sources.find(tmp_path).notes == ()


def test_the_doubled_tree_counts_once(tmp_path):
    films = ("train/A/1.png", "train/B/2.png", "test/A/3.png", "test/B/4.png")
    touch(tmp_path, *(f"chest_xray/{f}" for f in films))
    touch(tmp_path, *(f"chest_xray/chest_xray/{f}" for f in films), "__MACOSX/x")
    assert offered(tmp_path) == sorted(f"chest_xray/{f}" for f in films)
    tree = sources.find(tmp_path / "chest_xray")
    assert [source.path for source in tree.sources] == sorted(films)
    assert any("second copy" in note for note in tree.notes)


def test_a_second_tree_with_other_films_is_refused(tmp_path):
    touch(tmp_path, "train/A/1.png", "train/B/2.png", "again/train/A/9.png")
    with pytest.raises(cli.DataError, match=r"train/A/9\.png"):
        sources.find(tmp_path)


@pytest.mark.parametrize(
    ("paths", "complaint"),
    [
        ((), "no class folders"),
        (("1.png",), "no class folders"),
        (("A/1.png",), "only one class, .A."),
        (("A/1.png", "B/.hidden"), "'B' holds no films"),
    ],
)
def test_folders_that_make_no_classifier(tmp_path, paths, complaint):
    touch(tmp_path, *paths)
    with pytest.raises(cli.DataError, match=complaint):
        sources.find(tmp_path)


def test_a_missing_folder_names_the_flag(tmp_path):
    with pytest.raises(cli.UsageError, match=r"--input_dir=.*no such folder"):
        sources.find(tmp_path / "missing")


def test_links_and_special_files(tmp_path):
    touch(tmp_path, "A/1.png", "B/2.png", "elsewhere/3.png")
    a = tmp_path / "A"
    (a / "link.png").symlink_to(tmp_path / "B/2.png")
    (a / "dangling.png").symlink_to(tmp_path / "missing.png")
    (a / "self.png").symlink_to(a / "self.png")
    (a / "up").symlink_to(tmp_path / "A")
    (a / "folder").symlink_to(tmp_path / "elsewhere")
    (a / "new\nline.png").write_bytes(b"x")
    os.mkfifo(a / "fifo.png")
    with open(os.fsencode(a) + b"/broken\xff.png", "wb") as file:
        file.write(b"x")
    tree = sources.find(tmp_path)
    in_a = [source.path for source in tree.sources if source.label == "A"]
    assert in_a == ["A/1.png", "A/folder/3.png", "A/link.png"]
    assert {(row.path, row.reason) for row in tree.rejected} == {
        ("A/dangling.png", "dangling_link"),
        ("A/self.png", "link_loop"),
        ("A/up", "link_loop"),
        ("A/fifo.png", "special_file"),
        ("A/new\nline.png", "bad_name"),
        ("A/broken\\xff.png", "bad_name"),
    }


@pytest.mark.parametrize("handle", ["chest", "a/b/c", "/x", "x/"])
def test_a_wrong_kaggle_handle_is_refused(handle):
    with pytest.raises(cli.UsageError, match="OWNER/"):
        sources.download(handle)


def test_kaggle_without_network_says_what_to_do(monkeypatch):
    import kagglehub

    def refuse(handle):
        raise ConnectionError("no route")

    monkeypatch.setattr(kagglehub, "dataset_download", refuse)
    with pytest.raises(cli.UnavailableError) as caught:
        sources.download("paultimothymooney/chest-xray-pneumonia")
    message = str(caught.value)
    assert "no route" in message
    assert "kaggle.com/datasets/paultimothymooney/chest-xray-pneumonia" in message
    assert "--input_dir=" in message
    assert len(message.splitlines()) <= 6


def test_kaggle_without_its_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(cli.UnavailableError) as caught:
        sources.download("owner/set")
    assert "pip install 'cxr[kaggle]'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kaggle_gives_the_downloaded_folder(monkeypatch, tmp_path):
    import kagglehub

    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: str(tmp_path))
    assert sources.download("owner/set") == tmp_path


# --- trees that people have


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Val", "Test"),
        ("TRAINING", "valid", "testing"),
        ("train", "dev", "TEST"),
    ],
)
def test_split_folders_by_their_usual_names(tmp_path, train, val, test):
    touch(
        tmp_path,
        *(f"{side}/{c}/{side}.png" for side in (train, val, test) for c in "AB"),
    )
    sides = {
        source.path.split("/")[0]: source.side
        for source in sources.find(tmp_path).sources
    }
    assert sides == {train: "train", val: "val", test: "test"}


def test_masks_beside_images_are_left_aside(tmp_path):
    for c in ("COVID", "Normal"):
        touch(tmp_path, f"{c}/images/1.png", f"{c}/lung masks/1.png", f"{c}/x.txt")
    tree = sources.find(tmp_path)
    assert [s.path for s in tree.sources] == [
        "COVID/images/1.png",
        "COVID/x.txt",
        "Normal/images/1.png",
        "Normal/x.txt",
    ]
    assert {(r.path, r.reason) for r in tree.rejected} == {
        ("COVID/lung masks/1.png", "mask"),
        ("Normal/lung masks/1.png", "mask"),
    }
    assert any("lung masks" in note for note in tree.notes)


def test_a_mask_beside_its_film_is_left_aside_by_name(tmp_path):
    touch(tmp_path, "A/1.png", "A/1_mask.png", "A/3_mask.png", "B/2.png")
    tree = sources.find(tmp_path)
    assert [s.path for s in tree.sources] == ["A/1.png", "A/3_mask.png", "B/2.png"]


def test_a_folder_of_masks_beside_classes_is_no_class(tmp_path):
    touch(tmp_path, "A/1.png", "B/2.png", "lung_masks/1.png", "lung_masks/2.png")
    tree = sources.find(tmp_path)
    assert {s.label for s in tree.sources} == {"A", "B"}
    assert any("lung_masks/, 2 files" in note for note in tree.notes)


@pytest.mark.parametrize("names", [("images", "masks"), ("Images", "ground_truth")])
def test_classes_inside_a_folder_of_images(tmp_path, names):
    touch(tmp_path, *(f"{name}/{c}/1.png" for name in names for c in "AB"))
    tree = sources.find(tmp_path)
    assert {s.path for s in tree.sources} == {f"{names[0]}/{c}/1.png" for c in "AB"}
    assert any(names[1] in note and "2 files" in note for note in tree.notes)


@pytest.mark.parametrize(
    "paths",
    [
        ("A/NORMAL/1.png", "A/PNEUMONIA/2.png", "B/NORMAL/3.png", "B/PNEUMONIA/4.png"),
        ("A/normal/1.png", "A/tb/2.png", "B/Normal/3.png", "B/TB/4.png"),
        ("A/0/1.png", "A/1/2.png", "B/0/3.png", "B/1/4.png"),
        ("A/cat/1.png", "A/dog/2.png", "B/cat/3.png", "B/dog/4.png"),
        ("A/train/N/1.png", "A/test/N/2.png", "B/train/N/3.png", "B/test/N/4.png"),
        ("A/train/N/1.png", "A/train/P/2.png", "B/train/N/3.png", "B/train/P/4.png"),
        ("N/1.png", "P/2.png", "other/N/3.png", "other/P/4.png"),
        ("train/A/N/1.png", "train/A/P/2.png", "train/B/N/3.png", "train/B/P/4.png"),
    ],
)
def test_data_sets_side_by_side_are_no_classes(tmp_path, paths):
    touch(tmp_path, *paths)
    with pytest.raises(cli.DataError, match=r"--input_dir=.*\n.*--exclude=") as caught:
        sources.find(tmp_path)
    assert len(str(caught.value).splitlines()) <= 6


def test_splits_inside_classes_are_refused_or_pooled(tmp_path):
    touch(
        tmp_path, *(f"{c}/{side}/{c}.png" for c in "AB" for side in ("train", "test"))
    )
    with pytest.raises(cli.DataError, match="--split_policy=grouped"):
        sources.find(tmp_path)
    tree = sources.find(tmp_path, split_policy="grouped")
    assert [(s.label, s.side) for s in tree.sources] == [("A", "")] * 2 + [
        ("B", "")
    ] * 2
    config = sources.SourceConfig(exclude=("*/test/*",))
    assert len(sources.find(tmp_path, config).sources) == 2


@pytest.mark.parametrize(
    "inner", [("p1", "p2", "p3"), ("AP", "PA"), ("male", "female"), ("2019", "2020")]
)
def test_parts_that_classes_share_get_a_note(tmp_path, inner):
    touch(tmp_path, *(f"{c}/{name}/{c}.png" for c in "AB" for name in inner))
    tree = sources.find(tmp_path)
    assert {s.label for s in tree.sources} == {"A", "B"}
    assert any("parts of the class" in note for note in tree.notes)


def test_a_map_of_all_folders_says_that_they_are_classes(tmp_path):
    touch(tmp_path, *(f"{c}/{name}/1.png" for c in "AB" for name in ("cat", "dog")))
    config = sources.SourceConfig(class_map=("A=NORMAL", "B=TB"))
    assert {s.label for s in sources.find(tmp_path, config).sources} == {"NORMAL", "TB"}


def test_classes_are_renamed_and_spelled_one_way(tmp_path):
    touch(tmp_path, "train/NORMAL/1.png", "train/NORMAL/2.png", "train/TB/3.png")
    touch(tmp_path, "test/Normal/4.png", "test/Tuberculosis/5.png")
    config = sources.SourceConfig(class_map=("Tuberculosis=TB",))
    tree = sources.find(tmp_path, config)
    assert [s.label for s in tree.sources] == ["NORMAL", "TB", "NORMAL", "NORMAL", "TB"]
    assert any("'Normal' and 'NORMAL'" in note for note in tree.notes)
    with pytest.raises(cli.UsageError, match=r"--class_map=Tb=TB.*'Tuberculosis'"):
        sources.find(tmp_path, sources.SourceConfig(class_map=("Tb=TB",)))


@pytest.mark.parametrize(
    "unlabelled",
    ["test/1.png", "test/images/1.png", "val/unknown/1.png", "test/p1/x.png"],
)
def test_films_without_labels_beside_training_ones_are_counted(tmp_path, unlabelled):
    touch(tmp_path, "train/A/1.png", "train/B/2.png", unlabelled)
    tree = sources.find(tmp_path)
    assert {s.side for s in tree.sources} == {"train"}
    assert any("1 file" in note and "left aside" in note for note in tree.notes)


def test_a_flat_split_folder_is_no_class(tmp_path):
    touch(tmp_path, "A/1.png", "B/2.png", "Test/3.png")
    tree = sources.find(tmp_path)
    assert {s.label for s in tree.sources} == {"A", "B"}
    assert any("Test/, 1 file:" in note for note in tree.notes)


def test_class_folders_beside_split_folders_are_refused(tmp_path):
    touch(tmp_path, "A/1.png", "B/2.png", "test/A/3.png", "test/B/4.png")
    with pytest.raises(cli.DataError, match="move it to train/A/"):
        sources.find(tmp_path)


def test_a_test_folder_alone_may_hold_one_class(tmp_path):
    touch(tmp_path, "test/A/1.png")
    assert {s.side for s in sources.find(tmp_path).sources} == {"test"}


@pytest.mark.parametrize(
    ("glob", "left"),
    [
        ("B", ["A/1.png", "A/x/2.png"]),
        ("*.png", None),
        ("A/x", ["A/1.png", "B/3.png"]),
        ("*/x/*", ["A/1.png", "B/3.png"]),
        ("[23].png", ["A/1.png"]),
    ],
)
def test_what_is_excluded_is_counted(tmp_path, glob, left):
    touch(tmp_path, "A/1.png", "A/x/2.png", "B/3.png")
    config = sources.SourceConfig(exclude=(glob,))
    if left is None or len({path[0] for path in left}) < 2:
        with pytest.raises(cli.DataError):
            sources.find(tmp_path, config)
        return
    tree = sources.find(tmp_path, config)
    assert [s.path for s in tree.sources] == left
    assert any(f"--exclude={glob}" in note for note in tree.notes)


def test_a_glob_that_matches_nothing_is_told(tmp_path):
    touch(tmp_path, "A/1.png", "B/3.png")
    tree = sources.find(tmp_path, sources.SourceConfig(exclude=("masks",)))
    assert any(note.startswith("warning: --exclude=masks") for note in tree.notes)
