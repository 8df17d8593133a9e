"""benchmarks.gpu_acceptance: whatever goes wrong is a row, and the rest goes on."""

import dataclasses
import json
import pkgutil
import subprocess
import sys
import types

import keras
import pytest
import tensorflow as tf

from benchmarks import gpu_acceptance, gpu_lives, gpu_parts, noise_set
from benchmarks.gpu_acceptance import (
    FAILED,
    OK,
    PARTS,
    SKIPPED,
    AcceptanceConfig,
    Outcome,
    Row,
    Session,
    Settings,
    Skip,
)
from cxr import cli

SETTINGS = Settings("nowhere")


def raising(error):
    def measure():
        raise error

    return measure


# --- rows


@pytest.mark.parametrize(
    ("error", "status", "result"),
    [
        (Skip("no card"), SKIPPED, "no card"),
        (ValueError("first\nsecond"), FAILED, "ValueError: first"),
        (MemoryError(), FAILED, "MemoryError: "),
        (OSError("x" * 1000), FAILED, f"OSError: {'x' * 291}"),
    ],
)
def test_what_fails_is_a_row_with_the_first_line_of_its_reason(error, status, result):
    row = gpu_acceptance.attempt("speed", raising(error))
    assert row == Row("speed", result, status)


def test_a_part_keeps_the_rows_before_its_error(monkeypatch):
    def part(settings):
        yield Row("first", settings.scratch)
        raise OSError("gone")

    monkeypatch.setattr(gpu_parts, "float32", part)
    rows = list(gpu_acceptance.rows_of("float32", SETTINGS))
    assert rows == [Row("first", "nowhere"), Row("float32", "OSError: gone", FAILED)]


def test_every_part_is_there():
    for part in PARTS.values():
        assert callable(pkgutil.resolve_name(part.function)), part


def test_the_table_holds_each_row_in_one_line():
    rows = [Row("a", "1 | 2"), Row("b", "why", FAILED), Row("c", "x", SKIPPED)]
    found = gpu_acceptance.report(rows, 12.4, 2)
    assert found.startswith("## GPU acceptance: 2 GPUs\n")
    assert "| a | ok | 1 / 2 |\n| b | FAILED | why |\n| c | skipped | x |\n" in found
    assert found.endswith("3 rows, 1 failed, 1 skipped, 12 s")
    assert "not run on a GPU" in gpu_acceptance.report(rows, 1, 0)


# --- processes


def test_parts_write_rows_that_are_read_again(tmp_path, monkeypatch):
    row = Row("speed", "12", OK, {"rate": 12.0})
    monkeypatch.setattr(gpu_parts, "float32", lambda settings: iter([row]))
    path = tmp_path / "rows"
    gpu_acceptance.work(["float32", "float32"], SETTINGS, path)
    found = gpu_acceptance._read(path, "")
    assert found == Outcome([row, row], ["float32", "float32"])
    whole = path.read_text()
    path.write_text(whole[:-5])  # killed while it wrote
    assert gpu_acceptance._read(path, "died").done == ["float32"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pass", ""),
        ("raise SystemExit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), 6)", "died of SIGABRT"),
        ("import time; time.sleep(99)", "stopped after 0 s"),
    ],
)
def test_a_process_that_does_not_end_well_has_a_reason(code, reason):
    limit_s = 0.3 if "sleep" in code else 60
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    assert gpu_acceptance._wait(process, limit_s) == reason
    assert process.poll() is not None


