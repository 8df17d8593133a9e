import dataclasses
import json
import types

import numpy as np
import pytest
import tensorflow as tf

from cxr import bench, cli
from cxr.benchmark import (
    cases,
    checks,
    input_cases,
    regression,
    report,
    result,
    roofline,
    runner,
    timing,
    workload,
)
from cxr.config import TrainConfig
from cxr.input.pipeline import ImageSource
from cxr.input.reader import Reader
from cxr.reporting import formatting
from cxr.training import steps
from tests.fabricated import shallow_network

pytestmark = pytest.mark.slow  # each test measures

KEYS = {
    *("schema", "environment", "config", "calibration", "stages", "sweep", "verdict"),
    *("input_wait_share", "time_to_first_batch_s", "peak_rss_mb", "mfu", "bottleneck"),
}


class FakeTime:
    """Time passes when the test says so."""

    def __init__(self):
        self.seconds = 0.0

    def perf_counter(self):
        return self.seconds

    def process_time(self):
        return 2 * self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = FakeTime()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def case(clock, seconds, items=8, name="case", **options):
    def advance():
        clock.sleep(seconds)
        return items

    return timing.Case(name, advance, **options)


# --- timing


def test_a_rate_is_items_by_seconds(clock):
    window = timing.measure(case(clock, 0.25, items=10), seconds=1.0)
    assert (window.items, window.seconds) == (40, 1.0)
    assert window.per_sec == 40.0
    assert window.cpu_seconds == 2.0
    assert window.step_seconds == (0.25,) * 4


def test_a_window_holds_one_step_however_slow(clock):
    window = timing.measure(case(clock, 100.0, items=3), seconds=0.1)
    assert (window.items, window.seconds, window.per_sec) == (3, 100.0, 0.03)


def test_what_was_prepared_in_a_pause_does_not_count(clock):
    ready = [20]

    def advance():
        clock.sleep(0.001 if ready[0] > 0 else 0.1)
        ready[0] -= 1
        return 1

    window = timing.measure(timing.Case("case", advance), seconds=1.0)
    assert window.per_sec == pytest.approx(10)


def test_settling_is_part_of_the_time(clock):
    asynchronous = case(
        clock, 0.0, items=5, settle=lambda: clock.sleep(0.5), steps_per_sample=4
    )
    window = timing.measure(asynchronous, seconds=1.0)
    assert (window.items, window.seconds) == (40, 1.0)
    assert window.step_seconds == (0.125, 0.125)


def test_rungs_take_turns(clock):
    seen = []

    def advance(name):
        seen.append(name)
        clock.sleep(1.0)
        return 1

    cases = [timing.Case(n, lambda n=n: advance(n)) for n in "ABC"]
    found = timing.interleave(cases, repeats=2, seconds=1.0)
    assert "".join(seen) == "AABBCCAABBCC"  # one to drain, one to count
    assert [len(windows) for windows in found.values()] == [2, 2, 2]


def test_statistics_of_windows():
    windows = [
        timing.Window(items, 2.0, 1.0, (0.001 * items,), 100.0)
        for items in (10, 30, 20, 40, 50)
    ]
    rates = timing.rates(windows)
    assert rates == {
        "median": 15.0,
        "min": 5.0,
        "max": 25.0,
        "repeats": [5.0, 15.0, 10.0, 20.0, 25.0],
    }
    quantiles = timing.step_quantiles(windows)
    assert quantiles == pytest.approx({"p50": 30, "p90": 46, "p99": 49.6})
    # 5, 10, 25 against 15, 20
    assert timing.split_halves_difference(rates["repeats"]) == pytest.approx(
        1 - 10 / 17.5
    )
    assert timing.split_halves_difference([3.0]) is None


def test_every_window_is_checked_with_its_own_count(clock):
    counts = []
    one = case(clock, 0.5, items=8, check=counts.append)
    timing.measure(one, seconds=2.0)
    assert counts == [8, 32]  # drained, counted


