"""One training step for all pre-training methods: one function that tells the loss, three backends that follow its
gradient."""

import zlib

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend import chunks, distribution
from keras_splitmask.seeds import check_seed
from keras_splitmask.training import first_bad_tensor
from keras_splitmask.training.inputs import CheckedModel
from keras_splitmask.training.optimizer import global_norm
from keras_splitmask.training.watching import check_parts

DRAWS_PER_STEP = 64  # more than any layer draws from one generator in one step


class WordPerplexity(keras.metrics.Metric):
    """Perplexity of the words met since the last reset: how many of the vocabulary are in even use. Low means a poor
    target."""

    def __init__(self, vocabulary, name="word_perplexity", **kwargs):
        super().__init__(name=name, **kwargs)
        self.vocabulary = vocabulary
        self.counts = self.add_weight(shape=(vocabulary,), initializer="zeros", name="counts")

    def update_state(self, ids, sample_weight=None):
        """ids: words (B, N) int32; with `sample_weight` 0 they do not count."""
        ids = ops.reshape(ids, (-1,))
        counted = ops.ones_like(ids, "float32")
        counted = counted if sample_weight is None else counted * ops.cast(sample_weight > 0, "float32")
        self.counts.assign(self.counts + ops.segment_sum(counted, ids, self.vocabulary))

    def result(self):
        share = self.counts / ops.maximum(ops.sum(self.counts), 1.0)
        return ops.exp(-ops.sum(share * ops.log(share + 1e-12)))


