"""The input pipelines that `tools.compare_loaders` compares: ours and the peers'.

Peers run in environments of their own, so at the top this imports nothing beyond
the standard library; each loader imports its libraries itself.
"""

import contextlib
import itertools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_WORKERS = os.cpu_count() or 1


class Loader(NamedTuple):
    """A pipeline, built.

    Attributes:
      epoch: iterates the batches of one training epoch (array-likes [B, ...]).
      whole: iterates every film once; for count and checksum, not timed.
    """

    epoch: Callable[[], Iterator[Any]]
    whole: Callable[[], Iterator[Any]]


class Task(NamedTuple):
    """What to load: the work folder, its film size, and B."""

    work: pathlib.Path
    image_size: int
    batch_size: int


# Each loader imports its libraries, then returns the function that builds it: the
# time to the first batch counts building, not importing.


def cxr_loader(dataset: str, cache: str) -> Callable[[Task], Loader]:
    """Ours, from records."""
    import tensorflow as tf  # noqa: F401

    from cxr import platforms, records
    from cxr.input import pipeline

    platforms.configure_process()  # as our commands do

    def build(task: Task) -> Loader:
        source = pipeline.open_split(
            records.find(task.work / "data", dataset),
            "train",
            image_size=task.image_size,
            cache=cache,
            progress=False,
        )
        batches = source.batches(source.training(task.batch_size, 0))
        steps = source.n // task.batch_size
        return Loader(
            lambda: (batch[0] for batch in itertools.islice(batches, steps)),
            lambda: (b[0] for b in source.batches(source.evaluation(task.batch_size))),
        )

    return build


def numpy_copy() -> Callable[[Task], Loader]:
    """The bound: the same bytes copied batch by batch, in order, one thread."""
    import numpy as np

    def build(task: Task) -> Loader:
        films = np.load(task.work / "films.npy")
        batch = np.empty((task.batch_size, *films.shape[1:]), np.uint8)

        def epoch():
            for first in range(0, len(films) - len(batch) + 1, len(batch)):
                batch[:] = films[first : first + len(batch)]
                yield batch

        return Loader(epoch, lambda: iter([films]))

    return build


def bare_decode(together: bool) -> Callable[[Task], Loader]:
    """The bound of streaming: JPEG decoding alone, one thread, bytes in memory.

    Args:
      together: by our own loop; else by libjpeg-turbo, the fastest of the libraries
        (TensorFlow's op takes 105 us a film of 224 pixels where this takes 90).
    """
    import numpy as np

    from cxr import images
    from cxr.input.jpeg import decoder as jpeg

    if together:
        import numba  # noqa: F401  (the comparison says so where it is missing)

    def build(task: Task) -> Loader:
        if together:
            jpeg.prepare().join()
        decoder = jpeg.Decoder()
        paths = sorted((task.work / "stored").glob("*/*"))
        encoded = [path.read_bytes() for path in paths]
        batch = np.empty((task.batch_size, *(task.image_size,) * 2), np.uint8)

        def decoded(first: int):
            films = encoded[first : first + len(batch)]
            if together:
                assert decoder.decode(films, batch[: len(films)]).all()
            else:
                for film, out in zip(films, batch, strict=False):
                    images.decode(film, "jpeg", out=out)
            return batch[: len(films)]

        def epoch():
            return map(decoded, range(0, len(encoded) - len(batch) + 1, len(batch)))

        return Loader(epoch, lambda: map(decoded, range(0, len(encoded), len(batch))))

    return build


def keras_directory(folder: str, *, cached: bool = False) -> Callable[[Task], Loader]:
    """keras.utils.image_dataset_from_directory."""
    import keras

    def build(task: Task) -> Loader:
        with contextlib.redirect_stdout(sys.stderr):
            dataset = keras.utils.image_dataset_from_directory(
                task.work / folder,
                label_mode="int",
                color_mode="rgb" if cached else "grayscale",
                image_size=(task.image_size,) * 2,
                batch_size=task.batch_size,
                seed=0,
            )
        if cached:
            dataset = dataset.cache()
        films = lambda: (batch[0] for batch in dataset)  # noqa: E731
        return Loader(films, films)

    return build


