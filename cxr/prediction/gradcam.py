"""Grad-CAM heat maps: which parts of an image speak for a class, or against it.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization" (ICCV 2017): the channels of the last convolutional map, each weighted
by the mean gradient of the class score, summed. Two choices of ours:

- The score is the class's log-odds, not its logit, so that evidence against the other
  classes counts, a sigmoid head needs no special case, and with two classes one map
  is the negative of the other. Negative values are kept: they speak against.
- A cell of the map is put where its receptive field lies. Stretching the map over the
  image is off by up to 7 % of the side for networks with unpadded convolutions.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

_POOLING = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_WINDOWED = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    *_POOLING,
)


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where the cells of a map lie on the image, alike in both directions.

    Attributes:
      cells: cells a side.
      start: centre of the first cell in image pixels.
      step: distance of neighbouring cells' centres in image pixels.
    """

    cells: int
    start: float
    step: float


class GradCam:
    """Explains the predictions of one model.

    Args:
      model: functional; float32 [B, S, S, 1] to probabilities [B, C] (or [B, 1] of a
        sigmoid, class 1's). A chain of layers, of which one may itself be a model
        (the backbone); the last one turns logits into probabilities.

    Attributes:
      image_size: S.
      geometry: of the last convolutional map; `geometry.step` is a cell's side.
      layer_name: of the layer that makes the map.

    Raises:
      ValueError: the model has another structure.
    """

    def __init__(self, model: keras.Model):
        backbone = next(
            (part for part in model.layers if isinstance(part, keras.Model)), None
        )
        target = _last_map(model if backbone is None else backbone)
        self.layer_name = target.name
        self.image_size = int(model.inputs[0].shape[1])
        self.geometry = _geometry(_chain(model, backbone, target), self.image_size)
        self._to_map, self._to_logits = _split(model, backbone, target)
        self._compiled = tf.function(self._cells, reduce_retracing=True)

    def cells(self, images: np.ndarray, class_index: int) -> np.ndarray:
        """Returns the map itself, before enlargement.

        Args:
          images: uint8 or float32 [N, S, S, 1], 0..255.
          class_index: column of the class whose evidence is asked for.

        Returns:
          float32 [N, cells, cells]; positive for the class, negative against it.
        """
        images = tf.convert_to_tensor(np.asarray(images, np.float32))
        return self._compiled(images, class_index=int(class_index)).numpy()

    def heat(
        self, images: np.ndarray, class_index: int, *, batch_size: int = 16
    ) -> np.ndarray:
        """Returns the map over the image.

        Args:
          images: uint8 or float32 [N, S, S, 1], 0..255.
          class_index: column of the class whose evidence is asked for.
          batch_size: images a pass; bounds the memory.

        Returns:
          float32 [N, S, S]; positive for the class, negative against it. The scale is
          the score's own and differs from image to image.
        """
        enlarge = _interpolation(self.geometry, self.image_size)
        result = np.empty((len(images), self.image_size, self.image_size), np.float32)
        for start in range(0, len(images), batch_size):
            some = slice(start, start + batch_size)
            result[some] = enlarge @ self.cells(images[some], class_index) @ enlarge.T
        return result

    def _cells(self, images: tf.Tensor, class_index: int) -> tf.Tensor:
        maps = images
        for part in self._to_map:
            maps = part(maps, training=False)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(maps)
            logits = maps
            for part in self._to_logits:
                logits = part(logits, training=False)
            score = _log_odds(tf.cast(logits, tf.float32), class_index)
        gradient = tf.cast(tape.gradient(score, maps), tf.float32)
        weights = tf.reduce_mean(gradient, axis=(1, 2))
        return tf.einsum("bhwc,bc->bhw", tf.cast(maps, tf.float32), weights)


def with_shuffled_weights(model: keras.Model, *, seed: int) -> keras.Model:
    """Returns the network with the values of each weight in a random order."""
    generator = np.random.default_rng(seed)
    found = keras.models.clone_model(model)
    found.set_weights(
        [
            generator.permutation(weight.ravel()).reshape(weight.shape)
            for weight in model.get_weights()
        ]
    )
    return found


def border_shares(heat: np.ndarray, *, margin: float = 0.1) -> dict[str, np.ndarray]:
    """Shares of an image's positive attention on the parts of its border.

    Markers, print and shutters stand there, never lungs: more than a part's share of
    the area is the alarm for a shortcut. Attention without any preference gives the
    areas of `border_areas`.

    Args:
      heat: float32 [N, H, W] from `GradCam.heat`.
      margin: width of the border as a share of the side.

    Returns:
      `left`, `right`, `top`, `bottom` (as the film is shown, without its corners) and
      `corners` (all four) -> float64 [N], 0..1, which add up to the whole border's;
      NaN where nothing speaks for the class.
    """
    positive = np.maximum(heat, 0).astype(np.float64)
    total = positive.sum(axis=(1, 2))
    shares = {}
    for name, part in _border_parts(heat.shape[1:], margin).items():
        nothing = np.full_like(total, np.nan)
        on_it = positive[:, part].sum(axis=1)
        shares[name] = np.divide(on_it, total, out=nothing, where=total > 0)
    return shares


