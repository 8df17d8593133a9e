"""Whole conversions of the kinds of folders that people have."""

import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from cxr import cli, images, records
from cxr.conversion import converter
from tests.sample_images import chest, config_for, contents, convert, put, read_csv

CLASSES = ("NORMAL", "PNEUMONIA")


def classes(root: pathlib.Path, names=CLASSES, count: int = 12, first: int = 0) -> None:
    for at, name in enumerate(names):
        for index in range(count):
            put(
                root / name / f"film{first + at * count + index:04d}.png",
                film(at, index + first),
            )


def film(at: int, index: int) -> np.ndarray:
    return chest(10_000 * at + index, (64, 60))


def lines_of(source: pathlib.Path, **flags) -> list[str]:
    lines: list[str] = []
    converter.convert(config_for(source, image_size=64, **flags), log=lines.append)
    return lines


def test_offline_copies_stay_with_their_original(tmp_path):
    for at, (name, stem) in enumerate(
        (("NORMAL", "IM-{:04d}-0001"), ("PNEUMONIA", "person{}_virus_1"))
    ):
        for index in range(16):
            grey, own = film(at, index), stem.format(index)
            put(tmp_path / f"in/{name}/{own}.jpeg", grey, quality=95)
            put(tmp_path / f"in/{name}/{own} - Copy.jpeg", grey, quality=60)
            put(tmp_path / f"in/{name}/aug_1_{own}.jpeg", np.fliplr(grey), quality=95)
            turned = Image.fromarray(grey).rotate(8)
            put(
                tmp_path / f"in/{name}/aug_2_{own}.jpeg", np.asarray(turned), quality=95
            )
            mirrored = np.ascontiguousarray(np.rot90(grey))
            put(
                tmp_path / f"in/{name}/zz{at}{index:02d}.png", mirrored
            )  # by its look alone
    record_set = convert(tmp_path / "in", image_size=64)
    sides: dict[tuple[str, int], set[str]] = {}
    for row in record_set.examples():
        name = row["filename"].split("/")[1]
        [number] = re.findall(r"(?:IM-|person|zz\d)(\d+)", name)
        sides.setdefault((row["label"], int(number)), set()).add(row["split"])
    assert len(sides) == 32
    assert all(len(side) == 1 for side in sides.values())


def test_more_than_sixteen_that_look_alike_are_listed(tmp_path):
    classes(tmp_path / "in")
    for index in range(20):
        grey = film(0, 500)
        put(tmp_path / f"in/NORMAL/same{index:02d}.jpeg", grey, quality=60 + index)
    lines = lines_of(tmp_path / "in")
    assert any("pairs of images look alike and stand on two sides" in x for x in lines)
    assert not any("look like another" in line for line in lines)


def test_one_look_under_two_labels_is_listed(tmp_path):
    classes(tmp_path / "in")
    put(tmp_path / "in/NORMAL/twice.png", film(0, 500))
    put(tmp_path / "in/PNEUMONIA/twice.jpeg", film(0, 500), quality=90)
    record_set = convert(tmp_path / "in", image_size=64)
    assert sum("twice" in row["filename"] for row in record_set.examples()) == 2
    assert not any(
        "look like another" in line
        for line in lines_of(tmp_path / "in", version="1.0.1")
    )


def test_a_look_of_the_test_split_is_kept_out_of_training(tmp_path):
    classes(tmp_path / "in/train", count=12)
    classes(tmp_path / "in/test", count=4, first=100)
    put(tmp_path / "in/train/NORMAL/again.jpeg", np.fliplr(film(0, 101)), quality=90)
    record_set = convert(tmp_path / "in", image_size=64)
    [row] = read_csv(record_set.path / "quarantine.csv")
    assert (row["path"], row["reason"]) == (
        "train/NORMAL/again.jpeg",
        "duplicate_in_test",
    )


def test_a_burned_in_letter_does_not_turn_a_class_black(tmp_path):
    for at, name in enumerate(CLASSES):
        for index in range(12):
            samples = film(at, index).astype(np.uint16) * 16
            if at:
                samples[0, 0] = 65535
            put(tmp_path / f"in/{name}/{index}.png", samples)
    record_set = convert(tmp_path / "in", image_size=64, encoding="png")
    means = {}
    for name in CLASSES:
        films = [
            images.to_grey((tmp_path / "in" / row["filename"]).read_bytes(), 64).mean()
            for row in record_set.examples()
            if row["label"] == name
        ]
        means[name] = np.mean(films)
    assert abs(means["NORMAL"] - means["PNEUMONIA"]) < 10


def test_a_test_folder_alone_makes_a_set_to_evaluate_on(tmp_path):
    classes(tmp_path / "in/test")
    record_set = convert(tmp_path / "in", image_size=64)
    assert list(record_set.manifest.splits) == ["test"]
    assert record_set.split("test").num_examples == 24
    records.check(record_set)
    classes(tmp_path / "flat")
    record_set = convert(
        tmp_path / "flat", image_size=64, split_policy="test_only", version="1.0.1"
    )
    assert list(record_set.manifest.splits) == ["test"]