def image_data_generator() -> Callable[[Task], Loader]:
    """Keras' legacy ImageDataGenerator, without augmentation."""
    import tensorflow as tf

    def build(task: Task) -> Loader:
        with contextlib.redirect_stdout(sys.stderr):
            generator = tf.keras.preprocessing.image.ImageDataGenerator()
            flow = generator.flow_from_directory(
                task.work / "originals",
                target_size=(task.image_size,) * 2,
                color_mode="grayscale",
                class_mode="sparse",
                batch_size=task.batch_size,
                seed=0,
            )
        films = lambda: (flow[i][0] for i in range(len(flow)))  # noqa: E731
        return Loader(films, films)

    return build


def tfds_records() -> Callable[[Task], Loader]:
    """TFDS reading our JPEG shards, as its documentation has it."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def build(task: Task) -> Loader:
        builder = tfds.builder_from_directory(str(task.work / "data/jpeg/1.0.0"))
        dataset = builder.as_dataset(split="train", shuffle_files=True)
        dataset = dataset.shuffle(1000).batch(task.batch_size)
        dataset = dataset.prefetch(tf.data.AUTOTUNE)
        films = lambda: (batch["image"]["encoded"] for batch in dataset)  # noqa: E731
        return Loader(films, films)

    return build


def naive_tfrecord() -> Callable[[Task], Loader]:
    """The shortest tf.data pipeline over our JPEG shards."""
    import tensorflow as tf

    features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}

    def parse(record):
        return tf.io.decode_jpeg(
            tf.io.parse_single_example(record, features)["image/encoded"], 1
        )

    def build(task: Task) -> Loader:
        shards = sorted((task.work / "data/jpeg/1.0.0").glob("*.tfrecord-*"))
        dataset = tf.data.TFRecordDataset([str(shard) for shard in shards])
        dataset = dataset.shuffle(1000).map(parse).batch(task.batch_size)
        films = lambda: iter(dataset.prefetch(1))  # noqa: E731
        return Loader(films, films)

    return build


def torch_folder(reader: str) -> Callable[[Task], Loader]:
    """PyTorch's DataLoader with a worker a core; PIL (DCT-scaled draft) or cv2."""
    import numpy as np
    import torch

    if reader == "cv2":
        import cv2

        cv2.setNumThreads(1)  # the workers are the parallelism

        def read(path: str, size: int):
            film = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
            return cv2.resize(film, (size, size), interpolation=cv2.INTER_AREA)
    else:
        from PIL import Image

        def read(path: str, size: int):
            with Image.open(path) as film:
                film.draft("L", (size, size))
                return np.asarray(film.convert("L").resize((size, size)))

    class Films(torch.utils.data.Dataset):
        def __init__(self, task: Task):
            self.paths = sorted(map(str, (task.work / "originals").glob("*/*")))
            self.size = task.image_size

        def __len__(self):
            return len(self.paths)

        def __getitem__(self, index):
            return torch.from_numpy(read(self.paths[index], self.size).copy())

    def build(task: Task) -> Loader:
        loader = torch.utils.data.DataLoader(
            Films(task),
            task.batch_size,
            shuffle=True,
            num_workers=_WORKERS,
            persistent_workers=True,
        )
        return Loader(lambda: iter(loader), lambda: iter(loader))

    return build