# --- a fast wrong pipeline cannot win


@pytest.fixture
def checked(make_records):
    records = make_records({"train": 12}, image_size=16, encoding="png")
    check = checks.ImageCheck(records, "train", image_size=8)
    images = check.expected_images(np.arange(12))

    def drawn(change=lambda *batch: batch):
        def batches():
            for start in (0, 4, 8) * 2:
                indices = np.arange(start, start + 4)
                yield change(images[indices], check.reader.labels[indices], indices)

        return checks.CheckedBatches(
            batches(), check, check.check_images, epoch_images=12
        )

    return drawn


def test_right_batches_pass(checked):
    drawn = checked()
    drawn.check(sum(drawn.advance() for _ in range(6)))


@pytest.mark.parametrize(
    "change",
    [
        lambda images, labels, indices: (images ^ 1, labels, indices),
        lambda images, labels, indices: (images[::-1], labels, indices),
        lambda images, labels, indices: (images, 1 - labels, indices),
        lambda images, labels, indices: (images, labels, indices * 0),
        lambda images, labels, indices: (images.astype("f4"), labels, indices),
    ],
    ids=["one_grey_level", "order", "labels", "same_image_again", "dtype"],
)
def test_wrong_batches_fail(checked, change):
    drawn = checked(change)
    with pytest.raises(checks.WrongBatch):
        drawn.check(drawn.advance())


def test_wrong_counts_fail(checked):
    drawn = checked()
    drawn.advance()
    with pytest.raises(checks.WrongBatch, match="5 images counted, 4 delivered"):
        drawn.check(5)


def test_an_epoch_that_shows_the_same_batch_twice_fails(checked):
    first = []

    def again(*batch):
        first.append(batch)
        return first[0]

    drawn = checked(again)
    with pytest.raises(checks.WrongBatch, match="twice"):
        drawn.check(drawn.advance() + drawn.advance())


# --- the whole


def config(records, **options):
    settings = dict(
        data_dir=str(records.path.parent.parent),
        dataset=records.manifest.name,
        model="small_cnn",
        image_size=32,
        batch_size=4,
        augmentation="mild",
        progress=False,
    )
    return TrainConfig(**settings | options)


PROTOCOL = runner.Protocol(repeats=2, window_s=0.01, warm_up_s=0.0, warm_up_steps=1)


@pytest.fixture
def films(make_records):
    return make_records({"train": 26, "validation": 4}, image_size=48, encoding="jpeg")


@pytest.fixture
def shallow():
    with shallow_network():
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("cache", "sweep"), [("ram", (8, 99)), ("none", ())])
def test_the_ladder_of_real_cases(films, cache, sweep):
    protocol = dataclasses.replace(PROTOCOL, sweep=sweep)
    found = runner.run(config(films, cache=cache), films, protocol)
    assert set(found) >= KEYS
    assert tuple(stage["name"] for stage in found["stages"]) == tuple(cases.CASES)
    for stage in found["stages"]:
        rate = stage["images_per_sec"]
        assert len(rate["repeats"]) == 2
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
        assert stage["images"] >= 2 * 2  # a batch of evaluation may be partial
        assert 0 < stage["step_ms"]["p50"] <= stage["step_ms"]["p99"]
    mfu = found["mfu"]
    assert mfu["mode"] == "full"
    assert mfu["flops_per_image"] > 2.9 * mfu["forward_flops_per_image"]
    assert mfu["value"] == pytest.approx(
        mfu["images_per_sec"] * mfu["flops_per_image"] / mfu["peak_flops"]
    )
    assert 0 < found["input_wait_share"] < 1
    assert [row["batch_size"] for row in found["sweep"]] == list(sweep[:1])  # 26 films
    assert found["config"]["cache"] == ("ram" if cache == "ram" else "stream")
    assert found["bottleneck"]["rung"] in found["verdict"]
    json.dumps(found)  # nothing of numpy in it


