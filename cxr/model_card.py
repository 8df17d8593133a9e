"""Writes a run's model card: what the model is for, of whom it learnt, how good it is.

Mitchell et al., "Model Cards for Model Reporting" (2019), with the header that Hugging
Face reads. It says only what the run folder and the set say; the rest is "not known".
"""

import contextlib
import html
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cxr import cli, documents, environment, files, records, runs, set_card
from cxr.reporting import formatting

_METRICS = ("roc_auc", "accuracy", "recall", "specificity")
_LABELS = ("ROC AUC", "accuracy", "sensitivity", "specificity")
_OF_GROUPS = ("roc_auc", "recall", "specificity")
_UNKNOWN = set_card.UNKNOWN


def publish(run: runs.Run) -> pathlib.Path:
    """Writes MODEL_CARD.md anew from what the run folder holds.

    Args:
      run: the finished run.

    Returns:
      where it lies.
    """
    manifest = _manifest(run)
    evaluations = list(_evaluations(run))
    parts = [
        _header(run, evaluations),
        f"# {run.info.model} on {run.info.data.dataset}\n",
        f"**{formatting.DISCLAIMER}**\n",
        _section("Intended use", _intended_use(run)),
        _section("Of whom it learnt", _population(run, manifest)),
        _section("How good it is", _results(evaluations)),
        _section("How it decides", _decision(run)),
        _section("Limits", _limits(run, evaluations)),
        _section("Where it comes from", _origins(run)),
        _section("Recipe", ["```", *(run.info.flags or (_UNKNOWN,)), "```"]),
        f"---\n\n{formatting.DISCLAIMER}\n",
    ]
    path = run.workdir / runs.CARD
    files.publish(path, "\n".join(parts))
    return path


def _header(run: runs.Run, evaluations: list[dict[str, Any]]) -> str:
    """The block that Hugging Face reads; JSON is YAML."""
    values: dict[str, Any] = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["chest-x-ray", "radiology", "tensorflow", "cxr"],
        "license": "unknown",
    }
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {
                "name": one["name"],
                "type": one["name"],
                "split": one["split"],
            },
            "metrics": [
                {"type": name, "value": one["metrics"][name]["value"]}
                for name in _METRICS
                if one["metrics"][name]["value"] is not None
            ],
        }
        for one in evaluations
        if not one["errors"]  # programs read no warnings
    ]
    if results:
        values["model-index"] = [{"name": run.workdir.name, "results": results}]
    lines = (f"{key}: {json.dumps(value)}" for key, value in values.items())
    return "\n".join(["---", *lines, "---", ""])


def _intended_use(run: runs.Run) -> list[str]:
    names = (
        " from ".join(run.class_names)
        if len(run.class_names) == 2
        else ", ".join(run.class_names)
    )
    return [
        f"Telling {names} on frontal chest X-ray films, in research and teaching: to "
        "study methods, shortcuts and shifts between hospitals.",
        "",
        "Not for diagnosis, triage or any decision about a patient; not for lateral "
        "views, CT or other parts of the body; not for other findings than these.",
    ]


def _population(run: runs.Run, manifest: records.Manifest | None) -> list[str]:
    data = run.info.data
    if manifest is None:
        return [f"{data.dataset} {data.version}: the set is not at hand; {_UNKNOWN}."]
    rows = [
        (
            split.name,
            f"{split.num_examples:,}",
            f"{split.num_patients:,}",
            ", ".join(f"{n:,} {name}" for name, n in split.class_counts.items()),
        )
        for split in manifest.splits.values()
    ]
    policy = manifest.flags.get("split_policy", _UNKNOWN)
    return [
        f"{data.dataset} {data.version}, split policy {policy}; no patient stands on "
        "two sides, as far as names and headers tell patients.",
        "",
        *_table(("split", "films", "patients", "classes"), rows),
        "",
        *_card(run),
    ]


def _card(run: runs.Run) -> list[str]:
    """What the set's card says, and where ages and devices of films stand."""
    card = None
    with contextlib.suppress(cli.CommandError, OSError):
        record_set = run.trained_on()
        card = record_set.card() if record_set else None
    if card is None:
        return [
            f"Age, sex, hospitals, machines, years: {_UNKNOWN} to this card; what the "
            "set tells of them stands in its attributes.csv."
        ]
    told = set_card.rows(card.content())
    rows = [(what, html.escape(text).replace("\n", "<br>")) for what, text in told]
    return [
        "What the set's card says:",
        "",
        *_table(("of the set", ""), rows),
        "",
        "What the set tells film by film stands in its attributes.csv.",
    ]


