"""Looks into a Keras model file before Keras does: whose it is, and only our layers.

The file holds class names, decision and input guard as well, so that its SHA-256 covers
them: a model.json that says otherwise is found. Imports no TensorFlow.
"""

import contextlib
import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

from cxr import documents
from cxr.input_guard import InputGuard
from cxr.model_info import ModelInfo

_MEMBER = "cxr.json"  # of the archive; Keras takes no notice of it
_GUARD = "cxr_guard.npz"  # likewise
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
# What our networks are made of (models.py). Other layers can run code or read files.
_CLASSES = frozenset(
    {
        (None, "__keras_tensor__"),
        ("keras", "DTypePolicy"),
        ("keras.src.models.functional", "Functional"),
        *(("keras.initializers", name) for name in ("GlorotUniform", "Ones", "Zeros")),
        *(
            ("keras.layers", name)
            for name in (
                "Activation",
                "BatchNormalization",
                "Concatenate",
                "Conv2D",
                "Dense",
                "Dropout",
                "Flatten",
                "GlobalAveragePooling2D",
                "InputLayer",
                "LayerNormalization",
                "MaxPooling2D",
                "Normalization",
                "ReLU",
                "Rescaling",
            )
        ),
    }
)

# Layers that compute in float32 whatever the precision (models.py).
FLOAT32_LAYERS = frozenset(
    {
        "film_normalization",
        "film_levels",
        "rescale",
        "grey_to_bgr",
        "imagenet_normalization",
        "logits",
        "probabilities",
    }
)


def embed(path: pathlib.Path, info: ModelInfo, guard: InputGuard | None = None) -> None:
    """Adds class names, decision and guard to a Keras model file that has none."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(_MEMBER), json.dumps(_covered(info)))
        if guard:
            archive.writestr(zipfile.ZipInfo(_GUARD), guard.to_bytes())


def read_guard(path: pathlib.Path) -> InputGuard | None:
    """Returns the guard in a model file, None where there is none.

    Raises:
      ValueError: the file is none of ours, or what it holds is no guard.
    """
    with _open(path) as archive:
        if _GUARD not in archive.namelist():
            return None
        if archive.getinfo(_GUARD).file_size > documents.MAX_BYTES:
            raise ValueError(f"{_GUARD} in it is too large")
        return InputGuard.from_bytes(archive.read(_GUARD))


def embed_anew(source: pathlib.Path, target: pathlib.Path, info: ModelInfo) -> None:
    """Copies a Keras model file, with another decision in it."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for member in before.infolist():
            if member.filename != _MEMBER:
                after.writestr(member, before.read(member))
    embed(target, info)


def check(path: pathlib.Path, info: ModelInfo) -> None:
    """Checks that a model file is one of ours and says what model.json says.

    A file of before holds no class names and no decision.

    Raises:
      ValueError: it is no archive, has other layers than ours, or contradicts.
    """
    with _open(path) as archive:
        _check_classes(_read(archive, _CONFIG).content)
        if _MEMBER not in archive.namelist():
            return
        held = _read(archive, _MEMBER).content
    for name, value in _covered(info).items():
        if held.get(name) != value:
            raise ValueError(
                f"its {name} is {held.get(name)!a}, model.json's is {value!a}"
            )


def check_weights(path: pathlib.Path) -> None:
    """Checks that a model file's weights stand in it; ValueError otherwise."""
    import h5py  # a dependency of keras

    with _open(path) as archive, archive.open(_WEIGHTS) as member:
        try:
            with h5py.File(member, "r") as file:
                check_hdf5(file)
        except OSError as error:
            raise ValueError(f"its weights cannot be read: {error}") from error


def check_hdf5(file: Any) -> None:
    """Refuses an HDF5 file whose parts lie in other files.

    Args:
      file: an open `h5py.File`.

    Raises:
      ValueError: naming the part that leads out of the file.
    """
    import h5py

    waiting, seen = [file], set()
    while waiting:
        group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{group.name}/{name} is a link, maybe to other files")
            part = group[name]
            if isinstance(part, h5py.Group):
                waiting.append(part)
            elif part.external or part.is_virtual:
                raise ValueError(f"{part.name} keeps its numbers in other files")


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type for member in archive.infolist()):
                # Keras writes none; a small file could unpack to any size.
                raise ValueError("compressed members, which Keras does not write")
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, KeyError) as error:
        raise ValueError(f"not a Keras model file: {error}") from error


def _read(archive: zipfile.ZipFile, member: str) -> documents.Fields:
    if archive.getinfo(member).file_size > documents.MAX_BYTES:
        raise ValueError(f"{member} in it is too large")
    return documents.parse(archive.read(member).decode())


def _check_classes(content: Any) -> None:
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                found = (part.get("module"), part["class_name"])
                if not any(found == known for known in _CLASSES):  # or unhashable
                    raise ValueError(f"holds {found!a}, which no model of ours does")
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _covered(info: ModelInfo) -> dict[str, Any]:
    """Returns what the model file holds as well, as it comes back from JSON.

    All of model.json that an answer depends on.
    """
    return {
        "class_names": list(info.class_names),
        "positive_class": info.positive_class,
        "head": info.head,
        "stored_image_size": info.stored_image_size,
        "image_size": info.image_size,
        "threshold": info.threshold and dataclasses.asdict(info.threshold),
        "data_fingerprint": info.data.fingerprint,
    }
