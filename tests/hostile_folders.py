"""Two hundred ways in which a run or set folder can be wrong, or mean harm.

Each changes a sound folder. What commands must do with it: refuse it in one message,
or do exactly what they do with the sound one.
"""

import csv
import io
import json
import os
import pathlib
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np

from cxr import files, records, runs, tfrecord

WEIGHTS = "model.weights.h5"  # of a .keras archive


class Place(NamedTuple):
    """Where a variant is made.

    Attributes:
      run: a finished run's folder.
      version: the folder of the set that it was trained on.
      outside: a folder in which nothing may change.
    """

    run: pathlib.Path
    version: pathlib.Path
    outside: pathlib.Path


class Variant(NamedTuple):
    """A change, and which command meets it: predict, evaluate or train."""

    name: str
    command: str
    change: Callable[[Place], None]


class Touch:
    """Unpickling it makes a file: code has run."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


# What stands in the place of a JSON field; most fields allow none of them.
_WRONG: dict[str, Any] = {
    "null": None,
    "list": [1, 2],
    "object": {"a": 1},
    "negative": -7,
    "huge": 10**400,
    "infinite": float("inf"),
    "nan": float("nan"),
    "empty": "",
    "escape": "a\x1b[2Jb\nc",
    "outside": "../../outside/file",
    "absolute": "/etc/passwd",
    "long": "x" * 100_000,
}


def variants() -> list[Variant]:
    """Returns all of them; names are unique."""
    made = [
        *_model_info(),
        *_settings(),
        *_models(),
        *_run_files(),
        *_checkpoints(),
        *_manifests(),
        *_tables(),
        *_offsets(),
        *_set_files(),
    ]
    names = [variant.name for variant in made]
    assert len(set(names)) == len(names)
    return made


# --- changes


def _edit_json(path: pathlib.Path, change: Callable[[Any], Any]) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change(document) or document))


def _setting(name: str, value: Any) -> Callable[[Any], None]:
    """Returns the change of a field, `a.b` for one within another."""

    def change(document: Any) -> None:
        *parts, last = name.split(".")
        for part in parts:
            document = document[int(part) if part.isdecimal() else part]
        document[last] = value

    return change


def _dropping(name: str) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        del document[name]

    return change


def _in_run(file: str, change: Callable[[Any], Any]) -> Callable[[Place], None]:
    return lambda place: _edit_json(place.run / file, change)


def _in_manifest(change: Callable[[Any], Any]) -> Callable[[Place], None]:
    def changed(place: Place) -> None:
        _edit_json(place.version / records.MANIFEST, change)
        reseal(place.version)

    return changed


def _text(file: str, text: str | bytes) -> Callable[[Place], None]:
    data = text.encode() if isinstance(text, str) else text
    return lambda place: (place.run / file).write_bytes(data) and None


def reseal(version: pathlib.Path) -> None:
    """Makes a changed set's manifest agree with its side files and itself."""
    path = version / records.MANIFEST
    document = json.loads(path.read_text())
    try:
        for name, listed in document["files"].items():
            listed["bytes"] = (version / name).stat().st_size
            listed["sha256"] = files.sha256_file(version / name)
        seen = {
            "class_names": document["class_names"],
            "image_size": document["image_size"],
            "encoding": document["encoding"],
            "splits": {
                name: [shard["sha256"] for shard in split["shards"]]
                for name, split in document["splits"].items()
            },
        }
        text = json.dumps(seen, sort_keys=True)
        document["fingerprint"] = files.sha256_bytes(text.encode())
    except (KeyError, TypeError, AttributeError, OSError):
        return  # too wrong to be made to agree
    path.write_text(json.dumps(document))