def dali_folder() -> Callable[[Task], Loader]:
    """NVIDIA DALI, CPU operators."""
    import numpy as np
    from nvidia import dali
    from nvidia.dali import fn, types

    def build(task: Task) -> Loader:
        @dali.pipeline_def(
            batch_size=task.batch_size, num_threads=_WORKERS, device_id=None
        )
        def films():
            encoded, label = fn.readers.file(
                file_root=str(task.work / "originals"), random_shuffle=True, name="r"
            )
            film = fn.decoders.image(encoded, output_type=types.GRAY)
            return fn.resize(film, size=(task.image_size,) * 2), label

        pipeline = films()
        pipeline.build()
        count = pipeline.epoch_size("r")

        def epoch():
            for _ in range(-(-count // task.batch_size)):
                yield np.asarray(pipeline.run()[0].as_tensor())

        def whole():  # DALI fills its last batch up from the next epoch
            batches = np.concatenate([batch.copy() for batch in epoch()])
            yield batches[:count]

        return Loader(epoch, whole)

    return build


def ffcv_file(kind: str, order: str) -> Callable[[Task], Loader]:
    """FFCV reading its own format, raw grey samples or RGB JPEG."""
    import numpy as np
    from ffcv import fields, loader, transforms, writer
    from ffcv.fields import decoders

    class Films:
        def __init__(self, work: pathlib.Path):
            self.films = np.load(work / "films.npy", mmap_mode="r")

        def __len__(self):
            return len(self.films)

        def __getitem__(self, index):
            film = np.asarray(self.films[index])
            return (film[..., None] if kind == "raw" else np.stack([film] * 3, -1),)

    def build(task: Task) -> Loader:
        path = str(task.work / f"{kind}.beton")
        pipelines = {"image": [decoders.NDArrayDecoder()]}
        if kind == "jpeg":
            pipelines = {"image": [decoders.SimpleRGBImageDecoder()]}
        pipelines["image"].append(transforms.ToTensor())
        films = loader.Loader(
            path,
            batch_size=task.batch_size,
            num_workers=_WORKERS,
            order=getattr(loader.OrderOption, order),
            os_cache=True,
            drop_last=False,
            pipelines=pipelines,
        )
        batches = lambda: (batch[0] for batch in films)  # noqa: E731
        return Loader(batches, batches)

    def write(task: Task) -> None:
        path = task.work / f"{kind}.beton"
        if path.exists():
            return
        shape = (task.image_size, task.image_size, 1)
        field = fields.NDArrayField(np.dtype("uint8"), shape)
        if kind == "jpeg":
            field = fields.RGBImageField(write_mode="jpg", jpeg_quality=95)
        partial = path.with_suffix(".partial")
        with contextlib.redirect_stdout(sys.stderr):
            output = writer.DatasetWriter(str(partial), {"image": field}, num_workers=1)
            output.from_indexed_dataset(Films(task.work))
        partial.rename(path)

    build.prepare = write
    return build


LOADERS: dict[str, tuple[Callable[..., Callable[[Task], Loader]], tuple]] = {
    "cxr resident raw": (cxr_loader, ("raw", "ram")),
    "cxr resident jpeg": (cxr_loader, ("jpeg", "ram")),
    "cxr stream raw": (cxr_loader, ("raw", "none")),
    "cxr stream jpeg": (cxr_loader, ("jpeg", "none")),
    "numpy copy": (numpy_copy, ()),
    "bare decode": (bare_decode, (False,)),
    "bare decode together": (bare_decode, (True,)),
    "keras directory": (keras_directory, ("originals",)),
    "keras directory stored": (keras_directory, ("stored",)),
    "keras directory cached": (lambda: keras_directory("originals", cached=True), ()),
    "ImageDataGenerator": (image_data_generator, ()),
    "tfds": (tfds_records, ()),
    "naive tfrecord": (naive_tfrecord, ()),
    "torch pil": (torch_folder, ("pil",)),
    "torch cv2": (torch_folder, ("cv2",)),
    "dali": (dali_folder, ()),
    "ffcv raw": (ffcv_file, ("raw", "QUASI_RANDOM")),
    "ffcv raw random": (ffcv_file, ("raw", "RANDOM")),
    "ffcv jpeg": (ffcv_file, ("jpeg", "QUASI_RANDOM")),
}
