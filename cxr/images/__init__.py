"""Turns image files into grey uint8 arrays and back.

One chain for converter, training, evaluation and prediction: `to_grey(bytes, stored
size)`, then `area_resize` to the model's size.
"""

from cxr.images.dicom import DicomTags as DicomTags
from cxr.images.formats import DICOM as DICOM
from cxr.images.formats import ENCODINGS as ENCODINGS
from cxr.images.formats import FORMATS as FORMATS
from cxr.images.formats import MAX_BYTES as MAX_BYTES
from cxr.images.formats import SUFFIXES as SUFFIXES
from cxr.images.formats import Decoded as Decoded
from cxr.images.formats import decode as decode
from cxr.images.formats import encode as encode
from cxr.images.formats import read as read
from cxr.images.formats import thumbnail as thumbnail
from cxr.images.formats import to_grey as to_grey
from cxr.images.formats import unchecked_note as unchecked_note
from cxr.images.resize import area_resize as area_resize
