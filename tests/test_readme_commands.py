"""Every command of the pages for users, run as it stands there, on phantoms.

Bash itself reads the pages' blocks, with stubs in place of `python` and `cxr` that note
how they were called; the calls then run in this process, one after the other, in one
folder. What cannot run here is listed with the reason, and its flags are checked.
"""

import importlib
import pathlib
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from cxr.__main__ import VERBS
from cxr.synthesis import phantom_set, phantoms
from tests.dicom_files import dicom

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ("README.md", "docs/replicate.md")
STUBS = ("python", "python3", "cxr", "pip", "ruff", "mypy", "docker", "tensorboard")
# What a call begins with, or a flag of it, and why it is not run.
NOT_RUN = {
    "python3 -m venv": "needs an empty machine",
    "pip install": "needs a package index",
    "ruff": "the gate runs it",
    "mypy": "the gate runs it",
    "python -m pytest": "is this suite",
    "docker": "needs docker",
    "tensorboard": "is a server",
    "--input_dir=kaggle:": "needs the network",
    "--virtual_devices=": "a process chooses its devices once",
    "-m cxr.bench": "takes a minute; tests/test_bench.py runs it",
    "-m tools.compare_loaders": "tests/test_compare_loaders.py runs it",
    "--output_dir=s3:": "needs a bucket; tests/test_storage.py has one",
    "--data_dir=s3:": "needs a bucket; tests/test_storage.py has one",
    "--workdir=s3:": "needs a bucket; tests/test_storage.py has one",
    "--runner=beam": "needs an environment of its own; see tests/test_beam_runner.py",
    "-m tools.launch_local": "tests/test_cluster.py runs it",
    "-m benchmarks.": "is measured by hand",
    "--fold=": "tests/test_folds.py trains and joins folds",
    "--workdir=runs/small_cnn-fold": "tests/test_folds.py trains and joins folds",
    "--format=onnx": "tests/test_export.py runs it",
    "--format=openvino": "tests/test_export.py runs it",
    "--format=litert": "tests/test_export.py runs it",
}
# Appended: the last value of a flag counts.
SMALLER = {
    "cxr.train": "--epochs=1 --image_size=32 --batch_size=8 --keep_checkpoints=1",
    "--flagfile=configs/vgg16.flags": "--weights=none --fine_tune_epochs=1 "
    "--feature_views=1 --batch_size=16",
    "--flagfile=configs/cnn.flags": "--image_size=94",
    "--image_size=500": "--image_size=100",
    "cxr.evaluate": "--draws=100 --explain=2",
    "--workdir=runs/vgg16": "--noreport",
    "--workdir=runs/cnn": "--noreport",
}


def blocks(page, language):
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def calls(page, folder):
    """Arguments of each call that bash makes of a page's blocks, names first."""
    for place in (folder / "bin", folder / ".venv" / "bin"):
        place.mkdir(parents=True, exist_ok=True)
        for name in STUBS:
            stub = '#!/bin/bash\n(IFS=$\'\\t\'; echo "${0##*/}\t$*") >> "$CALLS"\n'
            (place / name).write_text(stub)
            (place / name).chmod(0o755)
    noted = folder / "calls"
    for block in blocks(page, "bash"):
        subprocess.run(
            ["bash", "-euc", block],
            cwd=folder,
            check=True,
            env={"PATH": f"{folder}/bin:/usr/bin:/bin", "CALLS": str(noted)},
        )
    found = [line.split("\t") for line in noted.read_text().splitlines()]
    noted.unlink()
    return found


def as_module(call):
    """Module and arguments of a call of ours; None of any other."""
    match call:
        case ["python", "-m", module, *args] if module.split(".")[0] in (
            "cxr",
            "tools",
            "benchmarks",
        ):
            return module, args
        case ["cxr", verb, *args] if verb in VERBS:
            return VERBS[verb][0], args
    return None


def reason(call):
    """Why a call is not run; empty where it is."""
    text = " ".join(call)
    found = [why for key, why in NOT_RUN.items() if text.startswith(key)]
    found += [why for key, why in NOT_RUN.items() if key[0] == "-" and key in text]
    return found[0] if found else ""


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_ours_or_listed_and_their_flags_exist(page, tmp_path, capsys):
    noted = calls(page, tmp_path)
    assert len(noted) >= 8
    for call in noted:
        ours = as_module(call)
        assert ours or reason(call), call
        if not ours:
            continue
        module, args = ours
        ends = args.index("--") if "--" in args else len(args)
        # What a launcher passes on is for training.
        for taker, given in ((module, args[:ends]), ("cxr.train", args[ends + 1 :])):
            with pytest.raises(SystemExit):
                importlib.import_module(taker).main([taker, "--help"])
            known = re.findall(r"--(\w+)", capsys.readouterr().out)
            flags = [re.match(r"--(?:no)?(\w+)", arg) for arg in given]
            assert {flag[1] for flag in flags if flag} <= {*known, "flagfile"}, call


def draw_films(folder):
    """What the pages take for granted: sets of a few phantoms under their names."""
    phantoms.write(folder / "chest_xray", num_patients=60, film_width=100)
    films = sorted((folder / "chest_xray").rglob("*.jpeg"))
    of = {
        label: [film for film in films if film.parent.name == label]
        for label in ("NORMAL", "PNEUMONIA")
    }
    rows = ["Image Index,Finding Labels,Patient ID"]
    for label, name in (("NORMAL", "healthy"), ("PNEUMONIA", "PNEUMONIA")):
        for number, film in enumerate(of[label][:12]):
            copies = {
                f"export/{name.capitalize()}/PAT{name[0]}{number}/film.jpeg",
                f"other/{name}/{number}.jpeg",
                f"new_films/{name}{number}.jpeg",
                f"nih/images/{name}{number}.jpeg",
            }
            for copy in copies:
                (folder / copy).parent.mkdir(parents=True, exist_ok=True)
                (folder / copy).write_bytes(film.read_bytes())
            finding = "No Finding" if label == "NORMAL" else "Pneumonia"
            rows.append(f"{name}{number}.jpeg,{finding},{name}{number}")
            pixels = np.asarray(Image.open(film).convert("L")).astype(np.uint16) * 16
            copy = folder / f"pacs_export/{label}/{number}.dcm"
            copy.parent.mkdir(parents=True, exist_ok=True)
            own = {"PatientID": f"{label} {number}", "SOPInstanceUID": f"1.{len(rows)}"}
            copy.write_bytes(dicom(pixels, **own))
    (folder / "nih" / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    (folder / "film.dcm").write_bytes(copy.read_bytes())
    Image.open(films[0]).save(folder / "film.jpeg")
    Image.open(films[0]).save(folder / "film.png")
    (folder / "configs").symlink_to(ROOT / "configs")


@pytest.mark.slow
def test_the_pages_commands_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(phantom_set, "NUM_PATIENTS", 40)
    monkeypatch.chdir(tmp_path)
    draw_films(tmp_path)
    for page in PAGES:
        for call in calls(page, tmp_path):
            if reason(call) or not (ours := as_module(call)):
                continue
            module, args = ours
            for key, smaller in SMALLER.items():
                if key in (module, *args) and module != "cxr.predict":
                    args = [*args, *smaller.split()]
            print(call)
            code = importlib.import_module(module).main([module, *args])
            assert not code, call
        for block in blocks(page, "python"):
            if "mlflow" not in block:  # tests/test_mlflow_example.py
                exec(compile(block, page, "exec"), {})
