"""Grad-CAM over films of a split, with its limits: where it lies, and what it ignores.

Numbers over films say how much of what speaks for the class lies where no lung is. Maps
of a model whose weights were shuffled say how little the maps depend on what it learnt
(Adebayo et al., "Sanity Checks for Saliency Maps", 2018).
"""

import itertools
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage, special, stats

from cxr import console, images
from cxr.evaluation import film_plots
from cxr.metrics.evaluation import Evaluation

if TYPE_CHECKING:
    from cxr.prediction.gradcam import GradCam
    from cxr.prediction.predictor import Predictor

_SHOWN = 6  # films of each kind
_MARGIN = 0.1
_CLEARLY_MORE = 1.25  # times its area: a part of the border that is warned of
_CHECKED = 8  # films of the sanity check
_ALIKE = 0.5  # rank correlation with the shuffled model's maps that is warned of
_BLACK = 16  # grey levels: air outside the body, or collimated
_SEEN = 0.02  # share of a film: less black around a body says nothing


def draw(
    path: pathlib.Path,
    predictor: "Predictor",
    evaluation: Evaluation,
    *,
    read: film_plots.ReadImages,
    count: int,
    shapes: np.ndarray | None = None,
) -> tuple[dict[str, Any] | None, film_plots.Drawn | None]:
    """Explains right positives, drawn at random, and the hardest mistakes.

    Args:
      path: the PNG to publish.
      predictor: the model behind the predictions.
      evaluation: whose positive class is explained.
      read: indices to images.
      count: images to explain at most; one costs about two forward passes.
      shapes: of `film_plots.proportions`; squares if None.

    Returns:
      What metrics.json says of it, and the picture; None both where there is nothing
      to explain: no image, or a network without a convolutional map.
    """
    from cxr.prediction import gradcam  # TensorFlow: only where there is a model

    sections = _choose(evaluation, count)
    chosen = np.concatenate(list(sections.values()))
    if not len(chosen):
        return None, None
    try:
        explainer = gradcam.GradCam(predictor.model)
    except ValueError as error:
        console.note(f"no Grad-CAM: {error}")
        return None, None
    pixels = images.area_resize(read(chosen), predictor.image_size)
    positive = evaluation.class_names.index(evaluation.positive_class)
    heat = explainer.heat(pixels[..., None], positive)
    shares = gradcam.border_shares(heat, margin=_MARGIN)
    areas = gradcam.border_areas(heat.shape[1:], margin=_MARGIN)
    pictured = film_plots.make_pictured(evaluation, chosen, pixels, heat, shapes=shapes)
    groups, shown, rest = {}, [], iter(zip(chosen, pictured, strict=True))
    for title, indices in sections.items():
        some = list(itertools.islice(rest, len(indices)))[:_SHOWN]
        shown += [index for index, _ in some]
        # Each plain, then with its heat.
        groups[title] = [
            one for _, film in some for one in (film._replace(heat=None), film)
        ]
    film_plots.grid(groups, path)
    found = describe(evaluation.positive_class, shares, areas)
    found["outside_body"] = _outside(heat, pixels)
    found["sanity"] = _sanity(predictor, explainer, pixels[:_CHECKED], positive)
    return found, film_plots.Drawn(path, np.array(shown, np.int64))


