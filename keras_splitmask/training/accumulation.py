"""Gradient accumulation: a batch in equal micro-batches, one after the other, in less memory.

A loss that compares images (`compares`) still sees the whole batch: a first pass computes the vectors that it compares,
a second pass the gradients with all of these vectors at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend import chunks, distribution
from keras_splitmask.backend.typing import Array, Float
from keras_splitmask.training.watching import check_parts


def accumulate(
    model: keras.Model, data: Any, gradients_of: Callable, vectors_of: Callable
) -> tuple[Float[Array, ""], dict[str, Array], list[Array]]:
    """Compute the loss, the outputs and the gradients of a batch, micro-batch by micro-batch.

    Args:
        model: an `ObjectiveModel`; its `accumulate` is the number of micro-batches.
        data: the batch, (B, ...) tensors, alone or in a tuple or dictionary.
        gradients_of: a function from a micro-batch to its loss, outputs and gradients.
        vectors_of: a function from a micro-batch to the vectors that the loss compares.
    """
    count = model.accumulate
    if count == 1:
        return gradients_of(data)
    data = check_parts(data, count)
    images = distribution.size(data) // count
    vectors = None

    def part(i):
        return keras.tree.map_structure(
            # Strided, not in blocks: a batch that is divided over devices along its first axis stays so.
            lambda x: x if x is None else ops.reshape(x, (-1, count, *x.shape[1:]))[:, i],
            data,
        )

    def compare(carry, i):
        with distribution.part_of_batch(i, count, images):
            return carry, vectors_of(part(i))

    def add(sums, i):
        with distribution.part_of_batch(i, count, images, vectors):
            loss, outputs, gradients = gradients_of(part(i))
        sums = [s if g is None else s + ops.cast(g, s.dtype) for s, g in zip(sums, gradients, strict=True)]
        return sums, {"loss": loss, **outputs}

    if model.compares:
        # A scan must carry something; this one has nothing to add up.
        _, vectors = chunks.scan(compare, ops.zeros(()), np.arange(count))  # (k, B / k, ...)
        vectors = ops.stop_gradient(ops.swapaxes(vectors, 0, 1))
    # The carry of a scan keeps its dtype: that of the weights, to which the gradients are cast.
    zeros = [ops.zeros(v.shape, v.dtype) for v in model.trainable_variables]
    sums, outputs = chunks.scan(add, zeros, np.arange(count))
    # An output with a row for each image keeps all rows; of the others the mean over the micro-batches.
    outputs = {
        name: ops.reshape(x, (-1, *x.shape[2:])) if len(x.shape) > 2 else ops.mean(x, axis=0)
        for name, x in outputs.items()
    }
    # The micro-batches are equal, so the mean of their gradients is the gradient of the batch's mean loss.
    return outputs.pop("loss"), outputs, [s / count for s in sums]
