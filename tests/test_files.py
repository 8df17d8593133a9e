import errno
import hashlib

import pytest

from cxr import cli, files, platforms


def test_publish_writes_bytes_and_text(tmp_path):
    files.publish(tmp_path / "new" / "a.txt", "é")
    files.publish(tmp_path / "new" / "a.txt", b"over")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"over"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.csv"
    files.publish(path, "old")
    with pytest.raises(RuntimeError):
        with files.publishing(path) as temporary:
            assert temporary.suffix == ".csv"
            temporary.write_text("half")
            raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256_of_a_file_longer_than_a_chunk(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert files.sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()
    assert files.sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_temporary_names_cannot_be_foreseen_nor_led_astray(tmp_path, monkeypatch):
    """A link in the place of the temporary file leads nowhere."""
    path, outside = tmp_path / "a.csv", tmp_path / "outside"
    assert files.temporary_name(path) != files.temporary_name(path)
    foreseen = tmp_path / ".tmp-foreseen.csv"
    monkeypatch.setattr(files, "temporary_name", lambda path: foreseen)
    foreseen.symlink_to(outside)
    with pytest.raises(FileExistsError):
        files.publish(path, "x")
    assert not outside.exists()
    assert foreseen.is_symlink()  # not ours to remove


def test_a_published_file_replaces_a_link_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    files.publish(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert (tmp_path / "precious").read_text() == "kept"


def test_of_several_writers_each_publishes_whole(tmp_path):
    path = tmp_path / "a"
    with files.publishing(path) as one, files.publishing(path) as two:
        one.write_text("one")
        two.write_text("two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_that_cannot_flush_is_told_once(tmp_path, monkeypatch, capsys):
    def refuse(path):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(platforms, "fsync", refuse)
    monkeypatch.setattr(files, "_unsynced", set())
    files.publish(tmp_path / "a", "x")
    files.publish(tmp_path / "a", "y")
    told = capsys.readouterr().err
    assert told.count("does not flush") == 1
    assert str(tmp_path) in told
    assert (tmp_path / "a").read_text() == "y"


def test_a_disk_that_fails_to_flush_is_an_error(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(platforms, "fsync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        files.publish(tmp_path / "a", "x")
    assert not list(tmp_path.iterdir())


def test_a_link_inside_a_folder_is_refused_and_the_folder_may_be_one(tmp_path):
    real = tmp_path / "real"
    (real / "in" / "side").mkdir(parents=True)
    (tmp_path / "named").symlink_to(real)
    files.refuse_links(tmp_path / "named")
    files.refuse_links(tmp_path / "not there")
    (real / "in" / "side" / "x").symlink_to("/no/where")
    with pytest.raises(cli.DataError, match="named/in/side/x: a link"):
        files.refuse_links(tmp_path / "named")
