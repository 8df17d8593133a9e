"""The chain of pixels in TensorFlow's own operations, for a model that takes files.

Bytes of an 8-bit grey or RGB JPEG, or of an 8-bit PNG, become what training saw, but
for rounding: JPEG's luma with the accurate DCT, at the smallest scale that covers the
stored size; PNG's colours by ITU-R 601; bicubic to the stored size; means over areas to
the model's. EXIF's orientation, palettes with transparency, deeper samples and other
formats are not for this way: cxr.predict takes them.
"""

import tensorflow as tf

_LUMA = (19595, 38470, 7471)  # of 65536: Pillow's weights of red, green and blue
_SCALES = (8, 4, 2, 1)  # that libjpeg reduces by


def decode(files: tf.Tensor, stored_size: int, image_size: int) -> tf.Tensor:
    """Returns the model's input, float32 [B, S, S, 1] in 0..255.

    Args:
      files: string [B], whole files.
      stored_size: height = width in pixels of the records that trained the model.
      image_size: S.
    """
    images = tf.map_fn(
        lambda file: _decode_one(file, stored_size),
        files,
        fn_output_signature=tf.TensorSpec([stored_size, stored_size], tf.float32),
    )
    return _area_resize(images, image_size)[..., tf.newaxis]


def _decode_one(file: tf.Tensor, size: int) -> tf.Tensor:
    is_jpeg = tf.io.is_jpeg(file)
    grey = tf.cond(is_jpeg, lambda: _luma(file, size), lambda: _grey_png(file))
    # Keys' cubic with a = -0.5 and its support widened, as Pillow's.
    resized = tf.image.resize(grey, (size, size), method="bicubic", antialias=True)
    return tf.clip_by_value(tf.round(resized[..., 0]), 0.0, 255.0)


def _luma(file: tf.Tensor, size: int) -> tf.Tensor:
    """Returns a JPEG's luma at the smallest DCT scale that covers `size`."""
    shape = tf.io.extract_jpeg_shape(file)
    covered = tf.minimum(shape[0], shape[1]) // tf.constant(_SCALES) >= size
    # An image below the stored size is taken as it is.
    chosen = tf.where(
        tf.reduce_any(covered), tf.argmax(covered, output_type=tf.int32), 3
    )

    def at(scale: int) -> tf.Tensor:
        grey = tf.io.decode_jpeg(
            file, channels=1, ratio=scale, dct_method="INTEGER_ACCURATE"
        )
        return tf.cast(grey, tf.float32)

    branches = {i: (lambda s=s: at(s)) for i, s in enumerate(_SCALES)}
    return tf.switch_case(chosen, branches)


def _grey_png(file: tf.Tensor) -> tf.Tensor:
    colours = tf.cast(tf.io.decode_png(file, channels=3), tf.int32)
    weighted = tf.reduce_sum(colours * tf.constant(_LUMA), axis=-1, keepdims=True)
    return tf.cast((weighted + 32768) // 65536, tf.float32)


def _area_resize(images: tf.Tensor, size: int) -> tf.Tensor:
    """As `images.area_resize`: float32 [B, H, H] to [B, size, size]."""
    stored = images.shape[1]
    if stored == size:
        return images
    edges = tf.range(stored + 1) * size
    low = tf.range(size)[:, tf.newaxis] * stored
    overlap = tf.minimum(edges[1:], low + stored) - tf.maximum(edges[:-1], low)
    # float64 holds the sums exactly at any stored size.
    weights = tf.cast(tf.maximum(overlap, 0), tf.float64)
    images = tf.cast(images, tf.float64)
    sums = tf.einsum("ij,bjk,lk->bil", weights, images, weights)
    area = stored * stored
    return tf.cast(tf.floor((sums + area // 2) / area), tf.float32)