def _choose(evaluation: Evaluation, count: int) -> dict[str, np.ndarray]:
    """Heading -> indices: a quarter each mistakes of both kinds, the rest right."""
    scored = evaluation.scored
    mistakes = {
        title: indices[: count // 4]
        for title, indices in film_plots.hardest(evaluation).items()
    }
    left = count - sum(len(indices) for indices in mistakes.values())
    positive = evaluation.class_names.index(evaluation.positive_class)
    right = (scored.predicted == positive) & (scored.labels == positive)
    order = np.random.default_rng(evaluation.seed).permutation(len(right))
    name = film_plots.positive_name(evaluation)
    return {
        f"{name}, rightly found (at random)": order[right[order]][:left],
        **mistakes,
    }


def describe(
    class_name: str, shares: Mapping[str, np.ndarray], areas: Mapping[str, float]
) -> dict[str, Any]:
    """Puts into numbers and words how much of the attention lies on the border.

    Args:
      class_name: for which the films speak.
      shares: of `gradcam.border_shares`, float [N] each.
      areas: of `gradcam.border_areas`, of the same parts.

    Returns:
      The `attention` of metrics.json; shares are means over the films on which
      anything speaks for the class with an interval over these films, None where there
      is no such film, or only one.
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
        nothing = {"share": None, "ci95": None}
        return found | {
            "border_share": None,
            "border_ci95": None,
            "parts": {n: nothing | {"area": area} for n, area in areas.items()},
            "alarm": False,
            "line": f"On none of {len(first)} films does anything speak for "
            f"{class_name}.",
        }
    measured = {name: _mean(share[known]) for name, share in shares.items()}
    whole = _mean(np.sum([share[known] for share in shares.values()], axis=0))
    found["border_share"], found["border_ci95"] = whole["share"], whole["ci95"]
    # Rounded as they are shown, so that words and numbers cannot disagree.
    times = {
        n: round(entry["share"] / max(areas[n], 1e-12), 2)
        for n, entry in measured.items()
    }
    ratio = round(found["border_share"] / found["border_area"], 2)
    alarm = ratio > 1 or max(times.values()) >= _CLEARLY_MORE
    more = _alarm(times) if alarm else " That is no proof that it looks at lungs."
    return found | {
        "parts": {n: entry | {"area": areas[n]} for n, entry in measured.items()},
        "alarm": alarm,
        "line": _line(found, times) + more,
    }


def _mean(values: np.ndarray) -> dict[str, Any]:
    """A share's mean over films, with its t interval within 0..1."""
    mean, bounds = float(values.mean()), None
    if len(values) > 1:
        error = values.std(ddof=1) / np.sqrt(len(values))
        away = float(special.stdtrit(len(values) - 1, 0.975) * error)
        bounds = [max(mean - away, 0.0), min(mean + away, 1.0)]
    return {"share": mean, "ci95": bounds}


def _line(found: Mapping[str, Any], times: Mapping[str, float]) -> str:
    count = found["films_known"]
    of = "" if count == found["films"] else f" of {found['films']}"
    films = "film" if found["films"] == 1 else "films"
    listed = ", ".join(f"{name} {value:.2f}" for name, value in times.items())
    bounds = found["border_ci95"]
    shown = f" (95 % over films: {bounds[0]:.1%} to {bounds[1]:.1%})" if bounds else ""
    return (
        f"On {count}{of} {films} {found['border_share']:.1%}{shown} of what speaks for "
        f"{found['class']} lies on the outer tenth at each edge, "
        f"{found['border_area']:.1%} of the area. Each part holds so many times its "
        f"share of the area: {listed}."
    )


def _alarm(times: Mapping[str, float]) -> str:
    worst = max(times, key=lambda name: times[name])
    corners = worst == "corners"
    part = "corners hold" if corners else f"{worst} edge holds"
    return (
        f" The {part} {times[worst]:.2f} times {'their' if corners else 'its'} share: "
        "the model may read markers or print, a shortcut."
    )


def outside(film: np.ndarray) -> np.ndarray:
    """Black air around the body, or what is collimated, bool [S, S].

    What is darker than 16 grey levels and joined to the film's edge; lungs are not.

    Args:
      film: uint8 [S, S].
    """
    parts, _ = ndimage.label(film < _BLACK)
    edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    return np.isin(parts, np.setdiff1d(edge, [0]))


def _outside(heat: np.ndarray, films: np.ndarray) -> dict[str, Any]:
    """The share of what speaks for the class outside the body, over films with any."""
    shares, areas = [], []
    for one, film in zip(np.maximum(heat, 0), films, strict=True):
        black, total = outside(film), float(one.sum())
        if black.mean() < _SEEN or not total:
            continue
        shares.append(float(one[black].sum()) / total)
        areas.append(float(black.mean()))
    if not shares:
        return {"films": 0, "share": None, "ci95": None, "area": None}
    measured = _mean(np.array(shares))
    return {"films": len(shares), **measured, "area": float(np.mean(areas))}


def _sanity(
    predictor: "Predictor",
    explainer: "GradCam",
    films: np.ndarray,
    class_index: int,
) -> dict[str, Any]:
    """How alike the maps of the same network with its weights shuffled are.

    The mean over films of Spearman's rank correlation of both maps' cells; 0 = the
    maps depend on what was learnt, 1 = they show the film alone.
    """
    from cxr.prediction import gradcam

    shuffled = gradcam.GradCam(gradcam.with_shuffled_weights(predictor.model, seed=0))
    ours = explainer.cells(films[..., None], class_index)
    theirs = shuffled.cells(films[..., None], class_index)
    found = [
        stats.spearmanr(a.ravel(), b.ravel()).statistic
        for a, b in zip(ours, theirs, strict=True)
        if np.ptp(a) and np.ptp(b)
    ]
    mean = float(np.mean(found)) if found else None
    return {
        "films": len(found),
        "rank_correlation": mean,
        "alarm": mean is not None and mean > _ALIKE,
    }
