"""Writes a benchmark's result as Markdown and as a picture."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cxr.benchmark.regression import Change
from cxr.reporting import plotting

_MEANING = {
    "read": "records from the shards",
    "parse": "+ parsed, checksums verified",
    "decode": "+ decoded, reduced to the model's size",
    "batch": "shuffled batches, as training draws them",
    "augment": "augmentation of a resident batch",
    "step": "forward, backward, update of a resident batch",
    "trivial": "whole training, network of no cost",
    "train": "whole training",
}


def markdown(document: Mapping[str, Any], changes: Sequence[Change] = ()) -> str:
    """Returns bench.md: the verdict, a table to paste, how it was measured."""
    config, environment = document["config"], document["environment"]
    lines = [
        f"## cxr.bench: {config['model']} at {config['image_size']} px, batch "
        f"{config['batch_size']}, {config['precision']}, {config['dataset']}",
        "",
        f"**{document['verdict']}**",
        "",
        "| case | images/s | min - max | A/A | step p50 / p90 / p99 ms | cores | "
        "of the roof |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        *(_row(stage, document["bottleneck"]) for stage in document["stages"]),
        "",
        *(f"- `{stage['name']}`: {stage['what']}" for stage in document["stages"]),
        "",
        *_facts(document),
    ]
    if document["sweep"]:
        lines += ["", "| batch size | step images/s | train images/s |"]
        lines += ["| ---: | ---: | ---: |"]
        lines += [
            f"| {row['batch_size']} | {row['step']:,.0f} | {row['train']:,.0f} |"
            for row in document["sweep"]
        ]
    if changes:
        lines += ["", *_comparison(changes)]
    lines += [
        "",
        f"{environment['device']}; {environment['processor']}, "
        f"{environment['cores']} cores, {environment['memory_gib']:.1f} GiB; Python "
        f"{environment['python']}, "
        + ", ".join(f"{k} {v}" for k, v in environment["packages"].items())
        + f"; load {environment['load']:.1f} at the start",
        "",
        document["method"],
    ]
    return "\n".join(lines) + "\n"


def _row(stage: Mapping[str, Any], bottleneck: Mapping[str, str]) -> str:
    rate, step = stage["images_per_sec"], stage["step_ms"]
    mark = " **<-**" if stage["name"] == bottleneck["rung"] else ""
    apart = stage["aa_difference"]
    roof = stage["roofline"]
    return (
        f"| {stage['name']}{mark} | {rate['median']:,.0f} | {rate['min']:,.0f} - "
        f"{rate['max']:,.0f} | {'-' if apart is None else f'{apart:.0%}'} | "
        f"{step['p50']:.3g} / {step['p90']:.3g} / {step['p99']:.3g} | "
        f"{stage['cores_busy']:.1f} | "
        + (f"{roof['reached']:.0%} of {roof['limit']} |" if roof else "- |")
    )


def _facts(document: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Time to the first batch {document['time_to_first_batch_s']:.2f} s; peak "
        f"memory {document['peak_rss_mb']:,.0f} MB; pixels verified, CRC-32 of the "
        f"first films {document['pixel_checksum']}."
    ]
    share, mfu = document["input_wait_share"], document["mfu"]
    if share is not None:
        lines.append(f"Training waited for input {share:.1%} of the time.")
    if mfu:
        vendor = mfu["vendor_peak_flops"]
        lines.append(
            f"MFU {mfu['value']:.1%}: {mfu['flops_per_image'] / 1e9:.3g} GFLOP an "
            f"image ({mfu['mode']}) x {mfu['images_per_sec']:,.0f} images/s / "
            f"{mfu['peak_flops'] / 1e9:,.0f} GFLOP/s ({mfu['peak_from']}"
            + (f"; the maker states {vendor / 1e12:,.0f} TFLOP/s)." if vendor else ").")
        )
    return lines


def _comparison(changes: Sequence[Change]) -> list[str]:
    lines = ["| case | against the baseline | noise | |", "| --- | ---: | ---: | --- |"]
    for change in changes:
        word = "**slower**" if change.slower else "same" if change.agrees else "faster"
        lines.append(
            f"| {change.case} | {change.ratio - 1:+.0%} | {change.noise:.0%} | {word} |"
        )
    return lines


def describe(name: str) -> str:
    """Returns what a case does, in a few words."""
    return _MEANING[name]


def plot(document: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Draws bench.png: the ladder as bars, the bottleneck marked; the sweep beside.

    Args:
      document: bench.json.
      path: the PNG to publish.
    """
    sweep = document["sweep"]
    figure = Figure(figsize=(11 if sweep else 8, 4.6), layout="constrained")
    if sweep:
        ladder, lines = figure.subplots(1, 2, width_ratios=(2, 1))
        _draw_sweep(lines, sweep)
    else:
        ladder = figure.subplots()
    _draw_ladder(ladder, document["stages"], document["bottleneck"]["rung"])
    plotting.save(figure, path)


def _draw_ladder(axes, stages: Sequence[Mapping[str, Any]], limit: str) -> None:
    rates = [stage["images_per_sec"] for stage in stages]
    middle = np.array([rate["median"] for rate in rates])
    below = middle - [rate["min"] for rate in rates]
    above = np.array([rate["max"] for rate in rates]) - middle
    marked = [stage["name"] == limit for stage in stages]
    axes.barh(
        [stage["name"] for stage in stages],
        middle,
        color=[plotting.RED if mark else plotting.BLUE for mark in marked],
        hatch=["//" if mark else "" for mark in marked],
        edgecolor="white",
        xerr=(below, above),
        error_kw={"ecolor": plotting.INK, "capsize": 3},
    )
    for place, (rate, mark) in enumerate(zip(rates, marked, strict=True)):
        text = f"  {rate['median']:,.0f}" + ("  bottleneck" if mark else "")
        axes.text(rate["max"], place, text, va="center", fontsize=10)
    axes.set_xscale("log")
    axes.set_xlim(middle.min() / 4, max(rate["max"] for rate in rates) * 12)
    axes.invert_yaxis()
    plotting.dress(axes, "The ladder", "images/s (median, min - max of the repeats)")
    axes.grid(visible=False, axis="y")


def _draw_sweep(axes, sweep: Sequence[Mapping[str, Any]]) -> None:
    sizes = [row["batch_size"] for row in sweep]
    for name, color, line in (
        ("step", plotting.BLUE, "--"),
        ("train", plotting.RED, "-"),
    ):
        rates = [row[name] for row in sweep]
        axes.plot(
            sizes, rates, line, color=color, marker="o", label=name, **plotting.STYLE
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=10)
    plotting.dress(axes, "Batch size", "films a step", "images/s")
