"""Draws samples, mistakes and Grad-CAM overlays of a split's images."""

import itertools
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from cxr import images
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.predictions import Predictions
from cxr.reporting import formatting, plotting

if TYPE_CHECKING:
    from cxr.prediction.predictor import Predictor

_COLUMNS = 6
_SAMPLES = 12
_MISTAKES = 6  # of each kind
_EXPLAINED = 6  # films of each kind
_MARGIN = 0.1
# Against (blue) to for (vermilion), clear in the middle.
_SIGNED = LinearSegmentedColormap.from_list(
    "signed", [plotting.BLUE, "#9ecae8", "#ffffff", "#f3b08a", plotting.RED]
)

# Indices of a split -> uint8 [n, S, S].
ReadImages = Callable[[np.ndarray], np.ndarray]


class Pictured(NamedTuple):
    """An image with what is said about it.

    Attributes:
      pixels: uint8 [S, S].
      caption: one or two short lines below it.
      right: whether the model was right; its frame tells.
      heat: float [S, S], positive where it speaks for the class, or None.
    """

    pixels: np.ndarray
    caption: str
    right: bool
    heat: np.ndarray | None = None


def draw_films(
    folder: pathlib.Path, evaluation: Evaluation, read: ReadImages
) -> dict[str, pathlib.Path]:
    """Draws the sample predictions and the hardest mistakes."""
    drawn = sample(evaluation.predictions, seed=evaluation.seed)
    pictures = {
        "samples": {"Sample predictions": drawn},
        "mistakes": hardest(evaluation),
    }
    paths = {}
    for name, sections in pictures.items():
        if any(map(len, sections.values())):
            paths[name] = folder / f"{name}.png"
            groups = {
                title: make_pictured(evaluation, found, read(found))
                for title, found in sections.items()
                if len(found)
            }
            grid(groups, paths[name])
    return paths


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
    wrong = scored.predicted != scored.labels
    true = scored.probabilities[np.arange(len(scored.labels)), scored.labels]
    surest = np.argsort(true, kind="stable")
    if scored.positive is None:
        found = surest[wrong[surest]][: 2 * _MISTAKES]
        return {"Mistakes it was surest of": found}
    name = evaluation.positive_class
    ill = scored.labels == scored.positive
    return {
        f"Missed {name} (false negatives)": surest[(wrong & ill)[surest]][:_MISTAKES],
        "False alarms (false positives)": surest[(wrong & ~ill)[surest]][:_MISTAKES],
    }


def make_pictured(
    evaluation: Evaluation,
    indices: np.ndarray,
    pixels: np.ndarray,
    heat: np.ndarray | None = None,
) -> list[Pictured]:
    """Images with captions: truth, prediction and its probability.

    Args:
      evaluation: what is said of them.
      indices: of the examples, int [n].
      pixels: uint8 [n, S, S].
      heat: float [n, S, S] of Grad-CAM, or None.
    """
    scored, names = evaluation.scored, evaluation.class_names
    predicted = scored.predicted
    pictured = []
    for place, index in enumerate(indices):
        truth, said = scored.labels[index], predicted[index]
        # Two classes: the probability that the threshold speaks of.
        shown = said if scored.positive is None else scored.positive
        pictured.append(
            Pictured(
                pixels[place],
                caption=f"truth {_short(names[truth])}\n"
                f"said {_short(names[said])}, p "
                f"{formatting.probability(scored.probabilities[index, shown])}",
                right=bool(truth == said),
                heat=None if heat is None else heat[place],
            )
        )
    return pictured


def _short(name: str) -> str:
    return name if len(name) <= 12 else name[:11] + "."


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
    heights = [2.1 + (0.35 if heading else 0.0) for heading, _ in blocks]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)
    for part, (heading, row) in zip(parts[:, 0], blocks, strict=True):
        if heading:
            part.suptitle(heading, x=0.01, ha="left", fontsize=13, fontweight="bold")
        cells = part.subplots(1, _COLUMNS)
        for axes in cells:
            axes.set_axis_off()
        for axes, film in zip(cells, row, strict=False):
            _show(axes, film)
    plotting.save(figure, path)


