"""Decides what a training command does with a run folder, and says what it changes.

A run is its flags and its data. The same command goes on with it; another one would
mix two runs under one name, so it is refused, unless `--resume=force` asks for it.
"""

import dataclasses
import enum
import pathlib
import shutil
from collections.abc import Iterator
from typing import NamedTuple

from cxr import cli, environment, files, records, runs, schedules
from cxr.config import TrainConfig, result_fields
from cxr.model_info import DataIdentity
from cxr.storage import places

_LENGTHS = {"epochs": "learning_rate", "fine_tune_epochs": "fine_tune_learning_rate"}
_SHOWN = 3  # differences in an error of six lines


class Course(enum.Enum):
    """What is to be done."""

    TRAIN = "from the start, or from the newest checkpoint"
    ANEW = "from the start, although there are checkpoints"
    NOTHING = "the run is finished"


class Decision(NamedTuple):
    """A course, what a person should know of it, a line each, and the finished run."""

    course: Course
    notes: tuple[str, ...] = ()
    finished: runs.Run | None = None


def decide(
    workdir: pathlib.Path, config: TrainConfig, manifest: records.Manifest
) -> Decision:
    """Decides what the command does with its run folder; changes nothing.

    Raises:
      UsageError: the folder holds a run with other flags or data, naming them.
      DataError: the run folder is damaged.
    """
    if runs.read_model_info(workdir) is None:
        if not (workdir / runs.FLAGS).exists():
            return Decision(Course.TRAIN)
        return _decide_unfinished(workdir, config, manifest)
    run = runs.open_run(workdir)
    changes = [
        *_differences(run.config, config),
        *_other_data(run.info.data.fingerprint, manifest),
    ]
    if not changes:
        return Decision(Course.NOTHING, finished=run)
    if _is_under_way(workdir, config, manifest):
        note = "the model of before stays until this training is finished"
        return Decision(Course.TRAIN, (note,))
    if config.resume != "force":
        raise _refusal(workdir, "a finished run", changes)
    notes = [*changes, *_reads(workdir), "model.json stays until the new model is done"]
    if _leaves_epochs(run.config, config):
        return Decision(Course.TRAIN, (*notes, *_new_rates(workdir, config, manifest)))
    return Decision(
        Course.ANEW, (*notes, "all epochs are done: training begins from the start")
    )


def begin_anew(workdir: pathlib.Path) -> None:
    """Removes the states and history of a run; its model and model.json stay."""
    shutil.rmtree(workdir / runs.CHECKPOINTS, ignore_errors=True)
    (workdir / runs.HISTORY).unlink(missing_ok=True)
    files.fsync_path(workdir)


def publish_settings(
    workdir: pathlib.Path, config: TrainConfig, trained: environment.Environment
) -> None:
    """Writes run.flags and environment.json of the training that begins or goes on.

    A finished run's model.json keeps the flags of its own model.
    """
    info = runs.read_model_info(workdir)
    if info and info.flags is None:  # of a version that kept them in run.flags alone
        flags = runs.flag_lines(runs.read_config(workdir))
        runs.publish_model_info(workdir, dataclasses.replace(info, flags=flags))
    runs.write_json(workdir / environment.FILE, dataclasses.asdict(trained))
    files.publish(workdir / runs.FLAGS, cli.to_flags(config))


def data_identity(config: TrainConfig, manifest: records.Manifest) -> DataIdentity:
    """Returns what tells one data set from another in the run folder."""
    return DataIdentity(
        data_dir=places.absolute(config.data_dir),
        dataset=manifest.name,
        version=manifest.version,
        fingerprint=manifest.fingerprint,
    )


def _is_under_way(
    workdir: pathlib.Path, config: TrainConfig, manifest: records.Manifest
) -> bool:
    """Whether a training of these flags and data began after the run was finished."""
    trained = environment.read(workdir)
    if trained is None or trained.data.fingerprint != manifest.fingerprint:
        return False
    return not list(_differences(runs.read_config(workdir), config))


def _decide_unfinished(
    workdir: pathlib.Path, config: TrainConfig, manifest: records.Manifest
) -> Decision:
    before = runs.read_config(workdir)
    trained = environment.read(workdir)
    lengths, refused = [], list(_differences(before, config, but=tuple(_LENGTHS)))
    if trained:
        refused += _other_data(trained.data.fingerprint, manifest)
    for name in _LENGTHS:
        if getattr(before, name) == getattr(config, name):
            continue
        change = _difference(name, before, config)
        if why := _why_fixed(workdir, name, config):
            refused.append(f"{change}: {why}")
        else:
            lengths.append(f"{change}: the steps done stay as they are")
    if refused and config.resume != "force":
        raise _refusal(workdir, "a run", refused)
    rates = _new_rates(workdir, config, manifest) if refused else ()
    return Decision(Course.TRAIN, (*lengths, *refused, *rates))


