"""Summarises a comparison of input pipelines: ratios, table and chart."""

import json
import pathlib
import statistics
from typing import Any

from matplotlib.figure import Figure

from cxr import files
from cxr.reporting import formatting, plotting

# Loaders that must deliver exactly the pixels of the records, and by how many grey
# levels on average the others may differ: other decoders, other resizing.
_EXACT = ("cxr ", "numpy copy", "bare decode", "ffcv raw")
_TOLERANCE = 2.0


def summary(found: list[dict]) -> dict[str, Any]:
    """Reduces a loader's processes to medians, with the spread."""
    later = [epoch for one in found for epoch in one["later"]]
    rates = [epoch["images"] / epoch["seconds"] for epoch in later]
    first = [one["first"]["images"] / one["first"]["seconds"] for one in found]
    peak = [one["later"][-1]["peak_rss_mb"] - one["imports_rss_mb"] for one in found]
    return {
        "images_per_sec": _spread(rates),
        "first_epoch_images_per_sec": _spread(first),
        "first_batch_s": _spread([one["first"]["first_batch_s"] for one in found]),
        "rss_beyond_imports_mb": statistics.median(peak),
        "rss_slope_mb_per_turn": statistics.median(
            _slope([epoch["rss_mb"] for epoch in one["later"]]) for one in found
        ),
        "epoch_images": found[0]["first"]["images"],
        "images": found[0]["check"]["images"],
        "pixel_mean": found[0]["check"]["pixel_mean"],
        "later": [[e["images"] / e["seconds"] for e in one["later"]] for one in found],
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "repeats": len(values),
    }


