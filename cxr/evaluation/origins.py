"""Where data, model and numbers of an evaluation come from, in words."""

import platform
import time

import cxr
from cxr import cli, environment, records, runs, schedules


def describe_data(record_set: records.RecordSet) -> str:
    """One line on a data set: name, version, how it was split."""
    manifest = record_set.manifest
    policy = record_set.split_policy
    return f"{manifest.name} {manifest.version}, split policy {policy}"


def describe(run: runs.Run, record_set: records.RecordSet) -> dict[str, str]:
    """Where data, model and numbers come from, as label -> text."""
    info, trained = run.info, environment.read(run.workdir)
    packages = trained.packages.items() if trained else ()
    return {
        "data": describe_data(record_set),
        "data_folder": str(record_set.path),
        "data_fingerprint": record_set.manifest.fingerprint,
        "run_folder": str(run.workdir),
        "model": f"{info.model}, {info.num_parameters:,} parameters, films of "
        f"{info.image_size} px (stored at {info.stored_image_size} px), "
        + _chosen_epoch(run),
        "model_sha256": info.model_sha256,
        "trained_with": ", ".join(f"{name} {version}" for name, version in packages)
        + f"; {', '.join(trained.devices if trained else ())}",
        "commit": (trained and trained.git_commit) or "not a git checkout",
        "evaluated": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        + f" with cxr {cxr.__version__}, Python {platform.python_version()}",
        "flags": cli.to_flags(run.config),
    }


def remarks(run: runs.Run, record_set: records.RecordSet, split: str) -> dict[str, str]:
    """What the first screen adds to the numbers; `split` is empty for several runs'."""
    noted = {}
    reads = runs.count_test_reads(run.workdir) if split == "test" else 0
    if reads:
        times = "once" if reads == 1 else f"{reads} times"
        noted["test_reads"] = (
            f"The test split has been read {times} by this run (test_reads.csv)."
        )
    if run.info.trained_after_test:
        noted["trained_after_test"] = (
            f"The test split had been read {run.info.trained_after_test} times before "
            "training went on: it is no unseen test of this model."
        )
    if not run.is_latest:
        noted["under_way"] = (
            "A training with other flags has begun in the run folder since; these "
            "numbers are of the finished model before it."
        )
    if record_set.manifest.fingerprint != run.info.data.fingerprint:
        manifest, own = record_set.manifest, run.data_path
        noted["other_data"] = (
            f"External validation: these films are of {manifest.name} "
            f"{manifest.version}, another data set than the model was trained on "
            f"({own.parent.name} {own.name})."
        )
    if record_set.manifest.name == "phantom":
        noted["synthetic"] = (
            "The films are synthetic phantoms: the numbers show that the software "
            "works, nothing about patients."
        )
    return noted


def _chosen_epoch(run: runs.Run) -> str:
    epoch = run.info.best_epoch
    if run.config.best_metric == schedules.LAST:
        return f"of epoch {epoch}, the last"
    return f"epoch {epoch} was best on validation"
