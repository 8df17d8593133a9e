import copy
import dataclasses
import itertools
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cxr import cli
from cxr.benchmark import regression, verdict

STREAM = verdict.Setting(resident=False, cores=2, memory_mib=262)
MEMORY = verdict.Setting(resident=True, cores=2, memory_mib=262)
PARTS = ("read", "parse", "decode", "batch", "augment", "step")


def ladder(own, *, resident, loop=0.0):
    """Rates of all cases from each part's own milliseconds an image."""
    fed = list(itertools.accumulate(own[name] for name in PARTS[:4]))
    if resident:
        fed[3] = own["batch"]
    seconds = dict(zip(PARTS[:4], fed, strict=True))
    seconds |= {"augment": own["augment"], "step": own["step"]}
    seconds["trivial"] = fed[3] + own["augment"]
    seconds["train"] = fed[3] + own["augment"] + own["step"] + loop
    return {name: 1000 / value for name, value in seconds.items()}


def test_the_documented_example():
    rates = {
        "read": 23_000,
        "parse": 12_000,
        "decode": 3_900,
        "batch": 3_900,
        "augment": 60_000,
        "step": 5_694,
        "trivial": 3_800,
        "train": 2_300,
    }
    found = verdict.reach(rates, STREAM)
    assert (found.bound, found.case) == ("input", "decode")
    assert found.text == (
        "input-bound: decode limits at 3,900 images/s, augmentation and step together "
        "could take 5,200; use --cache=ram (needs 262 MiB) or 1 more core"
    )


@given(
    base=st.lists(st.floats(0.001, 1.0), min_size=6, max_size=6),
    slow=st.sampled_from(PARTS),
)
def test_a_part_twice_as_slow_as_all_others_is_named(base, slow):
    """The planted delay: the others as they come, one at twice the slowest case."""
    own = dict(zip(PARTS, base, strict=True))
    others = [name for name in PARTS if name != slow]
    own[slow] = 2 * max([*(own[name] for name in others), sum(base[:4])])
    assert verdict.reach(ladder(own, resident=False), STREAM).case == slow


@given(
    base=st.lists(st.floats(0.001, 1.0), min_size=6, max_size=6),
    slow=st.sampled_from(("batch", "augment", "step")),
)
def test_in_memory_only_what_each_epoch_repeats_can_limit(base, slow):
    own = dict(zip(PARTS, base, strict=True))
    own[slow] = 2 * max(own[name] for name in ("batch", "augment", "step"))
    assert verdict.reach(ladder(own, resident=True), MEMORY).case == slow


@pytest.mark.parametrize("slow", ["read", "parse", "decode"])
def test_in_memory_a_slow_first_epoch_is_named_beside(slow):
    own = dict.fromkeys(PARTS, 0.1) | {slow: 2.0}
    found = verdict.reach(ladder(own, resident=True), MEMORY)
    assert found.case in ("augment", "step", "batch")
    assert f"input-bound: {slow} limits" in found.text


def test_what_no_part_explains_is_overhead():
    own = dict.fromkeys(PARTS, 0.1)
    found = verdict.reach(ladder(own, resident=True, loop=1.0), MEMORY)
    assert (found.bound, found.case) == ("overhead", "train")
    assert "limits at 769 images/s" in found.text  # 1000 / (0.1 * 3 + 1.0)


def test_parallel_input_that_hides_behind_the_step_is_no_overhead():
    """On a device of its own the step overlaps with the input: faster than the sum."""
    rates = ladder(dict.fromkeys(PARTS, 0.1), resident=False) | {"train": 2400}
    assert verdict.own_seconds(rates, resident=False)["train"] == 0


def test_advice_depends_on_what_is_possible():
    own = dict.fromkeys(PARTS, 0.01) | {"decode": 1.0, "step": 0.1}
    rates = ladder(own, resident=False)
    full = verdict.Setting(resident=False, cores=4, memory_fits=False)
    assert "--encoding=raw" in verdict.reach(rates, full).text
    raw = verdict.Setting(resident=False, cores=4, memory_fits=False, encoding="raw")
    assert "34 more cores" in verdict.reach(rates, raw).text  # 4 x 1.03 / 0.11 - 4
    step = ladder(dict.fromkeys(PARTS, 0.1) | {"step": 5.0}, resident=True)
    near = verdict.Setting(resident=True, cores=2, mfu=0.7)
    assert "at 70% of the measured" in verdict.reach(step, near).text
    assert "only a faster device" in verdict.reach(step, near).text


