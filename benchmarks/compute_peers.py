"""Computes the same networks by ours, Keras and PyTorch, in turn."""

import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import compute_report
from benchmarks import compute_tasks as tasks
from benchmarks.compute_tasks import Case, Peer
from benchmarks.peer_process import PeerProcess
from cxr import cli, console, platforms

USAGE = """
Measures VGG16 and small_cnn, forward and in training, on one resident batch, by
ours, Keras and PyTorch in float32 and bfloat16, plain and compiled:

  python -m benchmarks.compute_peers --output_dir=OUT \\
    --peer_python=torch=/envs/torch/bin/python

All take the same batch, weights and threads; each family has a process a case, and
every peer takes its turn in every round. Without --peer_python=torch=... PyTorch is
left out, and so reported. --input_dir=FOLDER, with two class folders of films, also
measures epochs of small_cnn from the files. Writes compute.json, compute.md and
compute.png to OUT, and what the workers said to OUT/logs. --quick takes a minute or
two, with small pictures and uncompiled peers; its figures are a trial.
"""
_ROOT = pathlib.Path(__file__).parents[1]
_QUIET_LOAD = 0.5
_EPOCH_SET = "films"  # name of the converted set, and of the link to the films


@dataclasses.dataclass(frozen=True)
class PeersConfig:
    """Which cases and peers, how long."""

    output_dir: str = cli.required("folder for the results")
    input_dir: str = cli.option("", "two class folders of films, for epochs from files")
    peer_python: tuple[str, ...] = cli.option(
        (), "torch=PYTHON: interpreter of an environment with PyTorch, numpy, Pillow"
    )
    cases: tuple[str, ...] = cli.option((), "only these cases; all without it")
    peers: tuple[str, ...] = cli.option((), "only these peers; all without it")
    image_size: int = cli.option(224, "side of VGG16's images in pixels", lower=32)
    batch_size: int = cli.option(16, "images a step of VGG16", lower=1)
    small_image_size: int = cli.option(96, "the same of small_cnn", lower=32)
    small_batch_size: int = cli.option(32, "the same of small_cnn", lower=1)
    rounds: int = cli.option(5, "turns of each peer", lower=1)
    seconds: float = cli.option(2.0, "of a turn; one step at least", lower=0.01)
    max_step_s: float = cli.option(
        30.0,
        "a peer whose step takes longer, as XLA's VGG16 on a CPU, is not measured",
        lower=0.001,
    )
    epochs: int = cli.option(3, "epochs from files, the first apart", lower=2)
    threads: int = cli.option(
        0, "threads of every peer; 0 = the cores at hand", lower=0
    )
    quick: bool = cli.option(
        False,
        "to see that it works: its own sizes, rounds and seconds, and uncompiled peers",
    )

    def validate(self) -> None:
        """Raises UsageError for an unknown case or peer, or no two class folders."""
        for given in self.peer_python:
            name, _, python = given.partition("=")
            if name != "torch" or not python:
                raise cli.UsageError(
                    f"--peer_python={given}: expected torch=PYTHON; ours and Keras "
                    "run in this environment"
                )
        cases = tasks.cases((0, 0), (0, 0))
        _known("cases", self.cases, [case.name for case in cases])
        cases.append(Case("small_cnn", tasks.EPOCHS))
        names = {peer.name for case in cases for peer in tasks.peers(case)}
        _known("peers", self.peers, sorted(names))
        if self.input_dir and len(_class_folders(self.input_dir)) != tasks.NUM_CLASSES:
            raise cli.UsageError(
                f"--input_dir={self.input_dir}: expected a folder that holds "
                f"{tasks.NUM_CLASSES} class folders"
            )

    @property
    def python(self) -> dict[str, str | None]:
        """Family to the Python that runs it."""
        given = dict(peer.split("=", 1) for peer in self.peer_python)
        own = sys.executable
        return {"cxr": own, "keras": own, "torch": given.get("torch")}

    @property
    def trial(self) -> "PeersConfig":
        """The configuration of `--quick`."""
        return dataclasses.replace(
            self,
            cases=self.cases or ("small_cnn training", "vgg16 training"),
            peers=self.peers
            or tuple(
                Peer(family, precision).name
                for family in tasks.FAMILIES
                for precision in tasks.PRECISIONS
            ),
            image_size=32,
            batch_size=8,
            small_image_size=64,
            rounds=3,
            seconds=0.2,
            epochs=2,
        )


