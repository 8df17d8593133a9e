r"""Trains recipes, judges them by rehearsals of a shift and the trivial baseline.

  python -m benchmarks.rehearsals --input_dir=chest_xray --seeds=0,1,2 \
    "small_cnn: --flagfile=configs/small_cnn.flags"

Rehearsals: `grouped` (patients at random), `counter` (patients whose films brightness
and sharpness get wrong), `blocks` (five of contiguous patient numbers, each left out in
turn) and, where --external_dir is given, `external`: half of another source's patients,
judged by the model of `grouped`. The other half, `proof`, is for a finished recipe; it
is read only where it is named. Recipes are chosen by the rehearsals together.

A recipe may be an ensemble, whose probabilities are averaged and whose threshold is
chosen anew on validation; its members' trials must be there:

    "both: fast@0 + fast@1 + fast@2 + small_cnn@{seed}"

Every trial is a row of a table; what is there is not done again: the command repeated
goes on, and more recipes, seeds or rehearsals fill what is missing.
"""

import collections
import dataclasses
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

from cxr import cli, console, tables
from cxr.metrics import evaluation, predictions

BLOCKS = 5
EXTERNAL = ("external", "proof")
_MEMBER = r"[\w.-]+@(\d+|\{seed\})"
_RULE = "youden"
_COLUMNS = (
    "recipe",
    "rehearsal",
    "seed",
    "roc_auc",
    "roc_auc_low",
    "roc_auc_high",
    "accuracy",
    "sensitivity",
    "specificity",
    "baseline_roc_auc",
    "within_strata",
    "seconds",
    "flags",
)


@dataclasses.dataclass(frozen=True)
class RehearsalsConfig:
    """What is trained, on what, and where it is written."""

    input_dir: str = cli.required("films in class folders")
    rehearsals: tuple[str, ...] = cli.option(
        ("grouped", "counter"),
        f"grouped, counter, blocks (all {BLOCKS}), external, proof",
    )
    seeds: tuple[str, ...] = cli.option(("0",), "seeds of each recipe")
    external_dir: str = cli.option("", "films of another source, in class folders")
    external_flags: str = cli.option(
        "", "flags of their conversion, such as --class_map and --patient_pattern"
    )
    results: str = cli.option("rehearsals.csv", "table of all trials; grows")
    work_dir: str = cli.option("rehearsals", "sets, and the run under way")

    def validate(self) -> None:
        """Raises UsageError for names that cannot be."""
        for name in self.rehearsals:
            if name not in ("grouped", "counter", "blocks", *EXTERNAL):
                raise cli.UsageError(f"--rehearsals={name}: no rehearsal")
            if name in EXTERNAL and not self.external_dir:
                raise cli.UsageError(f"--rehearsals={name} needs --external_dir")