def test_input_only_builds_no_network(films, monkeypatch):
    monkeypatch.setattr("cxr.training.models.build", None)
    protocol = dataclasses.replace(PROTOCOL, input_only=True)
    found = runner.run(config(films), films, protocol)
    assert tuple(s["name"] for s in found["stages"]) == tuple(cases.INPUT)
    assert found["mfu"] is None
    assert found["verdict"].startswith("input only")


def test_raw_images_have_no_decoding_to_compare_with(make_records):
    films = make_records({"train": 9, "validation": 4}, image_size=32, encoding="raw")
    protocol = dataclasses.replace(PROTOCOL, input_only=True)
    found = runner.run(config(films), films, protocol)
    assert "bare_decode" not in found["calibration"]
    assert found["stages"][2]["roofline"] is None


@pytest.mark.usefixtures("shallow")
def test_on_an_accelerator_its_own_memory_is_the_roof_of_augmentation(
    films, monkeypatch
):
    monkeypatch.setattr(workload.Workload, "accelerated", True)
    monkeypatch.setattr(roofline, "_ACCELERATOR_SIDE", 64)
    monkeypatch.setattr(roofline, "_DEVICE_COPY_BYTES", 1 << 20)
    found = runner.run(
        config(films, jit_compile=True, precision="float32"), films, PROTOCOL
    )
    roofs = {case["name"]: case["roofline"] for case in found["stages"]}
    assert roofs["augment"]["limit"] == "device copy"
    assert roofs["batch"]["limit"] == "memory copy"
    assert found["calibration"]["device_copy"]["unit"] == "bytes"
    assert "--jit_compile" not in found["verdict"]
    # The card is a fake: a CPU in its place, which TensorFlow knows to be one.
    assert found["mfu"]["peak_from"] == "float32 matrix product in this run"
    assert found["peak_device_mb"] is None


@pytest.mark.parametrize(
    ("precision", "unit", "advised"),
    [
        ("float32", None, False),
        ("float32", "AMX", True),
        ("mixed_bfloat16", "AMX", False),
        ("mixed_float16", "AMX", False),
    ],
)
def test_what_peak_and_advice_know_of_the_precision(
    films, monkeypatch, precision, unit, advised
):
    monkeypatch.setattr("cxr.platforms.bfloat16_unit", lambda: unit)
    monkeypatch.setattr("keras.config.set_dtype_policy", lambda policy: None)
    measured = result.Measured(
        workload.Workload(config(films, precision=precision), films), {}, {}, None, None
    )
    assert measured._may_lower_precision() == advised
    dtype = precision.removeprefix("mixed_")
    assert measured._peak_from() == f"this CPU's {dtype} matrix product in this run"


@pytest.fixture
def two_cards(monkeypatch):
    """TensorFlow says that two GPUs compute, one of them fuller than the other."""
    peaks = {"GPU:0": 3 << 20, "GPU:1": 5 << 20}
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda kind: [1, 2])
    monkeypatch.setattr(
        "tensorflow.config.experimental.get_memory_info",
        lambda name: {"current": 0, "peak": peaks[name]},
    )


def test_the_fullest_card_tells_the_peak(films, two_cards, monkeypatch):
    load = object.__new__(workload.Workload)  # without opening the split
    assert load.accelerated
    assert load.peak_device_mib() == 5.0
    monkeypatch.setattr("tensorflow.config.list_logical_devices", lambda kind: [])
    assert not load.accelerated
    assert load.peak_device_mib() is None


def test_devices_are_prepared_as_for_training(films, monkeypatch):
    """Memory grows as needed, the seed is set: `devices.setup` is the place."""
    seen, right = [], workload.devices.setup

    def setup(chosen):
        seen.append(chosen)
        return dataclasses.replace(right(chosen), names=("NVIDIA L4",))

    monkeypatch.setattr(workload.devices, "setup", setup)
    chosen = config(films)
    load = workload.Workload(chosen, films)
    assert seen == [chosen]
    assert load.settings()["device"] == "NVIDIA L4"


