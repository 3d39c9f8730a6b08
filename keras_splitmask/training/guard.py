"""The guard of a training step: if the loss or a gradient is NaN or infinite, the step changes no weight."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import ops

from keras_splitmask.backend.adamw import global_norm
from keras_splitmask.backend.typing import Array, Float


def gradient_norm(model: keras.Model, gradients: Sequence[Array]) -> Float[Array, ""]:
    """Norm of all gradients together, float32, of the loss before any loss scaling; NaN or infinite if one gradient
    is."""
    return global_norm(gradients) / ops.cast(model.optimizer.scale_loss(ops.ones(())), "float32")


def skip(model: keras.Model) -> None:
    """Count the step without moving a weight; in float16, halve the scale of the loss."""
    optimizer = model.optimizer
    # The number of a step decides its random numbers, so a step that is skipped must count, too.
    optimizer.iterations.assign_add(1)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # As Keras does after an overflow: the scale doubles again only after enough good steps in a row.
        optimizer.step_counter.assign(0)
        # Not below 1: from 0, where halving ends, no doubling leads back.
        optimizer.dynamic_scale.assign(ops.maximum(optimizer.dynamic_scale / 2, 1.0))