def _show(axes: Axes, film: Pictured) -> None:
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
    axes.imshow(film.pixels, cmap="gray", vmin=0, vmax=255)
    if film.heat is not None:
        strongest = max(float(np.abs(film.heat).max()), 1e-12)
        share = film.heat / strongest
        axes.imshow(share, cmap=_SIGNED, vmin=-1, vmax=1, alpha=0.65 * np.abs(share))
        axes.set_xlabel("for (orange), against (blue)", fontsize=8.5)
    else:
        axes.set_xlabel(film.caption, fontsize=8.5)
    for spine in axes.spines.values():
        spine.set(
            color=plotting.GREEN if film.right else plotting.RED,
            linewidth=2.5,
            linestyle="-" if film.right else "--",
        )


# --- Grad-CAM


def draw_grad_cam(
    path: pathlib.Path,
    predictor: "Predictor",
    evaluation: Evaluation,
    *,
    read: ReadImages,
    count: int,
) -> dict[str, Any] | None:
    """Explains right positives, drawn at random, and the hardest mistakes.

    Args:
      path: the PNG to publish.
      predictor: the model behind the predictions.
      evaluation: whose positive class is explained.
      read: indices to images.
      count: images to explain at most; one costs about two forward passes.

    Returns:
      What metrics.json says of it, or None where there is nothing to explain: no
      image, or a network without a convolutional map.
    """
    from cxr.prediction import gradcam  # TensorFlow: only where there is a model

    sections = _choose_explained(evaluation, count)
    chosen = np.concatenate(list(sections.values()))
    if not len(chosen):
        return None
    try:
        explainer = gradcam.GradCam(predictor.model)
    except ValueError as error:
        print(f"no Grad-CAM: {error}", file=sys.stderr)
        return None
    pixels = images.area_resize(read(chosen), predictor.image_size)
    positive = evaluation.class_names.index(evaluation.positive_class)
    heat = explainer.heat(pixels[..., None], positive)
    shares = gradcam.border_share(heat, margin=_MARGIN)
    pictured = make_pictured(evaluation, chosen, pixels, heat)
    groups, rest = {}, iter(pictured)
    for title, indices in sections.items():
        some = list(itertools.islice(rest, len(indices)))[:_EXPLAINED]
        # Each plain, then with its heat.
        groups[title] = [
            one for film in some for one in (film._replace(heat=None), film)
        ]
    grid(groups, path)
    return _describe_grad_cam(evaluation.positive_class, shares)


def _choose_explained(evaluation: Evaluation, count: int) -> dict[str, np.ndarray]:
    """Heading -> indices: a quarter each mistakes of both kinds, the rest right."""
    scored, name = evaluation.scored, evaluation.positive_class
    mistakes = {
        title: indices[: count // 4] for title, indices in hardest(evaluation).items()
    }
    left = count - sum(len(indices) for indices in mistakes.values())
    positive = evaluation.class_names.index(name)
    right = (scored.predicted == positive) & (scored.labels == positive)
    order = np.random.default_rng(evaluation.seed).permutation(len(right))
    return {
        f"{name}, rightly found (at random)": order[right[order]][:left],
        **mistakes,
    }


def _describe_grad_cam(class_name: str, shares: np.ndarray) -> dict[str, Any]:
    known = shares[np.isfinite(shares)]
    mean = float(known.mean()) if len(known) else None
    by_area = 1 - (1 - 2 * _MARGIN) ** 2
    alarm = mean is not None and mean > by_area
    if mean is None:
        line = f"On none of {len(shares)} films anything speaks for the class."
    else:
        line = (
            f"On {len(known)} films {mean:.0%} of what speaks for {class_name} lies on "
            f"the outer tenth of the film, which is {by_area:.0%} of its area"
        ) + (": the model may read markers or print, a shortcut." if alarm else ".")
    return {
        "class": class_name,
        "films": len(shares),
        "border_share": mean,
        "border_area": by_area,
        "alarm": alarm,
        "line": line,
    }
