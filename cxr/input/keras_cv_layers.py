"""keras-cv layers that apply drawn augmentations: fused, or the stock stack.

A module of its own because importing keras-cv takes two seconds, which commands
that do not augment should not pay.
"""

import keras_cv
import tensorflow as tf

from cxr.input import xla
from cxr.input.augmentation import Draws, Policy, apply, draw


class Fused(keras_cv.layers.VectorizedBaseImageAugmentationLayer):
    """All changes of a policy in one pass over the pixels, compiled by XLA.

    As a Keras layer of its own, `layer(images)` draws with the layer's generator;
    training gives it draws made from (seed, step, example) instead.
    """

    def __init__(self, policy: Policy, *, seed: int):
        """Takes the ranges, and a seed for use as a layer of its own."""
        # Whatever the global precision; and keras-cv takes seed 0 for no seed.
        super().__init__(seed=seed or 1, dtype="float32")
        self._policy = policy

    def get_random_transformation_batch(self, batch_size: int, **kwargs) -> Draws:
        """Draws for a batch, independently of all earlier ones."""
        step = self._random_generator.uniform((), maxval=tf.int64.max, dtype=tf.int64)
        examples = tf.range(tf.cast(batch_size, tf.int64))
        return draw(self._policy, examples, seed=0, step=step)

    def augment_images(
        self, images: tf.Tensor, transformations: Draws, **kwargs
    ) -> tf.Tensor:
        """Returns changed images, float32 [B, H, W, 1] in 0..255."""
        return _compiled_apply(images, transformations)


class Stock:
    """keras-cv's own layers one after the other, with the same geometry.

    Each stock layer is handed its share of the draws, so this too is a function
    of (seed, step, example); every layer but the flip interpolates anew, and what
    an early layer moves out of the frame a later one cannot bring back.
    """

    def __init__(self, policy: Policy, *, seed: int):
        """Takes the ranges; `seed` is for the layers' own draws."""
        if policy != policy.geometry:
            raise ValueError(f"{policy}: the stock stack has geometry only")
        # Seeds apart: layers of one seed would draw the same numbers.
        seeds = [
            {"seed": 5 * seed + layer, "dtype": "float32"} for layer in range(1, 6)
        ]
        fill = {"fill_mode": "nearest"}
        layers = keras_cv.layers
        zoom = [bound - 1 for bound in policy.zoom]
        self._flip = layers.RandomFlip("horizontal_and_vertical", **seeds[0])
        self._rotation = layers.RandomRotation(
            policy.rotation / 360, **fill, **seeds[1]
        )
        self._shear = layers.RandomShear(policy.shear, **fill, **seeds[2])
        self._zoom = layers.RandomZoom(zoom, zoom, **fill, **seeds[3])
        shift = (policy.shift, policy.shift)
        self._shift = layers.RandomTranslation(*shift, **fill, **seeds[4])

    def augment_images(self, images: tf.Tensor, transformations: Draws) -> tf.Tensor:
        """Returns changed images, float32 [B, H, W, 1] in 0..255."""
        drawn = {name: x[:, tf.newaxis] for name, x in transformations.items()}
        steps = (
            (
                self._flip,
                {
                    "flip_horizontals": drawn["flip_x"],
                    "flip_verticals": drawn["flip_y"],
                },
            ),
            (self._rotation, {"angles": transformations["angle"]}),
            (self._shear, {"shear_x": drawn["shear"], "shear_y": None}),
            (
                self._zoom,
                {"width_zooms": drawn["zoom_x"], "height_zooms": drawn["zoom_y"]},
            ),
            (
                self._shift,
                {
                    "width_translations": drawn["shift_x"],
                    "height_translations": drawn["shift_y"],
                },
            ),
        )
        for layer, share in steps:
            images = layer.augment_images(images, transformations=share)
        return images


_compiled_apply = xla.compiled(apply)
