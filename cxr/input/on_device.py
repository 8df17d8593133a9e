"""Keeps a split in the memory of the devices that train on it."""

import functools

import numpy as np
import tensorflow as tf

from cxr import cli
from cxr.input import orders, pipeline
from cxr.input.augmenters import Augment

_WORD = 8  # pixels of a word, see `OnDevice`
_BATCH = 64  # images read by one call while the memory is filled


class OnDevice:
    """A split whose images lie on every device, so that batches carry indices alone.

    The order is the split's. Words of eight pixels are gathered, int64:
    TensorFlow's GPUs have no kernel that gathers uint8, and keep int32 on the host.

    Args:
      source: the split.
      devices: names of those that train in this process, replicas in their order.

    Attributes:
      n: number of examples.
      labels: int32 [n].

    Raises:
      UnavailableError: the split does not fit a device.
      DataError: a damaged record was met.
    """

    def __init__(self, source: pipeline.ImageSource, devices: list[str]):
        self.n, self.labels = source.n, source.labels
        self._source, self._size = source, source.image_size
        words = _words(source)
        self._copies = [_copy(words, device) for device in devices]

    def training(
        self,
        batch_size: int,
        seed: int,
        *,
        start_step: int = 0,
        share: orders.Share = orders.WHOLE,
    ) -> tf.data.Dataset:
        """Like `ImageSource.training`, with example indices in the place of images."""
        labels = tf.constant(self.labels)
        batches = orders.batches(
            functools.partial(self._source.epoch_order, seed),
            self.n // batch_size,
            batch_size,
            start_step=start_step,
            share=share,
        )
        # Here and not on the device: a few bytes, where XLA would want them constant.
        carried = batches.map(lambda _, i: (i, tf.gather(labels, i), i))
        return carried.prefetch(tf.data.AUTOTUNE)

    def augmenting(self, augment: Augment) -> Augment:
        """Returns `augment` of the images whose indices a batch carries."""
        return lambda carried, step, indices: augment(
            self.images(carried), step, indices
        )

    def images(self, indices: tf.Tensor) -> tf.Tensor:
        """Gathers on the replica's own device: uint8 [b, S, S, 1] of int64 [b]."""
        context = tf.distribute.get_replica_context()
        replica = tf.get_static_value(context.replica_id_in_sync_group)
        copy, size = self._copies[replica % len(self._copies)], self._size
        pixels = tf.bitcast(tf.gather(copy, indices), tf.uint8)
        flat = tf.reshape(pixels, [-1, copy.shape[1] * _WORD])
        return tf.reshape(flat[:, : size * size], [-1, size, size, 1])


def _words(source: pipeline.ImageSource) -> np.ndarray:
    """Returns the images as int64 [n, ceil(S * S / 8)]."""
    pixels = source.image_size**2
    rows = np.zeros((source.n, -(-pixels // _WORD) * _WORD), np.uint8)
    for images, _, indices in source.batches(source.evaluation(_BATCH)):
        rows[indices.numpy(), :pixels] = images.numpy().reshape(-1, pixels)
    return rows.view(np.int64)


def _copy(words: np.ndarray, device: str) -> tf.Tensor:
    try:
        with tf.device(device):
            return tf.identity(tf.constant(words))
    except (tf.errors.ResourceExhaustedError, tf.errors.InternalError) as error:
        raise cli.UnavailableError(
            f"--cache=device: {words.nbytes / 2**30:.2f} GiB of images do not fit "
            f"{device}; use --cache=ram"
        ) from error
