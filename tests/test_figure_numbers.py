"""Every number in a picture is that of the data: read back from the figure itself."""

import dataclasses
import warnings
from types import SimpleNamespace

import matplotlib.colors
import numpy as np
import pytest
import sklearn.metrics as sk
from scipy import special

from cxr.benchmark import report as bench_report
from cxr.config import TrainConfig
from cxr.evaluation import film_plots, report_figures
from cxr.metrics import comparison
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.summary import summarise
from cxr.model_info import Threshold
from cxr.reporting import plotting
from cxr.training import curves
from tests import fabricated
from tests.figure_reading import legend, line, numbered, segments, ticks, watch, words

FROZEN = {"value": 0.43, "rule": "youden", "chosen_on": "validation"}


def ask(table, **options):
    """The question a model asks of a table; without a threshold beyond two classes."""
    binary = len(table.class_names) == 2
    threshold = FROZEN if binary else {**FROZEN, "value": None}
    return Evaluation(
        table, "test", table.class_names[-1], threshold, draws=30, **options
    )


@pytest.fixture(scope="module", params=[2, 3], ids=["two classes", "three"])
def drawn(request, tmp_path_factory):
    """(evaluation, validation, summary, figures) of a whole evaluation."""
    table = fabricated.clustered(1, classes=request.param, separation=1.5)
    validation = fabricated.clustered(2, classes=request.param, separation=1.5)
    evaluation = ask(table)
    rows = fabricated.example_rows(table)
    summary = summarise(evaluation, rows=rows, validation=validation)
    with pytest.MonkeyPatch.context() as patch:
        figures = watch(patch)
        folder = tmp_path_factory.mktemp("figures")
        report_figures.draw(folder, summary, evaluation, validation)
    return evaluation, validation, summary, figures


def judged(evaluation):
    """Index of each class that curves are drawn for -> (truth, score)."""
    table, names = evaluation.predictions, evaluation.class_names
    chosen = [1] if len(names) == 2 else range(len(names))
    return {names[c]: (table.labels == c, table.probabilities[:, c]) for c in chosen}


def test_an_evaluation_gets_its_pictures(drawn):
    evaluation, _, _, figures = drawn
    wanted = {"roc", "precision_recall", "confusion_matrix", "calibration", "subgroups"}
    if evaluation.binary:
        wanted |= {"predictive_values", "score_histograms"}
    assert set(figures) == wanted


def test_the_roc_curve(drawn):
    evaluation, _, summary, figures = drawn
    panels = figures["roc"].axes
    whole = panels[0]
    banded = "95 % of patient resamples"
    expected = ["1 - specificity"] * len(panels)
    expected += [banded] if evaluation.binary else []
    for name, (truth, score) in judged(evaluation).items():
        label = f"{name} (AUC {sk.roc_auc_score(truth, score):.3f})"
        expected.append(label)
        false, true, _ = sk.roc_curve(truth, score, drop_intermediate=False)
        for axes in panels:
            np.testing.assert_allclose(line(axes, label), np.stack([false, true], 1))
    assert numbered(figures["roc"]) == sorted(expected)
    points = {point["name"]: point["metrics"] for point in summary["operating_points"]}
    shown = [text for text in legend(whole) if text not in expected]
    named = {name for text in shown for name in text.replace("\n", " ").split(" = ")}
    assert named == set(points)  # each is there, and nothing else
    for text in shown:
        for name in text.replace("\n", " ").split(" = "):
            rates = points[name]
            place = 1 - rates["specificity"]["value"], rates["recall"]["value"]
            np.testing.assert_allclose(line(whole, text)[0], place)


