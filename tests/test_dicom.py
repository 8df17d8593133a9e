"""cxr.images.dicom: radiographs as a viewer shows them, and what is refused."""

import io
import sys

import numpy as np
import pydicom
import pytest
from PIL import Image

from cxr import cli, images, predict, records, train
from cxr.config import TrainConfig
from cxr.conversion import attributes, converter
from cxr.reasons import BadImage
from tests import sample_images
from tests.dicom_files import COMPRESSED, NATIVE, dicom
from tests.sample_images import chest, config_for, contents, read_csv

SIZE = 96


def twelve_bits(seed: int = 0) -> np.ndarray:
    return (chest(seed, (160, 150)).astype(np.uint32) * 4095 // 255).astype(np.uint16)


def png(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "PNG")
    return buffer.getvalue()


def assert_same_film(data: bytes, expected: bytes, tolerance: int = 1) -> None:
    found, wanted = images.to_grey(data, SIZE), images.to_grey(expected, SIZE)
    assert np.abs(found.astype(int) - wanted).max() <= tolerance


@pytest.mark.parametrize("syntax", [*NATIVE, *COMPRESSED])
def test_a_dicom_and_its_png_are_the_same_film(syntax):
    samples = twelve_bits()
    data = dicom(samples, syntax={**NATIVE, **COMPRESSED}[syntax])
    decoded = images.read(data, SIZE)
    assert (decoded.width, decoded.height) == (150, 160)
    assert (decoded.mode, decoded.format) == ("I;16", "DICOM")
    assert_same_film(data, png(samples))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_any_depth_is_the_same_film(bits):
    dtype = np.uint8 if bits == 8 else np.uint16
    full = (1 << bits) - 1
    samples = (chest(1).astype(np.uint32) * full // 255).astype(dtype)
    assert_same_film(dicom(samples, bits=bits), png(chest(1)))


def test_monochrome1_is_inverted():
    samples = 4095 - twelve_bits()
    data = dicom(samples, photometric="MONOCHROME1")
    assert_same_film(data, png(twelve_bits()))


def test_a_window_is_applied_as_viewers_do():
    samples = twelve_bits()
    data = dicom(samples, WindowCenter=2048, WindowWidth=1024)
    # DICOM PS3.3 C.11.2.1.2.1, LINEAR
    shown = ((samples - 2047.5) / 1023 + 0.5).clip(0, 1) * 255
    assert_same_film(data, png(np.rint(shown).astype(np.uint8)))
    inverted = dicom(
        samples, photometric="MONOCHROME1", WindowCenter=2048, WindowWidth=1024
    )
    assert_same_film(inverted, png(255 - np.rint(shown).astype(np.uint8)))


def test_signed_samples_and_rescaling():
    samples = twelve_bits()
    signed = (samples.astype(np.int32) - 2048).astype(np.int16)
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    data = dicom(signed, RescaleSlope=1, RescaleIntercept=2048, **window)
    assert_same_film(data, png(samples))
    falling = dicom(4095 - samples, RescaleSlope=-1, RescaleIntercept=4095)
    assert_same_film(falling, png(samples))


def test_a_voi_table_is_applied():
    item = pydicom.Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.LUTData = (np.arange(4096) ** 2 // 256).astype(np.uint16).tobytes()
    data = dicom(twelve_bits(), VOILUTSequence=pydicom.Sequence([item]))
    shown = (twelve_bits().astype(np.uint32) ** 2 // 256) * 255 / 65535
    assert_same_film(data, png(np.rint(shown).astype(np.uint8)))


def test_padding_is_black():
    samples = twelve_bits()
    samples[:, :20] = 4095
    for photometric, film in (
        ("MONOCHROME2", samples),
        ("MONOCHROME1", 4095 - samples),
    ):
        value = int(film[0, 0])
        data = dicom(film, photometric=photometric, PixelPaddingValue=value)
        grey = images.to_grey(data, SIZE)
        assert grey[:, :5].max() == 0
        assert grey[:, 40:].mean() > 60


def test_colour_is_brought_to_grey():
    grey = chest(2)
    colour = np.repeat(grey[:, :, None], 3, axis=2)
    data = dicom(colour, bits=8, photometric="RGB")
    assert_same_film(data, png(grey))
    assert images.read(data, SIZE).mode == "RGB"


@pytest.mark.parametrize("syntax", ["implicit", "explicit"])
def test_neither_preamble_nor_extension_is_needed(syntax):
    assert_same_film(
        dicom(twelve_bits(), syntax=NATIVE[syntax], bare=True), png(twelve_bits())
    )


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Modality": "CT"}, "other_modality"),
        ({"ViewPosition": "LL"}, "lateral_view"),
        ({"PatientOrientation": ["A", "F"]}, "lateral_view"),
        ({"NumberOfFrames": 2}, "multi_frame"),
        ({"PixelData": None}, "not_an_image"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "unsupported_samples"),
        ({"Rows": 9000, "Columns": 9000}, "too_many_pixels"),
        ({"Rows": 300}, "corrupt"),
    ],
)
def test_what_is_no_frontal_radiograph_is_refused(elements, reason):
    with pytest.raises(BadImage) as caught:
        images.read(dicom(twelve_bits(), **elements), SIZE)
    assert caught.value.reason == reason, caught.value.detail


def test_a_coded_lateral_view_is_refused():
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "R-10236", "SRT"
    code.CodeMeaning = "lateral"
    data = dicom(twelve_bits(), ViewCodeSequence=pydicom.Sequence([code]))
    with pytest.raises(BadImage, match="lateral_view"):
        images.read(data, SIZE)
    images.read(
        dicom(twelve_bits(), ViewPosition="PA", PatientOrientation=["L", "F"]), SIZE
    )


def test_every_cut_dicom_is_refused():
    data = dicom(twelve_bits())
    for length in range(0, len(data), 997):
        with pytest.raises(BadImage):
            images.read(data[:length], SIZE)


def test_a_cut_dicom_says_what_is_missing():
    with pytest.raises(BadImage) as caught:
        images.to_grey(dicom(twelve_bits())[:-11], SIZE)
    assert caught.value.reason == "truncated"
    assert caught.value.detail == "DICOM: 11 bytes missing"


def test_without_pydicom_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BadImage, match=r"pip install 'cxr\[dicom\]'"):
        images.read(dicom_bytes, SIZE)


dicom_bytes = dicom(twelve_bits())


# --- sets of them


def kinds(index: int) -> list[bytes]:
    """The same film as ten kinds of DICOM."""
    film = twelve_bits(index)
    grey = chest(index)
    signed = (film.astype(np.int32) - 2048).astype(np.int16)
    rescale = {"RescaleSlope": 1, "RescaleIntercept": 2048}
    told = {
        "PatientID": f"MRN-{index // 2:04d}",
        "PatientName": "Doe^Jane",
        "PatientAge": "045Y",
        "PatientSex": "F",
        "ViewPosition": "PA",
        "Manufacturer": "Acme",
        "BurnedInAnnotation": "YES" if index == 3 else "NO",
    }
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    colour = np.repeat(grey[:, :, None], 3, axis=2)
    syntaxes = [*NATIVE.values(), *COMPRESSED.values()]
    return [
        *(dicom(film, syntax=syntax, **told) for syntax in syntaxes),
        dicom(4095 - film, photometric="MONOCHROME1", **told),
        dicom(signed, **rescale, **window, **told),
        dicom(grey, bits=8, **told),
        dicom(colour, bits=8, photometric="RGB", **told),
    ]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Fifty patients, two films each, of ten kinds in turn; and a lateral one."""
    root = tmp_path_factory.mktemp("dicom") / "films"
    for index in range(100):
        name = ("NORMAL", "PNEUMONIA")[index // 50]
        path = root / name / f"{index:03d}" / ("a.dcm" if index % 3 else "IMG")
        path.parent.mkdir(parents=True)
        path.write_bytes(kinds(index)[index % 10])
    lateral = dicom(twelve_bits(999), ViewPosition="LL")
    (root / "NORMAL/lateral.dcm").write_bytes(lateral)
    return root


@pytest.mark.parametrize("kind", range(10))
def test_ten_kinds_show_one_film(kind):
    assert_same_film(kinds(0)[kind], png(chest(0)), tolerance=2)


def test_a_set_of_dicom_files(tree, tmp_path):
    lines = []
    flags = {"output_dir": str(tmp_path / "data"), "max_bad_fraction": 0.0}
    record_set = converter.convert(config_for(tree, **flags), log=lines.append)
    rows = record_set.examples()
    assert len(rows) == 100
    patients = {row["patient_id"] for row in rows}
    assert len(patients) == 50
    key = attributes.read_key(tmp_path / "data/tiny/patients.key")
    assert attributes.patient_key(key, "MRN-0001") in patients
    assert read_csv(record_set.path / "quarantine.csv") == [
        {
            "path": "NORMAL/lateral.dcm",
            "reason": "lateral_view",
            "detail": "view position LL",
        }
    ]
    told = read_csv(record_set.path / "attributes.csv")
    assert told[0] | {"filename": ""} == {
        "filename": "",
        "age_band": "40-49",
        "sex": "F",
        "view": "PA",
        "device": "Acme",
        "modality": "DX",
    }
    assert any("1 DICOM files say that annotations" in line for line in lines)
    written = b"".join(p.read_bytes() for p in record_set.path.iterdir())
    assert b"MRN-" not in written
    assert b"Doe" not in written
    records.check(record_set)


def test_the_same_key_gives_the_same_bytes(tree, tmp_path):
    first, again, other = (
        sample_images.convert(
            tree,
            output_dir=str(tmp_path / name),
            patient_key_file=str(tmp_path / key),
            workers=workers,
        )
        for name, key, workers in (("a", "key", 1), ("b", "key", 2), ("c", "new", 2))
    )
    assert contents(first.path) == contents(again.path)
    assert {r["patient_id"] for r in other.examples()}.isdisjoint(
        r["patient_id"] for r in first.examples()
    )


def test_a_file_that_is_no_key_is_refused(tree, tmp_path):
    (tmp_path / "key").write_text("secret\n")
    flags = {"patient_key_file": str(tmp_path / "key"), "output_dir": str(tmp_path)}
    with pytest.raises(cli.DataError, match="no key of patients"):
        sample_images.convert(tree, **flags)


@pytest.mark.slow
def test_films_in_dicom_are_trained_on_and_predicted(tree, tmp_path):
    record_set = sample_images.convert(
        tree, output_dir=str(tmp_path / "data"), image_size=32
    )
    workdir = tmp_path / "run"
    train.train(
        TrainConfig(
            data_dir=str(tmp_path / "data"),
            dataset="tiny",
            workdir=str(workdir),
            model="small_cnn",
            image_size=32,
            batch_size=16,
            epochs=1,
            augmentation="none",
            tensorboard=False,
        )
    )
    table = tmp_path / "predictions.csv"
    argv = [f"--workdir={workdir}", f"--output={table}", str(tree)]
    assert predict.main(["predict", *argv]) == 0
    rows = {row["path"]: row for row in read_csv(table)}
    assert len(rows) == 101
    statuses = {path: row["status"] for path, row in rows.items()}
    lateral = str(tree / "NORMAL/lateral.dcm")
    assert statuses.pop(lateral).startswith("error: lateral_view")
    assert not any(status.startswith("error") for status in statuses.values())
    assert {str(tree / row["filename"]) for row in record_set.examples()} == set(
        statuses
    )


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("45", "40-49"),
        ("045Y", "40-49"),
        ("7.0", "0-9"),
        ("011M", "0-9"),
        ("93", "90+"),
        ("", ""),
        ("old", ""),
        ("-5", ""),
    ],
)
def test_ages_are_kept_in_bands(text, band):
    assert attributes.age_band(text) == band
