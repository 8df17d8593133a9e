"""The sections of report.html; each is empty where there is nothing to say."""

import pathlib
from collections.abc import Mapping
from typing import Any

from cxr.reporting import formatting, html

HEADLINE = (
    ("roc_auc", "ROC AUC"),
    ("accuracy", "Accuracy"),
    ("recall", "Sensitivity"),
    ("specificity", "Specificity"),
)


def discrimination(
    summary: Mapping[str, Any], pictures: Mapping[str, pathlib.Path]
) -> str:
    """Curves, confusion matrix and the class-wise table."""
    parts = []
    if "roc" in pictures:
        parts.append(
            html.picture(
                pictures["roc"],
                alt="ROC curve, whole and enlarged",
                caption="Sensitivity against false alarms as the threshold falls.",
            )
        )
    pair = [
        html.picture(pictures[name], alt=alt)
        for name, alt in (
            ("precision_recall", "precision-recall curve"),
            ("confusion_matrix", "confusion matrix at the frozen threshold"),
        )
        if name in pictures
    ]
    header = ("class", "films", "precision", "recall", "specificity", "F1", "ROC AUC")
    names = ("precision", "recall", "specificity", "f1", "roc_auc")
    rows = [
        (
            name,
            f"{entry['n']:,}",
            *(
                formatting.with_interval({"value": entry[m], "ci95": entry["ci95"][m]})
                for m in names
            ),
        )
        for name, entry in summary["per_class"].items()
    ]
    by_class = html.table(header, rows, caption="Each class against the rest")
    parts += [html.side_by_side(pair), by_class, _collapsed(summary["collapsed"])]
    return html.section("How well it tells them apart", parts, anchor="discrimination")


def _collapsed(collapsed: Mapping[str, Any] | None) -> str:
    if not collapsed:
        return ""
    found = collapsed["metrics"]
    return html.table(
        ("read as two classes", *(label for _, label in HEADLINE)),
        [
            (
                f"{collapsed['positive_class']} against {collapsed['negative_class']}",
                *(formatting.with_interval(found[name]) for name, _ in HEADLINE),
            )
        ],
        caption=f"Threshold {collapsed['threshold']['value']:.3f}, rule "
        f"{collapsed['threshold']['rule']}, chosen on "
        f"{collapsed['threshold']['chosen_on'] or 'no data'}",
    )


def threshold(summary: Mapping[str, Any], pictures: Mapping[str, pathlib.Path]) -> str:
    """Operating points and what they mean by prevalence."""
    points = summary["operating_points"]
    if not points:
        return ""
    columns = ("recall", "specificity", "precision", "npv", "accuracy")
    rows = [
        (
            point["name"],
            point["rule"],
            formatting.probability(point["threshold"]),
            *(formatting.with_interval(point["metrics"][name]) for name in columns),
        )
        for point in points
    ]
    prevalences = [e["prevalence"] for e in points[0]["predictive_values"]]
    values = [
        (
            point["name"],
            kind.upper(),
            *(formatting.with_interval(e[kind], 2) for e in point["predictive_values"]),
        )
        for point in points
        for kind in ("ppv", "npv")
    ]
    parts = [
        html.paragraph(
            "Every threshold below was chosen on validation and only read off here."
        ),
        html.table(
            ("point", "rule", "threshold", "sensitivity", "specificity", "precision")
            + ("NPV", "accuracy"),
            rows,
            text_columns=(0, 1),
        ),
    ]
    if "predictive_values" in pictures:
        parts.append(
            html.picture(
                pictures["predictive_values"],
                alt="PPV and NPV against prevalence",
                caption="The same model means something else where the disease is "
                "rarer than among these films.",
            )
        )
    parts.append(
        "<details><summary>PPV and NPV by prevalence, with intervals</summary>"
        + html.table(
            ("point", "", *(f"{p:.0%}" for p in prevalences)),
            values,
            text_columns=(0, 1),
        )
        + "</details>"
    )
    return html.section("Where to cut", parts, anchor="threshold")