class _Pretext(CheckedModel):
    """A model whose loss is told by `objective(images, training)`; `fit` ignores labels, unless `takes_labels` says
    otherwise.

    A step's randomness is a function of (seed, step). A step whose loss or gradient is not finite changes nothing but
    the step's number, and is counted in `skipped_steps`.

    Args:
        reports: names of the scalars that `objective` reports.
        seed: int.
        augmentation: a layer from images to the images that `objective` is given in training; None for none.
        accumulate: k, to take each batch in k parts, one after the other: the same step, but for rounding, in the
            memory of a k-th of the batch, which must be a multiple of k. A loss that compares images sees all of them,
            for one more forward pass.
    """

    own_step = own_loss = True
    takes_labels = False  # whether it is `objective(images, labels, training)`
    takes_weights = False  # whether it is `objective(images, labels, training, weights)`
    compares = False  # whether `objective` compares images, and there is `compared(images, training)`

    def __init__(self, reports=(), seed=0, augmentation=None, accumulate=1, **kwargs):
        super().__init__(**kwargs)
        if accumulate < 1:
            raise ValueError(f"Expected accumulate of at least 1, received accumulate={accumulate}.")
        self.seed = check_seed(seed)
        self.augmentation = augmentation
        self.accumulate = accumulate
        self.report_metrics = [keras.metrics.Mean(name=name) for name in (*reports, "gradient_norm")]
        self.skipped_steps = keras.metrics.Sum(name="skipped_steps")

    def objective(self, images, training):
        """Images (B, H, W, C) to a scalar loss and a dictionary of the values to report, by the names of the
        metrics."""
        raise NotImplementedError(f"{type(self).__name__} must say in `objective` what it minimises.")

    def problem_of_labels(self, labels):
        if not self.takes_labels:
            return None
        return (
            f"Expected images and labels, from which {type(self).__name__} learns, received none; give both."
            if labels is None
            else self.problem_of_given(labels)
        )

    def problem_of_given(self, labels):
        """What is wrong with labels, in a line, or None."""

    def compared(self, images, training):
        """The vectors (B, ...) that `objective` compares across the batch, which it takes from
        `distribution.whole_batch`."""
        raise NotImplementedError(f"{type(self).__name__} must say in `compared` what its objective compares.")

    def after_step(self, step, report):
        """Assign to variables that are not trained, such as a teacher's, once the optimizer has moved those that are.

        A step that is skipped does not come here.

        Args:
            step: int32 scalar, the number of the step, from 0 on.
            report: what `objective` reported; what no metric is named after reaches this method alone.
        """

    def get_config(self):
        own = {"seed": self.seed, "accumulate": self.accumulate}
        return {**super().get_config(), **own, "augmentation": keras.saving.serialize_keras_object(self.augmentation)}

    def build(self, images_shape):
        """Seed all random layers by the model's seed, as in step 0: what subclasses do last, when their layers are
        there."""
        self._seed_step(0)
        self.built = True

    def first_bad_tensor(self, batch, step):
        """The first tensor that is not finite in a training step; see `first_bad_tensor.find`."""
        return first_bad_tensor.find(self, batch, step)

    def _seeded_objective(self, data, step, training, compared=False):
        """`objective` of a batch, or what `compared` makes of it, with the randomness of this step."""
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        self._seed_step(step)
        if training and self.augmentation is not None:
            images = self.augmentation(images, training=True)
        if compared:
            return self.compared(images, training)
        if weights is not None and not self.takes_weights:
            raise ValueError(
                f"{type(self).__name__} learns from all images alike: expected no sample_weight and no class_weight;"
                " leave them out."
            )
        given = [images, *([labels] if self.takes_labels else []), training, *([weights] if self.takes_weights else [])]
        return self.objective(*given)

    def _seed_step(self, step):
        """Set the state of each random layer to what belongs to the model's seed, the layer and the step."""
        states = [v for v in self.non_trainable_variables if v.name == "seed_generator_state"]
        for i, state in enumerate(states):
            # Streams lie wide apart, since the torch backend adds up both numbers of a state.
            stream = zlib.crc32(f"{self.seed}/{i}".encode()) >> 1
            state.assign(ops.stack([ops.cast(stream, state.dtype), ops.cast(step, state.dtype) * DRAWS_PER_STEP]))

    def _accumulated(self, data, gradients_of, compared_of):
        """Loss, report and gradients of a batch, part by part.

        Args:
            data: the batch.
            gradients_of: from a part of it to loss, report and gradients.
            compared_of: from a part of it to what `compared` returns.
        """
        count = self.accumulate
        data = check_parts(data, count)
        images = distribution.size(data) // count
        vectors = None

        def part(i):
            return keras.tree.map_structure(
                lambda x: x if x is None else ops.reshape(x, (-1, count, *x.shape[1:]))[:, i], data
            )

        def compare(carry, i):
            with distribution.part_of_batch(i, count, images):
                return carry, compared_of(part(i))

        def add(sums, i):
            with distribution.part_of_batch(i, count, images, vectors):
                loss, report, gradients = gradients_of(part(i))
            sums = [s if g is None else s + ops.cast(g, s.dtype) for s, g in zip(sums, gradients, strict=True)]
            return sums, {"loss": loss, **report}

        if self.compares:
            _, vectors = chunks.scan(compare, ops.zeros(()), np.arange(count))  # (k, B / k, ...)
            vectors = ops.stop_gradient(ops.swapaxes(vectors, 0, 1))
        sums, report = chunks.scan(
            add, [ops.zeros(v.shape, v.dtype) for v in self.trainable_variables], np.arange(count)
        )
        # Of what is reported image by image, all of it; of the rest the mean over the parts.
        report = {
            name: ops.reshape(x, (-1, *x.shape[2:])) if len(x.shape) > 2 else ops.mean(x, axis=0)
            for name, x in report.items()
        }
        return report.pop("loss"), report, [s / count for s in sums]

    def _build_compiled(self, labels_shape=None):
        """Build what `compile` was given besides the optimizer, for labels of this shape if it is known; return whether
        nothing is left to build."""
        return True

    def _track(self, report, data, finite=True):
        """Update the metrics that `report` names, by the number of images; what is not finite is left out of them.

        Args:
            report: scalars by name, or what a metric of that name takes.
            data: this replica's batch.
            finite: bool scalar, whether the step is valid.

        Returns:
            The results of these metrics by name.
        """
        images = ops.cast(distribution.size(data), "float32")
        finite = ops.cast(finite, "float32")
        valid = finite * images
        reported = [metric for metric in self.metrics if metric.name in report]
        for metric in reported:
            value = report[metric.name]
            metric.update_state(ops.where(valid > 0, value, ops.zeros_like(value)), sample_weight=valid)
        if "gradient_norm" in report:
            self.skipped_steps.update_state(
                (1.0 - finite) / distribution.replicas()
            )  # since the counts of all replicas are added up
            reported.append(self.skipped_steps)
        return {metric.name: metric.result() for metric in reported}

    def _get_metrics_result_or_logs(self, logs):
        """What Keras returns of an epoch or an evaluation: the metrics of all replicas that a step has, by name."""
        results = self.get_metrics_result()
        return {name: results.get(name, value) for name, value in logs.items()}

    def _norm(self, gradients):
        """Norm of all gradients together, of the loss as it stands before any loss scaling, and whether all is
        finite."""
        return global_norm(gradients) / ops.cast(self.optimizer.scale_loss(ops.ones(())), "float32")

    def _skip(self):
        """What a step does whose gradient is not finite: it is counted, and in float16 halves the scale of the loss."""
        self.optimizer.iterations.assign_add(1)
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            self.optimizer.step_counter.assign(0)
            # Not below 1: from 0, where halving ends, no doubling leads back.
            self.optimizer.dynamic_scale.assign(ops.maximum(self.optimizer.dynamic_scale / 2, 1.0))


