"""The base class of all models that this library trains: a subclass says what it minimises, all else is inherited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_splitmask.backend import distribution
from keras_splitmask.backend.typing import Array, Bool, Float, Int, Shaped
from keras_splitmask.options import check_seed
from keras_splitmask.training import diagnosis, seeded, steps
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.inputs import CheckedModel


class ObjectiveModel(CheckedModel):
    """A model on an encoder that minimises `objective(batch, training)`, on any backend.

    A subclass defines its layers in `__init__`, builds them in `build` and defines `objective`. It inherits `fit`,
    `evaluate`, mixed precision, gradient accumulation, saving and loading, and:

    - Exact resumption: the random numbers of a step depend on the seed and the number of the step only.
    - A guard: a step with a NaN or infinite loss or gradient changes no weight, and counts in `skipped_steps`.

    docs/add_a_method.md adds a method in twenty lines.

    Args:
        encoder: an `Encoder`; `call` returns its output. None for a model that has none and defines `call`.
        logged: names of the scalars in the outputs of `objective` whose means are metrics.
        seed: int, decides all random numbers together with the number of the step.
        augmentation: a layer from images to the images that `objective` is given in training; None for none.
        accumulate: number of micro-batches that each batch is split into: the same step, but for rounding, in less
            memory. The batch size must be a multiple of it. A loss that compares images still sees the whole batch,
            at the cost of one more forward pass.
        **kwargs: as for `keras.Model`, such as `name` and `dtype`.
    """

    own_step = own_loss = True
    compares = False  # whether `objective` compares images of a batch with each other; then `compared` is defined

    def __init__(
        self,
        encoder: keras.layers.Layer | None,
        logged: Sequence[str] = (),
        seed: int = 0,
        augmentation: keras.layers.Layer | None = None,
        accumulate: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if accumulate < 1:
            raise ValueError(f"Expected accumulate of at least 1, received accumulate={accumulate}.")
        self.seed = check_seed(seed)
        # The random streams of a step are numbered in this order.
        self.augmentation = augmentation
        self.encoder: Any = encoder
        self.accumulate = accumulate
        self.logged_means = [keras.metrics.Mean(name=name) for name in (*logged, "gradient_norm")]
        self.skipped_steps = keras.metrics.Sum(name="skipped_steps")

    train_step, test_step = steps.train_step, steps.test_step

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Compute the loss of a batch. Subclasses define it.

        Args:
            batch: a `Batch` of images, labels and weights; the images are augmented already.
            training: bool.

        Returns:
            The loss, a scalar, and a dictionary of outputs: scalars that `logged` names, inputs of metrics by the names
            of the metrics, and whatever `after_step` needs.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `objective(batch, training)`.")

    def compared(self, batch: Batch, training: bool) -> Float[Array, "B ..."]:
        """Compute the vectors (B, ...) that `objective` compares across the batch, and takes from
        `distribution.across_batch`. Needed if `compares`."""
        raise NotImplementedError(f"{type(self).__name__} must define `compared(batch, training)`.")

    def after_step(self, step: Int[Array, ""] | int, outputs: dict[str, Array]) -> None:
        """Assign to variables that are not trained, such as a teacher's, after the optimizer has moved the others.

        A step that is skipped does not call it.

        Args:
            step: int32 scalar, the number of the step, from 0 on.
            outputs: the dictionary that `objective` returned.
        """

    def build(self, images_shape):
        """Create the weights. Subclasses build their layers, then call this method, which seeds them as for step 0."""
        # Subclasses call `build` in their constructor, since the encoder knows the shape of images. So all weights
        # exist before the first batch, and a checkpoint can be loaded.
        seeded.seed_layers(self, 0)
        self.built = True

    def call(self, images: Shaped[Array, "B H W C"], training: bool | None = None) -> Any:
        """Images (B, H, W, C) to the output of the encoder, which is kept when training is over."""
        return self.encoder(images, training=training)

    def first_bad_tensor(self, batch: Any, step: int) -> str | None:
        """Describe the first tensor of a training step that is not finite, or return None. See `training.diagnosis`."""
        return diagnosis.first_bad_tensor(self, batch, step)

    def update_metrics(
        self, outputs: dict[str, Array], data: Any, finite: Bool[Array, ""] | bool = True
    ) -> dict[str, Array]:
        """Update the metrics that `outputs` names, weighted by the number of images; skip values that are not finite.

        Args:
            outputs: scalars by name, or the input of the metric of that name.
            data: the batch; of several replicas, this one's.
            finite: bool scalar, whether the step is valid.

        Returns:
            The results of these metrics by name.
        """
        count = distribution.size(data)
        known = finite is True and isinstance(count, int)  # as on torch, whose steps are run by Python
        finite = ops.cast(finite, "float32")
        # By images, so that a smaller last batch counts for less.
        valid = finite * ops.cast(count, "float32")
        updated = [metric for metric in self.metrics if metric.name in outputs]
        for metric in updated:
            value = outputs[metric.name]
            # A weight of 0 is not enough: 0 times NaN is NaN.
            value = value if known else ops.where(valid > 0, value, ops.zeros_like(value))
            metric.update_state(value, sample_weight=valid)
        # Evaluation has no gradient, and skips nothing.
        if "gradient_norm" in outputs:
            # Keras adds up the counts of all replicas.
            self.skipped_steps.update_state((1.0 - finite) / distribution.replicas())
            updated.append(self.skipped_steps)
        return {metric.name: metric.result() for metric in updated}

    def build_compiled(self, labels_shape=None):
        """Build what `compile` was given besides the optimizer.

        Args:
            labels_shape: the shape of the labels, or None if it is not known.

        Returns:
            Whether nothing is left to build.
        """
        return True

    def _get_metrics_result_or_logs(self, logs):
        """What Keras returns of an epoch or an evaluation: the metrics of all replicas that a step has, by name."""
        # By name, since `get_metrics_result` also has the metrics that this kind of step does not update.
        results = self.get_metrics_result()
        return {name: results.get(name, value) for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Build what is compiled from shapes. Keras, on TensorFlow only, would use up a batch for it, and fail where
        replicas share a batch unevenly, or on several hosts."""
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        with self.distribute_strategy.scope():
            built = self.build_compiled(
                distribution.labels_shape(data_batch if iterator is None else iterator._distributed_dataset)
            )
        if not built:
            super()._maybe_symbolic_build(iterator, data_batch)

    def get_config(self):
        layers = {
            name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("encoder", "augmentation")
        }
        return {**super().get_config(), **layers, "seed": self.seed, "accumulate": self.accumulate}
