"""Draws films of a split, in their true proportions, with their numbers."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr.evaluation import film_table
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.predictions import Predictions
from cxr.prediction import overlay
from cxr.reporting import formatting, plotting

_COLUMNS = 6
_SAMPLES = 12
_MISTAKES = 6  # of each kind
_BAR = 0.7  # inches of the colour bar
# Indices of a split -> uint8 [n, S, S].
ReadImages = Callable[[np.ndarray], np.ndarray]


class Pictured(NamedTuple):
    """An image with what is said about it.

    Attributes:
      pixels: uint8 [S, S].
      caption: one or two short lines below it.
      right: whether the model was right; its frame tells.
      heat: float [S, S], positive where it speaks for the class, or None.
      proportion: height by width of the film, which is stored squashed to a square.
    """

    pixels: np.ndarray
    caption: str
    right: bool
    heat: np.ndarray | None = None
    proportion: float = 1.0


class Drawn(NamedTuple):
    """A picture: its PNG, and of films their indices in the order shown."""

    path: pathlib.Path
    indices: np.ndarray | None = None


def proportions(rows: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Height by width of each film, float64 [n].

    Args:
      rows: of examples.csv, in index order.
    """
    sizes = np.array(
        [(int(row["source_height"]), int(row["source_width"])) for row in rows], float
    ).reshape(-1, 2)
    return sizes[:, 0] / sizes[:, 1]


def draw_films(
    folder: pathlib.Path,
    evaluation: Evaluation,
    read: ReadImages,
    shapes: np.ndarray | None = None,
) -> dict[str, Drawn]:
    """Draws the sample predictions and the hardest mistakes.

    Args:
      folder: where the PNGs go.
      evaluation: the predictions.
      read: indices to images.
      shapes: of `proportions`; squares if None.
    """
    samples = sample(evaluation.predictions, seed=evaluation.seed)
    pictures = {
        "samples": {"Sample predictions": samples},
        "mistakes": hardest(evaluation),
    }
    drawn = {}
    for name, sections in pictures.items():
        if any(map(len, sections.values())):
            groups = {
                title: make_pictured(evaluation, found, read(found), shapes=shapes)
                for title, found in sections.items()
                if len(found)
            }
            shown = np.concatenate(list(sections.values()))
            drawn[name] = Drawn(folder / f"{name}.png", shown)
            grid(groups, drawn[name].path)
    return drawn


def sample(table: Predictions, *, seed: int, count: int = _SAMPLES) -> np.ndarray:
    """Indices of films drawn at random, the classes in turn, int64 [<= count]."""
    order = np.random.default_rng(seed).permutation(len(table.labels))
    rank = np.zeros(len(order), np.int64)
    for index in range(len(table.class_names)):
        members = order[table.labels[order] == index]
        rank[members] = np.arange(len(members))
    # The first of each class, then the second of each, ...
    return order[np.lexsort((table.labels[order], rank[order]))][:count]


def hardest(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Heading -> indices of the wrong films, those the model was surest of first."""
    scored = evaluation.scored
    wrong = film_table.wrong(evaluation)
    if scored.positive is None:
        return {"Mistakes it was surest of": wrong[: 2 * _MISTAKES]}
    ill = scored.labels[wrong] == scored.positive
    return {
        f"Missed {positive_name(evaluation)} (false negatives)": wrong[ill][:_MISTAKES],
        "False alarms (false positives)": wrong[~ill][:_MISTAKES],
    }


def make_pictured(
    evaluation: Evaluation,
    indices: np.ndarray,
    pixels: np.ndarray,
    heat: np.ndarray | None = None,
    *,
    shapes: np.ndarray | None = None,
) -> list[Pictured]:
    """Images with captions: number, truth, prediction and its probability.

    Args:
      evaluation: what is said of them.
      indices: of the examples, int [n].
      pixels: uint8 [n, S, S].
      heat: float [n, S, S] of Grad-CAM, or None.
      shapes: of all films of the split, of `proportions`; squares if None.
    """
    scored = evaluation.scored
    names = plotting.short_names(evaluation.class_names, length=12)
    predicted = scored.predicted
    pictured = []
    for place, index in enumerate(indices):
        truth, said = scored.labels[index], predicted[index]
        # Two classes: the probability that the threshold speaks of.
        shown = said if scored.positive is None else scored.positive
        pictured.append(
            Pictured(
                pixels[place],
                caption=f"#{index + 1}, truth {names[truth]}\nsaid {names[said]}, p "
                f"{formatting.probability(scored.probabilities[index, shown])}",
                right=bool(truth == said),
                heat=None if heat is None else heat[place],
                proportion=1.0 if shapes is None else float(shapes[index]),
            )
        )
    return pictured


def positive_name(evaluation: Evaluation) -> str:
    """The positive class, as pictures have room for it."""
    names = plotting.short_names(evaluation.class_names)
    return names[evaluation.class_names.index(evaluation.positive_class)]


def grid(sections: Mapping[str, Sequence[Pictured]], path: str | os.PathLike) -> None:
    """Draws images under headings, six a row.

    Args:
      sections: heading -> images; empty sections are left out.
      path: the PNG to publish.
    """
    blocks = [
        (heading if start == 0 else None, pictured[start : start + _COLUMNS])
        for heading, pictured in sections.items()
        for start in range(0, len(pictured), _COLUMNS)
    ]
    heights = [_height(row) + (0.35 if heading else 0.0) for heading, row in blocks]
    explained = any(f.heat is not None for _, row in blocks for f in row)
    heights += [_BAR] if explained else []
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    for part, (heading, row) in zip(parts[:, 0], blocks, strict=False):
        if heading:
            part.suptitle(heading, x=0.01, ha="left", fontsize=13, fontweight="bold")
        cells = part.subplots(1, _COLUMNS)
        for axes in cells:
            axes.set_axis_off()
        for axes, film in zip(cells, row, strict=False):
            _show(axes, film)
    if explained:
        overlay.colour_bar(parts[-1, 0])
    plotting.save(figure, path)


def _height(row: Sequence[Pictured]) -> float:
    """Inches of a row: its tallest film and the caption."""
    return 0.6 + 1.5 * min(max(film.proportion for film in row), 2.0)


def _show(axes: Axes, film: Pictured) -> None:
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.imshow(film.pixels, cmap="gray", vmin=0, vmax=255, aspect=film.proportion)
    if film.heat is not None:
        share, opaque = overlay.opacity(film.heat)
        axes.imshow(
            share,
            cmap=overlay.SIGNED,
            vmin=-1,
            vmax=1,
            alpha=opaque,
            aspect=film.proportion,
        )
        axes.set_xlabel("for (orange), against (blue)", fontsize=8.5)
    else:
        axes.set_xlabel(film.caption, fontsize=8.5)
    for spine in axes.spines.values():
        spine.set(
            color=plotting.GREEN if film.right else plotting.RED,
            linewidth=2.5,
            linestyle="-" if film.right else "--",
        )