def border_areas(shape: tuple[int, int], *, margin: float = 0.1) -> dict[str, float]:
    """The parts of `border_shares` as shares of an image of `shape`, in pixels."""
    parts = _border_parts(shape, margin)
    return {name: float(part.mean()) for name, part in parts.items()}


def _border_parts(shape: tuple[int, ...], margin: float) -> dict[str, np.ndarray]:
    """Part -> bool [H, W]; no pixel is in two."""
    height, width = shape
    rows, columns = (round(margin * side) for side in shape)
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    top, bottom = y < rows, y >= height - rows
    left, right = x < columns, x >= width - columns
    inner_y, inner_x = ~(top | bottom), ~(left | right)
    return {
        "left": left & inner_y,
        "right": right & inner_y,
        "top": top & inner_x,
        "bottom": bottom & inner_x,
        "corners": (top | bottom) & (left | right),
    }


def _log_odds(logits: tf.Tensor, class_index: int) -> tf.Tensor:
    """[B] from logits [B, C], or [B, 1] where the one logit is class 1's."""
    if logits.shape[1] == 1:
        return logits[:, 0] if class_index == 1 else -logits[:, 0]
    others = tf.concat([logits[:, :class_index], logits[:, class_index + 1 :]], axis=1)
    return logits[:, class_index] - tf.reduce_logsumexp(others, axis=1)


def _last_map(model: keras.Model) -> keras.layers.Layer:
    """The last layer that makes a map of several cells; pooling only coarsens it."""
    for layer in reversed(model.layers):
        shape = layer.output.shape
        if len(shape) == 4 and shape[1] > 1 and not isinstance(layer, _POOLING):
            return layer
    raise ValueError(f"model={model.name!r} has no convolutional map to explain with")


def _chain(
    model: keras.Model, backbone: keras.Model | None, target: keras.layers.Layer
) -> list[keras.layers.Layer]:
    """The layers from the image to the map, the backbone's own in its place."""
    layers = list(model.layers)
    if backbone is not None:
        layers = layers[: layers.index(backbone)] + list(backbone.layers)
    return layers[: layers.index(target) + 1]


def _split(
    model: keras.Model, backbone: keras.Model | None, target: keras.layers.Layer
) -> tuple[list[keras.Model], list[keras.Model]]:
    """Models to be called one after the other: image to map, map to logits.

    A nested model's tensors belong to a graph of their own, so it is cut apart in
    that graph, and the outer model before and behind it.
    """
    final = model.layers[-1]
    if not isinstance(final, keras.layers.Activation):
        raise ValueError(
            f"model={model.name!r} ends in {type(final).__name__}, expected an "
            "Activation of the logits"
        )
    logits = final.input
    if backbone is None:
        to_map = [keras.Model(model.inputs, target.output)]
        return to_map, [keras.Model(target.output, logits)]
    position = model.layers.index(backbone)
    before, behind = model.layers[position - 1], model.layers[position + 1]
    to_map = [
        keras.Model(model.inputs, before.output),
        keras.Model(backbone.inputs, target.output),
    ]
    to_logits = [
        keras.Model(target.output, backbone.output),
        keras.Model(behind.input, logits),
    ]
    return to_map, to_logits


def _geometry(chain: list[keras.layers.Layer], image_size: int) -> Geometry:
    """Follows the centre of the first cell and the cells' distance down the chain."""
    cells, start, step = image_size, 0.5, 1.0
    for layer in chain:
        if isinstance(layer, _WINDOWED):
            pooling = isinstance(layer, _POOLING)
            kernel = (layer.pool_size if pooling else layer.kernel_size)[0]
            if not pooling:
                kernel = (kernel - 1) * layer.dilation_rate[0] + 1
            stride = layer.strides[0]
            before = 0
            if layer.padding == "same":
                missing = (-(-cells // stride) - 1) * stride + kernel - cells
                before = max(missing, 0) // 2
            start += ((kernel - 1) / 2 - before) * step
            step *= stride
        cells = layer.output.shape[1]
    return Geometry(cells, start, step)


def _interpolation(geometry: Geometry, image_size: int) -> np.ndarray:
    """Linear interpolation along one direction; float32 [image_size, cells]."""
    centres = geometry.start + geometry.step * np.arange(geometry.cells)
    pixels = np.arange(image_size) + 0.5
    columns = [np.interp(pixels, centres, unit) for unit in np.eye(geometry.cells)]
    return np.stack(columns, axis=1).astype(np.float32)
