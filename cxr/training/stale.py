"""Marks evaluations that speak of another model than the run's."""

import pathlib

from cxr import console, documents, files, runs
from cxr.metrics import predictions
from cxr.reporting import html

METRICS = "metrics.json"
PAGES = ("report.html", "checklist.html")
_KEY = "stale"


def mark(run: runs.Run) -> list[pathlib.Path]:
    """Marks metrics.json and the page of each evaluation of an earlier model.

    Returns:
      their folders.
    """
    found = []
    for folder in sorted(run.workdir.glob("evaluation-*")):
        try:
            source = documents.read(folder / predictions.SOURCE)
            metrics = documents.read(folder / METRICS)
        except (OSError, ValueError):
            continue  # no evaluation, or one that nobody can read as it is
        made_by = source.content.get("model_sha256")
        if made_by == run.info.model_sha256:
            continue
        found.append(folder)
        if _KEY in metrics.content:
            continue
        words = (
            f"Stale: these numbers are of an earlier model ({str(made_by)[:12]}); the "
            "run's model is another since. Evaluate again."
        )
        for page in filter(pathlib.Path.is_file, (folder / name for name in PAGES)):
            text = page.read_text(encoding="utf-8")
            files.publish(page, html.with_warning(text, words))
        runs.write_json(folder / METRICS, {_KEY: words, **metrics.content})
    return found


def say(folders: list[pathlib.Path]) -> None:
    """Says which evaluations are stale."""
    for folder in folders:
        console.say(f"stale: {folder} is of an earlier model; evaluate again")
