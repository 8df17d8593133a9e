"""cxr: fast, honest training of chest X-ray classifiers from TFRecords."""

__version__ = "0.1.0"
