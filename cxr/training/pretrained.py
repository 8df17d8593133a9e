"""Finds, checks and loads pretrained VGG16 weights."""

import os
import pathlib

import numpy as np

from cxr import cli, model_file

IMAGENET_FILE = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"


def imagenet_path() -> pathlib.Path:
    """Returns where Keras keeps, and looks for, VGG16's ImageNet weights."""
    home = os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras"
    return pathlib.Path(home) / "models" / IMAGENET_FILE


def check_weights_flag(weights: str) -> None:
    """Refuses a `--weights` path that cannot be one; imports nothing heavy."""
    if weights in ("imagenet", "none"):
        return
    path = pathlib.Path(weights)
    if not path.is_file():
        raise cli.UsageError(
            f"--weights={weights}: no such file; expected 'imagenet', 'none' or the "
            "path of a Keras Applications weights file (.h5)"
        )


def load_backbone(backbone, weights: str) -> None:
    """Loads VGG16 weights into a Keras backbone in place.

    Args:
      backbone: a `keras.applications.VGG16(include_top=False)` model.
      weights: `imagenet`, `none`, or the path of a file in Keras Applications'
        HDF5 format, with or without the classifier's layers.

    Raises:
      UnavailableError: the ImageNet weights are not here and cannot be fetched.
      DataError: the file lacks a layer of VGG16, or one has another shape.
    """
    if weights == "none":
        return
    path = _fetch_imagenet() if weights == "imagenet" else pathlib.Path(weights)
    stored = _read(path)
    convolutions = [layer for layer in backbone.layers if layer.weights]
    for layer in convolutions:
        arrays = stored.get(layer.name)
        shapes = [tuple(w.shape) for w in layer.weights]
        if arrays is None or [a.shape for a in arrays] != shapes:
            found = "no such layer" if arrays is None else [a.shape for a in arrays]
            raise cli.DataError(
                f"--weights={path}: layer {layer.name} should have shapes {shapes}, "
                f"found {found}; expected VGG16 in Keras Applications' format"
            )
        layer.set_weights(arrays)


def _fetch_imagenet() -> pathlib.Path:
    """Lets Keras fetch (and hash-check) its own file, where it is not yet here."""
    if imagenet_path().is_file():
        return imagenet_path()
    import keras  # here, so that the flag's check stays light

    try:
        keras.applications.VGG16(include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises bare Exception for network faults
        raise cli.UnavailableError(
            f"--weights=imagenet: could not download {IMAGENET_FILE}\n"
            f"fetch it elsewhere (Keras Applications, VGG16 'notop') and put it at\n"
            f"{imagenet_path()}\nor give its path: --weights=PATH; or train from "
            "scratch: --weights=none"
        ) from error
    return imagenet_path()


def _read(path: pathlib.Path) -> dict[str, list[np.ndarray]]:
    """Reads layer name to its arrays from Keras Applications' HDF5 layout."""
    import h5py  # a dependency of keras

    try:
        with h5py.File(path, "r") as file:
            model_file.check_hdf5(file)
            group = file.get("model_weights", file)
            return {
                _text(name): [
                    np.asarray(group[_text(name)][_text(key)])
                    for key in group[_text(name)].attrs["weight_names"]
                ]
                for name in group.attrs["layer_names"]
            }
    except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise cli.DataError(
            f"--weights={path}: not a Keras Applications weights file: {error}"
        ) from error


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
