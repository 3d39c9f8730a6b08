"""The training step on PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras

from keras_splitmask.backend.typing import Array, Float, Int
from keras_splitmask.training.accumulation import accumulate
from keras_splitmask.training.guard import gradient_norm, skip
from keras_splitmask.training.seeded import seeded_objective, seeded_vectors


def compute_gradients(
    model: keras.Model, data: Any, step: Int[Array, ""] | int
) -> tuple[Float[Array, ""], dict[str, Array], list[Array]]:
    """Compute the loss, a scalar, the outputs of the objective, and the gradient of each trainable variable or None."""
    import torch

    gradients_of, vectors_of = partial(_gradients_at_once, model, step=step), partial(seeded_vectors, model, step=step)
    # The sums need no graph. Each micro-batch enables its own, and frees it in `backward`.
    with torch.no_grad():
        return accumulate(model, data, gradients_of, vectors_of)


def _gradients_at_once(model, data, step):
    import torch

    weights = [v.value for v in model.trainable_variables]
    for weight in weights:
        weight.grad = None
    with torch.enable_grad():
        loss, outputs = seeded_objective(model, data, step, training=True)
        model.optimizer.scale_loss(loss).backward()
    # Detached, so that no metric keeps the graph of a step in memory.
    outputs = {name: value.detach() for name, value in outputs.items()}
    return loss.detach(), outputs, [weight.grad for weight in weights]


def train_step(self, data):
    """Take one training step on a batch, as Keras calls it. Returns the metrics by name."""
    import torch

    step = int(self.optimizer.iterations)
    loss, outputs, gradients = compute_gradients(self, data, step)
    # The update is no part of what is differentiated.
    with torch.no_grad():
        norm = gradient_norm(self, gradients)
        # Making it a bool waits for the device, once a step.
        finite = bool(torch.isfinite(loss) & torch.isfinite(norm))
        if finite:
            self.optimizer.apply(gradients, self.trainable_variables)
            self.after_step(step, outputs)
        else:
            skip(self)
        return self.update_metrics({"loss": loss, "gradient_norm": norm, **outputs}, data, finite)


def test_step(self, data):
    """Evaluate a batch, as Keras calls it. Returns the metrics by name."""
    # Always as step 0, so that two evaluations of the same weights agree.
    loss, outputs = seeded_objective(self, data, 0, training=False)
    return self.update_metrics({"loss": loss, **outputs}, data)