def test_the_precision_recall_curve(drawn):
    evaluation, _, _, figures = drawn
    (axes,) = figures["precision_recall"].axes
    expected, shares = [], []
    for name, (truth, score) in judged(evaluation).items():
        label = f"{name} (AP {sk.average_precision_score(truth, score):.3f})"
        expected.append(label)
        shares.append(truth.mean())
        recall, precision = line(axes, label).T
        wanted = sk.precision_recall_curve(truth, score)
        # scikit-learn goes the other way and leaves out what lies beyond recall 1.
        np.testing.assert_allclose(recall, wanted[1][::-1])
        np.testing.assert_allclose(precision, wanted[0][::-1])
        assert axes.lines[0].get_drawstyle() == "steps-pre"
    assert numbered(figures["precision_recall"]) == sorted(expected)
    dotted = [one.get_ydata()[0] for one in axes.lines if one.get_linestyle() == ":"]
    flat = [y for y in dotted if any(np.isclose(y, share) for share in shares)]
    assert len(flat) >= len(shares)


def test_the_confusion_matrix(drawn):
    evaluation, _, _, figures = drawn
    (axes,) = figures["confusion_matrix"].axes
    names, labels = evaluation.class_names, evaluation.predictions.labels
    expected = []
    for text in axes.texts:
        column, row = text.get_position()
        count = np.sum((labels == row) & (evaluation.scored.predicted == column))
        share = count / np.sum(labels == row)
        expected.append(f"{count:,}\n{100 * share:.1f}%")
        assert text.get_text() == expected[-1]
        assert axes.images[0].get_array()[row, column] == pytest.approx(share)
    assert numbered(figures["confusion_matrix"]) == sorted(expected)
    assert len(expected) == len(names) ** 2
    for axis, title in ((axes.xaxis, "predicted"), (axes.yaxis, "truth")):
        assert ticks(axis) == {name: i for i, name in enumerate(names)}
        assert axis.get_label_text() == title


def test_the_reliability_diagram(drawn):
    evaluation, _, summary, figures = drawn
    (axes,) = figures["calibration"].axes
    assert numbered(figures["calibration"]) == []
    assert list(legend(axes)) == list(judged(evaluation))
    containers = {container.get_label(): container for container in axes.containers}
    for name, bars in zip(judged(evaluation), segments(axes), strict=True):
        bins = summary["calibration"]["bins"][evaluation.class_names.index(name)]
        shown = np.asarray(containers[name].lines[0].get_xydata())
        wanted = [(row["predicted"], row["observed"]) for row in bins]
        np.testing.assert_allclose(shown, wanted)
        truth, score = judged(evaluation)[name]
        counted = sum(row["n"] * row["observed"] for row in bins)
        assert counted == pytest.approx(truth.sum())
        assert sum(row["n"] * row["predicted"] for row in bins) == pytest.approx(
            score.sum()
        )
        for bar, row in zip(bars, bins, strict=True):
            ends = row["ci95"] or [row["observed"]] * 2
            np.testing.assert_allclose(np.sort(bar[:, 1]), ends, atol=1e-12)


def test_predictive_values_follow_bayes(drawn):
    _, _, summary, figures = drawn
    if not summary["operating_points"]:
        assert "predictive_values" not in figures
        return
    figure = figures["predictive_values"]
    shares = {f"{percent}%": percent / 100 for percent in (1, 3, 10, 30, 70)}
    assert numbered(figure) == sorted(2 * list(shares))
    panels = figure.axes
    points = {point["name"]: point["metrics"] for point in summary["operating_points"]}
    for axes, kind in zip(panels, ("ppv", "npv"), strict=True):
        assert ticks(axes.xaxis) == pytest.approx(shares)
        assert f"({kind.upper()})" in axes.get_title(loc="left")
        for text in legend(panels[0]):
            rates = points[text.replace("\n", " ").split(" = ")[0]]
            ill, shown = line(axes, text).T
            found, spared = rates["recall"]["value"], rates["specificity"]["value"]
            right, wrong = found * ill, (1 - spared) * (1 - ill)
            if kind == "npv":
                right, wrong = spared * (1 - ill), (1 - found) * ill
            np.testing.assert_allclose(shown, right / (right + wrong))


