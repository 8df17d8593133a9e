"""Counts floating-point operations in the graph that TensorFlow would run.

A multiply-add is two operations. Convolutions and matrix products count; what is
done once a value (normalisation, activations, the optimizer) is below one percent
of any network here and does not. Only operations that the result needs count:
freezing layers removes their gradients from the graph, so the same function gives
the cost of frozen, partly unfrozen and full training.
"""

import math
from collections.abc import Callable

import keras
import tensorflow as tf


def forward(network: keras.Model) -> int:
    """Returns the operations of one image through a network."""
    return _of_one_image(network, lambda inputs: network(inputs, training=False))


def training(network: keras.Model) -> int:
    """Returns the operations of one image in a training step, as it is frozen now.

    Args:
      network: its `trainable` attributes say which gradients are computed.
    """

    def gradients(inputs):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(network(inputs, training=True)))
        weights = [variable.value for variable in network.trainable_variables]
        return tape.gradient(loss, weights)

    return _of_one_image(network, gradients)


def _of_one_image(network: keras.Model, function: Callable) -> int:
    """Returns the operations of a function of a network's inputs."""
    specs = [tf.TensorSpec((1, *x.shape[1:]), x.dtype) for x in network.inputs]
    if len(specs) == 1:
        return count(function, *specs)
    return count(lambda *inputs: function(list(inputs)), *specs)


def count(function: Callable, *specs: tf.TensorSpec) -> int:
    """Returns the operations of a function's graph.

    Args:
      function: of tensors, with static shapes throughout.
      *specs: of its arguments.

    Raises:
      ValueError: an operation of unknown shape, or of a kind that is not counted
        though it multiplies matrices.
    """
    graph = tf.function(function).get_concrete_function(*specs).graph
    return sum(_operations(op) for op in _needed(graph))


def _needed(graph: tf.Graph) -> set[tf.Operation]:
    """Returns what the outputs depend on: the rest is pruned before it runs.

    TensorFlow's gradient of a convolution always writes down both of its parts,
    though the first layer, and the first that is not frozen, need only one.
    """
    waiting = [output.op for output in graph.outputs]
    needed: set[tf.Operation] = set()
    while waiting:
        op = waiting.pop()
        if op not in needed:
            needed.add(op)
            waiting += [tensor.op for tensor in op.inputs]
    return needed


def _operations(op: tf.Operation) -> int:
    if op.type in ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"):
        kernel, outputs = _convolution(op)
        # For each value of the output: all kernel rows, columns and input channels.
        macs = _size(outputs) * math.prod(_known(kernel, op)[:3])
    elif op.type in ("MatMul", "BatchMatMulV2"):
        transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
        inner = _known(op.inputs[0].shape, op)[-2 if transposed else -1]
        macs = _size(op.outputs[0]) * inner
    elif any(name in op.type for name in ("Conv", "Einsum", "MatMul")):
        raise ValueError(f"{op.name}: operations of {op.type} are not counted yet")
    else:
        macs = 0
    return 2 * macs


def _convolution(op: tf.Operation) -> tuple[tf.TensorShape, tf.Tensor]:
    """Returns the kernel's shape and the tensor of the forward pass's output."""
    if op.type == "Conv2D":
        return op.inputs[1].shape, op.outputs[0]
    if op.type == "Conv2DBackpropInput":
        return op.inputs[1].shape, op.inputs[2]
    return op.outputs[0].shape, op.inputs[2]


def _known(shape: tf.TensorShape, op: tf.Operation) -> list[int]:
    if not shape.is_fully_defined():
        raise ValueError(f"{op.name}: its shape {shape} is not known in the graph")
    return shape.as_list()


def _size(tensor: tf.Tensor) -> int:
    return math.prod(_known(tensor.shape, tensor.op))
