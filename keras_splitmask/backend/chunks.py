"""Loops over chunks of tensors, for tables that are too large to be in memory at once."""

import contextlib

import keras
from keras import ops

# The largest number of elements of a table that is computed at once: 8 MiB of float32, which fit into the cache of a
# CPU, or half a GiB elsewhere.
TABLE_ON_CPU, TABLE = 2**21, 2**27


def on_cpu():
    """Return whether the backend computes on CPUs."""
    if keras.backend.backend() == "torch":
        import torch

        return not torch.cuda.is_available()
    return all(device.startswith("cpu") for device in keras.distribution.list_devices())


def devices_of_batch():
    """The number of devices among which the compiler divides tensors by their first axis: 1 except under JAX."""
    return keras.distribution.distribution().device_mesh.shape[0] if keras.distribution.distribution() else 1


def by_parts(function, carry, xs, width):
    """Scan over equal parts of the second axis of `xs`: as few as possible whose table fits into the cache or memory.

    Args:
        function: from (carry, the part of each of `xs`) to (carry, outputs).
        carry: tensors.
        xs: a tuple of tensors (B, m, ...).
        width: the number of elements of the table for each of the B x m rows.

    Returns:
        The last carry, and the outputs stacked; see `join_parts`.
    """
    images, count = xs[0].shape[:2]
    # In a TensorFlow graph the number of images may be unknown, so a usual one is assumed.
    images, at_once = (images or 32, TABLE_ON_CPU) if on_cpu() else (images or 128, TABLE)
    # Each device holds the table of its own images only.
    images //= devices_of_batch()
    # Only numbers that divide `count`: a scan takes parts of one shape.
    parts = next(
        n for n in range(1, count + 1) if count % n == 0 and (n == count or images * (count // n) * width <= at_once)
    )
    if parts == 1:  # a small table needs no loop, nor the copies that come with one
        carry, outputs = function(carry, xs)
        return carry, keras.tree.map_structure(lambda x: ops.expand_dims(x, 0), outputs)
    parts_of = (ops.reshape(x, (-1, parts, count // parts, *x.shape[2:])) for x in xs)
    return scan(function, carry, tuple(ops.moveaxis(x, 1, 0) for x in parts_of))


def join_parts(x):
    """Join the stacked outputs (parts, B, m / parts, ...) of `by_parts` to (B, m, ...)."""
    if x.shape[0] == 1:
        return x[0]
    return ops.reshape(ops.moveaxis(x, 0, 1), (-1, x.shape[0] * x.shape[2], *x.shape[3:]))


def scan(function, carry, xs):
    """`ops.scan`, one part after the other: a loop on torch and on TensorFlow, where Keras' scan supports sums only.

    Args:
        function: from (carry, one of xs) to (carry, outputs).
        carry: tensors.
        xs: arrays with a leading axis, of parts.

    Returns:
        The last carry, and the outputs stacked.
    """
    if keras.backend.backend() == "jax":
        return ops.scan(function, carry, keras.tree.map_structure(ops.convert_to_tensor, xs))
    stacked = []
    # `stacked[-1:]`: the carry alone does not wait for the outputs of the part before.
    for i in range(keras.tree.flatten(xs)[0].shape[0]):
        with control_after((carry, stacked[-1:])):
            carry, outputs = function(carry, keras.tree.map_structure(lambda x, i=i: x[i], xs))
        stacked.append(outputs)
    return carry, keras.tree.map_structure(lambda *parts: ops.stack(parts), *stacked)


def control_after(tensors):
    """A context in which TensorFlow waits for these tensors. Otherwise it computes all parts at once, in the memory of
    all."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.control_dependencies(keras.tree.flatten(tensors))
