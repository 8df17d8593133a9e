"""Measures what two workers cost on this machine, and predicts what many would.

  python -m benchmarks.scaling                 # measures, 10 minutes on two cores
  python -m benchmarks.scaling --measure=false # the tables again from what was measured

Two processes that each hold one core train alone, then as two workers, in turn; so the
difference of their steps is what they wait for. All-reduces of several sizes give the
link between them, from which `scaling_model` predicts the steps of two workers: how far
off it is, is printed. Then it predicts clusters of GPUs and sets of many films.
Writes benchmarks/results/scaling.json and prints the tables of docs/scaling.md.
"""

import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Sequence
from typing import Any

from benchmarks import noise_set
from benchmarks import scaling_model as model
from cxr import cli, console, files, platforms
from tools import launch_local

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"
WORKERS = 2
_FILMS, _SIDE = 520, 96
_READER_FILMS = 20_000

# One NVIDIA H100 80GB, VGG16 at 224 px, all layers, bfloat16: README's table, whole
# training, by the images of a batch. Several GPUs are not compiled with XLA.
_H100_IMAGES_PER_S = {256: 2023, 32: 1066}
_GPUS_A_NODE = 8
_REACHED = 0.8  # of what makers state
_INSIDE = model.Link(10e-6, _REACHED * 450e9)  # NVLink of an H100, one way
_NETWORKS = {  # of a node
    "InfiniBand, 8 x 400 Gb/s": model.Link(20e-6, _REACHED * 400e9),
    "Ethernet, 100 Gb/s": model.Link(50e-6, _REACHED * 12.5e9),
    "Ethernet, 10 Gb/s": model.Link(50e-6, _REACHED * 1.25e9),
}
_NODES = (1, 8, 64)
_FILMS_OF_SETS = (10**6, 10**7, 10**8, 10**9)
_CORES = 64
_JPEG_BYTES = 11_343  # of a film of 224 px: mean of the Kaggle set's 5,216


@dataclasses.dataclass(frozen=True)
class ScalingConfig:
    """What is done."""

    measure: bool = cli.option(True, "measure anew; else take what was measured")
    repeats: int = cli.option(5, "times that both are measured, in turn", lower=1)


def _run(data_dir: pathlib.Path, *, joined: bool) -> list[dict[str, Any]]:
    """Runs two processes of one core each, as workers or each for itself."""
    addresses = launch_local.free_addresses(WORKERS)
    cores = sorted(os.sched_getaffinity(0))[:WORKERS]
    running = []
    for index, core in enumerate(cores):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if joined:
            environment["TF_CONFIG"] = launch_local.tf_config(index, addresses)
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling_worker", str(data_dir)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        os.sched_setaffinity(process.pid, {core})
        running.append(process)
    said = [process.communicate()[0] for process in running]
    return [json.loads(text.splitlines()[-1]) for text in said]


def _reader_bytes(folder: pathlib.Path) -> float:
    """Returns what a worker keeps of a film whose pixels it does not keep."""
    from cxr.input.reader import Reader

    films = noise_set.make(folder, _READER_FILMS, image_size=32)
    tracemalloc.start()
    reader = Reader(films, "train", image_size=32)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return kept / reader.n


def measure(repeats: int) -> dict[str, Any]:
    """Returns medians of interleaved repeats, with each repeat's seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        noise_set.make(root / "data", _FILMS, image_size=_SIDE)
        alone: list[dict[str, Any]] = []
        joined: list[dict[str, Any]] = []
        for number in range(repeats):
            alone += _run(root / "data", joined=False)
            joined += _run(root / "data", joined=True)
            print(f"repeat {number + 1} of {repeats}", file=sys.stderr, flush=True)
        reader_bytes = _reader_bytes(root / "many")
    steps = []
    for index, case in enumerate(joined[0]["steps"]):
        seconds = {
            name: [found["steps"][index]["seconds"] for found in runs]
            for name, runs in (("alone_s", alone), ("joined_s", joined))
        }
        steps.append({**case, **seconds})
        del steps[-1]["seconds"]
    reductions = [
        {
            "bytes": size["bytes"],
            "seconds": [found["reductions"][index]["seconds"] for found in joined],
        }
        for index, size in enumerate(joined[0]["reductions"])
    ]
    processor = platforms.processor_name()
    return {
        "machine": f"{WORKERS} processes of one core each, {processor}",
        "python": platform.python_version(),
        "steps": steps,
        "reductions": reductions,
        "reader_bytes": reader_bytes,
    }


def link(found: dict[str, Any]) -> model.Link:
    """Returns what connected the workers, from the measured all-reduces."""
    sizes = [reduction["bytes"] for reduction in found["reductions"]]
    seconds = [statistics.median(r["seconds"]) for r in found["reductions"]]
    return model.fitted(sizes, seconds, WORKERS)


def step(case: dict[str, Any]) -> model.Step:
    """Returns a measured step of one worker alone."""
    return model.Step(
        statistics.median(case["alone_s"]),
        case["reduced_bytes"],
        case["collectives"],
    )


def predicted_s(case: dict[str, Any], between: model.Link) -> float:
    """Returns the seconds of the step of two workers, from that of one."""
    alone = step(case)
    return model.step_s(alone, model.collectives_s(alone, WORKERS, between))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured_table(found: dict[str, Any]) -> str:
    """Returns the steps of one and two workers, and what the model says of two."""
    rows = []
    for case in found["steps"]:
        one, two = (statistics.median(case[k]) for k in ("alone_s", "joined_s"))
        said = predicted_s(case, link(found))
        rows.append(
            [
                f"`{case['model']}`, {case['image_size']} px, {case['images']} images",
                f"{case['images'] / one:.0f}",
                f"{WORKERS * case['images'] / two:.0f}",
                f"{case['reduced_bytes'] / 1e6:.2f}",
                f"{case['collectives']}",
                f"{1e3 * (two - one):.0f}",
                f"{1e3 * two:.0f}",
                f"{1e3 * said:.0f}",
            ]
        )
    head = (
        "step of",
        "images/s, 1 worker",
        "2 workers",
        "MB summed a step",
        "collectives",
        "wait, ms",
        "step, ms",
        "predicted, ms",
    )
    return _table(head, rows)


def reductions_table(found: dict[str, Any]) -> str:
    """Returns the measured all-reduces beside the fitted link's."""
    between, rows = link(found), []
    for reduction in found["reductions"]:
        took = statistics.median(reduction["seconds"])
        said = model.all_reduce_s(reduction["bytes"], WORKERS, between)
        size = f"{reduction['bytes'] / 1024:,.0f} KiB"
        rows.append([size, f"{1e3 * took:.2f}", f"{1e3 * said:.2f}"])
    return _table(("all-reduce of", "ms", "the fitted link, ms"), rows)


