"""Judges, summarises and draws what `benchmarks.compute_peers` measured."""

import json
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from benchmarks import compute_tasks as tasks
from benchmarks.compute_tasks import Case, Peer
from cxr import files
from cxr.reporting import formatting, plotting

Row = dict[str, Any]

# How far a peer's loss (a share of it) and probabilities may be from ours in float32,
# before a step is made: bfloat16 has three digits.
_TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}
_FILMS_TOLERANCE = 0.02  # share of films: ours refuses damaged ones
_COLORS = {
    "cxr": plotting.BLUE,
    "keras": plotting.ORANGE,
    "torch": plotting.GREEN,
}


# --- a row


def row(
    case: Case,
    peer: Peer,
    found: dict[str, Any],
    *,
    expected: dict[str, Any],
    operations: int,
) -> Row:
    """Returns a peer's row of a case: rates, their spread, and whether it was right.

    Args:
      case: what was computed.
      peer: by whom.
      found: `facts`, `turns` and `check`, as the worker answered.
      expected: parameters, probabilities and loss of our network in float32.
      operations: of an image; for the matrix product of one product.
    """
    turns = found["turns"]
    per_step = case.batch_size or 1
    if peer.option == tasks.PRODUCT:
        per_step = 1
    if case.mode == tasks.EPOCHS:
        per_step = found["check"]["images"]
    step_ms = [1000 * turn["seconds"] / turn["steps"] for turn in turns]
    made: Row = {"case": case.name, "peer": peer.name, **peer._asdict()}
    made["image_size"], made["batch_size"] = case.image_size, case.batch_size
    made["operations_per_image"] = operations
    if case.mode == tasks.EPOCHS:
        made["first_epoch_s"] = step_ms[0] / 1000
        step_ms = step_ms[1:]
        made["epoch_s"] = _spread([ms / 1000 for ms in step_ms])
        made["images"] = found["check"]["images"]
    made["step_ms"] = _spread(step_ms)
    made["images_per_sec"] = _spread([1000 * per_step / ms for ms in step_ms])
    made["steps_per_turn"] = turns[0]["steps"]
    made["facts"], made["check"] = found["facts"], found["check"]
    made["verdict"] = judge(case, peer, found, expected)
    return made


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": values,
    }


def judge(
    case: Case, peer: Peer, found: dict[str, Any], expected: dict[str, Any]
) -> str:
    """Returns `ok`, or what shows that a peer computed something else.

    All begin with the same weights and batch, so numbers must be ours, too; a training
    must have lowered the loss.
    """
    if tasks.PRODUCT in (case.mode, peer.option):
        return "ok"
    facts, check = found["facts"], found["check"]
    if facts["parameters"] != expected["parameters"]:
        return f"{facts['parameters']:,} parameters, not {expected['parameters']:,}"
    if case.mode == tasks.EPOCHS:
        return _judge_losses(check["losses"])
    tolerance = _TOLERANCES[peer.precision]
    if case.mode == tasks.FORWARD:
        return _judge_outputs(
            check["probabilities"], expected["probabilities"], tolerance
        )
    if not _near(facts["loss"], expected["loss"], tolerance):
        return f"the loss begins at {facts['loss']:.4f}, not {expected['loss']:.4f}"
    if not check["finite"]:
        return "a loss is not finite"
    return _judge_losses([facts["loss"], check["loss"]])


def _judge_outputs(
    outputs: Sequence[Sequence[float]],
    expected: Sequence[Sequence[float]],
    tolerance: float,
) -> str:
    shapes = [[len(values) for values in rows] for rows in (outputs, expected)]
    if shapes[0] != shapes[1]:
        return f"outputs of {len(outputs)} images, not [{len(expected)}, 2]"
    worst = max(
        abs(a - b) if math.isfinite(a) else math.inf
        for rows in zip(outputs, expected, strict=True)
        for a, b in zip(*rows, strict=True)
    )
    return "ok" if worst <= tolerance else f"probabilities differ by {worst:.3g}"


def _judge_losses(losses: Sequence[float]) -> str:
    if not all(map(math.isfinite, losses)):
        return "a loss is not finite"
    if losses[-1] < losses[0]:
        return "ok"
    return f"the loss did not fall: {losses[0]:.4f}, then {losses[-1]:.4f}"


def _near(value: float, expected: float, tolerance: float) -> bool:
    return math.isfinite(value) and abs(value - expected) <= tolerance * expected


# --- all rows together