def calibration(
    summary: Mapping[str, Any], pictures: Mapping[str, pathlib.Path]
) -> str:
    """Reliability, noise floor and temperature."""
    found = summary["calibration"]
    gaps = [
        f"{name}: mean predicted {formatting.percent(predicted)}, observed "
        f"{formatting.percent(observed)}"
        for name, predicted, observed in zip(
            summary["class_names"],
            found["mean_predicted"],
            found["observed"],
            strict=True,
        )
    ]
    parts = [
        html.paragraph(
            f"ECE {formatting.number(summary['metrics']['ece']['value'])} (95 %: "
            f"{formatting.interval(summary['metrics']['ece']['ci95'])}); perfectly "
            f"calibrated probabilities would show {found['ece_if_perfect']:.3f} on as "
            f"many films by chance. {'; '.join(gaps)}."
        )
    ]
    if found["temperature"]:
        parts.append(html.paragraph(found["temperature"]["verdict"]))
    if "calibration" in pictures:
        parts.append(
            html.picture(
                pictures["calibration"],
                alt="reliability diagram",
                narrow=True,
                caption="Equal-mass bins; bars are 95 % intervals over patients. On "
                "the dotted line the probabilities mean what they say.",
            )
        )
    return html.section(
        "Whether its probabilities can be believed", parts, anchor="calibration"
    )


def shift(summary: Mapping[str, Any], pictures: Mapping[str, pathlib.Path]) -> str:
    """Scores here and on validation."""
    shift = summary["shift"]
    if not shift or "score_histograms" not in pictures:
        return ""
    rows = [
        (name, formatting.number(shift["validation"][name]), formatting.number(value))
        for name, value in shift["here"].items()
    ]
    share = shift["positive_share"]
    rows.append(
        (
            "share of positives",
            formatting.number(share["validation"]),
            formatting.number(share["here"]),
        )
    )
    ks = shift["ks"]
    parts = [
        html.picture(
            pictures["score_histograms"],
            alt="score histograms, validation and this split",
            caption="A class whose hill moved between the panels looks different to "
            "the model on these films.",
        ),
        html.table(("", "validation", summary["split"]), rows),
        html.paragraph(
            "Kolmogorov-Smirnov distance of the scores to validation's: positives "
            f"{formatting.number(ks['positive'])}, negatives "
            f"{formatting.number(ks['negative'])} "
            "(0 alike, 1 apart)."
        ),
    ]
    return html.section(
        "Whether these films are like validation's", parts, anchor="shift"
    )


def subgroups(summary: Mapping[str, Any], pictures: Mapping[str, pathlib.Path]) -> str:
    """The main metrics inside each group."""
    if not summary["subgroups"]:
        return ""
    rows = []
    for grouping, groups in summary["subgroups"].items():
        for name, entry in groups.items():
            auc = formatting.with_interval(entry["metrics"]["roc_auc"])
            if entry["roc_auc_against"] != "the group itself":
                auc += " *"
            rows.append(
                (
                    grouping,
                    name,
                    f"{entry['n']:,}",
                    f"{entry['n_patients']:,}",
                    *(
                        formatting.with_interval(entry["metrics"][m])
                        for m in ("accuracy", "recall", "specificity")
                    ),
                    auc,
                )
            )
    parts = []
    if "subgroups" in pictures:
        parts.append(
            html.picture(
                pictures["subgroups"],
                alt="accuracy by subgroup with intervals",
                caption="Dashed: all films. Many groups are looked at, so one interval "
                "in twenty misses by chance.",
            )
        )
    parts.append(
        html.table(
            ("grouping", "group", "films", "patients", "accuracy", "sensitivity")
            + ("specificity", "ROC AUC"),
            rows,
            text_columns=(0, 1),
        )
    )
    parts.append(
        html.paragraph(
            "* the group holds one class; ranked against all films of the other class.",
            kind="quiet",
        )
    )
    return html.section("For whom it works", parts, anchor="subgroups")