# --- memory that does not suffice


def exhausted(limit, monkeypatch, error):
    """Steps of more than `limit` images find no memory."""
    right = steps.TrainingStep.run

    def run(self, batch):
        if len(batch[0]) > limit:
            raise error
        right(self, batch)

    monkeypatch.setattr(steps.TrainingStep, "run", run)


def full():
    return tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")


@pytest.mark.usefixtures("shallow")
def test_a_batch_that_does_not_fit_is_a_row_of_the_sweep(films, monkeypatch, capsys):
    exhausted(7, monkeypatch, full())
    protocol = dataclasses.replace(PROTOCOL, sweep=(16, 2, 8, 4))
    found = runner.run(config(films), films, protocol)
    rows = {row["batch_size"]: row for row in found["sweep"]}
    assert list(rows) == [2, 4, 8, 16]
    for size in (8, 16):
        assert rows[size] == {"batch_size": size, "step": None, "train": None}
    assert all(rows[size][name] > 0 for size in (2, 4) for name in ("step", "train"))
    assert "out of memory with a batch of 8" in capsys.readouterr().out
    assert report.markdown(found).count("out of memory") == 4


def test_a_sweep_that_fits_nowhere_has_rows_all_the_same(films, monkeypatch):
    measured = types.SimpleNamespace(
        network=True,
        workload=types.SimpleNamespace(
            config=config(films), source=types.SimpleNamespace(n=26)
        ),
    )

    def none_fits(*arguments):
        raise full()

    monkeypatch.setattr(runner, "_sweep_rows", none_fits)
    rows = runner._sweep(measured, dataclasses.replace(PROTOCOL, sweep=(8, 4)))
    assert [row["batch_size"] for row in rows] == [4, 8]
    assert all(row["step"] is row["train"] is None for row in rows)


@pytest.mark.usefixtures("shallow")
def test_other_faults_of_the_sweep_are_no_row(films, monkeypatch):
    exhausted(4, monkeypatch, tf.errors.InternalError(None, None, "cuDNN failed"))
    protocol = dataclasses.replace(PROTOCOL, sweep=(8,))
    with pytest.raises(tf.errors.InternalError, match="cuDNN failed"):
        runner.run(config(films), films, protocol)


@pytest.mark.usefixtures("shallow")
def test_a_batch_that_does_not_fit_at_all_is_said_in_a_sentence(films, monkeypatch):
    exhausted(3, monkeypatch, full())
    with pytest.raises(cli.UnavailableError, match=r"--batch_size=4 .*try half"):
        runner.run(config(films), films, PROTOCOL)


def test_read_hands_out_more_than_the_image_and_parse_exactly_it(films):
    options = dict(image_size=32)
    record = input_cases.ReadOnly(films, "train", **options).encoded(np.arange(3))
    film = Reader(films, "train", **options).encoded(np.arange(3))
    assert all(f in r and len(f) < len(r) for f, r in zip(film, record, strict=True))


