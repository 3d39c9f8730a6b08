"""Tables that are too large for memory, in chunks: one after the other, on every backend."""

import contextlib

import keras
from keras import ops

# Numbers in a table of which a step needs but one part at a time: 8 MiB stay in the cache of a CPU, half a GiB is no
# trouble elsewhere.
TABLE_ON_CPU, TABLE = 2**21, 2**27


def on_cpu():
    """Whether what is computed is computed on CPUs."""
    if keras.backend.backend() == "torch":
        import torch

        return not torch.cuda.is_available()
    return all(device.startswith("cpu") for device in keras.distribution.list_devices())


def devices_of_batch():
    """Among how many devices the compiler divides the tensors at hand, by their first axis: under JAX all that share a
    batch, else one."""
    return keras.distribution.distribution().device_mesh.shape[0] if keras.distribution.distribution() else 1


def by_parts(function, carry, xs, width):
    """`scan` over equal parts of some images' rows, as many as it takes that a table of `width` numbers for each row of
    a part is not large.

    Args:
        function: from (carry, what `xs` has of the rows of a part) to (carry, answer).
        carry: tensors.
        xs: a tuple of tensors (B, m, ...).
        width: int.

    Returns:
        The last carry, and the answers stacked; see `join_parts`.
    """
    images, count = xs[0].shape[:2]
    # TensorFlow need not know how many there are.
    images, at_once = (images or 32, TABLE_ON_CPU) if on_cpu() else (images or 128, TABLE)
    images //= devices_of_batch()
    parts = next(
        n for n in range(1, count + 1) if count % n == 0 and (n == count or images * (count // n) * width <= at_once)
    )
    return scan(
        function,
        carry,
        tuple(ops.moveaxis(ops.reshape(x, (-1, parts, count // parts, *x.shape[2:])), 1, 0) for x in xs),
    )


def join_parts(x):
    """Stacked answers (parts, B, m / parts, ...) of `by_parts` as they belong together (B, m, ...)."""
    return ops.reshape(ops.moveaxis(x, 0, 1), (-1, x.shape[0] * x.shape[2], *x.shape[3:]))


def scan(function, carry, xs):
    """`ops.scan`, one part after the other: a loop on torch, and on TensorFlow, which has Keras' scan for sums alone.

    Args:
        function: from (carry, one of xs) to (carry, answer).
        carry: tensors.
        xs: arrays with a leading axis, of parts.

    Returns:
        The last carry, and the answers stacked.
    """
    if keras.backend.backend() == "jax":
        return ops.scan(function, carry, keras.tree.map_structure(ops.convert_to_tensor, xs))
    answers = []
    for i in range(keras.tree.flatten(xs)[0].shape[0]):
        with control_after((carry, answers[-1:])):
            carry, answer = function(carry, keras.tree.map_structure(lambda x, i=i: x[i], xs))
        answers.append(answer)
    return carry, keras.tree.map_structure(lambda *parts: ops.stack(parts), *answers)


def control_after(tensors):
    """A context whose work TensorFlow begins when these tensors are there: it would take all parts at once, with the
    memory of all."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.control_dependencies(keras.tree.flatten(tensors))