def test_of_the_cards_that_are_visible_the_first_stays(monkeypatch):
    one = {"CUDA_VISIBLE_DEVICES": "0"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert gpu_acceptance._environment(one)["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpu_acceptance._environment(one)["CUDA_VISIBLE_DEVICES"] == "3"
    assert gpu_acceptance._environment({})["CUDA_VISIBLE_DEVICES"] == "3,5"


# --- the session


class Machine:
    """Processes that take as long as the test says, and die where it says."""

    def __init__(self, seconds=10.0, *, dies_in=(), gpus=0):
        self.now, self.seconds, self.dies_in = 0.0, seconds, dies_in
        self.gpus, self.calls = gpus, []

    def run(self, names, settings, limit_s):
        self.calls.append((list(names), settings.gpus, limit_s))
        rows, done = [], []
        for name in names:
            if self.seconds > limit_s:
                self.now += limit_s
                return Outcome(rows, done, f"stopped after {limit_s:.0f} s")
            self.now += self.seconds
            limit_s -= self.seconds
            if name in self.dies_in:
                return Outcome(rows, done, "died of SIGABRT; last words")
            values = {"gpus": self.gpus} if name == "machine" else {}
            rows.append(Row(name, "well", OK, values))
            done.append(name)
        return Outcome(rows, done)

    def session(self, budget_s):
        return Session(SETTINGS, budget_s, run=self.run, clock=lambda: self.now)


@pytest.mark.parametrize("apart", [True, False])
def test_what_dies_is_a_row_and_the_rest_goes_on(apart):
    machine = Machine(dies_in=("placement",))
    names = ["machine", "placement", "float32", "TF32"]
    rows = machine.session(1000).run(names, apart=apart)
    assert [row.what for row in rows] == names
    assert [row.status for row in rows] == [OK, FAILED, OK, OK]
    assert rows[1].result == "died of SIGABRT; last words"
    started = [names for names, _, _ in machine.calls]
    alone = [["machine"], ["placement"], ["float32"], ["TF32"]]
    assert started == (alone if apart else [names, ["float32", "TF32"]])


def test_parts_know_what_cards_the_first_one_found():
    machine = Machine(gpus=4)
    session = machine.session(1000)
    session.run(["machine", "mirrored"], apart=True)
    assert [gpus for _, gpus, _ in machine.calls] == [0, 4]
    assert session.settings.gpus == 4


@pytest.mark.parametrize("apart", [True, False])
def test_what_has_no_time_left_says_so_and_is_no_failure(apart):
    machine = Machine(seconds=10.0)
    names = ["machine", "placement", "float32", "TF32"]
    rows = machine.session(25).run(names, apart=apart)
    assert [row.what for row in rows] == names
    assert [row.status for row in rows] == [OK, OK, SKIPPED, SKIPPED]
    assert rows[2].result.startswith("no time left")
    assert "stopped after" in rows[2].result
    assert rows[3].result == gpu_acceptance.NO_TIME
    assert machine.now == 25


def test_what_hangs_is_a_failure_and_leaves_time_for_the_rest():
    machine = Machine(seconds=10.0)
    right = machine.run

    def run(names, settings, limit_s):
        machine.seconds = 1e9 if names == ["resume"] else 10.0
        return right(names, settings, limit_s)

    session = Session(SETTINGS, 450, run=run, clock=lambda: machine.now)
    rows = session.run(["machine", "resume", "beside"], apart=True)
    assert [row.status for row in rows] == [OK, FAILED, OK]
    assert rows[1].result == f"stopped after {PARTS['resume'].limit_s} s"


# --- the command


def test_a_quick_look_leaves_parts_out_and_always_asks_for_the_cards():
    quick, every = (AcceptanceConfig(quick=q).parts() for q in (True, False))
    assert every == list(PARTS)
    assert quick == [name for name in PARTS if PARTS[name].quick] != every
    assert AcceptanceConfig(only=("beside", "resume")).parts() == [
        *("machine", "resume", "beside")
    ]
    with pytest.raises(cli.UsageError, match="--only=speed: expected some of machine"):
        AcceptanceConfig(only=("speed",)).validate()


@pytest.mark.parametrize(("status", "code"), [(OK, 0), (SKIPPED, 0), (FAILED, 1)])
def test_the_command_prints_writes_and_judges(
    status, code, tmp_path, monkeypatch, capsys
):
    row = Row("speed", "12", status, {"rate": 12.0})
    monkeypatch.setattr(Session, "run", lambda self, names, apart: [row])
    monkeypatch.setattr(noise_set, "make", lambda *args, **options: None)
    output = tmp_path / "gpu.json"
    argv = ["gpu_acceptance", f"--output={output}", "--quick"]
    assert gpu_acceptance.main(argv) == code
    assert f"| speed | {status} | 12 |" in capsys.readouterr().out
    document = json.loads(output.read_text())
    assert document["rows"] == [dataclasses.asdict(row)]
    assert (document["gpus"], document["quick"]) == (0, True)


# --- what is measured


def test_the_first_batch_that_fits_counts():
    seen = []

    def measure(size):
        seen.append(size)
        if size > 32:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        return size

    assert gpu_parts.largest_fitting((128, 64, 32, 16), measure) == 32
    assert seen == [128, 64, 32]
    with pytest.raises(tf.errors.ResourceExhaustedError):
        gpu_parts.largest_fitting((128, 64), measure)
    with pytest.raises(ZeroDivisionError):
        gpu_parts.largest_fitting((1, 0), lambda size: 1 / 0)


def test_a_speed_tells_the_share_of_the_makers_peak():
    prepared = types.SimpleNamespace(
        names=("NVIDIA L4",), precision="mixed_bfloat16", replicas=2
    )
    load = types.SimpleNamespace(devices=prepared)
    row = gpu_parts.Speed(256, 1000.0, int(60.5e9), 1234.0).row("speed", load)
    assert row.result == (
        "1,000 images/s, 256.0 ms a step of 256, MFU 25% of the maker's 121 TFLOP/s, "
        "1,234 MiB at most"
    )
    assert row.values["mfu"] == pytest.approx(0.25)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)])