def _gradients_s(found: dict[str, Any], nodes: int, between: model.Link) -> float:
    """Returns the seconds in which nodes of GPUs sum VGG16's gradients."""
    (vgg16,) = (case for case in found["steps"] if case["model"] == "vgg16")
    return model.nodes_all_reduce_s(
        vgg16["reduced_bytes"], nodes, _GPUS_A_NODE, inside=_INSIDE, between=between
    )


def clusters_table(found: dict[str, Any]) -> str:
    """Returns what VGG16 would reach on many H100s, by network."""
    rows = []
    for batch, per_s in _H100_IMAGES_PER_S.items():
        one = model.Step(batch / per_s, 0, 1)
        for network, between in _NETWORKS.items():
            cells = []
            for nodes in _NODES:
                reduce_s = _gradients_s(found, nodes, between)
                share = model.efficiency(one, reduce_s)
                rate = nodes * _GPUS_A_NODE * per_s * share
                cells.append(f"{rate:,.0f} ({share:.2f})")
            rows.append([f"{batch} a GPU; {network}", *cells])
    head = [f"{nodes * _GPUS_A_NODE} GPUs" for nodes in _NODES]
    return _table(("VGG16, images/s (share of all GPUs')", *head), rows)


def costs(found: dict[str, Any]) -> model.Costs:
    """Returns what a film of 224 px in JPEG costs, as measured.

    Sources: benchmarks.plan_memory (7.19 GiB for 10^7 rows), README (1,060 films of
    1,024 px a second on two cores), cxr/input/shard_check.py (.8 GB/s).
    """
    return model.Costs(
        plan_bytes=7.19 * 2**30 / 1e7,
        reader_bytes=found["reader_bytes"],
        stored_bytes=_JPEG_BYTES,
        convert_core_s=2 / 1060,
        hash_bytes_per_s=0.8e9,
    )


def _two(value: float) -> str:
    """Returns two digits, as 720 or .0082."""
    return f"{float(f'{value:.2g}'):,g}"


def films_table(found: dict[str, Any]) -> str:
    """Returns what sets of many films would take, JPEG of 224 px."""
    film = costs(found)
    one = model.Step(256 / _H100_IMAGES_PER_S[256], 0, 1)
    nodes, network = 8, _NETWORKS["Ethernet, 100 Gb/s"]
    share = model.efficiency(one, _gradients_s(found, nodes, network))
    gpus, rows = nodes * _GPUS_A_NODE, []
    for films in _FILMS_OF_SETS:
        epoch = model.epoch_s(films, gpus, _H100_IMAGES_PER_S[256], share)
        rows.append(
            [
                f"{films:,}",
                _two(model.stored_tib(films, film)),
                _two(model.conversion_h(films, _CORES, film)),
                _two(model.plan_gib(films, film)),
                _two(model.worker_gib(films, film)),
                _two(model.hashing_h(films, film)),
                _two(epoch / 60),
            ]
        )
    head = (
        "films",
        "set, TiB",
        f"conversion, h on {_CORES} cores",
        "memory of its plan, GiB",
        "memory of each worker, GiB",
        "check of all shards, h",
        f"epoch on {gpus} H100, min",
    )
    return _table(head, rows)


def main(argv: list[str]) -> int:
    """Measures and prints the tables."""
    config, positional = cli.parse(argv, ScalingConfig, usage=__doc__ or "")
    cli.reject_positional(positional)
    if config.measure:
        found = measure(config.repeats)
        files.publish(RESULTS, json.dumps(found, indent=1) + "\n")
    found = json.loads(RESULTS.read_text())
    tables = (measured_table, reductions_table, clusters_table, films_table)
    console.say("\n\n".join(table(found) for table in tables))
    return 0


if __name__ == "__main__":
    cli.run(main)
