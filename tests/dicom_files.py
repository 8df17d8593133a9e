"""DICOM files, written for tests."""

import io

import numpy as np
import pydicom
from pydicom import uid

NATIVE = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
}
COMPRESSED = {
    "rle": uid.RLELossless,
    "jpeg-ls": uid.JPEGLSLossless,
    "jpeg 2000": uid.JPEG2000Lossless,
}


def dicom(
    samples: np.ndarray,
    *,
    bits: int = 12,
    photometric: str = "MONOCHROME2",
    syntax: uid.UID = uid.ExplicitVRLittleEndian,
    bare: bool = False,
    **elements,
) -> bytes:
    """Returns a DICOM radiograph.

    Args:
      samples: integers [H, W] of 8 or 16 bits, or uint8 [H, W, 3].
      bits: of a sample, `BitsStored`.
      photometric: what samples mean.
      syntax: how they are written.
      bare: without preamble and meta information.
      **elements: further ones by their keywords; None removes one.
    """
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = uid.generate_uid(entropy_srcs=["film"])
    dataset.Modality, dataset.PatientID = "DX", "patient 1"
    dataset.Rows, dataset.Columns = samples.shape[:2]
    dataset.SamplesPerPixel = 1 if samples.ndim == 2 else 3
    if samples.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.PixelRepresentation = int(samples.dtype.kind == "i")
    dataset.BitsAllocated = 8 * samples.itemsize
    dataset.BitsStored = min(bits, 8 * samples.itemsize)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = samples.tobytes()
    dataset["PixelData"].VR = "OW" if samples.itemsize == 2 else "OB"
    for name, value in elements.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    if syntax.is_encapsulated:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    if bare:
        implicit = syntax == uid.ImplicitVRLittleEndian
        del dataset.file_meta
        dataset.save_as(buffer, implicit_vr=implicit, little_endian=True)
    else:
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