def test_score_histograms(drawn):
    evaluation, validation, _, figures = drawn
    if not evaluation.binary:
        assert "score_histograms" not in figures
        return
    figure = figures["score_histograms"]
    tables = {"validation": validation, "test (judged here)": evaluation.predictions}
    expected = [f"{tick:g}" for tick in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)]
    for axes, (title, table) in zip(figure.axes, tables.items(), strict=True):
        assert axes.get_title(loc="left") == title
        for index, name in enumerate(table.class_names):
            scores = table.probabilities[table.labels == index, 1]
            expected.append(f"{name} ({len(scores):,})")
            (patch,) = [p for p in axes.patches if p.get_label() == expected[-1]]
            heights = np.unique(np.round(patch.get_xy()[:, 1], 9))
            logits = np.clip(special.logit(scores), -8.999, 8.999)
            counts, _ = np.histogram(logits, np.linspace(-9, 9, 49))
            wanted = np.unique(np.round(np.append(counts, 0) / len(scores), 9))
            np.testing.assert_allclose(heights, wanted)
        assert axes.lines[0].get_xdata()[0] == pytest.approx(special.logit(0.43))
    assert numbered(figure) == sorted(expected)
    for label, place in ticks(figure.axes[-1].xaxis).items():
        assert special.expit(place) == pytest.approx(float(label))
    assert "dashed: threshold" in figure.axes[-1].get_xlabel()


def test_subgroups(drawn):
    _, _, summary, figures = drawn
    labels = {"roc_auc": "ROC AUC", "recall": "sensitivity"}
    groups, wanted = {}, []
    for grouping, metric, names in report_figures.compared_groups(summary):
        found = summary["subgroups"][grouping]
        groups[f"{grouping.replace('_', ' ')}: {labels[metric]}"] = [
            (f"{name} ({found[name]['n']:,})", found[name]["metrics"][metric])
            for name in names
        ]
        wanted.append(summary["metrics"][metric]["value"])
    assert len(groups) >= 3
    check_forest(figures["subgroups"], groups)
    dashed = [one for one in figures["subgroups"].axes[0].lines if one.is_dashed()]
    assert [one.get_xdata()[0] for one in dashed] == wanted
    top = 0  # each beside the rows of its own heading
    for one, rows in zip(dashed, groups.values(), strict=True):
        assert top < one.get_ydata()[0] < top + 1
        top += len(rows)
        assert top < one.get_ydata()[1] < top + 1
        top += 1


def check_forest(figure, groups):
    """Every line stands at its own label, and shows its value and interval."""
    (axes,) = figure.axes
    expected = [
        (text, entry)
        for heading, rows in groups.items()
        for text, entry in [(heading, None), *rows]
    ]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [text for text, _ in expected]
    told = {y: [] for y in range(len(labels))}
    for one in axes.lines:
        if not one.is_dashed():
            told[round(float(one.get_ydata()[0]))].append(one)
    for y, (_, entry) in enumerate(expected):
        if entry is None or entry["value"] is None:
            assert not told[y]
            continue
        interval, marker = told[y]
        assert marker.get_xdata()[0] == entry["value"]
        assert list(interval.get_xdata()) == (entry["ci95"] or [entry["value"]] * 2)
    told = [text for text in numbered(figure) if text not in labels]
    assert told in ([], ["Difference with 95 % interval"])


def test_runs_and_their_ensemble(tmp_path, monkeypatch):
    figures = watch(monkeypatch)
    metrics = [
        {"roc_auc": {"value": 0.8 + i / 100, "ci95": [0.7, 0.9]}} for i in range(3)
    ]
    metrics[1]["roc_auc"]["value"] = None
    summary = {
        "runs": [
            {"name": f"seed-{i}", "metrics": m} for i, m in enumerate(metrics[:2])
        ],
        "metrics": metrics[2],
    }
    report_figures.draw_runs(tmp_path / "runs.png", summary, ("roc_auc",))
    rows = zip(("seed-0", "seed-1", "ensemble"), metrics, strict=True)
    check_forest(
        figures["runs"], {"ROC AUC": [(name, m["roc_auc"]) for name, m in rows]}
    )


