"""The training step on TensorFlow, on one device or on each replica of a strategy."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras

from keras_splitmask.backend import distribution
from keras_splitmask.backend.typing import Array, Float, Int
from keras_splitmask.training.accumulation import accumulate
from keras_splitmask.training.guard import gradient_norm, skip
from keras_splitmask.training.seeded import seeded_objective, seeded_vectors


def compute_gradients(
    model: keras.Model, data: Any, step: Int[Array, ""] | int
) -> tuple[Float[Array, ""], dict[str, Array], list[Array]]:
    """Compute the loss, a scalar, the outputs of the objective, and the gradient of each trainable variable or None."""
    gradients_of, vectors_of = partial(_gradients_at_once, model, step=step), partial(seeded_vectors, model, step=step)
    return accumulate(model, data, gradients_of, vectors_of)


def _gradients_at_once(model, data, step):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss, outputs = seeded_objective(model, data, step, training=True)
        loss = distribution.weighted(loss)
        scaled = model.optimizer.scale_loss(loss)
    gradients = tape.gradient(scaled, model.trainable_variables)
    # The gradient of a table that is gathered from is sparse (IndexedSlices).
    return loss, outputs, [None if g is None else tf.convert_to_tensor(g) for g in gradients]


def train_step(self, data):
    """Take one training step on a batch, as Keras calls it. Returns the metrics by name."""
    import tensorflow as tf

    # A copy, since `apply` adds one to the variable.
    step = tf.identity(self.optimizer.iterations)
    with distribution.shared(data):
        loss, outputs, gradients = compute_gradients(self, data, step)
    # Before the guard: all replicas must take the step, or none.
    # Clipping needs the mean, too; Keras' optimizer later sums the gradients of the replicas once more.
    loss, *gradients = distribution.average([loss, *gradients])
    norm = gradient_norm(self, gradients)
    finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)

    def move(gradients, step, outputs):
        self.optimizer.apply(distribution.keep_on_first_replica(gradients), self.trainable_variables)
        self.after_step(step, outputs)

    # What `move` needs is passed as arguments: where replicas meet, each must be given its own values.
    distribution.cond_across_replicas(finite, move, lambda *_: skip(self), gradients, step, outputs)
    outputs = {"loss": loss, "gradient_norm": norm, **outputs}
    return distribution.logs_for_keras(self.update_metrics(outputs, data, finite))


def test_step(self, data):
    """Evaluate a batch, as Keras calls it. Returns the metrics by name."""
    with distribution.shared(data):
        # Always as step 0, so that two evaluations of the same weights agree.
        loss, outputs = seeded_objective(self, data, 0, training=False)
    return distribution.logs_for_keras(self.update_metrics({"loss": loss, **outputs}, data))