@pytest.mark.parametrize(
    ("jit_compile", "may_lower", "advice"),
    [
        (False, True, "a larger --batch_size, --jit_compile or a lower --precision"),
        (True, True, "a larger --batch_size or a lower --precision"),
        (False, False, "a larger --batch_size or --jit_compile"),
        (True, False, "a larger --batch_size"),
    ],
)
def test_a_slow_step_is_told_only_what_it_does_not_do_yet(
    jit_compile, may_lower, advice
):
    rates = ladder(dict.fromkeys(PARTS, 0.1) | {"step": 5.0}, resident=True)
    far = dataclasses.replace(
        MEMORY, mfu=0.1, jit_compile=jit_compile, may_lower_precision=may_lower
    )
    assert verdict.reach(rates, far).text.endswith(f"; try {advice}")


@pytest.mark.parametrize("setting", [STREAM, MEMORY], ids=["stream", "ram"])
def test_input_alone_has_a_verdict(setting):
    rates = {"read": 9000, "parse": 8000, "decode": 900, "batch": 800}
    found = verdict.reach(rates, setting)
    assert (found.bound, found.case) == ("input", "decode")
    assert "batches come at 800 images/s" in found.text


@given(st.dictionaries(st.sampled_from(PARTS), st.floats(1e-3, 1e3), min_size=6))
def test_own_seconds_never_are_negative_and_add_up(own):
    rates = ladder(own, resident=False)
    found = verdict.own_seconds(rates, resident=False)
    assert min(found.values()) >= 0
    for name in PARTS:
        assert found[name] * 1000 == pytest.approx(own[name], rel=1e-6, abs=1e-6)


def test_input_nearly_as_slow_as_all_computing_is_named():
    own = dict.fromkeys(PARTS, 0.1) | {"decode": 2.0, "augment": 1.3, "step": 1.2}
    setting = verdict.Setting(resident=False, cores=2)
    found = verdict.reach(ladder(own, resident=False), setting)
    assert (found.bound, found.case) == ("input", "decode")
    own |= {"decode": 1.4}
    found = verdict.reach(ladder(own, resident=False), setting)
    assert (found.bound, found.case) == ("augmentation", "augment")


def _rates_in(text):
    """Words before a rate -> the rate, of the first sentence."""
    found = re.findall(r"([a-z]+ [a-z]+|limits at) ([\d,.]*\d)", text.split(";")[0])
    return {words: float(number.replace(",", "")) for words, number in found}


@given(base=st.lists(st.floats(0.01, 1.0), min_size=6, max_size=6))
def test_no_sentence_contradicts_its_own_numbers(base):
    """What limits is the slowest rate of its sentence, or the words say otherwise."""
    own = dict(zip(PARTS, base, strict=True))
    found = verdict.reach(ladder(own, resident=False), STREAM)
    rates = _rates_in(found.text)
    if found.bound == "input":
        nearly = "nearly as slow as augmentation and step together" in found.text
        least, most = sorted([rates["limits at"], rates["could take"]])
        assert nearly == (rates["could take"] < rates["limits at"]) or least == most
    elif found.bound == "step":
        slowest = rates.get("with augmentation", rates["limits at"])
        assert slowest <= rates["could give"] * 1.01  # three digits are shown


def test_input_between_the_step_and_all_computing_is_told_apart():
    own = dict.fromkeys(PARTS, 0.01) | {"decode": 0.18, "augment": 0.1, "step": 0.2}
    found = verdict.reach(ladder(own, resident=False), STREAM)
    assert found.text.startswith(
        "step-bound: step limits at 5,000 images/s, with augmentation 3,330, the input "
        "could give 4,760; "
    )


def test_input_that_is_nearly_as_slow_says_so():
    own = dict.fromkeys(PARTS, 0.1) | {"decode": 2.0, "augment": 1.3, "step": 1.2}
    text = verdict.reach(ladder(own, resident=False), STREAM).text
    assert (
        "decode limits at 435 images/s, nearly as slow as augmentation and step "
        "together, which could take 400; use"
    ) in text


