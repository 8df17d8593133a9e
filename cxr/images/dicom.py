"""Decodes DICOM radiographs as a viewer shows them, by pydicom and its decoders.

Stored values go through the modality's rescale and the first VOI LUT or window (DICOM
PS3.3, C.11); MONOCHROME1 is inverted, padding becomes black. All of it is one table
from stored value to grey. Of the header only what `DicomTags` names is ever kept.
"""

import io
import logging
import struct
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import cxr.images.limits as limits
from cxr.images.intensity import window
from cxr.reasons import BadImage

_PREAMBLE = 128
_MODALITIES = ("CR", "DX")
# What a patient's orientation along a row begins with in a lateral film: to the front
# or to the back, where frontal films go to the left or right.
_LATERAL_ROWS = ("A", "P")
_LATERAL_VIEWS = ("LL", "RL", "LLD", "RLD", "LLO", "RLO", "LAT", "LATERAL")
_MEANINGS = ("MONOCHROME", "RGB", "YBR")  # of samples; a palette is none of a film
_PIXEL_DATA = b"\xe0\x7f\x10\x00"  # its tag, (7FE0,0010)
_ROWS = 64
_PIXEL_BYTES = 6  # of memory: the file's samples, their array and grey
_VR = b"AE AS AT CS DA DS DT FD FL IS LO LT OB OW PN SH SL SQ SS ST TM UI UL UN US UT"


class DicomTags(NamedTuple):
    """What is taken from a header beside pixels; texts, empty where it has none.

    Attributes:
      patient: PatientID, to be hashed at once and not kept.
      age: PatientAge, such as `045Y`.
      sex: PatientSex.
      view: ViewPosition.
      device: Manufacturer and model.
      modality: Modality.
      burned_in: whether BurnedInAnnotation is YES.
    """

    patient: str
    age: str
    sex: str
    view: str
    device: str
    modality: str
    burned_in: bool


class Radiograph(NamedTuple):
    """A decoded DICOM.

    Attributes:
      grey: mode L, at its own size.
      mode: Pillow's name of a layout like the file's: `L`, `I;16` or `RGB`.
      tags: of its header.
    """

    grey: Image.Image
    mode: str
    tags: DicomTags


def is_dicom(data: bytes) -> bool:
    """Whether bytes begin as DICOM, with or without a preamble."""
    if data[_PREAMBLE : _PREAMBLE + 4] == b"DICM":
        return True
    if len(data) < 16:
        return False
    group, element, length = struct.unpack_from("<HHI", data)
    if group not in (2, 8) or element > 0x70:
        return False
    return data[4:6] in _VR.split() or (group == 8 and length <= 64)