def _model_info() -> Iterator[Variant]:
    fields = ("schema", "model", "class_names", "positive_class", "head")
    fields += ("stored_image_size", "image_size", "threshold", "data", "model_file")
    fields += ("model_sha256", "final_weights_sha256", "best_epoch", "num_parameters")
    for field in fields:
        change = _in_run(runs.MODEL_INFO, _dropping(field))
        yield Variant(f"model.json without {field}", "predict", change)
        kinds = ("null", "list", "object", "escape", "long")
        kinds += ("outside", "absolute") if field == "model_file" else ()
        for kind in kinds:
            if field == "schema" and kind == "object":
                continue
            change = _in_run(runs.MODEL_INFO, _setting(field, _WRONG[kind]))
            yield Variant(f"model.json {field} {kind}", "predict", change)
    values = {
        "threshold.value": (float("nan"), float("inf"), -0.1, 7, "0.5", True, 0.123),
        "threshold.rule": ("magic", "sensitivity:nan", None),
        "temperature": (float("nan"), -1, "hot"),
        "stored_image_size": (0, 33, 10**9, 2.5, True),
        "image_size": (0, 64, 10**9),
        "best_epoch": (0, -1, 1.5),
        "positive_class": ("NORMAL", "Z"),
        "class_names": (
            ["PNEUMONIA", "NORMAL"],
            ["NORMAL", "NORMAL"],
            ["NORMAL"],
            [],
            ["NORMAL", "PNEUMONIA", "COVID"],
            ["NORMAL", "=1+1"],
            ["NORMAL", "a\nb"],
        ),
        "data.fingerprint": ("0" * 64, "x", None),
        "data.dataset": ("..", "a/b"),
        "head": ("sigmoid",),
        "model_file": (".", "", "model.json"),
        "flags": (["--flagfile=/etc/passwd"], ["--help"], "x", [1], ["--nope=1"]),
        "trained_after_test": (-1, "x"),
    }
    for field, wrong in values.items():
        for value in wrong:
            change = _in_run(runs.MODEL_INFO, _setting(field, value))
            yield Variant(f"model.json {field} = {value!r}", "predict", change)
    for name, text in {
        "empty": "",
        "list": "[]",
        "number": "1",
        "deep": "[" * 100_000,
        "not utf8": b"\xff\xfe{}",
        "twice": '{"schema": 1, "schema": 2}',
        "cut": '{"schema": 1, "model": "cn',
        "html": "<html>",
    }.items():
        yield Variant(f"model.json {name}", "predict", _text(runs.MODEL_INFO, text))


def _settings() -> Iterator[Variant]:
    def only_flags(place: Place) -> None:
        _edit_json(place.run / runs.MODEL_INFO, _setting("flags", None))

    flags = {
        "itself": "--flagfile=run.flags\n",
        "another flagfile": "--flagfile=/etc/passwd\n",
        "help": "--help\n",
        "unknown": "--nope=1\n",
        "not a flag": "rm -rf\n",
        "out of range": "--epochs=-3\n",
        "no number": "--image_size=abc\n",
        "binary": b"\x00\xff\x1b[2J",
        "undefok": "--undefok=x\n",
        "double dash": "--\nx\n",
    }
    for name, text in flags.items():

        def change(place: Place, text=text) -> None:
            only_flags(place)
            _text(runs.FLAGS, text)(place)

        yield Variant(f"run.flags {name}", "evaluate", change)
    environment = {
        "packages": ("x", [1], {"keras": 1}),
        "devices": ("cpu", [1], None),
        "data": ({}, None, "x"),
        "git_commit": (7, "a\x1b[0m"),
        "replicas": (0, "two"),
    }
    for field, wrong in environment.items():
        for value in wrong:
            change = _in_run("environment.json", _setting(field, value))
            yield Variant(f"environment.json {field} = {value!r}", "evaluate", change)
    header = ",".join(runs.REPRODUCIBLE_COLUMNS)
    history = {
        "empty": "",
        "words": f"{header}\n1,train,loss,0,0,0,0,0\n",
        "infinite": f"{header}\n1,train,inf,0,0,0,0,0\n",
        "unknown stage": f"{header}\n1,=cmd(),0,0,0,0,0,0\n",
        "epochs astray": f"{header}\n7,train,0,0,0,0,0,0\n",
        "short row": f"{header}\n1,train\n",
        "other columns": "a,b\n1,2\n",
        "binary": b"\x00\x01\xff",
    }
    for name, text in history.items():
        change = _text(runs.HISTORY, text)
        yield Variant(f"history.csv {name}", "evaluate report", change)


def _rewritten(change: Callable[[pathlib.Path, Place], None]):
    def changed(place: Place) -> None:
        path = place.run / runs.MODEL
        change(path, place)
        sha256 = files.sha256_file(path)
        _edit_json(place.run / runs.MODEL_INFO, _setting("model_sha256", sha256))

    return changed


def _members(change: Callable[[dict[str, bytes], Place], None], **options):
    def changed(path: pathlib.Path, place: Place) -> None:
        with zipfile.ZipFile(path) as archive:
            held = {name: archive.read(name) for name in archive.namelist()}
        change(held, place)
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, data in held.items():
                archive.writestr(name, data)

    return _rewritten(changed)


def _config(edit: Callable[[dict], None]):
    def change(held: dict[str, bytes], place: Place) -> None:
        document = json.loads(held["config.json"])
        edit(document)
        held["config.json"] = json.dumps(document).encode()

    return _members(change)


