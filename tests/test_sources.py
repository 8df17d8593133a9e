"""cxr.conversion.sources: what a folder offers, what is left aside, what is refused."""

import os
import pathlib

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
    assert [tuple(source) for source in tree.sources] == [
        ("A/1.png", "A", ""),
        ("A/deeper/3.png", "A", ""),
        ("B/2.png", "B", ""),
    ]
    assert any("notes.txt" in note for note in tree.notes)


def test_split_folders(tmp_path):
    touch(tmp_path, "train/A/1.png", "test/B/2.png", "val/A/3.png", "other/x.png")
    tree = sources.find(tmp_path)
    assert [(source.side, source.folder) for source in tree.sources] == [
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
        (("A/1.png",), "only one class folder, 'A'"),
        (("A/1.png", "B/.hidden"), "'B' holds no files"),
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
    in_a = [source.path for source in tree.sources if source.folder == "A"]
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


def test_kaggle_gives_the_downloaded_folder(monkeypatch, tmp_path):
    import kagglehub

    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: str(tmp_path))
    assert sources.download("owner/set") == tmp_path
