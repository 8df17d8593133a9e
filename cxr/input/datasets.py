"""tf.data's ops without its Python, which takes longer than they do."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from cxr.input.reader import aligned_empty

ConcreteFunction = tf.types.experimental.ConcreteFunction


def start_tensorflow() -> None:
    """Has TensorFlow register its kernels, which it puts off until its first op."""
    tensor = tf.experimental.dlpack.from_dlpack(aligned_empty((1,)).__dlpack__())
    tf.raw_ops.Identity(input=tensor)


def traced(function: Callable, spec: tf.TensorSpec) -> ConcreteFunction:
    """Traces a function of one tensor that holds no Python control flow."""
    # AutoGraph would look for some, for half a second.
    graph = tf.function(function, input_signature=[spec], autograph=False)
    return graph.get_concrete_function()


def mapped(
    elements: tf.data.Dataset, function: ConcreteFunction, calls: int = 1
) -> tf.data.Dataset:
    """Maps a traced function over elements, so many at a time, in their order.

    By the op behind `Dataset.map`, whose Python would trace it for each dataset anew,
    and not before TensorFlow has started: 12 ms before the first batch.
    """
    return _dataset(
        tf.raw_ops.ParallelMapDatasetV2,
        tf.nest.map_structure(tf.TensorSpec.from_tensor, function.structured_outputs),
        input_dataset=tf.data.experimental.to_variant(elements),
        other_arguments=function.captured_inputs,
        num_parallel_calls=calls,
        f=function,
    )


def rebatched(batches: tf.data.Dataset, sizes: list[int]) -> tf.data.Dataset:
    """Cuts batches anew, to these sizes in turn, as slices of them where they allow it.

    By the op behind `Dataset.rebatch`, whose Python adds a function that TensorFlow has
    to trace: 5 ms before the first batch. To make a dataset of each group's slices
    (`from_tensor_slices`) took a fifth of the films a second at B = 32.
    """
    known = sizes[0] if len(sizes) == 1 else None
    return _dataset(
        tf.raw_ops.RebatchDatasetV2,
        tf.nest.map_structure(
            lambda spec: tf.TensorSpec([known, *spec.shape[1:]], spec.dtype),
            batches.element_spec,
        ),
        input_dataset=tf.data.experimental.to_variant(batches),
        batch_sizes=sizes,
        drop_remainder=True,
    )


def _dataset(op: Callable, structure: Any, **arguments: Any) -> tf.data.Dataset:
    """Returns the dataset that an op makes, of elements of this structure of specs."""
    specs = tf.nest.flatten(structure)
    variant = op(
        output_types=[spec.dtype for spec in specs],
        output_shapes=[spec.shape for spec in specs],
        **arguments,
    )
    return tf.data.experimental.from_variant(variant, structure)
