"""Writes a benchmark's result as Markdown and as a picture."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cxr.benchmark.regression import Change
from cxr.reporting import plotting


def markdown(document: Mapping[str, Any], changes: Sequence[Change] = ()) -> str:
    """Returns bench.md: the verdict, a table to paste, how it was measured."""
    config, cases = document["config"], document["stages"]
    limit = document["bottleneck"]["rung"]
    blocks = [
        f"## cxr.bench: {config['model']} at {config['image_size']} px, batch "
        f"{config['batch_size']}, {config['precision']}, {config['dataset']}",
        f"**{document['verdict']}**",
        _table([_row(case, case["name"] == limit) for case in cases]),
        "\n".join(f"- `{case['name']}`: {case['what']}" for case in cases),
        "\n".join(_facts(document)),
    ]
    if document["sweep"]:
        blocks.append(_table([_sweep_row(row) for row in document["sweep"]]))
    if changes:
        blocks.append(_table([_change_row(change) for change in changes]))
    blocks += [_machine(document["environment"]), document["method"]]
    return "\n\n".join(blocks) + "\n"


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Returns a Markdown table of rows, each from title to text."""
    titles, rule = list(rows[0]), ["---", *["---:"] * (len(rows[0]) - 1)]
    lines = (titles, rule, *(row.values() for row in rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(case: Mapping[str, Any], limits: bool) -> dict[str, str]:
    rate, step = case["images_per_sec"], case["step_ms"]
    apart, roof = case["aa_difference"], case["roofline"]
    quantiles = [f"{step[name]:.3g}" for name in ("p50", "p90", "p99")]
    return {
        "case": case["name"] + (" **<-**" if limits else ""),
        "images/s": f"{rate['median']:,.0f}",
        "min - max": f"{rate['min']:,.0f} - {rate['max']:,.0f}",
        "A/A": "-" if apart is None else f"{apart:.0%}",
        "step p50 / p90 / p99 ms": " / ".join(quantiles),
        "cores": f"{case['cores_busy']:.1f}",
        "of the roof": f"{roof['reached']:.0%} of {roof['limit']}" if roof else "-",
    }


def _sweep_row(row: Mapping[str, float | None]) -> dict[str, str]:
    def rate(name: str) -> str:
        found = row[name]
        return "out of memory" if found is None else f"{found:,.0f}"

    return {
        "batch size": f"{row['batch_size']}",
        "step images/s": rate("step"),
        "train images/s": rate("train"),
    }


def _change_row(change: Change) -> dict[str, str]:
    word = "**slower**" if change.slower else "same" if change.agrees else "faster"
    return {
        "case": change.case,
        "against the baseline": f"{change.ratio - 1:+.0%}",
        "noise": f"{change.noise:.0%}",
        "": word,
    }


def _machine(environment: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{k} {v}" for k, v in environment["packages"].items())
    return (
        f"{environment['device']}; {environment['processor']}, "
        f"{environment['cores']} cores, {environment['memory_gib']:.1f} GiB; Python "
        f"{environment['python']}, {packages}; load {environment['load']:.1f} at the "
        "start"
    )


def _facts(document: Mapping[str, Any]) -> list[str]:
    card = document["peak_device_mb"]
    lines = [
        f"Time to the first batch {document['time_to_first_batch_s']:.2f} s; peak "
        f"memory {document['peak_rss_mb']:,.0f} MiB"
        + (f", of the GPU {card:,.0f} MiB" if card is not None else "")
        + f"; pixels verified, CRC-32 of the first images {document['pixel_checksum']}."
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


def plot(document: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Draws bench.png: the cases as bars, the bottleneck marked; the sweep beside.

    Args:
      document: bench.json.
      path: the PNG to publish.
    """
    sweep = [row for row in document["sweep"] if row["step"] is not None]
    figure = Figure(figsize=(11 if sweep else 8, 4.6), layout="constrained")
    ratios = (2, 1) if sweep else (1,)
    axes = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    _draw_cases(axes[0], document["stages"], document["bottleneck"]["rung"])
    if sweep:
        _draw_sweep(axes[1], sweep)
    plotting.save(figure, path)


def _draw_cases(axes, cases: Sequence[Mapping[str, Any]], limit: str) -> None:
    low, middle, high = (
        np.array([case["images_per_sec"][key] for case in cases])
        for key in ("min", "median", "max")
    )
    marked = [case["name"] == limit for case in cases]
    bars = axes.barh(
        [case["name"] for case in cases],
        middle,
        color=[plotting.RED if mark else plotting.BLUE for mark in marked],
        hatch=["//" if mark else "" for mark in marked],
        edgecolor="white",
        xerr=(middle - low, high - middle),
        error_kw={"ecolor": plotting.INK, "capsize": 3},
    )
    labels = [
        f"{rate:,.0f}" + ("  bottleneck" if mark else "")
        for rate, mark in zip(middle, marked, strict=True)
    ]
    axes.bar_label(bars, labels, padding=8, fontsize=10)
    axes.set_xscale("log")
    axes.set_xlim(middle.min() / 4, high.max() * 12)
    axes.invert_yaxis()
    plotting.dress(axes, "Each case", "images/s (median, min - max of the repeats)")
    axes.grid(visible=False, axis="y")


def _draw_sweep(axes, sweep: Sequence[Mapping[str, Any]]) -> None:
    sizes = [row["batch_size"] for row in sweep]
    for name, color, line in (
        ("step", plotting.BLUE, "--"),
        ("train", plotting.RED, "-"),
    ):
        style = {"color": color, "marker": "o", "label": name, **plotting.STYLE}
        axes.plot(sizes, [row[name] for row in sweep], line, **style)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=10)
    plotting.dress(axes, "Batch size", "images a step", "images/s")
