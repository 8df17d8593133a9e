import hashlib

import pytest

from cxr import files


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


def test_a_table_reads_back_the_same_and_is_published_whole(tmp_path):
    path = tmp_path / "new" / "a.csv"
    rows = [{"b": None, "a": 'x,"é"'}, {"a": 0.1, "b": 3}]
    files.publish_csv(path, ("a", "b"), rows, line_end="\r\n")
    assert path.read_bytes().decode() == 'a,b\r\n"x,""é""",\r\n0.1,3\r\n'
    with pytest.raises(ZeroDivisionError):
        files.publish_csv(path, ("a",), ({"a": 1 / n} for n in (1, 0)))
    assert path.read_bytes().startswith(b"a,b\r\n")
    files.publish_csv(path, ("a",), ({"a": 1 / n} for n in (1, 2)))
    assert path.read_text() == "a\n1.0\n0.5\n"
    assert list(path.parent.iterdir()) == [path]
