"""The random numbers of a step: a function of the model's seed and the step's number, so that a resumed run repeats
them."""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend.typing import Array, Float, Int
from keras_splitmask.training.batch import Batch

# Keras adds 1 to a generator's second number with each draw. Each step begins this far from the one before.
DRAWS_PER_STEP = 64  # more than any layer draws from one generator in one step


def seed_layers(model: keras.Model, step: Int[Array, ""] | int) -> None:
    """Set the state of each random layer of a model.

    Args:
        model: an `ObjectiveModel`.
        step: int or int32 scalar, the number of the step, from 0 on.
    """
    states = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    if not states:
        return
    # Streams lie wide apart, since the torch backend adds up both numbers of a state. 31 bits: there it is int32.
    streams = np.array([zlib.crc32(f"{model.seed}/{i}".encode()) >> 1 for i in range(len(states))])
    streams, step = ops.cast(streams, states[0].dtype), ops.cast(step, states[0].dtype)
    values = ops.stack([streams, ops.broadcast_to(step * DRAWS_PER_STEP, (len(states),))], axis=1)
    for i, state in enumerate(states):
        state.assign(values[i])


def seeded_objective(
    model: keras.Model, data: Any, step: Int[Array, ""] | int, training: bool
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Compute `model.objective` with the random numbers of this step.

    Args:
        model: an `ObjectiveModel`.
        data: images (B, H, W, C), or what Keras hands to a step: a tuple of images, labels and weights.
        step: int or int32 scalar, the number of the step, from 0 on.
        training: bool; False leaves the augmentation out.

    Returns:
        The loss, a scalar, and the dictionary of outputs.
    """
    batch = _seeded_batch(model, data, step, training)
    if batch.weights is not None and model.own_loss:
        raise ValueError(
            f"{type(model).__name__} learns from all images alike: expected no sample_weight and no class_weight;"
            " leave them out."
        )
    return model.objective(batch, training)


def seeded_vectors(model: keras.Model, data: Any, step: Int[Array, ""] | int) -> Float[Array, "B ..."]:
    """Compute the vectors (B, ...) that `model.objective` compares across the batch, as in a training step of this
    number."""
    return model.compared(_seeded_batch(model, data, step, True), True)


def _seeded_batch(model, data, step, training):
    batch = Batch(*keras.utils.unpack_x_y_sample_weight(data))
    if problem := model.problem_of_images(batch.images):
        raise ValueError(problem)
    seed_layers(model, step)
    if training and model.augmentation is not None:
        batch = batch._replace(images=model.augmentation(batch.images, training=True))
    return batch
