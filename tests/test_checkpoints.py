import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr.training import checkpoints
from cxr.training.checkpoints import Checkpoint


def make(number, value=0.0):
    arrays = {"w": np.full((3, 2), value, np.float32), "n": np.int64(number)}
    return Checkpoint(f"step-{number:08d}", arrays, {"step": number})


def names(root):
    return sorted(path.name for path in root.iterdir())


def test_round_trip(tmp_path):
    checkpoints.save(tmp_path, make(7, 1.5), keep=3)
    loaded, passed = checkpoints.load_newest(tmp_path, "step")
    assert passed == []
    assert loaded.name == "step-00000007"
    assert loaded.state == {"step": 7}
    np.testing.assert_array_equal(loaded.arrays["w"], make(7, 1.5).arrays["w"])
    assert loaded.arrays["w"].dtype == np.float32
    assert loaded.arrays["n"] == 7


def test_keeps_the_newest_of_each_kind_and_clears_leftovers(tmp_path):
    (tmp_path / ".tmp-1-step-00000009").mkdir(parents=True)
    checkpoints.save(tmp_path, Checkpoint("best-0001", {}, {}), keep=1)
    for number in (1, 2, 10, 3):
        checkpoints.save(tmp_path, make(number), keep=2)
    assert names(tmp_path) == ["best-0001", "step-00000003", "step-00000010"]


def test_nothing_there(tmp_path):
    assert checkpoints.load_newest(tmp_path / "none", "step") == (None, [])


def test_the_same_name_with_another_state_is_replaced(tmp_path):
    checkpoints.save(tmp_path, make(1, 1.0), keep=3)
    before = (tmp_path / "step-00000001" / "arrays.npz").stat().st_ino
    checkpoints.save(tmp_path, make(1, 1.0), keep=3)
    assert (tmp_path / "step-00000001" / "arrays.npz").stat().st_ino == before
    checkpoints.save(tmp_path, make(1, 2.0), keep=3)
    assert checkpoints.load(tmp_path / "step-00000001").arrays["w"][0, 0] == 2


@pytest.mark.parametrize("part", ["arrays.npz", "state.json", "commit.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing", "foreign"])
def test_damage_falls_back_to_the_one_before(tmp_path, part, damage):
    for number in (1, 2):
        checkpoints.save(tmp_path, make(number, number), keep=3)
    path = tmp_path / "step-00000002" / part
    data = path.read_bytes()
    if damage == "flip":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes((tmp_path / "step-00000001" / part).read_bytes())
    loaded, passed = checkpoints.load_newest(tmp_path, "step")
    if damage == "foreign" and (tmp_path / "step-00000001" / part).read_bytes() == data:
        return  # equal bytes are no damage
    assert loaded.name == "step-00000001"
    assert loaded.arrays["w"][0, 0] == 1
    assert len(passed) == 1
    assert "step-00000002" in passed[0]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_flipped_bit_of_the_arrays_is_found(tmp_path, data):
    root = tmp_path / "c"
    path = checkpoints.save(root, make(1, 3.0), keep=1) / "arrays.npz"
    original = path.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(original)
    changed[position] ^= 1 << bit
    path.write_bytes(bytes(changed))
    assert checkpoints.load_newest(root, "step")[0] is None
    path.write_bytes(original)


def test_a_full_disk_leaves_older_checkpoints(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, make(1, 1.0), keep=1)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(tmp_path, make(2), keep=1)
    assert names(tmp_path) == ["step-00000001"]
    assert checkpoints.load_newest(tmp_path, "step")[0].arrays["w"][0, 0] == 1
