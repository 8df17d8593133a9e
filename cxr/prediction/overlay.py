"""Draws Grad-CAM over a film: what speaks for a class in orange, against it in blue."""

import os

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure, FigureBase

from cxr.prediction.rows import Prediction
from cxr.reporting import formatting, plotting

# Against (blue) to for (vermilion), clear in the middle.
SIGNED = LinearSegmentedColormap.from_list(
    "signed", [plotting.BLUE, "#9ecae8", "#ffffff", "#f3b08a", plotting.RED]
)
_SCALE = ScalarMappable(Normalize(-1, 1), SIGNED)
OPACITY = 0.65  # of the strongest evidence; the film shows through
_RESEARCH = "Research only. Grad-CAM is a coarse hint, not proof."


def opacity(heat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns heat scaled to -1..1 by its strongest, and how opaque it is drawn."""
    share = heat / max(float(np.abs(heat).max()), 1e-12)
    return share, OPACITY * np.abs(share)


def blend(film: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns the film with the heat over it, uint8 [S, S, 3].

    Args:
      film: uint8 [S, S].
      heat: float [S, S].
    """
    share, opaque = opacity(heat)
    colour = SIGNED((share + 1) / 2)[..., :3] * 255
    mixed = film[..., None] * (1 - opaque[..., None]) + colour * opaque[..., None]
    return np.round(mixed).astype(np.uint8)


def colour_bar(figure: FigureBase) -> None:
    """Fills a flat figure with the scale of all films' heat, each of its own."""
    axes = figure.subplots()
    bar = figure.colorbar(_SCALE, cax=axes, orientation="horizontal", ticks=[-1, 0, 1])
    axes.set_box_aspect(0.03)
    bar.ax.set_xticklabels(
        ["against, strongest", "neither", "for, strongest"],
        fontsize=8.5,
    )


def draw(
    path: str | os.PathLike,
    film: np.ndarray,
    heat: np.ndarray,
    class_name: str,
    prediction: Prediction,
) -> None:
    """Publishes a PNG: the film, the film with its heat, a colour bar, what was said.

    Args:
      path: the PNG.
      film: uint8 [S, S].
      heat: float [S, S], for `class_name`.
      class_name: whose evidence is drawn.
      prediction: of the film.
    """
    figure = Figure(figsize=(8.4, 4.5), layout="constrained")
    plain, explained = figure.subplots(1, 2)
    for axes in (plain, explained):
        axes.set_axis_off()
        axes.imshow(film, cmap="gray", vmin=0, vmax=255)
    share, opaque = opacity(heat)
    explained.imshow(share, cmap=SIGNED, vmin=-1, vmax=1, alpha=opaque)
    bar = figure.colorbar(_SCALE, ax=explained, shrink=0.8, ticks=[-1, 0, 1])
    name = plotting.shorten(class_name, 16)
    bar.ax.set_yticklabels([f"against {name}", "neither", f"for {name}"], fontsize=9)
    figure.suptitle(
        plotting.shorten(os.path.basename(prediction.path), 60),
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    said = prediction.prediction or "no prediction"
    if prediction.probabilities:
        value = formatting.probability(prediction.probabilities[class_name])
        said = f"{plotting.shorten(said, 24)}; probability of {name} {value}"
    figure.supxlabel(f"{said}. {_RESEARCH}", fontsize=9, x=0.01, ha="left")
    plotting.save(figure, path)
