"""Measures the input pipeline and the training step: `python -m cxr.bench`."""

import dataclasses
import json
import pathlib
from typing import Any

from cxr import cli, config, console, files, records, startup
from cxr.benchmark import regression
from cxr.config import TrainConfig
from cxr.reporting import formatting
from cxr.training import preflight

_USAGE = """
Answers on this machine and these data: how fast is training, what limits it, what
should be changed. Takes all flags of cxr.train; without a --flagfile those of
configs/quickstart.flags come first. Writes bench.json, bench.md and bench.png.

  python -m cxr.bench
  python -m cxr.bench --flagfile=configs/vgg16.flags --data_dir=data
  python -m cxr.bench --quick --baseline=bench/bench.json --output_dir=bench_new
"""


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """The benchmark's own flags."""

    output_dir: str = cli.option(
        "bench", "folder for bench.json, bench.md, bench.png", heading="benchmark"
    )
    only: str = cli.option(
        "all", "'input' leaves the computing cases out", choices=("all", "input")
    )
    quick: bool = cli.option(False, "short windows, no sweep: within 40 seconds")
    repeats: int = cli.option(
        0, "interleaved windows of each case; 0 = 7, with --quick 5", lower=0
    )
    window_ms: int = cli.option(
        0, "length of a window; 0 = 800, with --quick 200", lower=0
    )
    sweep: tuple[str, ...] = cli.option(
        ("auto",),
        "batch sizes to compare, e.g. 16,64,256; 'auto' = half, once and twice "
        "--batch_size where a step is short, none with --quick; 'none'",
    )
    stage: str = cli.option(
        "last", "which of the training's stages is measured", choices=("first", "last")
    )
    baseline: str = cli.option(
        "",
        "an earlier bench.json of equal settings: exit 1 where a case lost more than "
        "the noise of both runs",
    )

    def validate(self) -> None:
        """Checks what one field's bounds cannot say; raises UsageError."""
        words = set(self.sweep) & {"auto", "none"}
        if words and len(self.sweep) == 1:
            return
        if any(not size.isdigit() or int(size) < 1 for size in self.sweep):
            raise cli.UsageError(
                f"--sweep={','.join(self.sweep)}: expected batch sizes such as "
                "16,64,256, or 'auto', or 'none'"
            )


def bench(train_config: TrainConfig, options: BenchConfig) -> dict[str, Any]:
    """Runs the benchmark and publishes its files; returns bench.json's content."""
    baseline = _read_baseline(options.baseline) if options.baseline else None
    if train_config.cache == "device":
        raise cli.UsageError(
            "--cache=device: the benchmark measures how images reach the devices; "
            "use --cache=ram"
        )
    if train_config.strategy == "multi_worker":
        raise cli.UsageError(
            "--strategy=multi_worker: the benchmark measures one process; several are "
            "measured by benchmarks.scaling, in a checkout"
        )
    output = pathlib.Path(options.output_dir)
    if output.exists() and not output.is_dir():
        raise cli.UsageError(f"--output_dir={output}: is a file; expected a folder")
    record_set = _open_data(train_config)

    # TensorFlow: only after everything that can be refused.
    startup.load_tensorflow()
    from cxr.benchmark import report, runner

    protocol = runner.Protocol(
        repeats=options.repeats or (5 if options.quick else 7),
        window_s=(options.window_ms or (200 if options.quick else 800)) / 1000,
        input_only=options.only == "input",
        sweep=_sweep(options),
        stage=options.stage,
    )
    document = runner.run(train_config, record_set, protocol, baseline=baseline)
    changes = regression.compare(baseline, document) if baseline else []
    document["changes"] = [change.to_json() for change in changes]
    text = report.markdown(document, changes)
    files.publish(output / "bench.json", json.dumps(document, indent=1) + "\n")
    files.publish(output / "bench.md", f"{text}\n{formatting.DISCLAIMER}\n")
    report.plot(document, output / "bench.png")
    console.say("\n" + text, f"written: {output}/bench.json, bench.md, bench.png")
    return document


def main(argv: list[str]) -> int:
    """Runs the command line; 1 where a case became slower than the baseline's."""
    if not any(arg.lstrip("-").startswith("flagfile") for arg in argv[1:]):
        argv = [argv[0], f"--flagfile={cli.CONFIGS / 'quickstart.flags'}", *argv[1:]]
    train_config, options, positional = cli.parse(
        argv, TrainConfig, BenchConfig, usage=_USAGE
    )
    cli.reject_positional(positional)
    document = bench(train_config, options)
    changes = map(regression.Change.from_json, document["changes"])
    slower = [change.case for change in changes if change.slower]
    if slower:
        console.say(f"regression: {', '.join(slower)} slower than {options.baseline}")
    return 1 if slower else 0


def _open_data(train_config: TrainConfig) -> records.RecordSet:
    if train_config.dataset == config.PHANTOM:
        from cxr.synthesis import phantom_set

        phantom_set.ensure(train_config.data_dir)
    return preflight.open_data(train_config)


def _read_baseline(path: str) -> dict[str, Any]:
    try:
        document = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise cli.UsageError(f"--baseline={path}: no such file") from error
    except (ValueError, IsADirectoryError) as error:
        raise cli.DataError(f"--baseline={path}: not a bench.json: {error}") from error
    regression.check_document(document, path)
    return document


def _sweep(options: BenchConfig) -> tuple[int, ...] | None:
    if options.sweep == ("none",) or options.only == "input":
        return ()
    if options.sweep == ("auto",):
        return () if options.quick else None
    return tuple(int(size) for size in options.sweep)


if __name__ == "__main__":
    cli.run(main)
