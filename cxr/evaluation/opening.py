"""Parses cxr.evaluate's flags and opens the runs and data that they name."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from cxr import class_names, cli, files, records, runs
from cxr.prediction import together
from cxr.storage import places, sets


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated, on which images, and how thoroughly."""

    workdir: tuple[str, ...] = cli.option(
        (),
        "run folder; several (repeat the flag, or commas) also give mean, standard "
        "deviation and ensemble; a folder of --seeds runs stands for all of them",
        heading="runs and films",
        remote=True,
    )
    split: str = cli.option("test", "images to evaluate on", choices=records.SPLITS)
    data_dir: str = cli.option(
        "", "root of the converted sets (default: the run's)", remote=True
    )
    dataset: str = cli.option("", "name of the converted set (default: the run's)")
    class_map: tuple[str, ...] = cli.option(
        (),
        "NAME=CLASS,...: a class of the data to the model's, such as Healthy=NORMAL",
    )
    compare: tuple[str, ...] = cli.option(
        (), "two run folders: paired difference of the second to the first"
    )
    output_dir: str = cli.option(
        "",
        "where the result goes (default: evaluation-SPLIT in the run, with "
        "-NAME-VERSION for another set than the run's; of an ensemble in the runs' "
        "common parent; comparison-SPLIT-with-A in the second run)",
        heading="what is written",
    )
    source_dir: str = cli.option(
        "", "folder that the set was made from: tables of films link into it"
    )
    fail_on: str = cli.option(
        "none",
        "exit with 65 where a finding is as severe as that, after all is written",
        choices=("none", "warning", "error"),
    )
    report: bool = cli.option(True, "also draw the pictures and write report.html")
    batch_size: int = cli.option(
        32, "images a forward pass", lower=1, upper=4096, heading="how"
    )
    cache: str = cli.option(
        "auto", "decoded images in memory or streamed", choices=("auto", "ram", "none")
    )
    draws: int = cli.option(
        1000, "patient resamples behind each interval", lower=100, upper=100_000
    )
    seed: int = cli.option(0, "seed of resampling and of the images shown", lower=0)
    explain: int = cli.option(
        24, "images explained by Grad-CAM; 0 = none", lower=0, upper=10_000
    )

    def validate(self) -> None:
        """Refuses what does not go together."""
        class_names.parse_map("class_map", self.class_map)
        if self.source_dir and not os.path.isdir(self.source_dir):
            raise cli.UsageError(f"--source_dir={self.source_dir}: no such folder")
        if bool(self.workdir) == bool(self.compare):
            raise cli.UsageError(
                "expected either --workdir=RUN (one or several) or "
                f"--compare RUN_A RUN_B, received --workdir={','.join(self.workdir)} "
                f"--compare={','.join(self.compare)}"
            )

    def workdirs(self) -> list[pathlib.Path]:
        """Run folders; the folder above seed-0, seed-1, ... stands for all of them."""
        return runs.members(places.local(w, places.RUNS) for w in self.workdir)

    def own_folder(self) -> pathlib.Path | None:
        """Where the evaluation of one run goes, None for its own place."""
        if not self.output_dir or len(self.workdirs()) > 1:
            return None
        return pathlib.Path(self.output_dir)

    def ensemble_folder(self) -> pathlib.Path:
        """Where the evaluation of several runs together goes."""
        if self.output_dir:
            return pathlib.Path(self.output_dir)
        parents = [str(path.resolve().parent) for path in self.workdirs()]
        common, here = pathlib.Path(os.path.commonpath(parents)), pathlib.Path.cwd()
        if common.is_relative_to(here):  # named as the runs were
            common = common.relative_to(here)
        return common / f"evaluation-{self.split}"


