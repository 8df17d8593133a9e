"""Caches a frozen backbone's features of K augmented views on disk.

While the backbone is frozen its output for an image depends on the view alone, so
the head trains on stored features at memory speed. Chunks are published one by
one under a fingerprint of all that shaped them; a kill loses at most one chunk.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from cxr import cli, files, pulse, runs
from cxr.config import TrainConfig
from cxr.input import augmenters, on_device, orders, pipeline
from cxr.training import models, progress, publishing, steps
from cxr.training.cluster import Workers

CHUNK_IMAGES = 512  # of a chunk: half a minute of VGG16 on two cores
_GPU_CHUNK_IMAGES = 16_384  # some seconds of one GPU: writing must not bound it


@dataclasses.dataclass(frozen=True)
class FeatureSource:
    """Features of a split's images in place of the images.

    Attributes:
      features: float32 [K, n, D], one row of D numbers for each view and image.
      labels: int32 [n].
    """

    features: np.ndarray
    labels: np.ndarray

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def training(
        self,
        batch_size: int,
        seed: int,
        *,
        start_step: int = 0,
        share: orders.Share = orders.WHOLE,
    ) -> tf.data.Dataset:
        """Like `pipeline.ImageSource.training` from memory; epoch e: view e % K.

        Returns:
          Endless dataset of `(features float32 [b, D], labels int32 [b], example
          indices int64 [b])`, b = `share.size(batch_size)`.
        """
        views, _, width = self.features.shape
        table = tf.constant(self.features.reshape(-1, width))
        labels = tf.constant(self.labels)

        def gather(epoch: tf.Tensor, indices: tf.Tensor):
            rows = indices + (epoch % views) * self.n
            return tf.gather(table, rows), tf.gather(labels, indices), indices

        batches = orders.batches(
            functools.partial(orders.shuffled, self.n, seed),
            self.n // batch_size,
            batch_size,
            start_step=start_step,
            share=share,
        )
        return batches.map(gather).prefetch(tf.data.AUTOTUNE)

    def evaluation(self, batch_size: int) -> tf.data.Dataset:
        """Returns each example's first view once, in order, the last batch partial."""
        parts = (self.features[0], self.labels, np.arange(self.n))
        return tf.data.Dataset.from_tensor_slices(parts).batch(batch_size)


# What a stage trains on.
AnySource = pipeline.ImageSource | on_device.OnDevice | FeatureSource


class FeatureCache:
    """Computes the frozen backbone's features of images, or finds them on disk.

    Args:
      config: the run's flags.
      data_fingerprint: of the data set.
      model: the network whose `features` layer ends the frozen part.
      strategy: all its replicas compute.
      check: asked between batches; may raise to leave.
      workers: share the passes; the chief writes.
    """

    def __init__(
        self,
        config: TrainConfig,
        data_fingerprint: str,
        model: keras.Model,
        *,
        strategy: tf.distribute.Strategy,
        check: Callable[[], None],
        workers: Workers,
    ):
        self._config, self._strategy, self._check = config, strategy, check
        self._workers = workers
        self._backbone = models.feature_model(model)
        self._shaping = {
            "data": data_fingerprint,
            "weights": publishing.weights_sha256(self._backbone.get_weights()),
            "image_size": config.image_size,
            "precision": keras.config.dtype_policy().name,
            "seed": config.seed,
        }

    def both(
        self, train: pipeline.ImageSource, validation: pipeline.ImageSource
    ) -> tuple[FeatureSource, FeatureSource]:
        """Returns the features to train and to validate on.

        Training images have `config.feature_views` augmented views, keyed by the
        view's number where training through the backbone would be keyed by the step;
        validation images are as they are.
        """
        views = self._config.feature_views
        passes = views * train.n + validation.n
        progress.say(
            f"feature cache: {views} views of {train.n:,} images, {passes:,} forward "
            f"passes, {progress.size(4 * self._backbone.output.shape[-1] * passes)}"
        )
        return (
            self._compute(train, "train", self._config.augmentation, views),
            self._compute(validation, "validation", "none", 1),
        )

    def _compute(
        self, source: pipeline.ImageSource, split: str, policy: str, views: int
    ) -> FeatureSource:
        shaping = {**self._shaping, "split": split, "policy": policy}
        name = files.sha256_bytes(json.dumps(shaping, sort_keys=True).encode())[:16]
        folder = self._config.run_folder / runs.FEATURES / name
        batch_size = self._config.batch_size
        gpus = tf.config.list_logical_devices("GPU")
        images = _GPU_CHUNK_IMAGES if gpus else CHUNK_IMAGES
        chunk = max(images // batch_size, 1) * batch_size
        extract = self._extractor(policy)
        hidden = None if self._config.progress else True  # None: on terminals only
        parts = []
        with tqdm(
            total=views * source.n, desc=f"features of {split}", disable=hidden
        ) as bar:
            for view in range(views):
                for start in range(0, source.n, chunk):
                    count = min(chunk, source.n - start)
                    path = folder / f"view-{view:03d}-{start:08d}.npy"
                    part = self._find(path, count)
                    if part is None:
                        batches = source.evaluation(batch_size, start=start)
                        batches = batches.take(-(-count // batch_size))
                        part = extract.run(
                            batches,
                            count=count,
                            batch_size=batch_size,
                            argument=view,
                            check=self._check,
                        )
                        if self._workers.is_chief:
                            _write(path, part)
                    parts.append(part)
                    bar.update(count)
                    pulse.at(f"features of {split}, {len(parts)} chunks done")
        features = np.concatenate(parts).reshape(views, source.n, -1)
        return FeatureSource(features, source.labels)

    def _find(self, path: pathlib.Path, count: int) -> np.ndarray | None:
        """Returns a chunk that the chief has found whole; None where it has not."""
        part = _read(path, count) if self._workers.is_chief else None
        if not self._workers.from_chief(lambda: part is not None):
            return None
        part = _read(path, count) if part is None else part
        if part is None:
            raise cli.DataError(f"{path}: the chief has it; do all share --workdir?")
        return part

    def _extractor(self, policy: str) -> steps.BatchMap:
        """Returns what runs augmented images through the backbone."""
        augment = augmenters.build(policy, seed=self._config.seed)

        def features(images, indices, view):
            outputs = self._backbone(augment(images, view, indices), training=False)
            return tf.cast(outputs, tf.float32)

        return steps.BatchMap(
            features, strategy=self._strategy, gather=self._workers.all_gather
        )


def _write(path: pathlib.Path, part: np.ndarray) -> None:
    with files.publishing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, part)
    files.publish(path.with_suffix(".sha256"), files.sha256_file(path))


def _read(path: pathlib.Path, count: int) -> np.ndarray | None:
    """Returns a chunk that is whole, None where it must be computed (again)."""
    checksum = path.with_suffix(".sha256")
    if not path.is_file() or not checksum.is_file():
        return None
    if files.sha256_file(path) != checksum.read_text():
        return None
    part = np.load(path, allow_pickle=False)
    return part if len(part) == count else None