def complete(report: dict[str, Any]) -> None:
    """Adds what several rows tell together: peaks, shares, ratios."""
    _judge_film_counts(report["rows"])
    products = [row for row in report["rows"] if row["option"] == tasks.PRODUCT]
    report["rows"] = [row for row in report["rows"] if row not in products]
    report["products"] = products
    # The best turn: what the machine can do, not what it did while it was busy.
    peaks = report["peak_flops_per_sec"] = {}
    for one in products:
        rate = one["operations_per_image"] * one["images_per_sec"]["max"]
        peaks[one["precision"]] = max(rate, peaks.get(one["precision"], 0.0))
    beside = {(one["case"], one["precision"]): one for one in products}
    for one in report["rows"]:
        if product := beside.get((one["case"], one["precision"])):
            # Round by round: the product's turn was beside the step's.
            work = one["operations_per_image"] / product["operations_per_image"]
            one["share_of_peak"] = work * _ratio(one, product)
    report["answers"] = answers(report["rows"])


def _judge_film_counts(rows: list[Row]) -> None:
    """Films of an epoch must be the same, but for the damaged ones that we refuse."""
    epochs = [row for row in rows if "images" in row]
    most = max((row["images"] for row in epochs), default=0)
    for row in epochs:
        if row["images"] < (1 - _FILMS_TOLERANCE) * most and row["verdict"] == "ok":
            row["verdict"] = f"{row['images']:,} films of {most:,}"


def answers(rows: list[Row]) -> list[dict[str, Any]]:
    """Returns our best against each family's best, by case and precision.

    The precision `any` lets each family choose. Rates are compared round by round, so
    that a busy moment of the machine hits both; the median of the ratios counts. Wrong
    rows compete with nobody.
    """
    found = []
    for case in dict.fromkeys(row["case"] for row in rows):
        for precision in (*tasks.PRECISIONS, "any"):
            best = _best(rows, case, precision)
            if "cxr" not in best or len(best) < 2:
                continue
            ours = best["cxr"]
            peers = {
                family: {"peer": row["peer"], "ratio": _ratio(ours, row)}
                for family, row in best.items()
                if family != "cxr"
            }
            found.append(
                {
                    "case": case,
                    "precision": precision,
                    "ours": ours["peer"],
                    "peers": peers,
                }
            )
    return found


def _best(rows: list[Row], case: str, precision: str) -> dict[str, Row]:
    """Returns each family's fastest right row of a case."""
    best: dict[str, Row] = {}
    for one in rows:
        fits = precision in ("any", one["precision"]) and one["case"] == case
        if not fits or one["verdict"] != "ok":
            continue
        before = best.get(one["family"])
        if before is None or _median(one) > _median(before):
            best[one["family"]] = one
    return best


def _median(one: Row) -> float:
    return one["images_per_sec"]["median"]


def _ratio(ours: Row, peer: Row) -> float:
    rates = (one["images_per_sec"]["rounds"] for one in (ours, peer))
    return statistics.median(a / b for a, b in zip(*rates, strict=True))


# --- for people


