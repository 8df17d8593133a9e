"""Images and small folders of them, written for tests."""

import csv
import pathlib

import numpy as np
from PIL import Image

from cxr import files, records
from cxr.conversion import converter
from cxr.conversion.converter import ConversionConfig

SIZE = 24


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