def _results(evaluations: list[dict[str, Any]]) -> list[str]:
    if not evaluations:
        return [
            "Not evaluated yet: `python -m cxr.evaluate --workdir=RUN --split=test`."
        ]
    rows = []
    for one in evaluations:
        baseline = one.get("trivial_baseline")
        rows.append(
            (
                f"{one['name']}, {one['split']}",
                f"{one['n']:,}",
                f"{one['n_patients']:,}",
                *(_value(one["metrics"][name]) for name in _METRICS),
                _value(baseline["metrics"]["roc_auc"]) if baseline else _UNKNOWN,
            )
        )
    header = ("films of", "films", "patients", *_LABELS, "ROC AUC of brightness alone")
    lines = [
        *_table(header, rows),
        "",
        "With 95 % intervals over patients, at the frozen threshold. The last column "
        "is what a regression on nine numbers of brightness and sharpness reaches.",
    ]
    lines += [
        f"\n**Not to be used: {one['name']}, {one['split']}.** {text}"
        for one in evaluations
        for text in one["errors"]
    ]
    groups = [
        (one["split"], grouping.replace("_", " "), name, f"{entry['n']:,}")
        + tuple(_value(entry["metrics"][metric]) for metric in _OF_GROUPS)
        for one in evaluations
        for grouping, found in one.get("subgroups", {}).items()
        for name, entry in found.items()
    ]
    if groups:
        labels = ("ROC AUC", "sensitivity", "specificity")
        columns = ("split", "grouping", "group", "films", *labels)
        lines += ["", "In subgroups:", "", *_table(columns, groups)]
    return lines


def _decision(run: runs.Run) -> list[str]:
    info, lines = run.info, []
    if info.threshold:
        lines.append(
            f"Positive is {info.positive_class}, from a probability of "
            f"{info.threshold.value:.4g} on, chosen on {info.threshold.chosen_on} by "
            f"the rule {info.threshold.rule}."
        )
    else:
        lines.append("The most probable class.")
    if info.input_guard:
        lines += [
            "",
            "Films unlike those of training (turned, inverted, no chest) are predicted "
            f"with a warning; of {info.input_guard.films:,} validation films "
            f"{info.input_guard.false_alarms:.1%} are warned of falsely.",
        ]
    return lines


def _limits(run: runs.Run, evaluations: list[dict[str, Any]]) -> list[str]:
    external = [
        one["name"] for one in evaluations if one["external"] and not one["errors"]
    ]
    judged = f"judged on {', '.join(sorted(set(external)))}" if external else _UNKNOWN
    return [
        "- Another hospital, machine, age or disease mix gives other numbers; on films "
        f"of another source: {judged}.",
        "- Labels are those of the data set; their errors are learnt and counted.",
        "- Probabilities are not calibrated for another prevalence.",
    ]


def _origins(run: runs.Run) -> list[str]:
    info, trained = run.info, environment.read(run.workdir)
    packages = trained.packages.items() if trained else ()
    rows = [
        ("model file", info.model_file),
        ("model sha256", info.model_sha256),
        ("last weights sha256", info.final_weights_sha256),
        ("data fingerprint", info.data.fingerprint),
        ("parameters", f"{info.num_parameters:,}"),
        ("input", f"{info.image_size} px, decoded at {info.stored_image_size} px"),
        ("best epoch", str(info.best_epoch)),
        ("trained on", ", ".join(trained.devices) if trained else _UNKNOWN),
        ("precision", trained.precision if trained else _UNKNOWN),
        ("software", ", ".join(f"{n} {v}" for n, v in packages) or _UNKNOWN),
        ("commit", (trained and trained.git_commit) or _UNKNOWN),
    ]
    return _table(("what", "value"), rows)


def _manifest(run: runs.Run) -> records.Manifest | None:
    try:
        record_set = run.trained_on()
    except (cli.CommandError, OSError):
        return None
    return record_set.manifest if record_set else None


def _evaluations(run: runs.Run) -> Iterator[dict[str, Any]]:
    """Yields metrics.json of the run's evaluations, those of its own model."""
    for folder in sorted(run.workdir.glob("evaluation-*")):
        try:
            found = documents.read(folder / "metrics.json").content
            origins = found["provenance"]
            if "stale" in found or origins["model_sha256"] != run.info.model_sha256:
                continue
            own = origins["data_fingerprint"] == run.info.data.fingerprint
            name = origins["data"].split(",")[0]
            warnings = found.get("warnings", ())
            errors = [one["text"] for one in warnings if one["severity"] == "error"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no evaluation, or one that is damaged
        yield {**found, "external": not own, "name": name, "errors": errors}


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *lines, ""])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [
        f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines
    ]


def _value(entry: dict[str, Any]) -> str:
    if entry["value"] is None:
        return "undefined"
    if not entry["ci95"]:
        return f"{entry['value']:.3f}"
    low, high = entry["ci95"]
    return f"{entry['value']:.3f} ({low:.3f} to {high:.3f})"
