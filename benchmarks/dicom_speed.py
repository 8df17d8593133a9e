"""Measures the conversion of DICOM files against processes that only decode them.

  python -m benchmarks.dicom_speed --films=96 --repeats=5

Writes uncompressed 12-bit films of 2,000 x 2,000 pixels, with a window, as hospitals
export them. In turn: our converter, with and without the start of its workers; as many
warm processes that only read with pydicom, drop four bits, resize and encode. Prints
figures, judges nothing. Needs the extra `dicom`.
"""

import concurrent.futures
import dataclasses
import io
import itertools
import multiprocessing
import pathlib
import statistics
import tempfile

import numpy as np
from PIL import Image

from benchmarks.conversion_speed import (
    QUALITY,
    SIZE,
    our_seconds,
    peer_seconds,
    start_seconds,
)
from cxr import cli, platforms

CHUNK = 4  # films a task of the peer: so few that no process waits at the end


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    """How many films, how large, how often."""

    films: int = cli.option(96, "files of each conversion", lower=12)
    side: int = cli.option(2000, "height = width in pixels", lower=64)
    repeats: int = cli.option(5, "conversions, in turn", lower=1)


def write_films(folder: pathlib.Path, count: int, side: int) -> list[str]:
    """Writes DICOM files of two classes; returns their paths."""
    import pydicom
    from pydicom import uid

    random, paths = np.random.default_rng(0), []
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    for index in range(count):
        tilt, bend = random.uniform(-1, 1, 2)
        film = 2000 + 900 * np.cos(2 * x + tilt) * np.cos(3 * y + bend)
        film = (film + random.normal(0, 30, film.shape)).clip(0, 4095).astype(np.uint16)
        dataset = pydicom.Dataset()
        dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
        dataset.SOPInstanceUID = uid.generate_uid()
        dataset.Modality, dataset.PatientID = "DX", f"patient {index}"
        dataset.Rows = dataset.Columns = side
        dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
        dataset.PixelData = film.tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        path = folder / "AB"[index % 2] / f"{index:04d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        paths.append(str(path))
    return paths


def pydicom_alone(paths: list[str]) -> int:
    """The peer: nothing but reading, resizing and encoding."""
    import pydicom

    for path in paths:
        grey = (pydicom.dcmread(path).pixel_array >> 4).astype(np.uint8)
        small = Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        small.save(io.BytesIO(), "JPEG", quality=QUALITY)
    return len(paths)


def main(argv: list[str]) -> int:
    """Prints all figures."""
    config, positional = cli.parse(argv, SpeedConfig, usage=__doc__)
    cli.reject_positional(positional)
    context = multiprocessing.get_context("forkserver")
    rates: dict[str, list[float]] = {"ours": [], "ours, started": [], "pydicom": []}
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        paths = write_films(scratch / "films", config.films, config.side)
        cores = platforms.available_cores()
        with concurrent.futures.ProcessPoolExecutor(cores, context) as pool:
            peer_seconds(pool, pydicom_alone, paths[: 4 * CHUNK], CHUNK)
            for turn in range(config.repeats):
                seconds = our_seconds(scratch / "films", scratch / f"data-{turn}")
                started = seconds - start_seconds()
                rates["ours"].append(config.films / seconds)
                rates["ours, started"].append(config.films / started)
                took = peer_seconds(pool, pydicom_alone, paths, CHUNK)
                rates["pydicom"].append(config.films / took)
    for name, found in rates.items():
        print(
            f"{name:>13}: {statistics.median(found):,.1f} films/s "
            f"({min(found):,.1f} - {max(found):,.1f})"
        )
    for ours in itertools.islice(rates, 2):
        pairs = zip(rates[ours], rates["pydicom"], strict=True)
        print(f"{ours} / pydicom: {statistics.median(a / b for a, b in pairs):.2f}")
    return 0


if __name__ == "__main__":
    cli.run(main)