def _known(flag: str, given: tuple[str, ...], known: list[str]) -> None:
    for name in given:
        if name not in known:
            expected = ", ".join(known)
            raise cli.UsageError(f"--{flag}={name}: expected one of {expected}")


def _class_folders(folder: str) -> list[pathlib.Path]:
    path = pathlib.Path(folder)
    if not path.is_dir():
        return []
    return [entry for entry in path.iterdir() if entry.is_dir()]


def main(argv: list[str]) -> int:
    """Compares as the command line says; returns the exit code."""
    config, positional = cli.parse(argv, PeersConfig, usage=USAGE)
    cli.reject_positional(positional)
    report = compare(config.trial if config.quick else config)
    console.say(compute_report.markdown(report))
    console.say(f"compute.json, compute.md and compute.png in {config.output_dir}")
    if wrong := [row for row in report["rows"] if row["verdict"] != "ok"]:
        names = ", ".join(f"{row['case']} by {row['peer']}" for row in wrong)
        raise cli.DataError(f"computed something else than the others: {names}")
    return 0


def compare(config: PeersConfig) -> dict[str, Any]:
    """Measures and publishes; returns what compute.json holds."""
    threads = config.threads or platforms.available_cores()
    report: dict[str, Any] = {
        "schema": 1,
        "environment": _environment(threads),
        "settings": dataclasses.asdict(config),
        "rows": [],
        "missing": [],
    }
    if report["environment"]["load_before"] > _QUIET_LOAD:
        console.warn(
            "other programs are running: PyTorch's threads wait by spinning and lose "
            "two thirds of their rate beside them; measure on a quiet machine"
        )
    cases = _cases(config)
    with tempfile.TemporaryDirectory(prefix="cxr-compute-") as scratch:
        work = pathlib.Path(scratch)
        if config.input_dir:
            report["conversion_s"] = _convert(config, work)
        _prepare(cases, work)
        for case in cases:
            console.note(f"{case.name}:")
            with contextlib.ExitStack() as stack:
                found = _Measurement(config, case, work, threads, stack)
                found.take_turns()
                found.add_to(report)
    compute_report.complete(report)
    compute_report.publish(report, pathlib.Path(config.output_dir))
    return report


def _cases(config: PeersConfig) -> list[Case]:
    small = config.small_image_size, config.small_batch_size
    cases = tasks.cases((config.image_size, config.batch_size), small)
    if config.cases:
        cases = [case for case in cases if case.name in config.cases]
    if config.input_dir:
        cases.append(Case("small_cnn", tasks.EPOCHS, *small))
    return cases


def _environment(threads: int) -> dict[str, Any]:
    return {
        "processor": platforms.processor_name(),
        "bfloat16_unit": platforms.bfloat16_unit(),
        "cores": platforms.available_cores(),
        "threads": threads,
        "load_before": platforms.load_average(),  # processes that ran, mean of a minute
        "platform": platform.platform(),
        "python": platform.python_version(),
        "devices": {},
        "versions": {},
    }


# --- the same for everyone


def _convert(config: PeersConfig, work: pathlib.Path) -> float:
    """Converts the films for ours, links them for the others; returns our seconds."""
    from cxr.conversion import converter

    source = pathlib.Path(config.input_dir).resolve()
    (work / _EPOCH_SET).symlink_to(source)
    began = time.perf_counter()
    flags = converter.ConversionConfig(
        input_dir=str(source),
        output_dir=str(work / "data"),
        dataset=_EPOCH_SET,
        encoding="raw",
        image_size=config.small_image_size,
        split_policy="grouped",
        validation_fraction=0.0,
        test_fraction=0.0,
    )
    converter.convert(flags, log=console.note)
    return time.perf_counter() - began


