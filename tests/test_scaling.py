"""benchmarks.scaling: the model's formulas, what was measured, and the page of both."""

import json
import pathlib
import statistics

import pytest

from benchmarks import scaling
from benchmarks import scaling_model as model

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "scaling.md"
LINK = model.Link(latency_s=1e-3, bytes_per_s=1e6)
STEP = model.Step(seconds=0.5, reduced_bytes=1_000_000, collectives=3)


def test_an_all_reduce_is_a_ring():
    # Two workers: two rounds of half the bytes each. Four: six rounds of a quarter.
    assert model.all_reduce_s(1e6, 2, LINK) == pytest.approx(2 * (1e-3 + 0.5))
    assert model.all_reduce_s(1e6, 4, LINK) == pytest.approx(6 * (1e-3 + 0.25))
    assert model.all_reduce_s(1e6, 1, LINK) == 0
    # However many take part, no worker sends more than twice the bytes.
    free = model.Link(0.0, 1e6)
    assert model.all_reduce_s(1e6, 10**6, free) == pytest.approx(2.0, rel=1e-5)


def test_nodes_sum_inside_and_then_between():
    inside, between = model.Link(0.0, 1e9), model.Link(0.0, 1e6)
    found = model.nodes_all_reduce_s(1e6, 2, 8, inside=inside, between=between)
    assert found == pytest.approx(1.75e-3 + 1.0)
    alone = model.nodes_all_reduce_s(1e6, 1, 8, inside=inside, between=between)
    assert alone == pytest.approx(1.75e-3)


def test_a_step_waits_for_all_its_collectives():
    waits = model.collectives_s(STEP, 2, LINK)
    assert waits == pytest.approx(3 * 2e-3 + 1.0)
    assert model.step_s(STEP, waits) == pytest.approx(1.506)
    assert model.efficiency(STEP, waits) == pytest.approx(0.5 / 1.506)


def test_a_fitted_link_is_the_one_that_was_measured():
    sizes = [4096, 65_536, 1 << 20, 1 << 24]
    seconds = [model.all_reduce_s(size, 2, LINK) for size in sizes]
    found = model.fitted(sizes, seconds, 2)
    assert found.latency_s == pytest.approx(LINK.latency_s)
    assert found.bytes_per_s == pytest.approx(LINK.bytes_per_s)


def test_films_cost_what_each_costs():
    costs = model.Costs(
        plan_bytes=1024,
        reader_bytes=512,
        stored_bytes=2**20,
        convert_core_s=0.36,
        hash_bytes_per_s=2**20,
    )
    films = 2**20
    assert model.plan_gib(films, costs) == 1
    assert model.worker_gib(films, costs) == 0.5
    assert model.stored_tib(films, costs) == 1
    assert model.conversion_h(10_000, 10, costs) == pytest.approx(0.1)
    assert model.hashing_h(3600, costs) == pytest.approx(1)
    assert model.epoch_s(1000, 10, 50, 0.5) == pytest.approx(4)


def measured():
    return json.loads(scaling.RESULTS.read_text())


def test_the_model_predicts_what_was_measured():
    found = measured()
    link = scaling.link(found)
    for case in found["steps"]:
        two = statistics.median(case["joined_s"])
        assert scaling.predicted_s(case, link) == pytest.approx(two, rel=0.25)


@pytest.mark.parametrize(
    "table",
    [
        scaling.measured_table,
        scaling.reductions_table,
        scaling.clusters_table,
        scaling.films_table,
    ],
)
def test_the_page_says_what_model_and_measurement_say(table):
    assert table(measured()) in PAGE.read_text()