def _why_fixed(workdir: pathlib.Path, name: str, config: TrainConfig) -> str:
    """Returns why a stage's length cannot change without a trace, or nothing."""
    begun = any((workdir / runs.CHECKPOINTS).glob("step-*"))
    if schedules.SCHEDULES[config.schedule].ends and begun:
        return f"--schedule={config.schedule} aims at the end: other rates all along"
    done = _epochs_done(workdir)
    if name == "epochs" and done.get("fine_tune"):
        return "that stage is over"
    stages = ("fine_tune",) if name == "fine_tune_epochs" else ("train", "head")
    over = sum(done.get(stage, 0) for stage in stages)
    return f"{over} are done" if over > getattr(config, name) else ""


def _epochs_done(workdir: pathlib.Path) -> dict[str, int]:
    """Returns stage -> epochs in the history."""
    if not (workdir / runs.HISTORY).exists():
        return {}
    stages = [row["stage"] for row in runs.read_history(workdir)]
    return {stage: stages.count(stage) for stage in stages}


def _leaves_epochs(before: TrainConfig, now: TrainConfig) -> bool:
    """Whether a finished run's last stage becomes longer, or gets one after it."""
    if now.fine_tune_epochs > before.fine_tune_epochs:
        return now.epochs == before.epochs
    none = before.fine_tune_epochs == now.fine_tune_epochs == 0
    return none and now.epochs > before.epochs


def _new_rates(
    workdir: pathlib.Path, config: TrainConfig, manifest: records.Manifest
) -> Iterator[str]:
    """Says the learning rate before and after, where the history holds one."""
    if not (workdir / runs.HISTORY).exists():
        return
    rows = runs.read_history(workdir)
    length = "fine_tune_epochs" if rows[-1]["stage"] == "fine_tune" else "epochs"
    done = sum(row["stage"] == rows[-1]["stage"] for row in rows)
    epochs = getattr(config, length)
    if done >= epochs:
        return
    steps = manifest.splits["train"].num_examples // config.batch_size
    rates = schedules.stage_rates(
        config.schedule,
        getattr(config, _LENGTHS[length]),
        num_steps=epochs * steps,
        warmup_steps=config.warmup_steps,
    )
    rate = float(rates[done * steps])
    yield (
        f"the learning rate goes from {rows[-1]['learning_rate']:.2g} to {rate:.2g} "
        f"(--schedule={config.schedule}, before cuts)"
    )


def _reads(workdir: pathlib.Path) -> Iterator[str]:
    if count := runs.count_test_reads(workdir):
        yield (
            f"the test split was read {count} times before: training goes on after a "
            "look at it, and the report will say so"
        )


def _differences(
    before: TrainConfig, now: TrainConfig, *, but: tuple[str, ...] = ()
) -> Iterator[str]:
    theirs, ours = result_fields(before), result_fields(now)
    for name in ours:
        if theirs[name] != ours[name] and name not in but:
            yield _difference(name, before, now)


def _difference(name: str, before: TrainConfig, now: TrainConfig) -> str:
    return f"--{name}: {getattr(before, name)} in the run, {getattr(now, name)} now"


def _other_data(trained_on: str, manifest: records.Manifest) -> Iterator[str]:
    if trained_on != manifest.fingerprint:
        now = manifest.fingerprint[:12]
        yield f"data fingerprint: {trained_on[:12]} in the run, {now} now"


def _refusal(workdir: pathlib.Path, what: str, changes: list[str]) -> cli.UsageError:
    shown = "\n".join(changes[:_SHOWN]) + ("\n..." if len(changes) > _SHOWN else "")
    return cli.UsageError(
        f"--workdir={workdir} holds {what} with other settings:\n{shown}\n"
        "choose another --workdir, or go on all the same: --resume=force"
    )


def with_decision(config: TrainConfig, now: TrainConfig) -> TrainConfig:
    """Returns a run's flags with the decision rule and class of other flags."""
    return dataclasses.replace(
        config,
        threshold_rule=now.threshold_rule,
        positive_class=now.positive_class or config.positive_class,
    )
