"""Where a run comes from, and whether it may go on: flags, versions, data.

Imports no TensorFlow.
"""

import importlib.metadata
import pathlib
import platform
import subprocess

from cxr import cli, files, records, runs
from cxr.config import TrainConfig, result_fields

_SHOWN_PACKAGES = ("tensorflow", "keras", "keras-cv", "numpy", "pillow", "scikit-learn")


def data_identity(config: TrainConfig, manifest: records.Manifest) -> dict[str, str]:
    """Returns what tells one data set from another in the run folder."""
    return {
        "data_dir": str(pathlib.Path(config.data_dir).resolve()),
        "dataset": manifest.name,
        "version": manifest.version,
        "fingerprint": manifest.fingerprint,
    }


def publish_settings(
    workdir: pathlib.Path,
    config: TrainConfig,
    record_set: records.RecordSet,
    *,
    device_names: tuple[str, ...],
    replicas: int,
    precision: str,
) -> None:
    """Writes run.flags and environment.json; the folder counts as unfinished."""
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {
            name: importlib.metadata.version(name) for name in _SHOWN_PACKAGES
        },
        "git_commit": _git_commit(),
        "devices": list(device_names),
        "replicas": replicas,
        "precision": precision,
        "data": data_identity(config, record_set.manifest),
    }
    runs.write_json(workdir / runs.ENVIRONMENT, environment)
    files.publish(workdir / runs.FLAGS, cli.to_flags(config))
    # From here on the folder is unfinished, whatever it was before.
    (workdir / runs.MODEL_INFO).unlink(missing_ok=True)


def _git_commit() -> str | None:
    """Returns the commit of the code's own checkout, None where it is none."""
    folder = pathlib.Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True
        )
    except OSError:  # no git
        return None
    return found.stdout.strip() or None


def finished(workdir: pathlib.Path, config: TrainConfig) -> runs.Run | None:
    """Returns the run where the folder holds all the epochs asked for, else None."""
    if runs.read_model_info(workdir) is None:
        return None
    run = runs.open_run(workdir)
    lengths = ("epochs", "fine_tune_epochs")
    same = all(getattr(run.config, name) == getattr(config, name) for name in lengths)
    return run if same else None


def check_same_run(
    workdir: pathlib.Path, config: TrainConfig, record_set: records.RecordSet
) -> None:
    """Refuses to go on with a run whose result other flags or data would change.

    Raises:
      UsageError: naming what differs, unless `config.resume` is `force`.
    """
    if not (workdir / runs.FLAGS).exists() or config.resume == "force":
        return
    before, now = result_fields(runs.read_config(workdir)), result_fields(config)
    changed = [
        f"--{name}: {before[name]} in the run, {now[name]} now"
        for name in now
        if before[name] != now[name]
    ]
    identity = data_identity(config, record_set.manifest)["fingerprint"]
    trained_on = runs.read_data_fingerprint(workdir)
    if trained_on not in (None, identity):
        changed.append(
            f"data fingerprint: {trained_on[:12]} in the run, {identity[:12]}"
        )
    if changed:
        shown = "\n".join(changed[:3]) + ("\n..." if len(changed) > 3 else "")
        raise cli.UsageError(
            f"--workdir={workdir} holds a run with other settings:\n{shown}\n"
            "choose another --workdir, or go on all the same: --resume=force"
        )
