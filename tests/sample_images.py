"""Images and small folders of them, written for tests."""

import csv
import pathlib

import numpy as np
from PIL import Image

from cxr import files, records
from cxr.conversion import converter
from cxr.conversion.converter import ConversionConfig

SIZE = 24


def chest(seed: int, shape: tuple[int, int] = (160, 150)) -> np.ndarray:
    """Draws something like a chest film, another for every seed: uint8 `shape`."""
    random = np.random.default_rng(seed)
    height, width = shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    grey = 165 - 35 * np.abs(x) + 10 * np.sin(13 * y + random.uniform(0, 6))
    for side in (-1, 1):
        lung = ((x - 0.4 * side) / 0.34) ** 2 + (
            (y - random.uniform(-0.1, 0.1)) / 0.6
        ) ** 2
        grey = grey - 85 * np.exp(-(lung**3))
    own = Image.fromarray(random.normal(0, 20, (7, 7)).astype(np.float32))
    grey = grey + np.asarray(own.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(grey + random.normal(0, 6, shape), 0, 255).astype(np.uint8)


def put(path: pathlib.Path, pixels: np.ndarray, **options) -> pathlib.Path:
    """Saves pixels, in the format that the path's suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_image(path: pathlib.Path, seed: int, kind: str = "PNG") -> None:
    """Writes a small random image, another for every seed."""
    random = np.random.default_rng(seed)
    # Coarse blocks, so that JPEG keeps them nearly as they are.
    blocks = random.integers(0, 256, (4, 5), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.kron(blocks, np.ones((10, 10), np.uint8))).save(path, kind)


def make_source(root: pathlib.Path, count: int = 12, *, side: str = "") -> pathlib.Path:
    """Writes `count` images of each of two classes, two a patient."""
    for index in range(count):
        patient = index // 2
        for seed, name in (
            (index, f"NORMAL/IM-{patient:04d}-{index:04d}.png"),
            (1000 + index, f"PNEUMONIA/person{patient}_virus_{index}.png"),
        ):
            write_image(root / side / name, seed + 10_000 * len(side))
    return root


def config_for(source: pathlib.Path, **flags) -> ConversionConfig:
    defaults = dict(
        input_dir=str(source),
        output_dir=str(source.parent / "data"),
        dataset="tiny",
        image_size=SIZE,
        encoding="raw",
        workers=1,
    )
    return ConversionConfig(**{**defaults, **flags})


def convert(source: pathlib.Path, **flags) -> records.RecordSet:
    return converter.convert(config_for(source, **flags), log=lambda line: None)


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Name to SHA-256 of everything that must repeat bit for bit."""
    return {
        path.name: files.sha256_file(path)
        for path in folder.iterdir()
        if path.name not in ("report.html", "report.json")
    }


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