def open_runs(
    workdirs: Sequence[pathlib.Path], config: EvaluateConfig
) -> list[tuple[runs.Run, records.RecordSet]]:
    """Opens runs that are judged side by side, each with its set, see `open_run`.

    Raises:
      DataError: also where they tell other classes apart, or their thresholds speak
        of different ones.
    """
    opened = [open_run(path, config) for path in workdirs]
    together.check([run for run, _ in opened])
    return opened


def open_run(
    workdir: pathlib.Path, config: EvaluateConfig
) -> tuple[runs.Run, records.RecordSet]:
    """Opens a run and the set that it is evaluated on.

    Raises:
      UsageError: no such run folder, or images smaller than the model's input.
      DataError: an unfinished or damaged run, or data that do not fit it.
    """
    run = runs.open_run(workdir)
    files.refuse_links(workdir)  # the evaluation goes into it
    record_set = find_data(run, config.data_dir, config.dataset)
    _check_output(config.output_dir, run, record_set)
    class_indices(run, record_set, config.class_map)
    if run.info.image_size > record_set.manifest.image_size:
        raise cli.UsageError(
            f"{record_set.path} stores {record_set.manifest.image_size} pixels, the "
            f"model of {workdir} takes {run.info.image_size}; convert again with "
            f"{records.CONVERT_COMMAND} --image_size={run.info.image_size}"
        )
    if not record_set.split(config.split).num_examples:
        raise cli.DataError(f"{record_set.path}: the split {config.split} is empty")
    records.check(record_set)
    return run, record_set


def class_indices(
    run: runs.Run, record_set: records.RecordSet, pairs: Sequence[str] = ()
) -> np.ndarray:
    """Returns the model's class, int64 [C of the data], of each class of the data.

    Args:
      run: the finished run.
      record_set: the data.
      pairs: of `--class_map`; a class without one has the model's name.

    Raises:
      UsageError: a pair names a class that the data or the model lack.
      DataError: a class that is none of the model's.
    """
    theirs, ours = record_set.manifest.class_names, run.class_names
    mapping = class_names.parse_map("class_map", pairs)
    class_names.check_map("class_map", mapping, theirs)
    found = [mapping.get(name, name) for name in theirs]
    for name, meant in zip(theirs, found, strict=True):
        if meant in ours:
            continue
        if name in mapping:
            raise cli.UsageError(
                f"--class_map={name}={meant}: the model's classes are {', '.join(ours)}"
            )
        raise cli.DataError(
            f"{record_set.path} has the classes {', '.join(theirs)}, {run.workdir} was "
            f"trained on {', '.join(ours)}\nsay which is which: "
            f"--class_map={name}={_likely(name, ours)}"
        )
    return np.array([ours.index(name) for name in found], np.int64)


def _likely(name: str, ours: Sequence[str]) -> str:
    """Returns the class of the model that a name of the data may mean, for advice."""
    healthy = class_names.means_healthy(name)
    same = [other for other in ours if class_names.means_healthy(other) == healthy]
    return same[0] if same else ours[0]


def _check_output(
    output_dir: str, run: runs.Run, record_set: records.RecordSet
) -> None:
    """Refuses to write among the files of a run or a set."""
    if not output_dir:
        return
    output = pathlib.Path(output_dir)
    if output.exists() and not output.is_dir():
        raise cli.UsageError(f"--output_dir={output}: is a file; expected a folder")
    for taken in (run.workdir, run.workdir / runs.CHECKPOINTS, record_set.path):
        if output.resolve() == taken.resolve():
            raise cli.UsageError(
                f"--output_dir={output}: holds the files of a run or a set; choose "
                "another folder"
            )
    files.refuse_links(output)


def find_data(
    run: runs.Run, data_dir: str = "", dataset: str = ""
) -> records.RecordSet:
    """The set that is asked for, by default the very version the run trained on.

    Of a run of one fold, this fold, where it is the very set.
    """
    own = run.info.data
    found = sets.find(
        data_dir or own.data_dir,
        dataset or own.dataset,
        preferred="" if dataset else own.version,
    )
    return run.of_fold(found)