def _layer(name: str, module: str = "keras.layers", **settings: Any):
    def edit(document: dict) -> None:
        last = document["config"]["layers"][-1]
        last["module"], last["class_name"] = module, name
        last["config"] = {"name": last["config"]["name"], **settings}

    return _config(edit)


def _external(held: dict[str, bytes], place: Place) -> None:
    file = io.BytesIO(held[WEIGHTS])
    with h5py.File(file, "a") as weights:
        weights["stolen"] = h5py.ExternalLink(str(place.outside / "file"), "/x")
    held[WEIGHTS] = file.getvalue()


def _wider(document: dict) -> None:
    shape = document["config"]["layers"][0]["config"]["batch_shape"]
    shape[1] = shape[2] = 64


def _models() -> Iterator[Variant]:
    yield Variant(
        "model another file",
        "predict",
        lambda place: (place.run / runs.MODEL).write_bytes(b"x") and None,
    )
    changes = {
        "text": _rewritten(lambda path, _: path.write_text("not a zip") and None),
        "empty": _rewritten(lambda path, _: path.write_bytes(b"") and None),
        "pickle": _rewritten(
            lambda path, place: (
                path.write_bytes(pickle.dumps(Touch(place.outside / "ran"))) and None
            )
        ),
        "without config": _members(lambda held, _: held.pop("config.json") and None),
        "without weights": _members(lambda held, _: held.pop(WEIGHTS) and None),
        "compressed": _members(lambda *_: None, compression=zipfile.ZIP_DEFLATED),
        "broken weights": _members(lambda held, _: held.update({WEIGHTS: b"x" * 100})),
        "external weights": _members(_external),
        "lambda": _layer("Lambda", function="__import__('os').system('true')"),
        "TFSMLayer": _layer("TFSMLayer", filepath="/tmp"),
        "foreign module": _layer("system", "os"),
        "custom": _layer("Mine", "somewhere.else"),
        "unhashable": _layer([1], ["x"]),
        "another input": _config(_wider),
        "config a list": _members(lambda held, _: held.update({"config.json": b"[]"})),
        "labels swapped": _members(
            lambda held, _: held.update(
                {"cxr.json": held["cxr.json"].replace(b"NORMAL", b"CALM")}
            )
        ),
        "labels no JSON": _members(lambda held, _: held.update({"cxr.json": b"{"})),
    }
    for name, change in changes.items():
        yield Variant(f"model {name}", "predict", change)


def _replacing(path_of: Callable[[Place], pathlib.Path]) -> dict[str, Callable]:
    """Returns what can stand in the place of a file."""

    def remove(place: Place) -> pathlib.Path:
        path = path_of(place)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        return path

    return {
        "a pipe": lambda place: os.mkfifo(remove(place)),
        "a folder": lambda place: remove(place).mkdir(),
        "a link outside": lambda place: remove(place).symlink_to(
            place.outside / "file"
        ),
        "a link to nowhere": lambda place: remove(place).symlink_to("/no/where"),
        "a link to itself": lambda place: remove(place).symlink_to(path_of(place).name),
    }


def _run_files() -> Iterator[Variant]:
    commands = {
        runs.MODEL_INFO: "predict",
        runs.MODEL: "predict",
        runs.FLAGS: "train",
        runs.HISTORY: "evaluate report",
        "environment.json": "evaluate",
        runs.TEST_READS: "evaluate",
        "evaluation-validation/predictions.json": "evaluate",
        "evaluation-validation/predictions.csv": "evaluate",
        runs.NEXT_MODEL: "train",
        ".lock": "train",
    }
    for file, command in commands.items():
        for what, change in _replacing(
            lambda place, file=file: place.run / file
        ).items():
            yield Variant(f"{what} for {file}", command, change)
    for folder in (runs.CHECKPOINTS, "evaluation-test", runs.TENSORBOARD):

        def change(place: Place, folder=folder) -> None:
            shutil.rmtree(place.run / folder, ignore_errors=True)
            (place.run / folder).symlink_to(place.outside)

        command = "evaluate" if folder == "evaluation-test" else "train"
        yield Variant(f"a link outside for {folder}/", command, change)
    reads = {
        "words": "=cmd()\n",
        "ragged": "time,split\n1\n",
        "binary": b"\x00\xff",
    }
    for name, text in reads.items():
        change = _text(runs.TEST_READS, text)
        yield Variant(f"test_reads.csv {name}", "evaluate", change)
    kept = {
        "nan": lambda text: text.replace("0.", "nan", 1),
        "class swapped": lambda text: text.replace(
            "probability_NORMAL", "probability_X"
        ),
        "beyond": lambda text: text.replace("0.", "70.", 1),
        "a row less": lambda text: text.rpartition("\n")[0].rpartition("\n")[0] + "\n",
    }
    for name, edit in kept.items():

        def change(place: Place, edit=edit) -> None:
            folder = place.run / "evaluation-validation"
            text = edit((folder / "predictions.csv").read_text())
            (folder / "predictions.csv").write_text(text)

        yield Variant(f"kept predictions {name}", "evaluate", change)


