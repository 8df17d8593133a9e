"""Grad-CAM on a few films of an evaluation, and the alarm for looking at the border."""

import pathlib
import sys
from typing import Any

import numpy as np

from cxr import images
from cxr.evaluation import film_plots, report_figures
from cxr.metrics.predictions import Predictions
from cxr.metrics.summary import Question, judge
from cxr.prediction import gradcam
from cxr.prediction.predictor import Predictor

_SHOWN = 6  # films of each kind
_MARGIN = 0.1


def draw(
    path: pathlib.Path,
    predictor: Predictor,
    table: Predictions,
    question: Question,
    *,
    read: report_figures.ReadFilms,
    count: int,
) -> dict[str, Any] | None:
    """Explains right positives, drawn at random, and the hardest mistakes.

    Args:
      path: the PNG to publish.
      predictor: the model behind the table.
      table: the judged predictions.
      question: what was asked of them; its positive class is explained.
      read: indices to films.
      count: films to explain at most; a film costs about two forward passes.

    Returns:
      What metrics.json says of it, or None where there is nothing to explain: no
      film, or a network without a convolutional map.
    """
    sections = _choose(table, question, count)
    chosen = np.concatenate(list(sections.values()))
    if not len(chosen):
        return None
    try:
        grad_cam = gradcam.GradCam(predictor.model)
    except ValueError as error:
        print(f"no Grad-CAM: {error}", file=sys.stderr)
        return None
    films = images.area_resize(read(chosen), predictor.image_size)
    positive = table.class_names.index(question.positive_class)
    heat = grad_cam.heat(films[..., None], positive)
    shares = gradcam.border_share(heat, margin=_MARGIN)
    shown = report_figures.make_films(table, question, chosen, films, heat)
    groups, start = {}, 0
    for title, indices in sections.items():
        groups[title] = shown[start : start + min(len(indices), _SHOWN)]
        start += len(indices)
    film_plots.grid(
        {title: some for title, some in groups.items() if some}, path, with_plain=True
    )
    return _describe(question, shares)


def _choose(
    table: Predictions, question: Question, count: int
) -> dict[str, np.ndarray]:
    """Heading -> indices: a third each mistakes of both kinds, the rest right ones."""
    scored = judge(table, question)
    mistakes = report_figures.hardest(table, question)
    kept = {title: found[: count // 4] for title, found in mistakes.items()}
    left = count - sum(len(found) for found in kept.values())
    positive = table.class_names.index(question.positive_class)
    right = (scored.predicted == positive) & (scored.labels == positive)
    order = np.random.default_rng(question.seed).permutation(len(right))
    title = f"{question.positive_class}, rightly found (at random)"
    return {title: order[right[order]][:left], **kept}


def _describe(question: Question, shares: np.ndarray) -> dict[str, Any]:
    known = shares[np.isfinite(shares)]
    mean = float(known.mean()) if len(known) else None
    by_area = 1 - (1 - 2 * _MARGIN) ** 2
    result = {
        "class": question.positive_class,
        "films": len(shares),
        "border_share": mean,
        "border_area": by_area,
        "alarm": mean is not None and mean > by_area,
    }
    if mean is None:
        line = f"On none of {len(shares)} films anything speaks for the class."
    else:
        line = (
            f"On {len(known)} films {mean:.0%} of what speaks for "
            f"{question.positive_class} lies on the outer tenth of the film, which is "
            f"{by_area:.0%} of its area"
        )
        line += (
            ": the model may read markers or print, a shortcut."
            if result["alarm"]
            else "; no sign of reading markers there."
        )
    return {**result, "line": line}