@pytest.mark.slow  # imports TensorFlow
def test_the_differences_of_two_runs(tmp_path, monkeypatch):
    from cxr.evaluation import opening, several_runs, split_predictions

    figures = watch(monkeypatch)
    tables = {"a": fabricated.clustered(1), "b": fabricated.clustered(1, separation=4)}
    monkeypatch.setattr(
        split_predictions, "obtain", lambda run, *_: tables[run.workdir.name]
    )
    monkeypatch.setattr(several_runs, "_met_in_training", lambda *_: [])
    info = SimpleNamespace(positive_class="PNEUMONIA", threshold=Threshold(**FROZEN))
    opened = [
        (
            SimpleNamespace(workdir=tmp_path / name, info=info),
            SimpleNamespace(
                manifest=SimpleNamespace(name="tiny", version="1.0.0", flags={}),
                split_policy="grouped",
            ),
        )
        for name in tables
    ]
    config = opening.EvaluateConfig(
        compare=("a", "b"), output_dir=str(tmp_path), draws=100
    )
    found = several_runs.compare_runs(*opened, config)
    wanted = comparison.compare(
        *(Evaluation(t, "test", "PNEUMONIA", FROZEN, 100) for t in tables.values()),
        ("a", "b"),
    )
    assert found == wanted | {"warnings": []}
    rows = [(name, entry) for name, entry in wanted["differences"].items()]
    check_forest(figures["differences"], {"b - a": rows})
    page = (tmp_path / "report.html").read_text()
    assert f"{wanted['differences']['roc_auc']['value']:.4f}" in page


def numbered_films(indices):
    """A film whose grey is its index, so that a picture tells which it shows."""
    return np.repeat(np.repeat(indices.astype(np.uint8)[:, None, None], 8, 1), 8, 2)


def shown_films(figure):
    """(index, caption, frame) of every film in a grid."""
    for axes in figure.axes:
        if axes.images:
            index = int(axes.images[0].get_array()[0, 0])
            yield index, axes.get_xlabel(), axes.spines["top"]


def test_samples_and_mistakes(tmp_path, monkeypatch):
    figures = watch(monkeypatch)
    table = fabricated.clustered(3, separation=1.0)
    evaluation = ask(table)
    assert len(table.labels) < 256
    film_plots.draw_films(tmp_path, evaluation, numbered_films)
    for name, count in (("samples", 12), ("mistakes", 12)):
        shown, expected = list(shown_films(figures[name])), []
        assert len(shown) == count
        for index, caption, frame in shown:
            p, truth = table.probabilities[index, 1], table.labels[index]
            said = int(p >= FROZEN["value"])
            names = table.class_names[truth], table.class_names[said]
            number = f"#{index + 1}, "
            assert caption == f"{number}truth {names[0]}\nsaid {names[1]}, p {p:.3f}"
            expected.append(caption)
            colour = plotting.GREEN if truth == said else plotting.RED
            assert frame.get_edgecolor() == matplotlib.colors.to_rgba(colour)
            assert (truth != said) or name == "samples"
        assert numbered(figures[name]) == sorted(expected)
    assert "Missed PNEUMONIA (false negatives)" in words(figures["mistakes"])


def test_heat_is_drawn_to_its_own_scale(tmp_path, monkeypatch):
    figures = watch(monkeypatch)
    heat = np.random.default_rng(0).normal(size=(8, 8))
    film = film_plots.Pictured(numbered_films(np.array([7]))[0], "p 0.500", True, heat)
    film_plots.grid({"a": [film._replace(heat=None), film]}, tmp_path / "heat.png")
    plain, heated, *_ = figures["heat"].axes
    np.testing.assert_allclose(heated.images[1].get_array(), heat / np.abs(heat).max())
    # The plain film carries the caption, its twin what the colours mean.
    assert (plain.get_xlabel(), len(plain.images)) == ("p 0.500", 1)
    assert numbered(figures["heat"]) == ["p 0.500"]
    positive = heated.images[1].to_rgba(np.array([[1.0]]), norm=True)[0, 0]
    assert positive[0] > positive[2]  # orange: more red than blue