def test_a_table_gives_the_bytes_that_folders_give(tmp_path):
    classes(tmp_path / "in")
    by_folder = convert(tmp_path / "in", image_size=64)
    rows = "".join(
        f"{path.relative_to(tmp_path / 'in').as_posix()},{path.parent.name}\n"
        for path in sorted((tmp_path / "in").glob("*/*.png"), reverse=True)
    )
    (tmp_path / "labels.csv").write_text("path,label\n" + rows)
    by_table = convert(
        tmp_path / "in",
        image_size=64,
        labels_csv=str(tmp_path / "labels.csv"),
        output_dir=str(tmp_path / "again"),
    )
    first, second = (
        {n: h for n, h in contents(s.path).items() if n != "manifest.json"}
        for s in (by_folder, by_table)
    )
    assert first == second
    assert by_folder.manifest.fingerprint == by_table.manifest.fingerprint


def test_a_changed_table_is_another_source(tmp_path):
    classes(tmp_path / "in")
    names = sorted(path.name for path in (tmp_path / "in").glob("*/*.png"))
    table = tmp_path / "labels.csv"
    table.write_text(
        "file,label\n" + "".join(f"{n},{'AB'[i % 2]}\n" for i, n in enumerate(names))
    )
    convert(tmp_path / "in", image_size=64, labels_csv=str(table))
    convert(tmp_path / "in", image_size=64, labels_csv=str(table))
    table.write_text(table.read_text().replace(f"{names[0]},A", f"{names[0]},B"))
    with pytest.raises(cli.UsageError, match="made from other sources"):
        convert(tmp_path / "in", image_size=64, labels_csv=str(table))


def test_what_is_left_aside_by_rule_is_no_bad_file(tmp_path):
    for name in CLASSES:
        for index in range(12):
            put(
                tmp_path / f"in/{name}/images/{index}.png",
                film(CLASSES.index(name), index),
            )
            put(tmp_path / f"in/{name}/masks/{index}.png", film(1, index) // 100 * 100)
    record_set = convert(tmp_path / "in", image_size=64, max_bad_fraction=0.0)
    assert len(record_set.examples()) == 24
    rows = read_csv(record_set.path / "quarantine.csv")
    assert {row["reason"] for row in rows} == {"mask"}
    assert len(rows) == 24


def test_two_runs_write_the_same_quarantine(tmp_path):
    classes(tmp_path / "in", count=20)
    buffer = io.BytesIO()
    Image.fromarray(film(0, 3)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    data[data.index(b"\xff\xc0") + 4] = 12
    (tmp_path / "in/NORMAL/deep.jpeg").write_bytes(data)
    first = convert(tmp_path / "in", image_size=64)
    second = convert(
        tmp_path / "in", image_size=64, output_dir=str(tmp_path / "b"), workers=2
    )
    assert contents(first.path) == contents(second.path)
    [row] = read_csv(first.path / "quarantine.csv")
    assert row["reason"] == "unsupported_samples"
    assert "12-bit" in row["detail"]


@pytest.mark.parametrize(
    ("names", "positive"), [(("COVID", "NORMAL"), "COVID"), (("healthy", "TB"), "TB")]
)
def test_the_positive_class_is_printed(tmp_path, names, positive):
    classes(tmp_path / "in", names)
    assert any(
        line.startswith(f"positive class {positive};")
        for line in lines_of(tmp_path / "in")
    )
    with pytest.raises(cli.UsageError, match="--positive_class=X: expected one of"):
        lines_of(tmp_path / "in", positive_class="X", version="1.0.1")


def test_a_class_that_its_brightness_gives_away_is_told(tmp_path):
    for at, name in enumerate(CLASSES):
        for index in range(12):
            put(tmp_path / f"in/{name}/{index}.png", film(at, index) // 2 + 100 * at)
    lines = lines_of(tmp_path / "in")
    assert any(
        "warning: PNEUMONIA is told from the rest by one property alone, brightness"
        in x
        for x in lines
    )
    assert not any("contrast" in line for line in lines)


def test_inverted_and_turned_films_are_told(tmp_path):
    classes(tmp_path / "in", ("B", "C"), count=8)
    classes(tmp_path / "in", ("A",), count=40, first=100)
    for path in (tmp_path / "in/B").iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    for path in (tmp_path / "in/C").iterdir():
        put(path, np.ascontiguousarray(np.rot90(np.asarray(Image.open(path)))))
    text = "\n".join(lines_of(tmp_path / "in"))
    assert "B is told from the rest by one property alone, inverted" in text
    assert "C is told from the rest by one property alone, turned" in text
