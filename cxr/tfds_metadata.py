"""What tensorflow_datasets wants to find beside the shards, written without it.

With these files `tfds.builder_from_directory` and `tfds.load` open the set.
"""

import json
from typing import Any

from cxr import records


def features_json(class_names: tuple[str, ...], image_size: int, encoding: str) -> str:
    """Returns features.json as `tfds.features.FeaturesDict.save_config` writes it.

    Args:
      class_names: label i is `class_names[i]`.
      image_size: stored height = width in pixels.
      encoding: `jpeg` and `png` become an Image feature, `raw` a Tensor.
    """
    shape = {"dimensions": [str(image_size), str(image_size), "1"]}
    if encoding == "raw":
        encoded = _feature(
            "tensor_feature.Tensor",
            tensor={"shape": shape, "dtype": "uint8", "encoding": "bytes"},
        )
    else:
        encoded = _feature(
            "image_feature.Image",
            image={"shape": shape, "dtype": "uint8", "encodingFormat": encoding},
        )
    text = _feature("text_feature.Text", text={})
    integer = _feature(
        "scalar.Scalar",
        tensor={"shape": {}, "dtype": "int64", "encoding": "none"},
    )
    label = _feature(
        "class_label_feature.ClassLabel",
        classLabel={"numClasses": str(len(class_names))},
    )
    image = {
        "encoded": encoded,
        "format": text,
        "height": integer,
        "width": integer,
        "filename": text,
        "key": _features_dict({"sha256": text}),
        "class": _features_dict({"label": label, "text": text}),
        "patient_id": text,
        "subtype": text,
    }
    tree = _features_dict({"image": _features_dict(image)})
    return json.dumps(tree, indent=4, sort_keys=True) + "\n"


def label_files(class_names: tuple[str, ...]) -> dict[str, str]:
    """Returns TFDS's label-name side file: name to text."""
    return {"image-class-label.labels.txt": "".join(f"{n}\n" for n in class_names)}


def dataset_info_json(manifest: records.Manifest, description: str) -> str:
    """Returns dataset_info.json as TFDS reads it (its DatasetInfo proto)."""
    splits = [
        {
            "name": split.name,
            "numBytes": str(split.num_bytes),
            "shardLengths": [str(shard.count) for shard in split.shards],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        for split in manifest.splits.values()
    ]
    document = {
        "name": manifest.name,
        "version": manifest.version,
        "description": description,
        "fileFormat": "tfrecord",
        "splits": splits,
        "releaseNotes": {},
    }
    return json.dumps(document, indent=2) + "\n"


def _feature(name: str, **content: Any) -> dict[str, Any]:
    path = f"tensorflow_datasets.core.features.{name}"
    return {"pythonClassName": path, **content}


def _features_dict(features: dict[str, Any]) -> dict[str, Any]:
    return _feature("features_dict.FeaturesDict", featuresDict={"features": features})
