import keras
import pytest
import tensorflow as tf

from cxr.benchmark import flops
from cxr.training import models

pytestmark = pytest.mark.slow  # each test builds networks


def vgg16():
    model = models.build(models.ModelSpec("vgg16", 224, 2), dropout_seed=0)
    return model, models.logits_model(model)


def test_vgg16_with_its_classifier_is_the_published_count():
    """15.47 GMAC at 224 x 224, as torchvision and papers give it."""
    with keras.device("cpu"):
        network = keras.applications.VGG16(weights=None)
    assert flops.forward(network) / 2 == pytest.approx(15.47e9, rel=0.01)


@pytest.mark.parametrize(
    ("first", "expected"),
    [(None, 30.7e9), ("block5_conv1", 35.3e9), ("all", 91.9e9)],
    ids=["frozen", "block5", "full"],
)
def test_vgg16_costs_what_is_trained(first, expected):
    """Forward; block 5 adds its own gradients; full: three times, less one."""
    model, network = vgg16()
    models.freeze_backbone(model)
    if first:
        models.unfreeze_from(model, first)
    assert flops.training(network) == pytest.approx(expected, rel=0.005)
    assert flops.forward(network) == pytest.approx(30.7e9, rel=0.005)


def test_a_dense_chain_counts_by_hand():
    network = keras.Sequential(
        [keras.Input((7,)), keras.layers.Dense(5), keras.layers.Dense(3)]
    )
    assert flops.forward(network) == 2 * (7 * 5 + 5 * 3)
    # Weights of both layers, and the second layer's input; nobody needs the first's.
    assert flops.training(network) == 2 * (7 * 5 + 5 * 3) * 2 + 2 * 5 * 3


def test_strided_convolution_counts_by_hand():
    network = keras.Sequential(
        [keras.Input((9, 9, 2)), keras.layers.Conv2D(4, 3, strides=2)]
    )
    assert flops.forward(network) == 2 * (4 * 4 * 4) * (3 * 3 * 2)
    assert flops.training(network) == 2 * flops.forward(network)


def test_transposed_and_batched_products_count_the_inner_dimension():
    spec = tf.TensorSpec((6, 4))
    found = flops.count(lambda x: tf.linalg.matmul(x, x, transpose_a=True), spec)
    assert found == 2 * 4 * 4 * 6
    batch = tf.TensorSpec((3, 6, 4))
    found = flops.count(lambda x: tf.linalg.matmul(x, x, transpose_b=True), batch)
    assert found == 2 * 3 * 6 * 6 * 4


def test_what_the_result_does_not_need_is_not_counted():
    spec = tf.TensorSpec((4, 4))

    def function(x):
        tf.linalg.matmul(x, x)
        return x + 1

    assert flops.count(function, spec) == 0


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: tf.einsum("ijk,kl->ijl", x, tf.ones((3, 2))), (2, 2, 3)),
        (lambda x: tf.linalg.matmul(x, x), (None, None)),
        (lambda x: tf.nn.depthwise_conv2d(x, tf.ones((3, 3, 2, 1)), [1] * 4, "SAME"),)
        + ((1, 5, 5, 2),),
    ],
    ids=["einsum", "unknown_shape", "depthwise"],
)
def test_what_cannot_be_counted_is_refused(function, shape):
    with pytest.raises(ValueError, match="not"):
        flops.count(function, tf.TensorSpec(shape))