@pytest.mark.usefixtures("shallow")
def test_training_that_draws_wrong_images_stops_the_benchmark(films, monkeypatch):
    right = ImageSource.training

    def wrong(self, *args, **options):
        batches = right(self, *args, **options)
        return batches.map(lambda images, *rest: (images // 2, *rest))

    monkeypatch.setattr(ImageSource, "training", wrong)
    with pytest.raises(checks.WrongBatch, match="Pillow"):
        runner.run(config(films), films, PROTOCOL)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_step_that_updates_nothing_stops_the_benchmark(films, monkeypatch):
    monkeypatch.setattr(steps.TrainingStep, "_watch", lambda self, bad, loss: None)
    right = steps.TrainingStep.__init__

    def lazy(self, *args, **options):
        right(self, *args, **options)
        self.run = lambda batch: None

    monkeypatch.setattr(steps.TrainingStep, "__init__", lazy)
    from cxr.benchmark.compute_cases import WrongStep

    with pytest.raises(WrongStep, match="not all of"):
        runner.run(config(films), films, PROTOCOL)


# --- the command


def run_main(films, output, *flags):
    return bench.main(
        [
            "bench",
            f"--data_dir={films.path.parent.parent}",
            f"--dataset={films.manifest.name}",
            f"--output_dir={output}",
            "--batch_size=4",
            "--image_size=32",
            "--only=input",
            "--repeats=2",
            "--window_ms=5",
            *flags,
        ]
    )


@pytest.mark.slow
def test_the_command_writes_its_files_and_compares(films, tmp_path, capsys):
    output = tmp_path / "bench"
    assert run_main(films, output) == 0
    assert {p.name for p in output.iterdir()} == {"bench.json", "bench.md", "bench.png"}
    document = json.loads((output / "bench.json").read_text())
    assert document["config"]["model"] == "small_cnn"  # quickstart's
    text = (output / "bench.md").read_text()
    assert text.rstrip().endswith(formatting.DISCLAIMER)
    assert document["verdict"] in text
    assert "| decode" in text
    assert "written" in capsys.readouterr().out

    fast = tmp_path / "fast.json"
    for stage in document["stages"]:
        rates = stage["images_per_sec"]
        rates["repeats"] = [1000 * rate for rate in rates["repeats"]]
    fast.write_text(json.dumps(document))
    assert run_main(films, tmp_path / "again", f"--baseline={fast}") == 1
    assert "regression: read, parse" in capsys.readouterr().out
    assert "**slower**" in (tmp_path / "again" / "bench.md").read_text()


@pytest.mark.slow
def test_a_baseline_of_other_settings_is_refused_before_measuring(
    films, tmp_path, monkeypatch
):
    assert run_main(films, tmp_path / "bench") == 0
    monkeypatch.setattr(runner, "measure", None)
    baseline = f"--baseline={tmp_path / 'bench' / 'bench.json'}"
    with pytest.raises(cli.UsageError, match="batch_size=4, now 2"):
        run_main(films, tmp_path / "other", baseline, "--batch_size=2")


@pytest.mark.parametrize(
    ("flags", "error", "match"),
    [
        (["--baseline=/no/where.json"], cli.UsageError, "no such file"),
        (["--sweep=16,many"], cli.UsageError, "--sweep=16,many"),
        (["--sweep=auto,16"], cli.UsageError, "--sweep=auto,16"),
        (["surplus"], cli.UsageError, "surplus"),
        (["--only=output"], cli.UsageError, "only"),
        (["--cache=device"], cli.UsageError, "--cache=device"),
        (["--strategy=multi_worker"], cli.UsageError, "measures one process"),
        (["--batch_size=900"], cli.UsageError, "only 26"),
    ],
)
def test_wrong_usage_is_refused(films, tmp_path, flags, error, match):
    with pytest.raises(error, match=match):
        run_main(films, tmp_path / "bench", *flags)
    assert not (tmp_path / "bench").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 0}'])
def test_a_baseline_that_is_none_is_refused(films, tmp_path, content):
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(cli.DataError, match=r"old\.json"):
        run_main(films, tmp_path / "bench", f"--baseline={path}")


def test_without_a_flagfile_the_quickstart_is_measured(monkeypatch):
    seen = []
    monkeypatch.setattr(
        bench, "bench", lambda *found: seen.append(found) or {"changes": []}
    )
    assert bench.main(["bench", "--quick", "--seed=3"]) == 0
    found, options = seen[0]
    assert (found.dataset, found.model, found.seed) == ("phantom", "small_cnn", 3)
    assert (options.quick, options.output_dir) == (True, "bench")


def test_a_slower_rung_exits_with_one(monkeypatch):
    change = regression.Change("step", 0.6, 0.1).to_json()
    monkeypatch.setattr(bench, "bench", lambda *found: {"changes": [change]})
    assert bench.main(["bench"]) == 1
