"""Asks TensorFlow what it computes on, in a process of its own that may die of it."""

import json
from typing import Any

from cxr import platforms


def probe() -> dict[str, Any]:
    """Returns `tensorflow` (version), `gpus`, `why_none` and `precision`."""
    platforms.configure_process()  # as every command does before TensorFlow
    import tensorflow as tf

    from cxr.config import TrainConfig
    from cxr.training import devices

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return {
        "tensorflow": tf.__version__,
        "gpus": [
            detail.get("device_name", gpu.name)
            for gpu, detail in zip(gpus, details, strict=True)
        ],
        "why_none": "" if gpus else platforms.why_no_gpu(),
        "precision": devices.setup(TrainConfig(strategy="none")).precision,
    }


def main() -> None:
    """Prints it as the last line of JSON."""
    print("\n" + json.dumps(probe()), flush=True)
