"""README's lines that bring a run into MLflow, run as they stand there."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from cxr import runs
from tests import fabricated

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLE = re.compile(r"goes into MLflow.*?```python\n(.*?)```", re.DOTALL)
LOOK = """
from mlflow import MlflowClient
client = MlflowClient()
(run,) = client.search_runs(["0"])
print(run.info.status, len(run.data.params), run.data.params["model"])
print(run.data.tags["model_sha256"])
print(*[(one.step, one.value) for one in client.get_metric_history(
    run.info.run_id, "val_loss")])
"""


def example() -> str:
    (code,) = EXAMPLE.findall((ROOT / "README.md").read_text())
    return code


def test_the_example_is_short_and_parses():
    code = example()
    compile(code, "README.md", "exec")
    assert len([line for line in code.splitlines() if line]) <= 10


def test_a_finished_run_goes_into_mlflow(tmp_path):
    if importlib.util.find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed: cxr does not need it")
    record_set = fabricated.write_records(tmp_path / "data", {"train": 6, "test": 4})
    run = tmp_path / "runs" / "small_cnn"
    fabricated.write_run(run, record_set)
    history = [{"epoch": n, "stage": "train", "val_loss": 1 / n} for n in (1, 2)]
    runs.write_history(run, history)
    shown = subprocess.run(
        [sys.executable, "-c", example() + LOOK],
        cwd=tmp_path,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": str(tmp_path / "mlruns"),
            "MLFLOW_ALLOW_FILE_STORE": "true",  # mlflow-skinny has no database
        },
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    status, sha256, values = shown.stdout.splitlines()[-3:]
    flags = (run / runs.FLAGS).read_text().splitlines()
    model = runs.read_config(run).model
    assert status == f"FINISHED {len(flags)} {model}"
    assert sha256 == runs.read_model_info(run).model_sha256
    assert values == "(1, 1.0) (2, 0.5)"
