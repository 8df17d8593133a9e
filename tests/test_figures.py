"""Every picture is a PNG that reads at 800 pixels and repeats byte for byte."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from cxr.evaluation import attention as explained
from cxr.evaluation import film_plots, plots
from cxr.metrics import classification
from cxr.metrics.evaluation import Evaluation
from cxr.reporting import plotting
from cxr.training import curves
from tests import fabricated
from tests.figure_reading import legend, watch

ROWS = [
    {
        "epoch": epoch,
        "stage": "head" if epoch < 4 else "fine_tune",
        "loss": 1 / epoch,
        "accuracy": 1 - 0.5 / epoch,
        "val_loss": 1.2 / epoch,
        "val_accuracy": 1 - 0.6 / epoch,
        "val_roc_auc": None if epoch == 1 else 0.9,
        "learning_rate": 1e-3,
    }
    for epoch in range(1, 7)
]
TABLE = fabricated.clustered(0)
CURVE = classification.ranking_curves(TABLE.labels == 1, TABLE.probabilities[:, 1])
FILM = film_plots.Pictured(np.full((32, 32), 90, np.uint8), "truth A\nsaid B", False)
HEAT = film_plots.Pictured(
    FILM.pixels, "x", True, np.linspace(-1, 1, 1024).reshape(32, 32)
)
SCORES = {"NORMAL": TABLE.probabilities[:50, 1], "PNEUMONIA": np.array([1.0, 0.0])}
ENTRY = {"label": "a", "value": 0.8, "ci95": [0.7, 0.9]}

DRAWINGS = {
    "training": lambda path: curves.training_curves(ROWS, path),
    "one epoch": lambda path: curves.training_curves(ROWS[:1], path),
    "no epoch": lambda path: curves.training_curves([], path),
    "only gaps": lambda path: curves.training_curves([{"stage": "train"}] * 2, path),
    "roc": lambda path: plots.roc({"a": CURVE}, path, points={"p": (0.9, 0.8)}),
    "pr": lambda path: plots.precision_recall(
        {"a": CURVE}, path, base_rates={"a": 0.5}
    ),
    "confusion": lambda path: plots.confusion_matrix(
        [[5, 0], [0, 0]], ["A", "B"], path
    ),
    "calibration": lambda path: plots.calibration(
        {"a": [{"predicted": 0.4, "observed": 0.5, "ci95": None}]}, path
    ),
    "histograms": lambda path: plots.score_histograms(
        {"validation": SCORES, "test": {**SCORES, "NORMAL": np.zeros(0)}},
        path,
        threshold=1.0,
        xlabel="p",
    ),
    "predictive": lambda path: plots.predictive_values({"a": (1.0, 0.0)}, path),
    "forest": lambda path: plots.forest(
        {"g": [ENTRY, {**ENTRY, "value": None}, {**ENTRY, "ci95": None}]},
        path,
        title="t",
        reference=None,
    ),
    "films": lambda path: film_plots.grid({"wrong": [FILM] * 7, "right": [FILM]}, path),
    "heat": lambda path: film_plots.grid({"a": [HEAT] * 4}, path),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_a_wide_png_that_repeats(name, tmp_path):
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    DRAWINGS[name](first)
    with Image.open(first) as image:
        assert image.format == "PNG"
        assert image.width >= 800
        # Something is drawn: the page is not one colour.
        assert len(image.convert("L").getcolors()) > 2
    DRAWINGS[name](second)
    assert first.read_bytes() == second.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"first.png", "second.png"}


def test_colours_differ_in_lightness_or_hue_for_the_colour_blind():
    # Deuteranopia after Vienot et al. (1999): red and green fall together, so what
    # is left of a colour is its yellow-blue balance and its lightness.
    seen = []
    for colour in plotting.CYCLE:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        yellow = 0.29 * red**2.2 + 0.71 * green**2.2
        seen.append((yellow ** (1 / 2.2), blue))
    for i, first in enumerate(seen[:4]):
        for second in seen[:i]:
            assert np.hypot(*np.subtract(first, second)) > 0.15


def test_heat_of_one_sign_does_not_colour_the_other(tmp_path):
    path = tmp_path / "heat.png"
    film = film_plots.Pictured(
        np.full((32, 32), 128, np.uint8), "x", True, np.full((32, 32), 1.0)
    )
    film_plots.grid({"for": [film._replace(heat=None), film]}, path)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    middle = pixels[:220, 300:480]  # the film with its heat, left of its frame
    reddish = (middle[..., 0] - middle[..., 2]) > 60
    bluish = (middle[..., 2] - middle[..., 0]) > 60
    bluish &= middle[..., 2] > middle[..., 1]  # not the green frame
    assert reddish.mean() > 0.2
    assert bluish.mean() < 0.01


def test_the_hardest_films_are_the_wrong_ones_it_was_surest_of():
    frozen = {"value": 0.5, "rule": "", "chosen_on": ""}
    evaluation = Evaluation(TABLE, "test", "PNEUMONIA", frozen)
    missed, alarms = film_plots.hardest(evaluation).values()
    score = TABLE.probabilities[:, 1]
    assert set(TABLE.labels[missed]) == {1} and set(TABLE.labels[alarms]) == {0}
    assert np.all(score[missed] < 0.5) and np.all(np.diff(score[missed]) >= 0)
    assert np.all(score[alarms] >= 0.5) and np.all(np.diff(score[alarms]) <= 0)
    assert score[alarms[0]] == score[TABLE.labels == 0].max()


def test_samples_show_the_classes_in_turn():
    chosen = film_plots.sample(TABLE, seed=0)
    assert np.bincount(TABLE.labels[chosen]).tolist() == [6, 6]
    assert len(set(chosen.tolist())) == 12
    assert not np.array_equal(chosen, film_plots.sample(TABLE, seed=1))


AREAS = {"left": 0.08, "right": 0.08, "top": 0.08, "bottom": 0.08, "corners": 0.04}


def attention(films=10, **times):
    """What is said of films whose border parts hold so many times their share."""
    shares = {n: np.full(films, a * times.get(n, 1.0)) for n, a in AREAS.items()}
    return explained.describe("ILL", shares, AREAS)


def test_attention_is_told_in_numbers_part_by_part():
    found = attention(left=0.5, right=1.34, top=0.25, bottom=0.5, corners=0.0)
    right = pytest.approx(0.1072)
    same = {"share": right, "ci95": [right, right], "area": 0.08}
    assert found["parts"]["right"] == same
    assert found["border_share"] == pytest.approx(0.08 * 2.59)
    assert found["border_share"] < found["border_area"] == pytest.approx(0.36)
    # The border as a whole is spared, yet its right edge is not.
    assert found["alarm"]
    assert found["line"] == (
        "On 10 films 20.7% (95 % over films: 20.7% to 20.7%) of what speaks for ILL "
        "lies on the outer tenth at each edge, 36.0% of the area. Each part holds so "
        "many times its share of the area: left 0.50, right 1.34, top 0.25, "
        "bottom 0.50, corners 0.00. The right "
        "edge holds 1.34 times its share: the model may read markers or print, a "
        "shortcut."
    )


def test_attention_that_spares_the_border_acquits_nobody():
    found = attention(left=0.9, right=1.2, top=0.2, bottom=0.2, corners=0.1)
    assert not found["alarm"]
    assert found["line"].endswith(
        "bottom 0.20, corners 0.10. That is no proof that it looks at lungs."
    )
    assert not attention()["alarm"]  # no preference is none


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"corners": 2.0}, "The corners hold 2.00 times their share"),
        ({"left": 1.1}, "The left edge holds 1.10 times its share"),
    ],
)
def test_attention_names_the_part_that_holds_most(times, said):
    found = attention(**times)
    assert found["alarm"]
    assert said in found["line"]


def test_attention_counts_only_films_on_which_something_speaks():
    shares = {n: np.array([a, np.nan]) for n, a in AREAS.items()}
    found = explained.describe("ILL", shares, AREAS)
    assert (found["films"], found["films_known"]) == (2, 1)
    assert found["line"].startswith("On 1 of 2 films 36.0% of what speaks for ILL")
    nothing = {n: np.full(2, np.nan) for n in AREAS}
    found = explained.describe("ILL", nothing, AREAS)
    assert found["line"] == "On none of 2 films does anything speak for ILL."
    assert found["border_share"] is None and not found["alarm"]
    json.dumps(found, allow_nan=False)


def test_class_names_stay_apart_and_fit():
    long = ["pneumonia of bacteria " * 3 + end for end in ("left", "right")]
    shown = plotting.short_names([*long, "NORMAL", "_x", "x" * 30 + "y" * 30])
    assert len(set(shown)) == 5
    assert max(map(len, shown)) <= 24
    assert shown[2] == "NORMAL"
    assert shown[3] == " _x"  # Matplotlib drops a label that begins with _
    alike = plotting.short_names(["a" * 30 + "b" * 30, "a" * 30 + "c" + "b" * 29])
    assert [name[-3:] for name in alike] == [" #1", " #2"]
    assert plotting.short_names(["\u75c5", "\u6bd2"]) == ["U+75C5", "U+6BD2"]


def test_nothing_that_we_write_is_mathematics_but_powers_of_ten_are(tmp_path):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [1, 100], label="$x$")
    left.set_yscale("log")
    left.legend(title="$\\frac$")
    plotting.dress(left, "$\\frac$", "$\\frac$", "$\\frac$")
    left.annotate("$\\frac$", (0.5, 0.5))
    right.set_xticks([0, 1], ["$\\frac$", "\u75c5"])
    right.bar_label(right.bar([0, 1], [1, 2]), ["$\\frac$", "$x$"])
    figure.suptitle("$\\frac$")
    plotting.save(figure, tmp_path / "a.png")  # would fail: \\frac lacks its parts
    read = [text for text in figure.findobj(Text) if "$" in text.get_text()]
    ticks = {id(label) for label in left.yaxis.get_ticklabels(which="both")}
    assert len(read) > 9
    for text in read:
        assert text.get_parse_math() == (id(text) in ticks), text
    assert [t.get_text() for t in right.get_xticklabels()] == ["$\\frac$", "U+75C5"]


def test_many_classes_and_points_all_are_drawn(tmp_path, monkeypatch):
    figures = watch(monkeypatch)
    row = {"predicted": 0.4, "observed": 0.5, "ci95": None}
    names = [f"class {i}" for i in range(9)]
    plots.calibration({name: [row] for name in names}, tmp_path / "calibration.png")
    assert list(legend(figures["calibration"].axes[0])) == names
    points = {name: (0.9, i / 10) for i, name in enumerate(names)}
    plots.roc({"a": CURVE}, tmp_path / "roc.png", points=points)
    assert list(legend(figures["roc"].axes[0])) == ["a", *names]


def test_a_threshold_above_every_score_is_drawn_at_the_edge(tmp_path, monkeypatch):
    figures = watch(monkeypatch)
    plots.score_histograms(
        {"test": SCORES},
        tmp_path / "above.png",
        threshold=float(np.nextafter(1.0, 2.0)),
        xlabel="p",
    )
    assert figures["above"].axes[0].lines[0].get_xdata()[0] == pytest.approx(9)
    plots.score_histograms(
        {"test": SCORES}, tmp_path / "none.png", threshold=None, xlabel="p"
    )
    assert "dashed" not in figures["none"].axes[0].get_xlabel()


def test_a_class_without_films_has_no_share(tmp_path, monkeypatch):
    figures = watch(monkeypatch)
    plots.confusion_matrix([[5, 1], [0, 0]], ["A", "B"], tmp_path / "table.png")
    cells = [text.get_text() for text in figures["table"].axes[0].texts]
    assert cells == ["5\n83.3%", "1\n16.7%", "0", "0"]


def test_outside_the_body_is_the_black_that_touches_the_edge():
    film = np.full((40, 40), 120, np.uint8)
    film[:, :6] = 3  # air at the left edge
    film[10:20, 15:25] = 5  # a lung, as dark, within the body
    film[30:34, 36:] = 20  # not black
    found = explained.outside(film)
    assert found[:, :6].all() and found.sum() == 6 * 40


def test_attention_outside_the_body_is_counted_where_there_is_any():
    films = np.full((3, 20, 20), 120, np.uint8)
    films[:2, :, :5] = 0
    heat = np.ones((3, 20, 20), np.float32)
    heat[1, :, :5] = 3.0
    heat[0, 10:, 10:] = -1.0  # what speaks against does not count
    found = explained._outside(heat, films)
    assert found["films"] == 2 and found["area"] == 0.25
    shares = [100 / 300, 300 / 600]
    assert found["share"] == pytest.approx(np.mean(shares))
    low, high = found["ci95"]
    assert low <= found["share"] <= high
    nothing = explained._outside(heat[2:], films[2:])
    assert nothing["films"] == 0 and nothing["share"] is None
