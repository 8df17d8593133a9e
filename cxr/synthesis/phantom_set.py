"""Makes the phantom data set: films drawn and converted on the spot."""

import os
import pathlib

from cxr import console, records
from cxr.config import PHANTOM
from cxr.conversion import converter
from cxr.synthesis import phantoms

NUM_PATIENTS = 600  # about 900 films: half a minute to draw on two cores
_IMAGE_SIZE = 128  # what the small networks of the quickstart need, and no more


def is_made(data_dir: str | os.PathLike) -> bool:
    """Returns whether `data_dir/phantom` holds a complete set."""
    return any(pathlib.Path(data_dir, PHANTOM).glob(f"*/{records.MANIFEST}"))


def ensure(data_dir: str | os.PathLike) -> records.RecordSet:
    """Makes `data_dir/phantom` where it is missing; finishes a half-made one.

    Splits by patient over the whole set (`grouped`), so that the test split is
    large enough to mean something.
    """
    root = pathlib.Path(data_dir)
    if is_made(root):
        return records.find(root, PHANTOM)
    films = root / f"{PHANTOM}_films"
    console.say(f"drawing synthetic films below {films}")
    phantoms.write(films, num_patients=NUM_PATIENTS)
    config = converter.ConversionConfig(
        input_dir=str(films),
        output_dir=str(root),
        dataset=PHANTOM,
        image_size=_IMAGE_SIZE,
        split_policy="grouped",
    )
    return converter.convert(config)