class _TensorFlowModel(_Pretext):
    def _gradients(self, data, step):
        if self.accumulate == 1:
            return self._gradients_of(data, step)
        return self._accumulated(
            data,
            lambda part: self._gradients_of(part, step),
            lambda part: self._seeded_objective(part, step, True, True),
        )

    def _gradients_of(self, data, step):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss, report = self._seeded_objective(data, step, training=True)
            loss = distribution.weighted(loss)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        return loss, report, [None if g is None else tf.convert_to_tensor(g) for g in gradients]

    def train_step(self, data):
        import tensorflow as tf

        step = tf.identity(self.optimizer.iterations)
        with distribution.shared(data):
            loss, report, gradients = self._gradients(data, step)
        loss, *gradients = distribution.average([loss, *gradients])
        norm = self._norm(gradients)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        distribution.cond_across_replicas(finite, self._move, lambda *_: self._skip(), gradients, step, report)
        return distribution.logs_for_keras(self._track({"loss": loss, "gradient_norm": norm, **report}, data, finite))

    def _move(self, gradients, step, report):
        self.optimizer.apply(distribution.keep_on_first_replica(gradients), self.trainable_variables)
        self.after_step(step, report)

    def test_step(self, data):
        with distribution.shared(data):
            loss, report = self._seeded_objective(data, 0, training=False)
        return distribution.logs_for_keras(self._track({"loss": loss, **report}, data))

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Build what is compiled, from shapes: Keras would use up a batch, and fail where replicas share it unevenly,
        or on several hosts."""
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        with self.distribute_strategy.scope():
            built = self._build_compiled(
                distribution.labels_shape(data_batch if iterator is None else iterator._distributed_dataset)
            )
        if not built:
            super()._maybe_symbolic_build(iterator, data_batch)


class _TorchModel(_Pretext):
    def _gradients(self, data, step):
        if self.accumulate == 1:
            return self._gradients_of(data, step)
        import torch

        with torch.no_grad():
            return self._accumulated(
                data,
                lambda part: self._gradients_of(part, step),
                lambda part: self._seeded_objective(part, step, True, True),
            )

    def _gradients_of(self, data, step):
        import torch

        self.zero_grad()
        with torch.enable_grad():
            loss, report = self._seeded_objective(data, step, training=True)
            self.optimizer.scale_loss(loss).backward()
        return (
            loss.detach(),
            {name: value.detach() for name, value in report.items()},
            [v.value.grad for v in self.trainable_variables],
        )

    def train_step(self, data):
        import torch

        step = int(self.optimizer.iterations)
        loss, report, gradients = self._gradients(data, step)
        weights = self.trainable_variables
        with torch.no_grad():
            norm = self._norm(gradients)
            finite = torch.isfinite(loss) & torch.isfinite(norm)
            if finite:
                self.optimizer.apply(gradients, weights)
                self.after_step(step, report)
            else:
                self._skip()
            return self._track({"loss": loss, "gradient_norm": norm, **report}, data, finite)

    def test_step(self, data):
        loss, report = self._seeded_objective(data, 0, training=False)
        return self._track({"loss": loss, **report}, data)


class _JaxModel(_Pretext):
    def _gradients(self, data, step):
        state = [
            [v.value for v in variables]
            for variables in (self.trainable_variables, self.non_trainable_variables, self.optimizer.variables)
        ]
        return self._gradients_in(*state, data, step)[:3]

    def _gradients_in(self, trainable, fixed, optimizer, data, step=None):
        if self.accumulate == 1:
            return self._gradients_of(trainable, fixed, optimizer, data, step)

        def compared(part):
            with self._scope(trainable, fixed, optimizer):
                return self._seeded_objective(part, self.optimizer.iterations if step is None else step, True, True)

        return (
            *self._accumulated(
                data, lambda part: self._gradients_of(trainable, fixed, optimizer, part, step)[:3], compared
            ),
            fixed,
        )

    def _gradients_of(self, trainable, fixed, optimizer, data, step):
        import jax

        def objective(trainable):
            with self._scope(trainable, fixed, optimizer) as scope:
                loss, report = self._seeded_objective(
                    data, self.optimizer.iterations if step is None else step, training=True
                )
                scaled = self.optimizer.scale_loss(loss)
            return scaled, (loss, report, self._values(scope, self.non_trainable_variables, fixed))

        (_, (loss, report, fixed)), gradients = jax.value_and_grad(objective, has_aux=True)(trainable)
        return loss, report, gradients, fixed

    def train_step(self, state, data):
        import jax

        trainable, fixed, optimizer, metrics = state
        loss, report, gradients, fixed = self._gradients_in(trainable, fixed, optimizer, data)
        with self._scope(optimizer=optimizer):
            norm = self._norm(gradients)
        finite = jax.numpy.isfinite(loss) & jax.numpy.isfinite(norm)
        new_trainable, new_optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        with self._scope(new_trainable, fixed, optimizer) as scope:
            self.after_step(self.optimizer.iterations.value, report)
        new_fixed = self._values(scope, self.non_trainable_variables, fixed)
        fixed = [old if new is old else jax.numpy.where(finite, new, old) for new, old in zip(new_fixed, fixed)]
        trainable = [jax.numpy.where(finite, new, old) for new, old in zip(new_trainable, trainable)]
        with self._scope(optimizer=optimizer) as scope:
            self._skip()
        skipped = self._values(scope, self.optimizer.variables, optimizer)
        optimizer = [jax.numpy.where(finite, new, old) for new, old in zip(new_optimizer, skipped)]
        logs, metrics = self._track_in(metrics, {"loss": loss, "gradient_norm": norm, **report}, data, finite)
        return logs, (trainable, fixed, optimizer, metrics)

    def test_step(self, state, data):
        trainable, fixed, metrics = state
        with self._scope(trainable, fixed):
            loss, report = self._seeded_objective(data, 0, training=False)
        logs, metrics = self._track_in(metrics, {"loss": loss, **report}, data)
        return logs, (trainable, fixed, metrics)

    def _scope(self, trainable=(), fixed=(), optimizer=(), metrics=()):
        """A scope in which the model's variables have the given values, and keep what is assigned to them."""
        mapping = [*zip(self.trainable_variables, trainable), *zip(self.non_trainable_variables, fixed)]
        if optimizer:
            mapping += zip(self.optimizer.variables, optimizer)
        return keras.StatelessScope(state_mapping=[*mapping, *zip(self.metrics_variables, metrics)])

    def _values(self, scope, variables, before):
        after = [scope.get_current_value(variable) for variable in variables]
        return [old if new is None else new for new, old in zip(after, before)]

    def _track_in(self, metrics, report, data, finite=True):
        with self._scope(metrics=metrics) as scope:
            logs = self._track(report, data, finite)
        return logs, self._values(scope, self.metrics_variables, metrics)


PretextModel = {"tensorflow": _TensorFlowModel, "jax": _JaxModel, "torch": _TorchModel}.get(
    keras.backend.backend(), _Pretext
)