def _checkpoints() -> Iterator[Variant]:
    def newest(place: Place) -> pathlib.Path:
        (place.run / runs.MODEL_INFO).unlink(missing_ok=True)  # a run under way
        return sorted((place.run / runs.CHECKPOINTS).glob("step-*"))[-1]

    def state(edit: Callable[[dict], Any]) -> Callable[[Place], None]:
        def change(place: Place) -> None:
            folder = newest(place)
            _edit_json(folder / "state.json", edit)
            sha256 = files.sha256_file(folder / "state.json")
            _edit_json(
                folder / "commit.json", lambda held: held | {"state.json": sha256}
            )

        return change

    def arrays(write: Callable[[pathlib.Path, Place], None]) -> Callable[[Place], None]:
        def change(place: Place) -> None:
            path = newest(place) / "arrays.npz"
            write(path, place)
            sha256 = files.sha256_file(path)
            commit = path.parent / "commit.json"
            _edit_json(commit, lambda held: held | {"arrays.npz": sha256})

        return change

    def pickled(path: pathlib.Path, place: Place) -> None:
        held = np.array([Touch(place.outside / "ran")], dtype=object)
        np.savez(path, allow_pickle=True, x=held)

    changes = {
        "stage beyond": state(_setting("stage", 9)),
        "stage a word": state(_setting("stage", "x")),
        "step negative": state(_setting("step", -1)),
        "step huge": state(_setting("step", 10**30)),
        "rows a word": state(_setting("rows", "x")),
        "a row a word": state(_setting("rows", ["x"])),
        "a row without loss": state(_setting("rows", [{"epoch": 1}])),
        "more fields": state(_setting("more", 1)),
        "arrays a pickle": arrays(pickled),
        "arrays none": arrays(lambda path, _: np.savez(path)),
        "arrays others": arrays(lambda path, _: np.savez(path, x=np.zeros(3))),
        "arrays packed": arrays(
            lambda path, _: np.savez_compressed(path, x=np.zeros(10**6))
        ),
        "arrays text": arrays(lambda path, _: path.write_text("x") and None),
    }
    for name, change in changes.items():
        yield Variant(f"checkpoint {name}", "train", change)
    for file in ("state.json", "commit.json", "arrays.npz"):
        for what in ("a pipe", "a folder", "a link outside"):

            def change(place: Place, file=file, what=what) -> None:
                folder = newest(place)
                _replacing(lambda _: folder / file)[what](place)

            yield Variant(f"{what} for a checkpoint's {file}", "train", change)


def _manifests() -> Iterator[Variant]:
    for field in ("name", "class_names", "image_size", "encoding", "splits", "files"):
        yield Variant(
            f"manifest without {field}", "evaluate", _in_manifest(_dropping(field))
        )
        for kind in ("null", "list", "object", "escape"):
            change = _in_manifest(_setting(field, _WRONG[kind]))
            yield Variant(f"manifest {field} {kind}", "evaluate", change)
    shard = "splits.test.shards.0"
    values = {
        "image_size": (0, 10**6, 32.5),
        "encoding": ("exe", "png"),
        "version": ("../1", "1"),
        f"{shard}.file": ("../../outside/file", "/etc/passwd", "examples.csv"),
        f"{shard}.count": (-1, 10**15, 0, "2"),
        f"{shard}.bytes": (0, 10**15, -5),
        f"{shard}.sha256": ("0" * 64, 7),
        "splits.test.num_examples": (0, 10**12, "x"),
        "splits.test.num_patients": (1, -1),
        "splits.test.num_bytes": (1,),
        "splits.test.class_counts": ({"NORMAL": 0, "PNEUMONIA": 8}, {}, {"X": 8}),
        "splits.test.shards": ([], "x"),
        "splits.more": ({},),
        "files.../../outside/file": ({"bytes": 1, "sha256": "0" * 64},),
        "class_names": (["PNEUMONIA", "NORMAL"], ["A", "B"], ["NORMAL", "NORMAL"]),
    }
    for field, wrong in values.items():
        for value in wrong:
            if field.startswith("files."):

                def change(document, field=field, value=value):
                    document["files"][field.partition(".")[2]] = value

            else:
                change = _setting(field, value)
            name = f"manifest {field} = {value!r}"
            yield Variant(name, "evaluate", _in_manifest(change))


