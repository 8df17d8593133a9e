"""Draws samples, mistakes and Grad-CAM overlays of a split's images."""

import itertools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr import cli, images
from cxr.metrics.evaluation import Evaluation
from cxr.metrics.predictions import Predictions
from cxr.prediction import overlay
from cxr.reporting import formatting, plotting

if TYPE_CHECKING:
    from cxr.prediction.predictor import Predictor

_COLUMNS = 6
_SAMPLES = 12
_MISTAKES = 6  # of each kind
_EXPLAINED = 6  # films of each kind
_MARGIN = 0.1
_CLEARLY_MORE = 1.25  # times its area: a part of the border that is warned of

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
    name = _positive_name(evaluation)
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
                caption=f"truth {names[truth]}\nsaid {names[said]}, p "
                f"{formatting.probability(scored.probabilities[index, shown])}",
                right=bool(truth == said),
                heat=None if heat is None else heat[place],
            )
        )
    return pictured


def _positive_name(evaluation: Evaluation) -> str:
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
        share, opaque = overlay.opacity(film.heat)
        axes.imshow(share, cmap=overlay.SIGNED, vmin=-1, vmax=1, alpha=opaque)
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
        cli.note(f"no Grad-CAM: {error}")
        return None
    pixels = images.area_resize(read(chosen), predictor.image_size)
    positive = evaluation.class_names.index(evaluation.positive_class)
    heat = explainer.heat(pixels[..., None], positive)
    shares = gradcam.border_shares(heat, margin=_MARGIN)
    areas = gradcam.border_areas(heat.shape[1:], margin=_MARGIN)
    pictured = make_pictured(evaluation, chosen, pixels, heat)
    groups, rest = {}, iter(pictured)
    for title, indices in sections.items():
        some = list(itertools.islice(rest, len(indices)))[:_EXPLAINED]
        # Each plain, then with its heat.
        groups[title] = [
            one for film in some for one in (film._replace(heat=None), film)
        ]
    grid(groups, path)
    return describe_attention(evaluation.positive_class, shares, areas)


def _choose_explained(evaluation: Evaluation, count: int) -> dict[str, np.ndarray]:
    """Heading -> indices: a quarter each mistakes of both kinds, the rest right."""
    scored = evaluation.scored
    mistakes = {
        title: indices[: count // 4] for title, indices in hardest(evaluation).items()
    }
    left = count - sum(len(indices) for indices in mistakes.values())
    positive = evaluation.class_names.index(evaluation.positive_class)
    right = (scored.predicted == positive) & (scored.labels == positive)
    order = np.random.default_rng(evaluation.seed).permutation(len(right))
    return {
        f"{_positive_name(evaluation)}, rightly found (at random)": order[right[order]][
            :left
        ],
        **mistakes,
    }


def describe_attention(
    class_name: str, shares: Mapping[str, np.ndarray], areas: Mapping[str, float]
) -> dict[str, Any]:
    """Puts into numbers and words how much of the attention lies on the border.

    Args:
      class_name: for which the films speak.
      shares: of `gradcam.border_shares`, float [N] each.
      areas: of `gradcam.border_areas`, of the same parts.

    Returns:
      The `attention` of metrics.json; shares are means over the films on which
      anything speaks for the class, None where there is no such film.
    """
    first = next(iter(shares.values()))
    known = np.isfinite(first)
    found: dict[str, Any] = {
        "class": class_name,
        "films": len(first),
        "films_known": int(known.sum()),
        "border_area": sum(areas.values()),
    }
    if not known.any():
        return found | {
            "border_share": None,
            "parts": {n: {"share": None, "area": area} for n, area in areas.items()},
            "alarm": False,
            "line": f"On none of {len(first)} films does anything speak for "
            f"{class_name}.",
        }
    means = {name: float(share[known].mean()) for name, share in shares.items()}
    found["border_share"] = sum(means.values())
    # Rounded as they are shown, so that words and numbers cannot disagree.
    times = {n: round(mean / max(areas[n], 1e-12), 2) for n, mean in means.items()}
    whole = round(found["border_share"] / found["border_area"], 2)
    alarm = whole > 1 or max(times.values()) >= _CLEARLY_MORE
    return found | {
        "parts": {n: {"share": mean, "area": areas[n]} for n, mean in means.items()},
        "alarm": alarm,
        "line": _attention_line(found, times)
        + (_attention_alarm(times) if alarm else ""),
    }


def _attention_line(found: Mapping[str, Any], times: Mapping[str, float]) -> str:
    count = found["films_known"]
    of = "" if count == found["films"] else f" of {found['films']}"
    films = "film" if found["films"] == 1 else "films"
    listed = ", ".join(f"{name} {value:.2f}" for name, value in times.items())
    return (
        f"On {count}{of} {films} {found['border_share']:.1%} of what speaks for "
        f"{found['class']} lies on the outer tenth at each edge, "
        f"{found['border_area']:.1%} of the area. Each part holds so many times its "
        f"share of the area: {listed}."
    )


def _attention_alarm(times: Mapping[str, float]) -> str:
    worst = max(times, key=lambda name: times[name])
    corners = worst == "corners"
    part = "corners hold" if corners else f"{worst} edge holds"
    return (
        f" The {part} {times[worst]:.2f} times {'their' if corners else 'its'} share: "
        "the model may read markers or print, a shortcut."
    )
