"""Where an evaluation's data, model and numbers come from, in words."""

import json
import platform
import time

import cxr
from cxr import cli, records, runs


def describe_data(record_set: records.RecordSet) -> str:
    """One line on a data set: name, version, how it was split."""
    manifest = record_set.manifest
    policy = manifest.flags.get("split_policy", "unknown")
    return f"{manifest.name} {manifest.version}, split policy {policy}"


def describe(run: runs.Run, record_set: records.RecordSet) -> dict[str, str]:
    """Where data, model and numbers come from, as label -> text."""
    info, path = run.info, run.workdir / runs.ENVIRONMENT
    environment = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    packages = environment.get("packages", {})
    return {
        "data": describe_data(record_set),
        "data folder": str(record_set.path),
        "data fingerprint": record_set.manifest.fingerprint,
        "run folder": str(run.workdir),
        "model": f"{info['model']}, {info['num_parameters']:,} parameters, films of "
        f"{info['image_size']} px (stored at {info['stored_image_size']} px), "
        f"epoch {info['best_epoch']} was best on validation",
        "model sha256": info["model_sha256"],
        "trained with": ", ".join(f"{n} {v}" for n, v in packages.items())
        + f"; {', '.join(environment.get('devices', []))}",
        "commit": str(environment.get("git_commit") or "not a git checkout"),
        "evaluated": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        + f" with cxr {cxr.__version__}, Python {platform.python_version()}",
        "flags": cli.to_flags(run.config),
    }


def remarks(
    run: runs.Run, record_set: records.RecordSet, reads: int | None
) -> dict[str, str]:
    """What the first screen adds to the numbers."""
    found = {}
    if reads:
        times = "once" if reads == 1 else f"{reads} times"
        found["test_reads"] = (
            f"The test split has been read {times} by this run (test_reads.csv)."
        )
    if record_set.manifest.fingerprint != run.info["data"]["fingerprint"]:
        found["other_data"] = (
            "These films are from another data set than the model was trained on; "
            "whether patients of its training are among them was not checked."
        )
    if record_set.manifest.name == "phantom":
        found["synthetic"] = (
            "The films are synthetic phantoms: the numbers show that the software "
            "works, nothing about patients."
        )
    return found
