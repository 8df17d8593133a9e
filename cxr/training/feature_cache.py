"""Caches a frozen backbone's features of K augmented views on disk.

While the backbone is frozen its output for a film depends on the view alone, so
the head trains on stored features at memory speed. Chunks are published one by
one under a fingerprint of all that shaped them; a kill loses at most one chunk.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from cxr import files, runs
from cxr.config import TrainConfig
from cxr.input import augmenters, pipeline
from cxr.training import models, progress, publishing, steps

# `(batches, count, view) -> float32 [count, D]`
Extract = Callable[[tf.data.Dataset, int, int], np.ndarray]

CHUNK_IMAGES = 512  # of a chunk: half a minute of VGG16 on two cores


@dataclasses.dataclass(frozen=True)
class FeatureSource:
    """Features of a split's films in place of the films.

    Attributes:
      features: float32 [K, n, D], one row of D numbers for each view and film.
      labels: int32 [n].
    """

    features: np.ndarray
    labels: np.ndarray

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def training(
        self, batch_size: int, seed: int, *, start_step: int = 0
    ) -> tf.data.Dataset:
        """Like `pipeline.Source.training`, in the same order; epoch e has view e % K.

        Returns:
          Endless dataset of `(features float32 [B, D], labels int32 [B], example
          indices int64 [B])`.
        """
        steps = self.n // batch_size
        views, _, width = self.features.shape
        table = tf.constant(self.features.reshape(-1, width))
        labels = tf.constant(self.labels)

        def epoch(number: tf.Tensor) -> tf.data.Dataset:
            order = tf.numpy_function(
                lambda e: pipeline.epoch_order(self.n, seed, int(e)), [number], tf.int64
            )
            order = tf.reshape(order[: steps * batch_size], [steps, batch_size])
            rows = order + (number % views) * self.n
            return tf.data.Dataset.from_tensor_slices((rows, order))

        def gather(rows: tf.Tensor, order: tf.Tensor):
            return tf.gather(table, rows), tf.gather(labels, order), order

        first, skipped = divmod(start_step, steps)
        batches = tf.data.Dataset.counter(first).flat_map(epoch).skip(skipped)
        return batches.map(gather).prefetch(tf.data.AUTOTUNE)

    def evaluation(self, batch_size: int) -> tf.data.Dataset:
        """Returns each example's first view once, in order, the last batch partial."""
        parts = (self.features[0], self.labels, np.arange(self.n))
        return tf.data.Dataset.from_tensor_slices(parts).batch(batch_size)


# What a stage trains and validates on.
AnySource = pipeline.Source | FeatureSource


def cache_backbone(
    config: TrainConfig,
    data_fingerprint: str,
    *,
    model: keras.Model,
    train: pipeline.Source,
    validation: pipeline.Source,
    strategy: tf.distribute.Strategy,
    check: Callable[[], None],
) -> tuple[FeatureSource, FeatureSource]:
    """Computes the frozen backbone's features of training and validation films.

    Training films have `config.feature_views` augmented views, keyed by the view's
    number where training through the backbone would be keyed by the step;
    validation films are as they are.

    Args:
      config: the run's flags.
      data_fingerprint: of the data set.
      model: the network whose `features` layer ends the frozen part.
      train: films to train on.
      validation: films to validate on.
      strategy: all its replicas compute.
      check: asked between batches; may raise to leave.
    """
    backbone = models.feature_model(model)
    recipe = {
        "data": data_fingerprint,
        "weights": publishing.weights_sha256(backbone.get_weights()),
        "image_size": config.image_size,
        "precision": keras.config.dtype_policy().name,
    }
    passes = config.feature_views * train.n + validation.n
    size = progress.size(4 * backbone.output.shape[-1] * passes)
    progress.say(
        f"feature cache: {config.feature_views} views of {train.n:,} films, "
        f"{passes:,} forward passes, {size}"
    )

    def features_of(source, split: str, policy: str, views: int) -> FeatureSource:
        return compute(
            source,
            _extractor(backbone, config, policy, strategy=strategy, check=check),
            views=views,
            folder=pathlib.Path(config.workdir) / runs.FEATURES,
            recipe={**recipe, "split": split, "policy": policy, "seed": config.seed},
            batch_size=config.batch_size,
            title=f"features of {split}",
            progress=config.progress,
        )

    return (
        features_of(train, "train", config.augmentation, config.feature_views),
        features_of(validation, "validation", "none", 1),
    )


def _extractor(
    backbone: keras.Model,
    config: TrainConfig,
    policy: str,
    *,
    strategy: tf.distribute.Strategy,
    check: Callable[[], None],
) -> Extract:
    """Returns what runs augmented films through the backbone, on all replicas."""
    augment = augmenters.build(policy, seed=config.seed)

    def function(films, indices, view):
        found = backbone(augment(films, view, indices), training=False)
        return tf.cast(found, tf.float32)

    mapped = steps.BatchMap(function, strategy=strategy)
    return lambda batches, count, view: mapped.run(
        batches,
        count=count,
        batch_size=config.batch_size,
        argument=view,
        check=check,
    )


def compute(
    source: pipeline.Source,
    extract: Extract,
    *,
    views: int,
    folder: pathlib.Path,
    recipe: dict,
    batch_size: int,
    title: str,
    progress: bool = True,
) -> FeatureSource:
    """Computes, or finds on disk, the features of a split.

    Args:
      source: the films.
      extract: `(batches, count, view) -> float32 [count, D]`.
      views: K.
      folder: where chunks are kept, in a folder named by the recipe's hash.
      recipe: everything that shapes the features, JSON-serialisable.
      batch_size: films a batch.
      title: what the progress bar says.
      progress: show it.
    """
    fingerprint = files.sha256_bytes(json.dumps(recipe, sort_keys=True).encode())[:16]
    folder = folder / fingerprint
    chunk = max(CHUNK_IMAGES // batch_size, 1) * batch_size
    parts = []
    with tqdm(total=views * source.n, desc=title, disable=_hidden(progress)) as bar:
        for view in range(views):
            for start in range(0, source.n, chunk):
                count = min(chunk, source.n - start)
                path = folder / f"view-{view:03d}-{start:08d}.npy"
                part = _read(path, count)
                if part is None:
                    batches = source.evaluation(batch_size, start=start)
                    batches = batches.take(-(-count // batch_size))
                    part = extract(batches, count, view)
                    _write(path, part)
                parts.append(part)
                bar.update(count)
    features = np.concatenate(parts).reshape(views, source.n, -1)
    return FeatureSource(features, source.labels)


def _write(path: pathlib.Path, part: np.ndarray) -> None:
    with files.publishing(path) as temporary:
        with open(temporary, "wb") as file:
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


def _hidden(progress: bool) -> bool | None:
    """What tqdm's `disable`: None shows the bar on terminals only."""
    return None if progress else True
