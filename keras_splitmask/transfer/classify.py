"""Classify images with an encoder: one linear map of the pooled patches."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend import distribution
from keras_splitmask.backend.typing import Array, Bool, Float, Shaped
from keras_splitmask.encoder import Encoder
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.pixels import problem_of_absence, problem_of_classes, shape_text
from keras_splitmask.transfer.class_model import ClassModel


@keras.saving.register_keras_serializable("keras_splitmask")
class Classifier(ClassModel):
    """Images (B, H, W, C) to logits (B, classes) float32, from the mean of the patches' tokens (BEiT, section 2.6).

    Compile it with a loss on logits, or without one for the cross entropy, and `fit` it to images and labels like any
    Keras model. Labels are classes (B,) int, or probabilities (B, classes). `metrics`, `sample_weight` and
    `class_weight` work as in Keras.

    Args:
        encoder: an `Encoder`.
        classes: number of classes.
        frozen: keep the encoder as it is and learn the head only. The encoder itself stays trainable, for whatever else
            it is used in.
        augmentation: a layer from images to the images that a training step is given.
        seed: with the step's number, it decides all randomness of training.
        accumulate: k, to take each batch in k parts.
        crop_ratio: fraction of an image's side to keep, from the centre, when a whole image is prepared for `call`.
        **kwargs: `class_names` and `value_range`, see `ClassModel`; and arguments of `keras.Model`.
    """

    own_loss = False

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        frozen: bool = False,
        augmentation: keras.layers.Layer | None = None,
        seed: int = 0,
        accumulate: int = 1,
        crop_ratio: float = 1.0,
        name: str = "classifier",
        **kwargs,
    ):
        options: dict[str, Any] = {"seed": seed, "augmentation": augmentation, "accumulate": accumulate, "name": name}
        super().__init__(encoder, classes, **options, **kwargs)
        if classes < 2:
            raise ValueError(f"Expected at least two classes, received classes={classes}.")
        if not 0 < crop_ratio <= 1:
            raise ValueError(f"Expected crop_ratio above 0 and at most 1, received crop_ratio={crop_ratio}.")
        self.frozen = frozen
        self.crop_ratio = crop_ratio
        # Near zero, so that the first steps do not pull the encoder about (BEiT's 0.001).
        start = keras.initializers.TruncatedNormal(stddev=0.02 * 0.001)
        self.head = keras.layers.Dense(classes, kernel_initializer=start, dtype="float32", name="head")
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        self.head.build((None, self.encoder.width))
        super().build(images_shape)

    # Not `encoder.trainable = False`, which would freeze the encoder in every other model that holds it.
    @property
    def trainable_variables(self):
        return self.head.trainable_variables if self.frozen else super().trainable_variables

    @property
    def non_trainable_variables(self):
        # Every variable must be in one of both lists: a step on JAX gets and returns only what is in them.
        learned = {id(v) for v in self.trainable_variables}
        return [v for v in self.variables if id(v) not in learned]

    @property
    def trainable_weights(self):
        return self.head.trainable_weights if self.frozen else super().trainable_weights

    def call(self, images: Shaped[Array, "B H W C"], training: bool | None = None) -> Float[Array, "B K"]:
        # A frozen encoder must give the features of evaluation, so it has no drop path either.
        pooled = self.encoder(images, training=training and not self.frozen)["pooled"]
        # Without a gradient there is no backward pass through the encoder.
        return self.head(ops.stop_gradient(pooled) if self.frozen and training else pooled)

    def problem_of_labels(self, labels: Any) -> str | None:
        if problem := problem_of_absence(labels, self):
            return problem
        if self._compile_loss is not None:
            return None  # which may know other labels
        if (
            not hasattr(labels, "shape")
            or len(labels.shape) > 2
            or (len(labels.shape) == 2 and labels.shape[1] not in (1, self.classes))
        ):
            return (
                f"Expected labels (B,) of classes or (B, {self.classes}) of their probabilities, received"
                f" {shape_text(labels)}."
            )
        return None if self._mixed(labels.shape) else problem_of_classes(labels, self.classes)

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Compute the loss of labels (B,) int or (B, classes), and return what the metrics need."""
        images, labels, weights = batch
        logits = self(images, training=training)  # (B, classes)
        if self._compile_loss is None:
            loss = self._cross_entropy(logits, labels, weights)
        else:
            loss = self._compile_loss(labels, logits, weights) * distribution.replicas()  # which Keras divides by
        # (B, 1) or (B, classes): Keras' metrics were built for these.
        outputs = {
            "logits": logits,
            "labels": ops.reshape(labels, (-1, self.classes if self._mixed(labels.shape) else 1)),
        }
        return loss, outputs if weights is None else {**outputs, "weights": ops.reshape(weights, (-1, 1))}

    def _mixed(self, shape):
        """Return whether labels of this shape are probabilities of classes rather than classes."""
        return len(shape) > 1 and shape[-1] == self.classes

    def _cross_entropy(self, logits, labels, weights):
        if not self._mixed(labels.shape):
            labels = ops.one_hot(ops.reshape(ops.cast(labels, "int32"), (-1,)), self.classes)
        loss, _ = losses.classify(logits, labels)
        return ops.mean(loss if weights is None else loss * ops.cast(ops.reshape(weights, (-1,)), loss.dtype))

    def update_metrics(
        self, outputs: dict[str, Array], data: Any, finite: Bool[Array, ""] | bool = True
    ) -> dict[str, Array]:
        """Update the model's metrics, and the metrics of `compile`, which a skipped step leaves as they were."""
        logs = super().update_metrics(outputs, data, finite)
        if self._compile_metrics is None:
            return logs
        # Keras' metrics have no switch to leave a step out, so their values are put back. Evaluation passes True: no
        # copies.
        variables = self._compile_metrics.variables if finite is not True else []
        before = [ops.copy(v) for v in variables]
        weights = ops.reshape(outputs["weights"], (-1,)) if "weights" in outputs else None
        self._compile_metrics.update_state(outputs["labels"], outputs["logits"], sample_weight=weights)
        for variable, value in zip(variables, before, strict=True):
            variable.assign(ops.where(finite, ops.convert_to_tensor(variable), value))
        return {**logs, **self._compile_metrics.result()}

    def _symbolic_build(self, iterator=None, data_batch=None):
        self.build_compiled()
        super()._symbolic_build(iterator, data_batch)

    def build_compiled(self, labels_shape=None):
        """Build loss and metrics without a batch, where its shape or the loss says what labels are, and return whether
        they are built."""
        parts = [part for part in (self._compile_loss, self._compile_metrics) if part is not None and not part.built]
        _check_loss(self.loss)
        of_shape = labels_shape and (self.classes if self._mixed(labels_shape) else 1)
        width = of_shape or _label_width(self.loss, self.classes)
        for part in parts if width else ():
            part.build(keras.KerasTensor((None, width)), keras.KerasTensor((None, self.classes)))
        return bool(width) or not parts

    def get_config(self):
        return {**super().get_config(), "frozen": self.frozen, "crop_ratio": self.crop_ratio}


def _label_width(loss, classes):
    """Numbers in a label that the loss takes: 1 for a class, `classes` for probabilities, None where that is not
    known."""
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return 1
    return (
        classes
        if isinstance(loss, (keras.losses.CategoricalCrossentropy, keras.losses.CategoricalFocalCrossentropy))
        else None
    )


def _check_loss(loss):
    """Refuse a cross entropy that takes the logits for probabilities."""
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", "")
    by_name = name.lower().replace("_", "").endswith("categoricalcrossentropy")
    if by_name or (isinstance(loss, keras.losses.Loss) and loss.get_config().get("from_logits") is False):
        raise ValueError(
            f"Expected a loss on logits, received {name or loss.name}, which takes probabilities; give it"
            " from_logits=True, or leave the loss out."
        )