def read(data: bytes) -> Radiograph:
    """Decodes a DICOM file of one radiograph.

    Raises:
      BadImage: damaged, too large, no single frontal radiograph, of a transfer syntax
        without a decoder here, or pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise BadImage(
            "unsupported_format", "DICOM; pip install 'cxr[dicom]' reads it"
        ) from error
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    buffer = io.BytesIO(data)
    dataset = pydicom.dcmread(buffer, force=True, stop_before_pixels=True)
    meta = dataset.get("file_meta")
    if meta is None or "TransferSyntaxUID" not in meta:
        _guess_syntax(dataset, data)
    _check_kind(dataset)
    samples = _in_place(dataset, data, buffer.tell())
    if samples is None:
        samples = _decoded(dataset, data)
    if samples.ndim == 3:
        grey, mode = Image.fromarray(samples.astype(np.uint8)).convert("L"), "RGB"
    else:
        grey = Image.fromarray(_to_grey(dataset, samples))
        mode = "L" if int(dataset.get("BitsStored", 16)) <= 8 else "I;16"
    return Radiograph(grey, mode, _tags(dataset))


def _guess_syntax(dataset: Any, data: bytes) -> None:
    """Gives a file without meta information the syntax that it was read with."""
    import pydicom

    explicit = data[4:6] in _VR.split()
    syntax = pydicom.uid.ExplicitVRLittleEndian if explicit else None
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax or pydicom.uid.ImplicitVRLittleEndian


def _check_kind(dataset: Any) -> None:
    """Refuses what is no single frontal radiograph of a bearable size."""
    modality = _text(dataset, "Modality").upper()
    if modality and modality not in _MODALITIES:
        accepted = ", ".join(_MODALITIES)
        raise BadImage("other_modality", f"modality {modality}; accepted: {accepted}")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise BadImage("multi_frame", f"{frames} frames in one DICOM")
    meaning = _text(dataset, "PhotometricInterpretation")
    if meaning and not meaning.startswith(_MEANINGS):
        raise BadImage("unsupported_samples", f"DICOM of {meaning}")
    if view := _lateral(dataset):
        raise BadImage("lateral_view", view)
    if "Rows" not in dataset or "Columns" not in dataset:
        raise BadImage("not_an_image", "DICOM without pixels")
    width, height = int(dataset.Columns), int(dataset.Rows)
    limits.check_size(width, height)
    samples = int(dataset.get("SamplesPerPixel", 1))
    limits.check_memory(width, height, _PIXEL_BYTES * samples)


def _lateral(dataset: Any) -> str:
    """Returns what says that a film is lateral, empty where nothing does."""
    position = _text(dataset, "ViewPosition").upper()
    if position in _LATERAL_VIEWS:
        return f"view position {position}"
    for code in dataset.get("ViewCodeSequence") or ():
        meaning = _text(code, "CodeMeaning")
        if "lateral" in meaning.lower() and "postero" not in meaning.lower():
            return f"view {meaning}"
    orientation: Any = dataset.get("PatientOrientation") or ()
    first = str(orientation[0]).upper() if len(orientation) == 2 else ""
    if not position and first.startswith(_LATERAL_ROWS):
        return "patient orientation " + "\\".join(map(str, orientation))
    return ""


def _in_place(dataset: Any, data: bytes, at: int) -> np.ndarray | None:
    """Returns a view of uncompressed samples, [H, W]; None where others decode them.

    Without it pydicom copies them three times: a quarter of a film's time.

    Args:
      dataset: what stands before the pixels.
      data: the file's bytes.
      at: where the element of the pixels begins.
    """
    from pydicom import uid

    syntax = dataset.file_meta.TransferSyntaxUID
    explicit = syntax == uid.ExplicitVRLittleEndian
    allocated = dataset.get("BitsAllocated")
    if (
        not (explicit or syntax == uid.ImplicitVRLittleEndian)
        or data[at : at + 4] != _PIXEL_DATA
        or dataset.get("SamplesPerPixel", 1) != 1
        or allocated not in (8, 16)
    ):
        return None
    begin = at + (12 if explicit else 8)
    length = int.from_bytes(data[begin - 4 : begin], "little")
    kind = "i" if dataset.get("PixelRepresentation", 0) else "u"
    shape = int(dataset.Rows), int(dataset.Columns)
    needed = shape[0] * shape[1] * allocated // 8
    if not needed <= length <= needed + 1:  # an even number of bytes
        return None
    if begin + needed > len(data):
        raise BadImage(
            "truncated", f"DICOM: {begin + needed - len(data)} bytes missing"
        )
    dtype = np.dtype(f"<{kind}{allocated // 8}")
    return np.frombuffer(data, dtype, shape[0] * shape[1], begin).reshape(shape)


def _decoded(dataset: Any, data: bytes) -> np.ndarray:
    """Returns stored values as pydicom decodes them, [H, W] or RGB [H, W, 3]."""
    import pydicom

    whole = pydicom.dcmread(io.BytesIO(data), force=True)
    if "PixelData" not in whole:
        raise BadImage("not_an_image", "DICOM without pixels")
    whole.file_meta = dataset.file_meta
    try:
        samples = whole.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        text = " ".join(str(error).split())
        if "missing" in text or "unable to" in text.lower() or "support" in text:
            name = dataset.file_meta.TransferSyntaxUID.name
            raise BadImage(
                "unsupported_format", f"DICOM, {name}: no decoder takes it"
            ) from error
        raise
    if samples.shape[:2] != (dataset.Rows, dataset.Columns):
        raise BadImage("corrupt", f"DICOM: pixels of shape {samples.shape}")
    return samples


def _to_grey(dataset: Any, samples: np.ndarray) -> np.ndarray:
    """Maps stored values [H, W] to grey uint8 by one table."""
    bits = int(dataset.BitsStored)
    if not 1 <= bits <= 16 or samples.dtype.kind not in "iu":
        raise BadImage("unsupported_samples", f"DICOM of {bits}-bit {samples.dtype}")
    lowest = -(1 << bits - 1) if dataset.get("PixelRepresentation", 0) else 0
    values = np.arange(lowest, lowest + (1 << bits), dtype=np.int32)
    table = _table(dataset, values)
    # Overlays may lie in the bits above: a value counts modulo 2^bits.
    if table is None:
        shifted = (samples.astype(np.int32) - lowest) & ((1 << bits) - 1)
        grey = window(shifted.astype(np.uint16))
    else:
        grey = _looked_up(np.roll(table, lowest), samples)
    if _text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        np.invert(grey, out=grey)
    if "PixelPaddingValue" in dataset:
        one = int(dataset.PixelPaddingValue)
        other = int(dataset.get("PixelPaddingRangeLimit", one))
        grey[(samples >= min(one, other)) & (samples <= max(one, other))] = 0
    return grey


def _looked_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Returns `table[index % len(table)]`; in rows, whose indices stay in the cache."""
    found = np.empty(index.shape, table.dtype)
    for row in range(0, len(index), _ROWS):
        part = slice(row, row + _ROWS)
        np.take(table, index[part], out=found[part], mode="wrap")
    return found