class Rehearsals:
    """The table of trials and what fills it.

    Args:
      config: the flags.
      recipes: `NAME: FLAGS` of cxr.train each, or `NAME: RECIPE@SEED + ...`.
    """

    def __init__(self, config: RehearsalsConfig, recipes: list[str]):
        for recipe in recipes:
            if not re.match(rf"[\w.-]+: (-|{_MEMBER})", recipe):
                raise cli.UsageError(
                    f"{recipe!r}: expected 'NAME: --FLAG ...' or 'NAME: RECIPE@SEED + "
                    "...'"
                )
        self._config, self._recipes = config, recipes
        self._work = pathlib.Path(config.work_dir).absolute()
        self._path = pathlib.Path(config.results)
        self.rows: list[dict[str, str]] = []
        if self._path.exists():
            self.rows = tables.parse_records(self._path.read_text())

    def fill(self) -> None:
        """Runs every trial that the table lacks."""
        for seed in self._config.seeds:
            for recipe in self._recipes:
                name, _, flags = recipe.partition(": ")
                for training, judged in self._trainings().items():
                    missing = [
                        rehearsal
                        for rehearsal in judged
                        if not self._has(name, rehearsal, seed, flags)
                    ]
                    if missing and flags.startswith("-"):
                        self._run(name, flags, seed, training, missing)
                    elif missing:
                        self._combine(name, flags, seed, missing)

    def _trainings(self) -> dict[str, list[str]]:
        """Returns what each model is judged on; `external` by that of `grouped`."""
        wanted = collections.defaultdict(list)
        for name in self._config.rehearsals:
            if name == "blocks":
                for block in range(BLOCKS):
                    wanted[f"block-{block}"].append(f"block-{block}")
            else:
                wanted["grouped" if name in EXTERNAL else name].append(name)
        return wanted

    def _has(self, name: str, rehearsal: str, seed: str, flags: str) -> bool:
        wanted = {"recipe": name, "rehearsal": rehearsal, "seed": seed}
        for row in self.rows:
            if all(row[key] == value for key, value in wanted.items()):
                if row["flags"] != flags:
                    raise cli.UsageError(
                        f"{name}: {self._path} has it with the flags {row['flags']}; "
                        "give this one another name"
                    )
                return True
        return False

    def _run(
        self, name: str, flags: str, seed: str, training: str, judged: list[str]
    ) -> None:
        """Converts, trains and evaluates; adds a row for each rehearsal."""
        began = time.monotonic()
        policy = "blocks" if training.startswith("block-") else training
        data = self._convert(policy)
        workdir = self._work / "run"
        shutil.rmtree(workdir, ignore_errors=True)
        fold = (
            ["--fold=" + training.removeprefix("block-")] if policy != training else []
        )
        _command(
            "cxr.train",
            *flags.split(),
            *fold,
            f"--data_dir={data}",
            f"--workdir={workdir}",
            f"--seed={seed}",
            "--tensorboard=false",
        )
        for rehearsal in judged:
            split, where = "test", []
            if rehearsal in EXTERNAL:
                # Half of the patients each, by salted hash: see `_convert`.
                split = "test" if rehearsal == "external" else "train"
                where = [f"--data_dir={self._convert('external')}"]
            out = self._work / "evaluation"
            shutil.rmtree(out, ignore_errors=True)
            _command(
                "cxr.evaluate",
                f"--workdir={workdir}",
                f"--split={split}",
                f"--output_dir={out}",
                "--report=false",
                *where,
            )
            self._keep(out, f"{name}-{rehearsal}-{seed}")
            found = json.loads((out / "metrics.json").read_text())
            seconds = time.monotonic() - began
            self._add(name, rehearsal, seed, found, seconds, flags)

    def _combine(self, name: str, members: str, seed: str, judged: list[str]) -> None:
        """Adds an ensemble's rows, from what its members' trials predicted."""
        for rehearsal in judged:
            folders, seconds = [], 0.0
            kept = self._work / "predictions"
            for member in members.replace("{seed}", seed).split(" + "):
                recipe, _, own = member.partition("@")
                wanted = {"recipe": recipe, "rehearsal": rehearsal, "seed": own}
                rows = [row for row in self.rows if wanted.items() <= row.items()]
                if not rows:
                    raise cli.UsageError(f"{name}: {member} has no trial: {rehearsal}")
                seconds += float(rows[0]["seconds"])
                folders.append(kept / f"{recipe}-{rehearsal}-{own}")
            first = json.loads((folders[0] / "metrics.json").read_text())
            asked = evaluation.Evaluation(
                _mean(folders), "test", first["positive_class"], {"rule": _RULE}
            )
            threshold = asked.threshold_on(_mean([f / "validation" for f in folders]))
            asked = dataclasses.replace(asked, threshold=threshold)
            baseline = {**first["trivial_baseline"], "strata": None}
            measured = evaluation.measure(asked.scored, asked.resamples)
            found = {"metrics": measured, "trivial_baseline": baseline}
            self._add(name, rehearsal, seed, found, seconds, members)

    def _keep(self, evaluated: pathlib.Path, name: str) -> None:
        """Keeps the predictions of a trial, and those of its validation."""
        kept = self._work / "predictions" / name
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(evaluated, kept)
        validation = self._work / "run" / "evaluation-validation"
        if validation.exists():
            shutil.copytree(validation, kept / "validation")

    def _convert(self, policy: str) -> pathlib.Path:
        """Returns the root of the set of a split policy, made where it is missing."""
        root = self._work / policy
        if policy == "external":
            source = self._config.external_dir
            flags = ["--split_policy=grouped", "--test_fraction=0.5"]
            flags += ["--validation_fraction=0", *self._config.external_flags.split()]
        else:
            source = self._config.input_dir
            flags = [f"--split_policy={policy}"]
            flags += [f"--folds={BLOCKS}"] if policy == "blocks" else []
        _command(
            "tools.make_tfrecords",
            f"--input_dir={source}",
            f"--output_dir={root}",
            *flags,
        )
        return root

    def _add(
        self,
        name: str,
        rehearsal: str,
        seed: str,
        found: dict,
        seconds: float,
        flags: str,
    ) -> None:
        metrics = found["metrics"]
        area = metrics["roc_auc"]
        baseline = found["trivial_baseline"]
        within = baseline["strata"] and baseline["strata"]["model"]["value"]
        row = {
            "recipe": name,
            "rehearsal": rehearsal,
            "seed": seed,
            "roc_auc": _digits(area["value"]),
            "roc_auc_low": _digits(area["ci95"] and area["ci95"][0]),
            "roc_auc_high": _digits(area["ci95"] and area["ci95"][1]),
            "accuracy": _digits(metrics["accuracy"]["value"]),
            "sensitivity": _digits(metrics["recall"]["value"]),
            "specificity": _digits(metrics["specificity"]["value"]),
            "baseline_roc_auc": _digits(baseline["metrics"]["roc_auc"]["value"]),
            "within_strata": _digits(within),
            "seconds": f"{seconds:.0f}",
            "flags": flags,
        }
        self.rows.append(row)
        tables.publish(self._path, _COLUMNS, self.rows)
        console.say(
            f"{name}, {rehearsal}, seed {seed}: ROC AUC {row['roc_auc']}, accuracy "
            f"{row['accuracy']}, sensitivity {row['sensitivity']}, specificity "
            f"{row['specificity']}, {seconds:.0f} s"
        )

    def to_markdown(self) -> str:
        """Returns the table recipe x rehearsal: mean and deviation over seeds."""
        groups = collections.defaultdict(list)
        for row in self.rows:
            kind = re.sub(r"-\d+$", "s", row["rehearsal"])
            groups[row["recipe"], kind].append(row)
        lines = ["| recipe | rehearsal | trials | ROC AUC | accuracy | sensitivity "]
        lines[0] += "| specificity | trivial baseline | seconds |"
        lines.append("| --- | --- " + "| ---: " * 7 + "|")
        names = ("roc_auc", "accuracy", "sensitivity", "specificity")
        for (recipe, kind), rows in groups.items():
            cells = [recipe, kind, str(len(rows))]
            cells += [_spread([row[name] for row in rows]) for name in names]
            cells.append(_spread([row["baseline_roc_auc"] for row in rows]))
            cells.append(f"{statistics.median(float(r['seconds']) for r in rows):.0f}")
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


def _mean(folders: list[pathlib.Path]) -> predictions.Predictions:
    """Returns the mean of the predictions in the folders."""
    texts = [(folder / predictions.TABLE).read_text() for folder in folders]
    return predictions.average([predictions.from_csv(text) for text in texts])


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _spread(cells: list[str]) -> str:
    values = [float(cell) for cell in cells if cell]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


def _command(module: str, *flags: str) -> None:
    """Runs a command; DataError with the end of what it said where it failed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *flags], capture_output=True, text=True
    )
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise cli.DataError(
            f"{module} {' '.join(flags)}: exit {done.returncode}\n{said}"
        )


def main(argv: list[str]) -> None:
    """Fills the table and prints its summary."""
    config, recipes = cli.parse(argv, RehearsalsConfig, usage=__doc__)
    rehearsals = Rehearsals(config, recipes)
    rehearsals.fill()
    console.say(rehearsals.to_markdown())


if __name__ == "__main__":
    cli.run(main)
