"""Plans and writes folders of synthetic chest films with the reference set's names.

The folders, names, modes and imbalance follow the reference set (Kermany et al.,
2018): `train`, `val` and `test` with `NORMAL` and `PNEUMONIA`,
`IM-0115-0001.jpeg`, `person12_bacteria_34.jpeg`, about 2.9 pneumonia films a
normal one, several films a patient, a few RGB files among the grey ones. Bacteria
and virus patients are numbered apart, as there: `person7` alone is no patient.

Everything about a film is a pure function of (seed, patient, film), so a larger set
begins with the files of a smaller one, byte for byte.
"""

import collections
import dataclasses
import io
import math
import os
import pathlib

import numpy as np
from PIL import Image
from tqdm import tqdm

from cxr import cli, documents, files, reference_set, tables
from cxr.synthesis import drawing

CSV_NAME = "phantoms.csv"
CSV_COLUMNS = ("path", "class", "patient", "box")
MIXES = ("mixed", "focal", "diffuse")
_FOLDERS = ("train", "val", "test")
# One normal to two pneumonia patients; with their films a patient, 1 : 2.9 films.
_KINDS = (
    *("normal", "bacteria", "virus"),
    *("bacteria", "normal", "bacteria"),
    *("normal", "bacteria", "virus"),
)
# Of twenty patients of a kind, the first ones already fill train and test.
_TURNS = {1: "test", 4: "val", 7: "test", 13: "test"}
_FOCAL_SHARE = {"normal": 0.0, "bacteria": 0.85, "virus": 0.15}
_ANATOMY, _FILM = 1, 2  # salts that keep the random streams apart


@dataclasses.dataclass(frozen=True)
class PlannedImage:
    """One film to draw.

    Attributes:
      path: POSIX path below the output folder.
      label: NORMAL or PNEUMONIA.
      patient: the name's patient key, such as `person12_bacteria`.
      pattern: `none`, `focal` or `diffuse`.
      patient_index: counts patients from 0.
      image_index: counts the patient's films from 0.
    """

    path: str
    label: str
    patient: str
    pattern: str
    patient_index: int
    image_index: int


def plan(
    num_patients: int, *, seed: int = 0, patterns: str = "mixed"
) -> list[PlannedImage]:
    """Lists the films of a set.

    Args:
      num_patients: at least 1; each has 1 to 8 films, 1.5 on average.
      seed: of the whole set.
      patterns: `mixed` (bacteria mostly one focal opacity, virus mostly
        diffuse), or `focal` / `diffuse` for all pneumonia films alike.

    Returns:
      The films, patient by patient.

    Raises:
      ValueError: for an unknown `patterns` or no patients.
    """
    if num_patients < 1:
        raise ValueError(f"num_patients={num_patients}: at least 1")
    if patterns not in MIXES:
        raise ValueError(f"patterns={patterns!r}: one of {', '.join(MIXES)}")
    films: list[PlannedImage] = []
    seen: collections.Counter[str] = collections.Counter()
    numbered: collections.Counter[str] = collections.Counter()
    for index in range(num_patients):
        kind = _KINDS[index % len(_KINDS)]
        rng = np.random.default_rng([seed, index])
        count = _num_films(rng, kind)
        pattern = _pattern(rng, kind, patterns)
        folder = _TURNS.get(seen[kind] % 20, "train")
        names = reference_set.file_names(kind, seen[kind], count, numbered[kind])
        for film, (patient, name) in enumerate(names):
            label = reference_set.CLASS_OF_KIND[kind]
            path = f"{folder}/{label}/{name}"
            films.append(PlannedImage(path, label, patient, pattern, index, film))
        seen[kind] += 1
        numbered[kind] += count
    return films