HISTORY = [
    {
        "stage": "head" if epoch < 3 else "fine_tune",
        "loss": 1 / epoch,
        "val_loss": None if epoch == 2 else 1.5 / epoch,
        "accuracy": 1 - 0.5 / epoch,
        "val_accuracy": 1 - 0.6 / epoch,
        "val_roc_auc": 0.9 + epoch / 100,
        "learning_rate": 10.0**-epoch,
    }
    for epoch in range(1, 6)
]
DRAWN_COLUMNS = {
    (0, "training"): "loss",
    (0, "validation"): "val_loss",
    (1, "training"): "accuracy",
    (1, "validation"): "val_accuracy",
    (1, "validation ROC AUC"): "val_roc_auc",
    (2, ""): "learning_rate",
}


def test_training_curves(tmp_path, monkeypatch):
    figures = watch(monkeypatch)
    curves.training_curves(HISTORY, tmp_path / "curves.png")
    panels = figures["curves"].axes
    for (panel, label), column in DRAWN_COLUMNS.items():
        lines = [one for one in panels[panel].lines if one.get_linestyle() != ":"]
        (found,) = [one for one in lines if not label or one.get_label() == label]
        wanted = [np.nan if row[column] is None else row[column] for row in HISTORY]
        np.testing.assert_array_equal(found.get_ydata(), wanted)
        np.testing.assert_array_equal(found.get_xdata(), range(1, 6))
    for axes in panels[:2]:
        assert [(text.get_text(), text.xy[0]) for text in axes.texts] == [
            (" fine_tune", 2.5)  # between the second epoch and the third
        ]
        marks = [one.get_xdata()[0] for one in axes.lines if one.get_linestyle() == ":"]
        assert marks == [2.5]
    assert numbered(figures["curves"]) == []