def _table(dataset: Any, values: np.ndarray) -> np.ndarray | None:
    """Returns the grey level, uint8, of each stored value.

    None where neither a VOI nor the modality says which values are shown: then full
    scale is found as in other formats.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    stored = values.astype(np.int16 if values[0] < 0 else np.uint16)
    rescaled = np.asarray(apply_modality_lut(stored, dataset), float)
    if lut := dataset.get("VOILUTSequence"):
        shown = apply_voi_lut(apply_modality_lut(stored, dataset), dataset, index=0)
        low, high = 0.0, float((1 << int(lut[0].LUTDescriptor[2])) - 1)
    elif "WindowCenter" in dataset:
        # A window gives values of the whole range that rescaling can give.
        shown = apply_voi_lut(apply_modality_lut(stored, dataset), dataset, index=0)
        low, high = rescaled.min(), rescaled.max()
    elif dataset.get("ModalityLUTSequence") or rescaled[0] > rescaled[-1]:
        shown, low, high = rescaled, rescaled.min(), rescaled.max()
    else:
        return None
    scaled = (np.asarray(shown, float) - low) * (255 / max(high - low, 1e-9))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _tags(dataset: Any) -> DicomTags:
    device = (_text(dataset, "Manufacturer"), _text(dataset, "ManufacturerModelName"))
    return DicomTags(
        patient=_text(dataset, "PatientID"),
        age=_text(dataset, "PatientAge"),
        sex=_text(dataset, "PatientSex"),
        view=_text(dataset, "ViewPosition"),
        device=" ".join(filter(None, device)),
        modality=_text(dataset, "Modality"),
        burned_in=_text(dataset, "BurnedInAnnotation").upper() == "YES",
    )


def _text(dataset: Any, name: str) -> str:
    value = dataset.get(name)
    return "" if value is None else " ".join(str(value).split())