# --- against a baseline


def document(rates, *, speed=1.0, config=None):
    """A bench.json of one case a kind; `speed` is that of the whole machine."""

    def spread(values):
        return {"per_sec": {"repeats": [speed * v for v in values]}}

    return {
        "config": config or {"batch_size": 32},
        "calibration": {
            "memory_copy": spread([10.0] * 5),
            "matrix_product": spread([4.0] * 5),
        },
        "stages": [
            {"name": n, "images_per_sec": {"repeats": [speed * v for v in values]}}
            for n, values in rates.items()
        ],
    }


STEADY = {"decode": [100, 101, 99, 100, 100], "step": [50, 50, 51, 49, 50]}


def slowed(case, factor):
    return STEADY | {case: [rate * factor for rate in STEADY[case]]}


@pytest.mark.parametrize("case", ["decode", "step"])
def test_a_rung_that_lost_a_third_is_slower_and_only_that(case):
    changes = regression.compare(document(STEADY), document(slowed(case, 0.7)))
    assert [change.case for change in changes if change.slower] == [case]


@pytest.mark.parametrize("speed", [0.2, 1.0, 3.0])
def test_a_slower_machine_is_no_regression(speed):
    changes = regression.compare(document(STEADY), document(STEADY, speed=speed))
    assert all(change.agrees and not change.slower for change in changes)


def test_a_faster_rung_is_no_regression():
    (change, _) = regression.compare(document(STEADY), document(slowed("decode", 1.5)))
    assert change.ratio == pytest.approx(1.5)
    assert not change.slower
    assert not change.agrees


def test_wild_repeats_excuse_more():
    wild = STEADY | {"decode": [100, 40, 160, 70, 130]}
    (change, _) = regression.compare(document(wild), document(slowed("decode", 0.7)))
    assert not change.slower
    assert change.noise > 0.5


def test_one_disturbed_round_does_not_move_the_result():
    disturbed = STEADY | {"decode": [100, 101, 5, 100, 100]}
    (change, _) = regression.compare(document(STEADY), document(disturbed))
    assert change.agrees
    assert change.noise < 0.2


def test_rounds_that_others_disturb_do_not_move_the_result():
    disturbed = STEADY | {"decode": [70, 101, 60, 100, 75]}
    (change, _) = regression.compare(document(STEADY), document(disturbed))
    assert change.ratio == pytest.approx(1.0, abs=0.01)
    assert change.agrees


@given(st.lists(st.floats(1, 1e3), min_size=1, max_size=9), st.floats(0.1, 10))
def test_noise_does_not_depend_on_the_unit(values, unit):
    assume(max(values) / min(values) < 1e3)
    scaled = [value * unit for value in values]
    assert regression.noise(scaled) == pytest.approx(regression.noise(values))


def test_other_settings_are_not_compared():
    other = document(STEADY, config={"batch_size": 64})
    with pytest.raises(cli.UsageError, match="batch_size=64, now 32"):
        regression.compare(other, document(STEADY))


@pytest.mark.parametrize("place", ["config", "environment"])
def test_another_device_is_not_compared(place):
    """The first version wrote its name beside the settings, not among them."""
    old, new = document(STEADY), document(STEADY)
    old[place] = {**old.get(place, {}), "device": "NVIDIA A100-SXM4-40GB"}
    new["config"] = {**new["config"], "device": "NVIDIA L4"}
    with pytest.raises(cli.UsageError, match="device=NVIDIA A100-SXM4-40GB, now"):
        regression.compare(old, new)
    new["config"]["device"] = "NVIDIA A100-SXM4-40GB"
    assert regression.compare(old, new)


def test_other_schemas_are_refused():
    with pytest.raises(cli.DataError, match="schema 99"):
        regression.check_document({"schema": 99}, "old.json")
    with pytest.raises(cli.DataError, match="schema None"):
        regression.check_document([1, 2], "old.json")


def test_rungs_that_one_run_lacks_are_left_out():
    old = document(STEADY)
    new = copy.deepcopy(old)
    del new["stages"][1]
    assert [change.case for change in regression.compare(old, new)] == ["decode"]