def markdown(report: dict[str, Any]) -> str:
    """Returns the tables of compute.md."""
    place = report["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in place["versions"].items())
    devices = ", ".join(sorted(set(place["devices"].values())))
    unit = place["bfloat16_unit"] or "no unit known"
    lines = [
        f"{place['processor']}, {place['cores']} cores, {place['threads']} threads, "
        f"bfloat16: {unit}; computed on: {devices or 'nothing'}; {versions}; load "
        f"before: {place['load_before']:.1f}",
    ]
    for precision, peak in report["peak_flops_per_sec"].items():
        lines.append(
            f"\n{tasks.PRODUCT} {tasks.PRODUCT_SIDE} in TensorFlow, {precision}: "
            f"{peak / 1e9:,.0f} GFLOP/s at most"
        )
    lines += _ratio_table(report["answers"])
    for case in dict.fromkeys(row["case"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["case"] == case]
        epochs = case.endswith(tasks.EPOCHS)
        lines += _epoch_table(report, rows) if epochs else _case_table(case, rows)
    lines += [""] if report["missing"] else []
    for one in report["missing"]:
        lines.append(f"- {one['case']} by {one['peer']}: not measured, {one['why']}")
    return "\n".join(lines) + "\n"


def _ratio_table(found: list[dict[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = [
        "\n### Ours / the best of each peer, images a second (above 1: ours is faster)",
        "",
        "| case | precision | ours | / Keras | / PyTorch |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in found:
        cells = [
            f"{peer['ratio']:.2f} ({peer['peer']})" if peer else "-"
            for peer in (one["peers"].get(family) for family in ("keras", "torch"))
        ]
        first = f"| {one['case']} | {one['precision']} | {one['ours']} | "
        lines.append(first + " | ".join(cells) + " |")
    return lines


def _case_table(case: str, rows: list[Row]) -> list[str]:
    size, batch_size = rows[0]["image_size"], rows[0]["batch_size"]
    shape = f", {size} x {size}, batch size {batch_size}" if size else ""
    what = "images/s" if size else "products/s"
    lines = [
        f"\n### {case}{shape}\n",
        f"| peer | {what} (min - max) | ms a step (min - max) | share of peak "
        "| rounds | checks |",
        "| --- | --: | --: | --: | --: | --- |",
    ]
    for one in sorted(rows, key=lambda row: -_median(row)):
        share = f"{one['share_of_peak']:.2f}" if "share_of_peak" in one else "-"
        lines.append(
            f"| {one['peer']} | {_words(one['images_per_sec'])} "
            f"| {_words(one['step_ms'])} | {share} "
            f"| {len(one['step_ms']['rounds'])} | {_verdict(one)} |"
        )
    return lines


def _epoch_table(report: dict[str, Any], rows: list[Row]) -> list[str]:
    size = rows[0]["image_size"]
    lines = [
        f"\n### {rows[0]['case']} from files, {size} x {size}, "
        f"batch size {rows[0]['batch_size']}\n",
        f"Ours trains from a converted set; converting took "
        f"{report['conversion_s']:.1f} s, once.\n",
        "| peer | first epoch, s | later, s (min - max) | images/s | images | checks |",
        "| --- | --: | --: | --: | --: | --- |",
    ]
    for one in sorted(rows, key=lambda row: -_median(row)):
        lines.append(
            f"| {one['peer']} | {one['first_epoch_s']:.2f} "
            f"| {_words(one['epoch_s'])} | {_number(_median(one))} "
            f"| {one['images']:,} | {_verdict(one)} |"
        )
    return lines


def _verdict(one: Row) -> str:
    return "ok" if one["verdict"] == "ok" else f"WRONG: {one['verdict']}"


def _words(spread: dict[str, Any]) -> str:
    low, high = _number(spread["min"]), _number(spread["max"])
    return f"{_number(spread['median'])} ({low} - {high})"


def _number(value: float) -> str:
    """Three digits at least, none after the point that mean nothing."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(max(value, 0.01))))}f}"


def publish(report: dict[str, Any], folder: pathlib.Path) -> None:
    """Writes compute.json, compute.md and compute.png."""
    files.publish(folder / "compute.json", json.dumps(report, indent=1) + "\n")
    text = f"{markdown(report)}\n{formatting.DISCLAIMER}\n"
    files.publish(folder / "compute.md", text)
    if any(row["case"] != tasks.PRODUCT for row in report["rows"]):
        _chart(report, folder / "compute.png")


def _chart(report: dict[str, Any], path: pathlib.Path) -> None:
    rows = [row for row in report["rows"] if row["case"] != tasks.PRODUCT]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    panels = [[row for row in rows if row["case"] == case] for case in cases]
    heights = [1 + len(panel) for panel in panels]
    figure = Figure(figsize=(9, 1 + 0.28 * sum(heights)), layout="constrained")
    grid = figure.subplots(
        len(cases), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for axes, case, panel in zip(grid[:, 0], cases, panels, strict=True):
        panel.sort(key=_median)
        for place, one in enumerate(panel):
            rate = one["images_per_sec"]
            axes.barh(place, rate["median"], 0.8, color=_COLORS[one["family"]])
            spread = [rate["min"], rate["max"]]
            axes.plot(spread, [place, place], color=plotting.INK, linewidth=1)
            wrong = "" if one["verdict"] == "ok" else "  WRONG"
            label = f" {_number(rate['median'])}{wrong}"
            axes.text(rate["max"], place, label, va="center", fontsize=8)
        axes.set_yticks(range(len(panel)), [one["peer"] for one in panel])
        axes.margins(x=0.15)
        size, batch_size = panel[0]["image_size"], panel[0]["batch_size"]
        title = f"{case}, {size} px, batch size {batch_size}"
        plotting.dress(axes, title)
    grid[-1, 0].set_xlabel("images per second", fontsize=11)
    plotting.save(figure, path)