def films(pictures: Mapping[str, pathlib.Path]) -> str:
    """Sample predictions and the hardest mistakes."""
    parts = []
    if "samples" in pictures:
        parts.append(
            html.picture(
                pictures["samples"],
                alt="sample predictions",
                caption="Drawn at random with a fixed seed, not picked. Solid green "
                "frame: right; dashed red frame: wrong. With two classes p is the "
                "positive class' probability.",
            )
        )
    if "mistakes" in pictures:
        parts.append(
            html.picture(
                pictures["mistakes"],
                alt="hardest mistakes",
                caption="The mistakes it was surest of; some may be label errors.",
            )
        )
    return html.section("The films themselves", parts, anchor="films") if parts else ""


def attention(summary: Mapping[str, Any], pictures: Mapping[str, pathlib.Path]) -> str:
    """Grad-CAM overlays and the border alarm."""
    found = summary.get("attention")
    if not found or "attention" not in pictures:
        return ""
    parts = [
        html.picture(
            pictures["attention"],
            alt="Grad-CAM overlays",
            caption=f"Grad-CAM for {found['class']}: red speaks for it, blue against. "
            "A coarse hint at where the model looked, not proof of why.",
        ),
        html.notes([("warn" if found["alarm"] else "plain", found["line"])]),
    ]
    return html.section("Where it looked", parts, anchor="attention")


def runs(summary: Mapping[str, Any], pictures: Mapping[str, pathlib.Path]) -> str:
    """Several seeds: each run, mean and standard deviation, the ensemble."""
    several = summary.get("runs")
    if not several:
        return ""
    names = ("roc_auc", "accuracy", "recall", "specificity", "f1", "log_loss", "ece")
    rows = [
        (
            run["name"],
            *(formatting.number(run["metrics"][name]["value"]) for name in names),
        )
        for run in several
    ]
    across = summary["across_runs"]
    spread = (
        f"{formatting.number(across[name]['mean'])} ± "
        f"{formatting.number(across[name]['sd'])}"
        for name in names
    )
    rows.append(("mean ± standard deviation", *spread))
    ensemble = (formatting.with_interval(summary["metrics"][name]) for name in names)
    rows.append(("ensemble (mean probability)", *ensemble))
    header = ("run", "ROC AUC", "accuracy", "sensitivity", "specificity", "F1")
    parts = [
        html.paragraph(
            "Each run at its own frozen threshold. The standard deviation says how "
            "much the seed matters; the ensemble's interval how much the films do."
        ),
        html.table((*header, "log loss", "ECE"), rows),
    ]
    if "runs" in pictures:
        parts.append(html.picture(pictures["runs"], alt="accuracy of each run"))
    return html.section("From seed to seed", parts, anchor="runs")


def training(pictures: Mapping[str, pathlib.Path]) -> str:
    """Loss and accuracy curves."""
    if "curves" not in pictures:
        return ""
    picture = html.picture(pictures["curves"], alt="loss and accuracy over the epochs")
    return html.section("How it was trained", [picture], anchor="training")


def numbers(summary: Mapping[str, Any]) -> str:
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
    found = summary["intervals"]
    how = f"{found['draws']:,} draws, seed {found['seed']}: {found['method']}."
    parts = [
        html.table(
            ("metric", "value", "95 % interval", "definition"),
            rows,
            text_columns=(0, 3),
        ),
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
    if origins.get("flags"):
        parts.append(
            "<details><summary>flags of the run</summary><pre>"
            f"{html.escape(origins['flags'])}</pre></details>"
        )
    return html.section("Where this comes from", parts, anchor="provenance")


def limits(summary: Mapping[str, Any]) -> str:
    """What the numbers do not say."""
    lines = [
        "The films come from the sources of this data set only; another hospital, "
        "machine, age or disease mix gives other numbers.",
        "Labels are those of the data set; their errors count as the model's.",
        f"With {summary['n_patients']:,} patients the intervals show chance alone, not "
        "the differences above.",
        "Looking at this page often, and changing the model after each look, makes its "
        "numbers too good; every reading of test is logged in the run folder.",
    ]
    parts = [html.notes([("plain", line) for line in lines])]
    return html.section("What this does not say", parts, anchor="limits")