def render(
    film: PlannedImage, *, seed: int = 0, difficulty: float = 0.5, film_width: int = 288
) -> tuple[bytes, tuple[int, int, int, int] | None]:
    """Draws and encodes one planned film.

    Args:
      film: from `plan` with the same seed.
      seed: of the whole set.
      difficulty: 0..1, see `drawing.draw`.
      film_width: median width in pixels; widths and aspect ratios spread about
        it alike for all classes.

    Returns:
      The JPEG file's bytes and the opacity's box (x0, y0, x1, y1) in its pixels,
      None on a normal film.
    """
    patient = np.random.default_rng([seed, film.patient_index, _ANATOMY])
    rng = np.random.default_rng([seed, film.patient_index, _FILM, film.image_index])
    width = round(film_width * float(np.clip(rng.lognormal(0, 0.18), 0.6, 1.7)))
    aspect = float(np.clip(rng.normal(1.32, 0.13), 1.0, 1.7))
    rgb, quality = rng.random() < 0.05, int(rng.integers(88, 96))
    drawn = drawing.draw(
        patient,
        rng,
        pattern=film.pattern,
        difficulty=difficulty,
        width=width,
        height=round(width / aspect),
    )
    image, buffer = Image.fromarray(drawn.pixels), io.BytesIO()
    (image.convert("RGB") if rgb else image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue(), drawn.box


def write(
    output_dir: str | os.PathLike,
    *,
    num_patients: int = 240,
    seed: int = 0,
    difficulty: float = 0.5,
    film_width: int = 288,
    patterns: str = "mixed",
    progress: bool = True,
) -> dict[str, int]:
    """Writes a set: the class folders first, `phantoms.csv` last.

    A folder with `phantoms.csv` is complete. After an interruption the same call
    finishes the set; films of another one are never mixed in.

    Args:
      output_dir: made when missing; may hold an earlier part of the same set.
      num_patients: about 1.5 films each.
      seed: of everything random.
      difficulty: 0 (plain) .. 1 (hardly readable).
      film_width: median width of the films in pixels.
      patterns: see `plan`.
      progress: show a bar when a person watches.

    Returns:
      `folder/CLASS` -> number of films.

    Raises:
      cli.UsageError: the folder holds films that this set does not have.
    """
    root = pathlib.Path(output_dir)
    films = plan(num_patients, seed=seed, patterns=patterns)
    _prepare(root, {film.path for film in films})
    (root / CSV_NAME).unlink(missing_ok=True)
    rows = []
    shown = tqdm(films, "drawing", unit="image", disable=None if progress else True)
    for film in shown:
        data, box = render(
            film, seed=seed, difficulty=difficulty, film_width=film_width
        )
        files.publish(root / film.path, data)
        corners = "" if box is None else ";".join(map(str, box))
        rows.append((film.path, film.label, film.patient, corners))
    table = (dict(zip(CSV_COLUMNS, row, strict=True)) for row in sorted(rows))
    tables.publish(root / CSV_NAME, CSV_COLUMNS, table)
    counts = collections.Counter(film.path.rsplit("/", 1)[0] for film in films)
    return dict(sorted(counts.items()))


def read_boxes(
    output_dir: str | os.PathLike,
) -> dict[str, tuple[int, int, int, int] | None]:
    """Returns path -> box in source pixels (None on a normal film) of a set.

    Raises:
      cli.DataError: `phantoms.csv` is missing, so the set is not complete.
    """
    path = pathlib.Path(output_dir) / CSV_NAME
    if not path.is_file():
        raise cli.DataError(f"{path}: missing, so the phantom set is not complete")
    with documents.reading(path):
        rows = tables.parse_records(documents.read_text(path))
    return {row["path"]: _parse_box(row["box"]) for row in rows}


def _parse_box(text: str) -> tuple[int, int, int, int] | None:
    if not text:
        return None
    left, top, right, bottom = map(int, text.split(";"))
    return left, top, right, bottom


def _num_films(rng: np.random.Generator, kind: str) -> int:
    """1 to 8; most normal patients have one film, pneumonia is followed up."""
    more = 0.16 if kind == "normal" else 0.42
    return min(8, 1 + int(math.log(1 - rng.random()) / math.log(more)))


def _pattern(rng: np.random.Generator, kind: str, patterns: str) -> str:
    focal = rng.random() < _FOCAL_SHARE[kind]
    if kind == "normal":
        return "none"
    if patterns != "mixed":
        return patterns
    return "focal" if focal else "diffuse"


def _prepare(root: pathlib.Path, planned: set[str]) -> None:
    """Refuses a folder with other films; drops what a killed write left half done."""
    if root.exists() and not root.is_dir():
        raise cli.UsageError(f"--output_dir={root}: is a file, expected a folder")
    files.refuse_links(root)
    found = [path for folder in _FOLDERS for path in (root / folder).glob("*/*")]
    halves = [path for path in found if path.name.startswith(files.TEMPORARY_PREFIX)]
    for path in sorted(set(found) - set(halves)):
        name = path.relative_to(root).as_posix()
        if name not in planned:
            raise cli.UsageError(
                f"--output_dir={root}: holds {name}, which this set does not have; "
                "choose a new folder or remove the old films"
            )
    for path in halves:
        path.unlink()