def _examples(edit: Callable[[list[dict]], Any]) -> Callable[[Place], None]:
    def change(place: Place) -> None:
        path = place.version / records.EXAMPLES
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        rows = edit(rows) or rows
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        reseal(place.version)

    return change


def _of_test(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["split"] == "test"]


def _cell(column: str, value: str):
    return _examples(lambda rows: _of_test(rows)[0].update({column: value}))


def _swap(column: str):
    def edit(rows: list[dict]) -> None:
        one, two = _of_test(rows)[:2]
        one[column], two[column] = two[column], one[column]

    return _examples(edit)


def _without(column: str):
    def edit(rows: list[dict]) -> None:
        for row in rows:
            del row[column]

    return _examples(edit)


def _tables() -> Iterator[Variant]:
    changes = {
        "label another": _cell("label", "PNEUMONIA"),
        "label unknown": _cell("label", "Z"),
        "labels swapped": _swap("label"),
        "patient another": _cell("patient_id", "nobody"),
        "patients swapped": _swap("patient_id"),
        "patient of train": _cell("patient_id", "train-0"),
        "names swapped": _swap("filename"),
        "subtype another": _cell("subtype", "BACTERIA"),
        "split another": _cell("split", "train"),
        "split unknown": _cell("split", "secret"),
        "shard outside": _cell("shard", "../../outside/file"),
        "record another": _cell("record", "9"),
        "a row less": _examples(lambda rows: rows[:-1]),
        "a row twice": _examples(lambda rows: [*rows, rows[-1]]),
        "rows turned": _examples(lambda rows: rows[::-1]),
        "without labels": _without("label"),
        "without splits": _without("split"),
    }
    for name, change in changes.items():
        yield Variant(f"examples.csv {name}", "evaluate", change)


def _offsets() -> Iterator[Variant]:
    def unsealed(place: Place) -> None:
        path = place.version / records.EXAMPLES
        path.write_text(path.read_text().replace("NORMAL", "PNEUMONIA", 1))

    yield Variant("examples.csv not the manifest's", "evaluate", unsealed)

    def offsets(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Place], None]:
        def change(place: Place) -> None:
            path = place.version / records.OFFSETS
            np.save(path, make(np.load(path)))
            reseal(place.version)

        return change

    def pickled(place: Place) -> None:
        held = np.array([Touch(place.outside / "ran")], dtype=object)
        np.save(place.version / records.OFFSETS, held, allow_pickle=True)
        reseal(place.version)

    yield Variant("offsets turned", "evaluate", offsets(lambda starts: starts[::-1]))
    yield Variant("offsets beyond", "evaluate", offsets(lambda starts: starts + 10**15))
    yield Variant("offsets floats", "evaluate", offsets(lambda starts: starts / 3))
    yield Variant("offsets square", "evaluate", offsets(lambda starts: starts[:, None]))
    yield Variant("offsets a pickle", "evaluate", pickled)


def _set_files() -> Iterator[Variant]:
    for file in (records.MANIFEST, records.EXAMPLES, records.OFFSETS):
        for what in ("a pipe", "a folder", "a link to nowhere"):
            replacing = _replacing(lambda place, file=file: place.version / file)
            yield Variant(f"{what} for {file}", "evaluate", replacing[what])

    def shard(place: Place) -> pathlib.Path:
        return sorted(place.version.glob("*-test.tfrecord-*"))[0]

    for what in ("a pipe", "a folder", "a link outside"):
        yield Variant(f"{what} for a shard", "evaluate", _replacing(shard)[what])

    def of_train(place: Place) -> None:
        other = sorted(place.version.glob("*-train.tfrecord-*"))[0]
        shutil.copyfile(other, shard(place))

    def relabelled(place: Place) -> None:
        """A sound shard whose first image is another: only its SHA-256 tells."""
        path = shard(place)
        framed = b""
        for payload, _ in tfrecord.scan_frames(path):
            fields = tfrecord.decode_example(payload)
            image = bytes(255 - value for value in fields["image/encoded"])
            fields["image/encoded"] = image
            fields["image/key/sha256"] = files.sha256_bytes(image)
            framed += tfrecord.frame(tfrecord.encode_example(fields))
        assert path.stat().st_size == len(framed)
        path.write_bytes(framed)

    yield Variant("a shard of another split", "evaluate", of_train)
    yield Variant("a sound shard of other images", "evaluate", relabelled)
    yield Variant("a sound shard of other images, trained on", "train anew", relabelled)