@pytest.mark.parametrize(("metric", "epoch"), [("val_loss", 4), ("val_accuracy", 2)])
def test_training_curves_mark_the_epoch_that_is_published(
    tmp_path, monkeypatch, metric, epoch
):
    figures = watch(monkeypatch)
    better = {"val_loss": [5, 4, 3, 1, 2], "val_accuracy": [0.1, 0.9, 0.3, 0.2, 0.4]}
    rows = [
        {**row, **{name: values[i] for name, values in better.items()}}
        for i, row in enumerate(HISTORY)
    ]
    config = TrainConfig(best_metric=metric)
    curves.training_curves(rows, tmp_path / "curves.png", config=config)
    for axes in figures["curves"].axes[:2]:
        label = f"best: epoch {epoch}"
        (mark,) = [line for line in axes.lines if line.get_label() == label]
        assert list(mark.get_xdata()) == [epoch, epoch]
        assert label in [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_caption_tells_only_what_is_switched_on(tmp_path, monkeypatch):
    """Why validation loss can lie below training loss."""
    flags = {"augmentation": "none", "dropout": 0.0}
    plain = curves.caption(TrainConfig(**flags))
    assert "mean over the epoch" in plain
    for flag, value in {
        "augmentation": "strong",
        "dropout": 0.25,
        "label_smoothing": 0.1,
        "debias": 0.5,
        "class_weights": "balanced",
    }.items():
        assert f"--{flag}" not in plain
        on = curves.caption(TrainConfig(**{**flags, flag: value}))
        assert f"--{flag}={value}" in on
        assert on.count("--") == 1
    figures = watch(monkeypatch)
    config = TrainConfig(dropout=0.25)
    curves.training_curves(HISTORY, tmp_path / "curves.png", config=config)
    shown = figures["curves"].get_supxlabel()
    assert shown.replace("\n", " ") == curves.caption(config)


def bench_document(sweep):
    rates = {"read": 23_456.4, "decode": 3_900.5, "batch": 3_100.0, "step": 5_694.6}
    return {
        "stages": [
            {
                "name": name,
                "images_per_sec": {
                    "median": rate,
                    "min": 0.8 * rate,
                    "max": 1.1 * rate,
                },
            }
            for name, rate in rates.items()
        ],
        "bottleneck": {"bound": "input", "rung": "decode"},
        "sweep": sweep,
    }


def test_the_benchmarks_picture(tmp_path, monkeypatch):
    figures = watch(monkeypatch)
    sweep = [
        {"batch_size": size, "step": 40.0 * size, "train": 30.0 * size}
        for size in (16, 32, 64)
    ]
    full = {"batch_size": 128, "step": None, "train": None}  # memory was
    document = bench_document([*sweep, full])
    bench_report.plot(document, tmp_path / "bench.png")
    cases, sizes = figures["bench"].axes
    names = [label.get_text() for label in cases.get_yticklabels()]
    (errors,) = segments(cases)
    for bar, error, case in zip(cases.patches, errors, document["stages"], strict=True):
        rate = case["images_per_sec"]
        assert bar.get_width() == rate["median"]
        assert names[round(bar.get_y() + bar.get_height() / 2)] == case["name"]
        assert sorted(error[:, 0]) == pytest.approx([rate["min"], rate["max"]])
        limits = case["name"] == document["bottleneck"]["rung"]
        assert bool(bar.get_hatch()) == limits
    assert numbered(figures["bench"]) == sorted(
        ["23,456", "3,900  bottleneck", "3,100", "5,695", "16", "32", "64"]
    )
    for name in ("step", "train"):
        wanted = [(row["batch_size"], row[name]) for row in sweep]
        np.testing.assert_array_equal(line(sizes, name), wanted)
    assert ticks(sizes.xaxis) == {"16": 16, "32": 32, "64": 64}


# --- names that others gave

NAMES = {
    "mathematics": ("$\\frac$", "$x^2$"),
    "code": ("_a_^b", "=1+1 <b>x</b>"),
    "long and alike": ("A" * 20 + "b" * 80, "A" * 20 + "c" + "b" * 79),
    "no glyph": ("\N{CJK UNIFIED IDEOGRAPH-75C5}" * 2, "Пневмония صحي\a"),
}


@pytest.mark.parametrize(
    "kind",
    [
        "mathematics",
        "long and alike",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("code", "no glyph")),
    ],
)
def test_no_name_is_interpreted_or_lost(kind, tmp_path, monkeypatch):
    figures = watch(monkeypatch)
    table, validation = (
        dataclasses.replace(
            fabricated.clustered(seed, patients=25, separation=1.0),
            class_names=NAMES[kind],
        )
        for seed in (1, 2)
    )
    evaluation = ask(table)
    rows = fabricated.example_rows(table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph is missing, a panel has no room
        warnings.simplefilter("ignore", ResourceWarning)  # garbage of other tests
        summary = summarise(evaluation, rows=rows, validation=validation)
        name, mode = NAMES[kind][0], "subtype"
        summary["subgroups"] = {name: summary["subgroups"][mode]}
        compared = summary["subgroup_notes"]["compared_on"]
        summary["subgroup_notes"]["compared_on"] = {name: compared[mode]}
        pictures = report_figures.draw(tmp_path, summary, evaluation, validation)
        films = film_plots.draw_films(tmp_path, evaluation, numbered_films)
        pictures |= {name: drawn.path for name, drawn in films.items()}
        report_figures.draw_runs(
            tmp_path / "runs.png",
            {
                "runs": [
                    {"name": n, "metrics": summary["metrics"]} for n in NAMES[kind]
                ],
                "metrics": summary["metrics"],
            },
            ("accuracy",),
        )
    short = plotting.short_names(NAMES[kind])
    assert len(set(short)) == 2
    counts = zip(short, evaluation.class_counts.values(), strict=True)
    legends = {f"{name} ({count:,})" for name, count in counts}
    assert legends <= set(words(figures["score_histograms"]))
    assert any(text.startswith(f"{short[1]} (AUC") for text in words(figures["roc"]))
    page = fabricated.page(summary, pictures, {})
    assert "<b>x" not in page