def _prepare(cases: list[Case], work: pathlib.Path) -> None:
    """Has batches, weights and expected outputs written, by a process of its own."""
    command = [sys.executable, "-m", "benchmarks.compute_networks", str(work)]
    done = subprocess.run(
        [*command, json.dumps(cases)],
        cwd=_ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise cli.UnavailableError(f"the networks cannot be prepared: {last}")


# --- measuring


class _Measurement:
    """A case, computed by all of its peers.

    Args:
      config: the command's flags.
      case: what is computed.
      work: folder of the workers.
      threads: of every peer.
      stack: closes the workers.
    """

    def __init__(
        self,
        config: PeersConfig,
        case: Case,
        work: pathlib.Path,
        threads: int,
        stack: contextlib.ExitStack,
    ):
        self._config, self._case, self._work = config, case, work
        self._threads, self._stack = threads, stack
        self._devices: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        self._missing: dict[str, str] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._workers: dict[str, PeerProcess] = {}
        for peer in self._wanted():
            self._build(peer)

    def _wanted(self) -> list[Peer]:
        """Returns the peers that were asked for, and the machine's peak beside ours."""
        names = self._config.peers
        wanted = [p for p in tasks.peers(self._case) if not names or p.name in names]
        if self._case.mode in (tasks.PRODUCT, tasks.EPOCHS):
            return wanted
        ours = [peer for peer in wanted if peer.family == "cxr"]
        precisions = dict.fromkeys(peer.precision for peer in ours)
        # Next to ours, whose share of it is told.
        peaks = [Peer("cxr", precision, tasks.PRODUCT) for precision in precisions]
        return [*ours, *peaks, *(peer for peer in wanted if peer not in ours)]

    def _build(self, peer: Peer) -> None:
        """Has a peer make its networks ready, in the family's worker."""
        began = time.perf_counter()
        if peer.family not in self._workers and peer.family not in self._missing:
            self._start(peer.family)
        if peer.family in self._missing:
            self._missing[peer.name] = self._missing[peer.family]
            return
        answer = self._ask("build", peer.name)
        if answer is not None:
            self._rows[peer.name] = {"facts": answer["facts"], "turns": []}
        console.note(f"  {peer.name}: ready in {time.perf_counter() - began:.0f} s")

    def _start(self, family: str) -> None:
        python = self._config.python[family]
        if python is None:
            self._missing[family] = f"no --peer_python={family}=PYTHON given"
            return
        options = {
            "family": family,
            "case": self._case,
            "work": str(self._work),
            "threads": self._threads,
            "seconds": self._config.seconds,
            "max_step_s": self._config.max_step_s,
        }
        name = f"{self._case.name} {family}".replace(" ", "-")
        worker = PeerProcess(
            [python, "-m", "benchmarks.compute_worker", json.dumps(options)],
            pathlib.Path(self._config.output_dir) / "logs" / f"{name}.txt",
            {
                "OMP_NUM_THREADS": str(self._threads),
                # What torch.compile makes goes with the folder.
                "TORCHINDUCTOR_CACHE_DIR": str(self._work / "inductor"),
                "TORCHINDUCTOR_COMPILE_THREADS": "1",
            },
        )
        self._stack.callback(worker.close)
        ready = worker.read()
        if "missing" in ready:
            self._missing[family] = ready["missing"]
            return
        self._workers[family] = worker
        self._devices[family] = ready["device"]
        self._versions.update(ready["versions"])

    def _ask(self, command: str, name: str) -> dict[str, Any] | None:
        """Returns a peer's answer; None, and the reason kept, where it failed."""
        worker = self._workers[Peer.parse(name).family]
        answer = worker.ask(f"{command} {name}")
        if "missing" not in answer:
            return answer
        self._missing[name] = answer["missing"]
        self._rows.pop(name, None)
        return None

    def take_turns(self) -> None:
        """Measures A B C A B C ...: what changes with time meets all peers alike."""
        epochs = self._case.mode == tasks.EPOCHS
        rounds = self._config.epochs if epochs else self._config.rounds
        for _ in range(rounds):
            for name in list(self._rows):
                answer = self._ask("turn", name)
                if answer is not None:
                    self._rows[name]["turns"].append(answer)
        for name in list(self._rows):
            answer = self._ask("check", name)
            if answer is not None:
                self._rows[name]["check"] = answer["check"]

    def add_to(self, report: dict[str, Any]) -> None:
        """Adds rows, and what is missing."""
        report["environment"]["devices"].update(self._devices)
        report["environment"]["versions"].update(self._versions)
        for name, why in self._missing.items():
            if name not in tasks.FAMILIES:
                report["missing"].append(
                    {"case": self._case.name, "peer": name, "why": why}
                )
        counts = json.loads((self._work / "operations.json").read_text())
        expected: dict[str, Any] = {}
        path = self._work / f"{self._case.files}.json"
        if self._case.network:
            expected = json.loads(path.read_text())
        for name, found in self._rows.items():
            peer, operations = Peer.parse(name), counts[self._case.name]
            if peer.option == tasks.PRODUCT:
                operations = tasks.PRODUCT_OPERATIONS
            report["rows"].append(
                compute_report.row(
                    self._case, peer, found, expected=expected, operations=operations
                )
            )


if __name__ == "__main__":
    cli.run(main)
