"""The sections of report.html; each is empty where there is nothing to say."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from cxr.reporting import formatting, html

_LABELS = {"recall": "sensitivity", "specificity": "specificity"}
_AT_POINT = ("recall", "specificity", "precision", "npv", "accuracy")
_POINT_HEADER = (
    "point",
    "films",
    "threshold",
    "sensitivity",
    "specificity",
    "precision",
    "NPV",
    "accuracy",
)

Summary = Mapping[str, Any]
Pictures = Mapping[str, pathlib.Path]

HEADLINE = (
    ("roc_auc", "ROC AUC"),
    ("accuracy", "Accuracy"),
    ("recall", "Sensitivity"),
    ("specificity", "Specificity"),
)


def discrimination(summary: Summary, pictures: Pictures) -> str:
    """Curves, confusion matrix and the class-wise table."""
    header = ("class", "films", "precision", "recall", "specificity", "F1", "ROC AUC")
    names = ("precision", "recall", "specificity", "f1", "roc_auc")
    rows = []
    for name, entry in summary["per_class"].items():
        measured = {n: {"value": entry[n], "ci95": entry["ci95"][n]} for n in names}
        rows.append((name, f"{entry['n']:,}", *_with_intervals(measured, names)))
    alts = {
        "precision_recall": "precision-recall curve",
        "confusion_matrix": "confusion matrix"
        + (" at the frozen threshold" if summary["threshold"] else ""),
    }
    pair = [html.picture(pictures.get(name), alt) for name, alt in alts.items()]
    parts = [
        html.picture(
            pictures.get("roc"),
            "ROC curve, whole and enlarged",
            "Sensitivity against false alarms as the threshold falls.",
        ),
        html.side_by_side(pair),
        html.table(header, rows, caption="Each class against the rest"),
        _collapsed(summary["collapsed"]),
    ]
    return html.section("How well it tells them apart", parts, anchor="discrimination")


def _collapsed(collapsed: Summary | None) -> str:
    if not collapsed:
        return ""
    threshold = collapsed["threshold"]
    classes = f"{collapsed['positive_class']} against {collapsed['negative_class']}"
    values = _with_intervals(collapsed["metrics"], (name for name, _ in HEADLINE))
    return html.table(
        ("read as two classes", *(label for _, label in HEADLINE)),
        [(classes, *values)],
        caption=f"Threshold {formatting.probability(threshold['value'])}, rule "
        f"{threshold['rule']}, {_chosen_on(threshold)}",
    )


def _chosen_on(point: Mapping[str, Any]) -> str:
    return f"chosen on {point['chosen_on']}" if point["chosen_on"] else "fixed"


def threshold(summary: Summary, pictures: Pictures) -> str:
    """Operating points and what they mean by prevalence."""
    points = summary["operating_points"]
    if not points:
        return ""
    ill = summary["class_counts"][summary["positive_class"]] / summary["n"]
    rows = [row for point in points for row in _rows_of_point(point, summary["split"])]
    prevalences = [f"{e['prevalence']:.0%}" for e in points[0]["predictive_values"]]
    by_prevalence = [
        (
            _name_of(point),
            kind.upper(),
            *(formatting.with_interval(e[kind], 2) for e in point["predictive_values"]),
        )
        for point in points
        for kind in ("ppv", "npv")
    ]
    parts = [
        html.paragraph(
            "The thresholds are fixed or chosen on validation, as the table says of "
            "each; here they are only read off. A warning sign marks a target that is "
            "missed here."
        ),
        html.table(_POINT_HEADER, rows, text_columns=(0, 1)),
        html.picture(
            pictures.get("predictive_values"),
            "PPV and NPV against prevalence",
            f"Among these films the prevalence is {formatting.percent(ill)}; where the "
            "disease is rarer or more common the same model means something else.",
        ),
        html.details(
            "PPV and NPV by prevalence, with intervals",
            html.table(
                ("point", "value", *prevalences), by_prevalence, text_columns=(0, 1)
            ),
        ),
    ]
    return html.section("Where to cut", parts, anchor="threshold")


def _name_of(point: Mapping[str, Any]) -> str:
    """`screening: sensitivity ≥ 98 %`: what it is for, and what it promises."""
    target = point["target"]
    if not target:
        return point["name"]
    return f"{point['name']}: {_LABELS[target['metric']]} ≥ {target['value']:.0%}"


def _rows_of_point(point: Mapping[str, Any], split: str) -> list[tuple[object, ...]]:
    """What a threshold reaches here, and beneath it on validation."""
    here: list[object] = list(_with_intervals(point["metrics"], _AT_POINT))
    there = _with_intervals(point["validation"], _AT_POINT)
    if point["missed"]:
        at = _AT_POINT.index(point["target"]["metric"])
        here[at] = html.Alarm(str(here[at]))
    cut = formatting.probability(point["threshold"])
    how = f"{split}; rule {point['rule']}, {_chosen_on(point)}"
    rows: list[tuple[object, ...]] = [(_name_of(point), how, cut, *here)]
    if split != "validation":
        rows.append(("", "validation", "", *there))
    return rows


def calibration(summary: Summary, pictures: Pictures) -> str:
    """Reliability, noise floor and temperature."""
    measured, ece = summary["calibration"], summary["metrics"]["ece"]
    shares = zip(
        summary["class_names"],
        measured["mean_predicted"],
        measured["observed"],
        strict=True,
    )
    gaps = [
        f"{name}: mean predicted {formatting.percent(predicted)}, observed "
        f"{formatting.percent(observed)}"
        for name, predicted, observed in shares
    ]
    temperature = measured["temperature"]
    parts = [
        _in_words(summary),
        html.paragraph(
            f"ECE {formatting.number(ece['value'])} (95 %: "
            f"{formatting.interval(ece['ci95'])}); perfectly calibrated probabilities "
            f"would show {measured['ece_if_perfect']:.3f} on as many films by chance. "
            f"{'; '.join(gaps)}."
        ),
        html.paragraph(temperature["verdict"]) if temperature else "",
        html.picture(
            pictures.get("calibration"),
            "reliability diagram",
            "Equal-mass bins; bars are 95 % intervals over patients. On the dotted "
            "line the probabilities mean what they say.",
            narrow=True,
        ),
    ]
    return html.section(
        "Whether its probabilities can be believed", parts, anchor="calibration"
    )


def _in_words(summary: Summary) -> str:
    """What scores meant among these films, in sentences."""
    rows = summary["calibration"].get("in_words")
    if not rows:
        return ""
    lines = []
    for row in rows:
        low, high = (100 * bound for bound in row["ci95"])
        lines.append(
            f"Of {formatting.counted(row['n'], 'film')} scored {row['low']:g} to "
            f"{row['high']:g}, "
            f"{formatting.percent(row['observed'])} were {summary['positive_class']} "
            f"(95 %: {low:.1f} to {high:.1f} %); their mean score is "
            f"{formatting.percent(row['predicted'])}."
        )
    return html.notes([("plain", line) for line in lines])


def baseline(summary: Summary) -> str:
    """The trivial baseline beside the model, on all films and within strata."""
    found = summary.get("trivial_baseline")
    if not found:
        return ""
    names = {"roc_auc": "ROC AUC", "accuracy": "accuracy"}
    gaps = found["differences"] or {}
    rows = [
        (
            label,
            formatting.with_interval(summary["metrics"][name]),
            formatting.with_interval(found["metrics"][name]),
            formatting.with_interval(gaps[name]) if gaps else formatting.DASH,
        )
        for name, label in names.items()
    ]
    parts = [
        html.paragraph(
            "A logistic regression on nine numbers of a film's brightness and "
            f"sharpness, fitted on {found['fitted_on']:,} training films. It sees no "
            "lung; what it reaches, a network may reach in the same way."
        ),
        html.table(("metric", "model", "trivial baseline", "difference"), rows),
    ]
    if strata := found["strata"]:
        parts += _strata(strata)
    title = "Against brightness and sharpness alone"
    return html.section(title, parts, anchor="baseline")


def _strata(strata: Mapping[str, Any]) -> list[str]:
    """The ranking among films that the baseline scores alike."""
    number = formatting.number
    rows: list[tuple[str, ...]] = [
        (
            f"{number(row['lowest'])} to {number(row['highest'])}",
            f"{row['n']:,}",
            f"{row['positives']:,}",
            number(row["model"]),
            number(row["baseline"]),
        )
        for row in strata["each"]
    ]
    pooled = [formatting.with_interval(strata[n]) for n in ("model", "baseline")]
    films, positives = (
        sum(r[key] for r in strata["each"]) for key in ("n", "positives")
    )
    rows.append(("pairs within a stratum", f"{films:,}", f"{positives:,}", *pooled))
    header = ("baseline's score", "films", "positives", "model", "trivial baseline")
    return [
        html.table(
            header, rows, caption="ROC AUC among films that the baseline scores alike"
        )
    ]


def shift(summary: Summary, pictures: Pictures) -> str:
    """Scores here and on validation."""
    shift = summary["shift"]
    if not shift or "score_histograms" not in pictures:
        return ""
    share, distance = shift["positive_share"], shift["ks"]
    pairs = [(n, shift["validation"][n], value) for n, value in shift["here"].items()]
    pairs.append(("share of positives", share["validation"], share["here"]))
    rows = [(name, *map(formatting.number, values)) for name, *values in pairs]
    parts = [
        html.picture(
            pictures.get("score_histograms"),
            "score histograms, validation and this split",
            "A class whose hill moved between the panels looks different to the model "
            "on these films. The outer bars hold all that lies beyond.",
        ),
        html.table(("metric", "validation", summary["split"]), rows),
        html.paragraph(
            "Kolmogorov-Smirnov distance of the scores to validation's: positives "
            f"{formatting.number(distance['positive'])}, negatives "
            f"{formatting.number(distance['negative'])} (0 alike, 1 apart)."
        ),
    ]
    return html.section(
        "Whether these films are like validation's", parts, anchor="shift"
    )


def runs(summary: Summary, pictures: Pictures) -> str:
    """Several seeds: each run, mean and standard deviation, the ensemble."""
    several = summary.get("runs")
    if not several:
        return ""
    names = ("roc_auc", "accuracy", "recall", "specificity", "f1", "log_loss", "ece")
    header = ("run", "ROC AUC", "accuracy", "sensitivity", "specificity", "F1")
    across, number = summary["across_runs"], formatting.number
    rows = [
        (run["name"], *(number(run["metrics"][name]["value"]) for name in names))
        for run in several
    ]
    spread = [f"{number(across[n]['mean'])} ± {number(across[n]['sd'])}" for n in names]
    rows.append(("mean ± standard deviation", *spread))
    ensemble = _with_intervals(summary["metrics"], names)
    rows.append(("ensemble (mean probability)", *ensemble))
    own = "Each run at its own frozen threshold. " if summary["threshold"] else ""
    parts = [
        html.paragraph(
            f"{own}The standard deviation says how much the runs differ; the "
            "ensemble's interval how much chance in the patients matters."
        ),
        html.table((*header, "log loss", "ECE"), rows),
        html.picture(pictures.get("runs"), "ROC AUC and accuracy of each run"),
    ]
    return html.section("From run to run", parts, anchor="runs")


def training(pictures: Pictures) -> str:
    """Loss and accuracy curves."""
    curves = html.picture(pictures.get("curves"), "loss and accuracy over the epochs")
    if not curves:
        return ""
    return html.section("How it was trained", [curves], anchor="training")


def numbers(summary: Summary) -> str:
    """Every metric with interval and definition."""
    rows = [
        (
            name,
            formatting.number(entry["value"], 4),
            formatting.interval(entry["ci95"], 4),
            summary["definitions"][name],
        )
        for name, entry in summary["metrics"].items()
    ]
    made = summary["intervals"]
    how = f"{made['draws']:,} draws, seed {made['seed']}: {made['method']}."
    header = ("metric", "value", "95 % interval", "definition")
    parts = [
        html.table(header, rows, text_columns=(0, 3)),
        html.paragraph(how, kind="quiet"),
    ]
    return html.section("All numbers", parts, anchor="numbers")


def provenance(origins: Mapping[str, str]) -> str:
    """Where data and model come from, and the flags that repeat the run."""
    rows = [
        (label.replace("_", " "), text)
        for label, text in origins.items()
        if label != "flags"
    ]
    parts = [html.table(("what", "value"), rows, text_columns=(0, 1))]
    if flags := origins.get("flags"):
        parts.append(
            html.details("flags of the run", f"<pre>{html.escape(flags)}</pre>")
        )
    return html.section("Where this comes from", parts, anchor="provenance")


def limits(summary: Summary) -> str:
    """What the numbers do not say."""
    patients_are = formatting.counted(summary["n_patients"], "patient")
    if summary["n_without_patient"]:
        patients_are = "patients that are not all known"
    lines = [
        "The films come from the sources of this data set only; another hospital, "
        "machine, age or disease mix gives other numbers.",
        "Labels are those of the data set; their errors count as the model's.",
        f"With {patients_are} the intervals show chance alone, not the differences "
        "above.",
        "Looking at this page often, and changing the model after each look, makes its "
        "numbers too good; every reading of test is logged in the run folder.",
    ]
    parts = [html.notes([("plain", line) for line in lines])]
    return html.section("What this does not say", parts, anchor="limits")


def films_of_patients(summary: Summary) -> str:
    """How many films of how many patients, as far as these are known."""
    films = formatting.counted(summary["n"], "film")
    unknown = summary["n_without_patient"]
    known = formatting.counted(summary["n_patients"] - unknown, "patient")
    if unknown == summary["n"]:
        return f"{films} of unknown patients"
    return f"{films} of {known}" + (
        f" and {unknown:,} without a known patient" if unknown else ""
    )


def _with_intervals(measured: Mapping[str, dict], names: Iterable[str]) -> list[str]:
    """Cells of a table: some metrics, each with its interval."""
    return [formatting.with_interval(measured[name]) for name in names]