@pytest.mark.parametrize("part", [gpu_parts.tf32, gpu_parts.bfloat16])
def test_what_a_card_has_no_units_for_is_left_out(capability, part, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["card"])
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda card: {"compute_capability": capability},
    )
    monkeypatch.setattr(gpu_parts, "_speeds", lambda *args, **options: iter("x"))
    if capability >= (8, 0):
        assert list(part(SETTINGS)) == ["x"]
    else:
        with pytest.raises(Skip, match="no units"):
            list(part(SETTINGS))


def test_operations_are_told_by_the_device_that_runs_them():
    @tf.function
    def compute(x):
        with tf.device("CPU:1"):
            y = tf.linalg.matmul(x, x)
        with tf.device("CPU:0"):
            return tf.math.erf(y)

    x = tf.ones([4, 4])
    found = sorted(gpu_parts.devices_of(lambda: compute(x)))
    assert [device for device, _ in found] == ["CPU:0", "CPU:1"]
    assert found[0][1] == "Erf"
    assert found[1][1].endswith("MatMul")  # oneDNN's, where it is in use


def test_a_training_that_ends_too_early_is_told_with_its_last_words(tmp_path):
    (tmp_path / "killed.log").write_text("one\nCUDA is gone\n")
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    with pytest.raises(RuntimeError, match="too early: CUDA is gone"):
        gpu_lives._await_step(process, tmp_path / "killed", 3)


@pytest.fixture
def noise(tmp_path):
    noise_set.make(tmp_path, 40, image_size=32)
    yield Settings(str(tmp_path))
    keras.config.set_dtype_policy("float32")
    tf.config.experimental.enable_tensor_float_32_execution(True)


@pytest.mark.slow
def test_without_a_gpu_the_cpu_stands_in(noise, tmp_path):
    names = ["machine", "placement", "mirrored", "training", "float16"]
    gpu_acceptance.work(names, noise, tmp_path / "rows")
    outcome = gpu_acceptance._read(tmp_path / "rows", "")
    assert outcome.done == names
    rows = {row.what: row for row in outcome.rows}
    assert FAILED not in {row.status for row in outcome.rows}, outcome.rows
    assert rows["cards"].values == {"gpus": 0}
    assert rows["operations of a step"].values["count"]["CPU"] > 100
    mirrored = rows["small_cnn full, mirrored on 2 virtual CPUs"].values
    assert mirrored["batch_size"] == 16
    assert mirrored["images_per_sec"] > 0
    share = rows["augmentation's share of a step"].values["value"]
    assert 0 < share < 1
    assert rows["cxr.bench says"].values["bench"]["config"]["batch_size"] == 8
    assert rows["float16"].status == SKIPPED
