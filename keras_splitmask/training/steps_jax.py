"""The training step on JAX: a function of the values of all variables, so each value is passed in and returned."""

from __future__ import annotations

from typing import Any

import keras

from keras_splitmask.backend.typing import Array, Float, Int
from keras_splitmask.training.accumulation import accumulate
from keras_splitmask.training.guard import gradient_norm, skip
from keras_splitmask.training.seeded import seeded_objective, seeded_vectors


def compute_gradients(
    model: keras.Model, data: Any, step: Int[Array, ""] | int
) -> tuple[Float[Array, ""], dict[str, Array], list[Array]]:
    """The loss, a scalar, the outputs of the objective, and the gradient of each trainable variable."""
    trainable, fixed, optimizer = (
        [v.value for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
    )
    return _gradients_in(model, trainable, fixed, optimizer, data, step)[:3]


def _gradients_in(model, trainable, fixed, optimizer, data, step=None):
    """As `compute_gradients`, for these values of the variables, and the new values of those that are not trained. By
    default the step is the optimizer's."""
    if model.accumulate == 1:
        return _gradients_at_once(model, trainable, fixed, optimizer, data, step)

    def vectors_of(part):
        with _scope(model, trainable, fixed, optimizer):
            return seeded_vectors(model, part, model.optimizer.iterations if step is None else step)

    def gradients_of(part):
        return _gradients_at_once(model, trainable, fixed, optimizer, part, step)[:3]

    # `fixed` stays as it was: what a micro-batch assigns are seeds, and each step sets them itself.
    return (*accumulate(model, data, gradients_of, vectors_of), fixed)


def _gradients_at_once(model, trainable, fixed, optimizer, data, step):
    import jax

    def objective(trainable):
        with _scope(model, trainable, fixed, optimizer) as scope:
            number = model.optimizer.iterations if step is None else step
            loss, outputs = seeded_objective(model, data, number, training=True)
            scaled = model.optimizer.scale_loss(loss)
        return scaled, (loss, outputs, _values(scope, model.non_trainable_variables, fixed))

    (_, (loss, outputs, fixed)), gradients = jax.value_and_grad(objective, has_aux=True)(trainable)
    return loss, outputs, gradients, fixed


def train_step(self, state, data):
    """Take one training step on a batch, as Keras calls it. Returns the metrics by name and the new state."""
    import jax

    trainable, fixed, optimizer, metrics = state
    loss, outputs, gradients, fixed = _gradients_in(self, trainable, fixed, optimizer, data)
    with _scope(self, optimizer=optimizer):
        norm = gradient_norm(self, gradients)
    finite = jax.numpy.isfinite(loss) & jax.numpy.isfinite(norm)
    # This also counts the step. Where it is skipped, `skip` below counts it instead.
    new_trainable, new_optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
    with _scope(self, new_trainable, fixed, optimizer) as scope:
        # With the optimizer's old values: this step's number, not the next one's.
        self.after_step(self.optimizer.iterations.value, outputs)
    new_fixed = _values(scope, self.non_trainable_variables, fixed)
    # What nothing was assigned to is the same object, and needs no choice.
    fixed = [
        old if new is old else jax.numpy.where(finite, new, old) for new, old in zip(new_fixed, fixed, strict=True)
    ]
    # `finite` is traced, so Python cannot branch on it: both states are computed, and one is chosen.
    trainable = [jax.numpy.where(finite, new, old) for new, old in zip(new_trainable, trainable, strict=True)]
    with _scope(self, optimizer=optimizer) as scope:
        skip(self)
    skipped = _values(scope, self.optimizer.variables, optimizer)
    optimizer = [jax.numpy.where(finite, new, old) for new, old in zip(new_optimizer, skipped, strict=True)]
    outputs = {"loss": loss, "gradient_norm": norm, **outputs}
    logs, metrics = _update_metrics_in(self, metrics, outputs, data, finite)
    return logs, (trainable, fixed, optimizer, metrics)


def test_step(self, state, data):
    """Evaluate a batch, as Keras calls it. Returns the metrics by name and the new state."""
    trainable, fixed, metrics = state
    with _scope(self, trainable, fixed):
        # Always as step 0, so that two evaluations of the same weights agree.
        loss, outputs = seeded_objective(self, data, 0, training=False)
    logs, metrics = _update_metrics_in(self, metrics, {"loss": loss, **outputs}, data)
    return logs, (trainable, fixed, metrics)


def _scope(model, trainable=(), fixed=(), optimizer=(), metrics=()):
    """A scope in which the model's variables have the given values, and keep what is assigned to them."""
    mapping = [*zip(model.trainable_variables, trainable, strict=False)]  # what is not given stays as it is
    mapping += zip(model.non_trainable_variables, fixed, strict=False)
    if optimizer:
        mapping += zip(model.optimizer.variables, optimizer, strict=True)
    return keras.StatelessScope(state_mapping=[*mapping, *zip(model.metrics_variables, metrics, strict=False)])


def _values(scope, variables, before):
    """The values of variables at the end of a scope; those from before where none was assigned."""
    after = [scope.get_current_value(variable) for variable in variables]
    return [old if new is None else new for new, old in zip(after, before, strict=True)]


def _update_metrics_in(model, metrics, outputs, data, finite=True):
    with _scope(model, metrics=metrics) as scope:
        logs = model.update_metrics(outputs, data, finite)
    return logs, _values(scope, model.metrics_variables, metrics)