def _slope(values: list[float]) -> float:
    """Returns the least-squares slope over the second half: warm, per step."""
    values = values[len(values) // 2 :]
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope


def judge_pixels(run: dict[str, dict]) -> None:
    """Says of each loader whether it delivered the films it was to deliver."""
    reference = run.get("numpy copy") or next(iter(run.values()))
    for name, found in run.items():
        exact = name.startswith(_EXACT) and "jpeg" not in name and "bare" not in name
        difference = abs(found["pixel_mean"] - reference["pixel_mean"])
        same_count = found["images"] == reference["images"]
        near = difference <= (0 if exact else _TOLERANCE)
        found["pixels"] = "ok" if same_count and near else "WRONG"


_QUESTIONS = (
    # (question, ours, peer, what of them, asked for)
    ("resident / FFCV raw", "cxr resident raw", "ffcv raw", "later", 1.0),
    ("resident / FFCV raw, random", "cxr resident raw", "ffcv raw random", "later", 1),
    ("resident / numpy copy", "cxr resident raw", "numpy copy", "later", 0.5),
    ("first epoch / FFCV raw's", "cxr resident raw", "ffcv raw", "first", 2.0),
    (
        *("streamed JPEG / (cores x libjpeg-turbo)", "cxr stream jpeg"),
        *("bare decode", "cores", 0.9),
    ),
    (
        *("streamed JPEG / (cores x own decode)", "cxr stream jpeg"),
        *("bare decode together", "cores", 0.9),
    ),
    ("streamed JPEG / FFCV JPEG", "cxr stream jpeg", "ffcv jpeg", "later", 1.5),
    ("streamed JPEG / TFDS", "cxr stream jpeg", "tfds", "later", 1.2),
    ("streamed JPEG / Keras folder", "cxr stream jpeg", "keras directory", "later", 20),
    ("resident / Keras folder", "cxr resident raw", "keras directory", "later", 80),
    (
        *("streamed JPEG / Keras, same bytes", "cxr stream jpeg"),
        *("keras directory stored", "later", 1.8),
    ),
    (
        *("memory / Keras cached RGB (at most)", "cxr resident raw"),
        *("keras directory cached", "memory", 0.15),
    ),
    (
        *("first batch / Keras folder (at most)", "cxr resident raw"),
        *("keras directory", "first batch", 0.5),
    ),
)


def answers(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns each question that was measured: asked, reached, at which B.

    Rates of later epochs are compared turn by turn, so that a busy moment of the
    machine hits both; the median of the ratios counts.
    """
    found = []
    for size, run in report["runs"].items():
        for question, ours, peer, what, asked in _QUESTIONS:
            if ours in run and peer in run:
                ratio = _ratio(run[ours], run[peer], what, report["cores"])
                found.append(
                    {
                        "question": question,
                        "batch_size": int(size),
                        "asked": asked,
                        "reached": ratio,
                    }
                )
    return found


def _ratio(ours: dict, peer: dict, what: str, cores: int) -> float:
    if what == "memory":
        return ours["rss_beyond_imports_mb"] / peer["rss_beyond_imports_mb"]
    if what == "first batch":
        return ours["first_batch_s"]["median"] / peer["first_batch_s"]["median"]
    if what == "first":
        rates = [one["first_epoch_images_per_sec"]["median"] for one in (ours, peer)]
        return rates[0] / rates[1]
    ratios = [
        a / b
        for turns in zip(ours["later"], peer["later"], strict=True)
        for a, b in zip(*turns, strict=False)
    ]
    return statistics.median(ratios) / (cores if what == "cores" else 1)


def markdown(report: dict[str, Any]) -> str:
    """Returns the tables of loaders.md."""
    place, side = report["environment"], report["image_size"]
    lines = [
        f"{place['processor']}, {report['cores']} cores; Python {place['python']}; "
        f"load before: {place['load_before']:.1f}"
    ]
    for family, versions in place["versions"].items():
        listed = ", ".join(f"{k} {v}" for k, v in versions.items())
        lines.append(f"\n{family}: {listed}")
    for size, run in report["runs"].items():
        lines += [
            f"\n### Batch size {size}, {side} x {side}, {report['cores']} cores\n",
            "| loader | images/s (min - max) | first epoch | first batch, s "
            "| memory, MB | growth, MB a turn | films | mean pixel |",
            "| --- | --: | --: | --: | --: | --: | --: | --: |",
        ]
        fastest = sorted(run.items(), key=lambda item: -_median(item[1]))
        for name, one in fastest:
            rate = one["images_per_sec"]
            lines.append(
                f"| {name} | {rate['median']:,.0f} ({rate['min']:,.0f} - "
                f"{rate['max']:,.0f}) "
                f"| {one['first_epoch_images_per_sec']['median']:,.0f} "
                f"| {one['first_batch_s']['median']:.3f} "
                f"| {one['rss_beyond_imports_mb']:,.0f} "
                f"| {one['rss_slope_mb_per_turn']:.2f} "
                f"| {one['images']:,} | {one['pixel_mean']:.2f} {one['pixels']} |"
            )
    for name, why in report["missing"].items():
        lines.append(f"\n{name}: not measured, {why}")
    if report["answers"]:
        lines += [
            "\n| ratio | batch size | asked | reached |",
            "| --- | --: | --: | --: |",
        ]
    for one in report["answers"]:
        lines.append(
            f"| {one['question']} | {one['batch_size']} | {one['asked']} "
            f"| {one['reached']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _median(summary: dict) -> float:
    return summary["images_per_sec"]["median"]


def publish(report: dict[str, Any], folder: pathlib.Path) -> None:
    """Writes loaders.json, loaders.md and loaders.png."""
    files.publish(folder / "loaders.json", json.dumps(report, indent=1) + "\n")
    text = f"{markdown(report)}\n{formatting.DISCLAIMER}\n"
    files.publish(folder / "loaders.md", text)
    _chart(report, folder / "loaders.png")


def _chart(report: dict[str, Any], path: pathlib.Path) -> None:
    runs = report["runs"]
    names = sorted(
        {name for run in runs.values() for name in run},
        key=lambda name: max(
            _median(run[name]) for run in runs.values() if name in run
        ),
    )
    figure = Figure(figsize=(10, 1 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(runs)
    for group, (size, run) in enumerate(runs.items()):
        for row, name in enumerate(names):
            if name not in run:
                continue
            rate = run[name]["images_per_sec"]
            place = row - 0.4 + height * (group + 0.5)
            color = plotting.BLUE if name.startswith("cxr") else plotting.GREY
            axes.barh(place, rate["median"], height * 0.9, color=color)
            spread = [rate["min"], rate["max"]]
            axes.plot(spread, [place, place], color=plotting.INK, linewidth=1)
            label = f" {rate['median']:,.0f}  (B = {size})"
            axes.text(rate["max"], place, label, va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    axes.margins(x=0.25)
    plotting.dress(axes, "Input pipelines, same films, in turn", "images per second")
    plotting.save(figure, path)
