"""Segment images with an encoder: the class of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend.typing import Array, Float, Int, Num, Shaped
from keras_splitmask.encoder import Encoder
from keras_splitmask.patches import to_pixels
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.pixels import problem_of_absence, problem_of_classes, shape_text
from keras_splitmask.transfer.class_model import ClassModel
from keras_splitmask.transfer.pyramid import STRIDES, Pyramid
from keras_splitmask.transfer.upernet import PixelClassifier, UPerNet, enlarge

HEADS = ("upernet", "deeplab", "segformer")
IGNORE = 255  # the label of pixels without a class
AUXILIARY_WIDTH = 256  # at most


def pixel_cross_entropy(
    logits: Float[Array, "B H W K"], labels: Num[Array, "B H W"], weights: Float[Array, " K"] | None = None
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """Compute the cross entropy of all pixels with a class.

    Args:
        logits: (B, H, W, classes) float.
        labels: (B, H, W) int32, classes or 255 for pixels to ignore.
        weights: of each class (classes,) float32, by which the loss of its pixels is multiplied; None for 1.

    Returns:
        The mean over the valid pixels of each image (B,) float32, and their accuracy (B,) float32, where ties count as
        correct. Both are 0 for an image without valid pixels.
    """
    valid = ops.not_equal(labels, IGNORE)
    logits = ops.cast(logits, "float32")
    # A pixel to ignore looks up class 0, since 255 may be beyond the logits; it does not count below.
    of_label = ops.take_along_axis(logits, ops.where(valid, labels, 0)[..., None], axis=-1)[..., 0]  # (B, H, W)
    # Not log_softmax: with ten classes it takes torch three times as long on a CPU.
    losses = ops.logsumexp(logits, axis=-1) - of_label  # (B, H, W)
    if weights is not None:
        losses = losses * ops.take(ops.convert_to_tensor(weights), ops.where(valid, labels, 0))
    hits = ops.cast(of_label >= ops.max(logits, axis=-1), "float32")
    count = ops.maximum(ops.sum(ops.cast(valid, "float32"), axis=(1, 2)), 1.0)  # (B,)
    return tuple(ops.sum(ops.where(valid, x, 0.0), axis=(1, 2)) / count for x in (losses, hits))


@keras.saving.register_keras_serializable("keras_splitmask")
class Segmenter(ClassModel):
    """Map images (B, H, W, C) to logits (B, H, W, classes) float32, at the size of the images.

    `fit` takes images and label maps (B, H, W) int32: classes from 0 to classes - 1, or 255 to ignore a pixel. The loss
    is the mean over the valid pixels of an image, then over images. So it does not depend on how a batch is divided.

    KerasCV's heads have batch norms and Keras' own dropout. Their result for an image depends on the rest of the batch
    and, under TensorFlow's strategies, on how the batch is divided. A skipped step does not change the moving averages.

    Args:
        encoder: an `Encoder`.
        classes: number of classes.
        head: "upernet", or KerasCV's "deeplab" or "segformer".
        neck: how feature maps are made from the encoder's blocks; see `Pyramid`.
        width: channels in the head; 768 in BEiT's UPerNet on ViT-B.
        auxiliary_weight: weight of the loss of UPerNet's second, small head on the map of stride 16; 0 for no such
            head. KerasCV's heads have none.
        drop: dropout rate of the head's channels.
        class_weights: a number for each class, by which the loss of its pixels is multiplied; None for 1.
        augmentation: a layer that augments the images of a training step. It must not move pixels.
        seed: decides all random numbers of training, together with the number of the step.
        accumulate: number of micro-batches per batch; 1 with KerasCV's heads.
        **kwargs: `class_names` and `value_range`, see `ClassModel`; and arguments of `keras.Model`.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        head: str = "upernet",
        neck: str = "blocks",
        width: int = 512,
        auxiliary_weight: float = 0.4,
        drop: float = 0.1,
        class_weights: Sequence[float] | None = None,
        augmentation: keras.layers.Layer | None = None,
        seed: int = 0,
        accumulate: int = 1,
        name: str = "segmenter",
        **kwargs,
    ):
        second = head == "upernet" and auxiliary_weight > 0
        logged = ["pixel_accuracy", "auxiliary_loss"] if second else ["pixel_accuracy"]
        options: dict[str, Any] = {"seed": seed, "augmentation": augmentation, "accumulate": accumulate, "name": name}
        super().__init__(encoder, classes, logged=logged, **options, **kwargs)
        self._check(classes, head, accumulate, class_weights)
        self.head = head
        self.neck = neck
        self.width = width
        self.auxiliary_weight = auxiliary_weight
        self.drop = drop
        self.class_weights = class_weights
        policy = self.dtype_policy
        levels = (
            ("P2", "P5") if head == "deeplab" else tuple(STRIDES)
        )  # other levels would add weights that nothing uses
        self.pyramid = Pyramid(encoder, neck, levels, dtype=policy)
        self.network = UPerNet(classes, width, drop, dtype=policy) if head == "upernet" else self._of_kerascv()
        self.auxiliary = (
            PixelClassifier(classes, min(width, AUXILIARY_WIDTH), drop, dtype=policy, name="auxiliary")
            if second
            else None
        )
        self.build((None, *encoder.image_shape))

    @staticmethod
    def _check(classes, head, accumulate, class_weights):
        if not 2 <= classes <= IGNORE:
            raise ValueError(f"Expected 2 to {IGNORE} classes, received classes={classes}.")
        if head not in HEADS:
            raise ValueError(f"Expected head to be one of {', '.join(HEADS)}, received {head!r}.")
        if head != "upernet" and accumulate > 1:
            raise ValueError(
                f"Expected accumulate=1 with the batch norms of head={head!r}, received accumulate={accumulate}; take"
                " upernet."
            )
        if class_weights is not None and (
            len(class_weights) != classes or not all(0 <= weight < float("inf") for weight in class_weights)
        ):
            raise ValueError(f"Expected {classes} class_weights of at least 0, received {class_weights!s:.100}.")

    def _of_kerascv(self):
        from keras_splitmask.transfer import kerascv_heads

        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.dtype_policy)  # KerasCV's layers take no dtype
        try:
            return kerascv_heads.HEADS[self.head](self.pyramid, self.classes, self.width, self.drop)
        finally:
            keras.config.set_dtype_policy(before)

    def build(self, images_shape):
        # Rounded up, as the sides of pooled maps are.
        grids = {level: [-(-side // stride) for side in images_shape[1:3]] for level, stride in STRIDES.items()}
        shapes = {level: (None, *grid, self.encoder.width) for level, grid in grids.items()}
        if self.head == "upernet":
            self.network.build(shapes)
        if self.auxiliary:
            self.auxiliary.build(shapes["P4"])
        super().build(images_shape)

    def call(self, images: Shaped[Array, "B H W C"], training: bool | None = None) -> Float[Array, "B H W K"]:
        return self._answers(images, training, auxiliary=False)[0]

    def _answers(self, images, training, auxiliary):
        """Compute the logits (B, H, W, classes) of the head and, with `auxiliary`, of the auxiliary head."""
        if self.head != "upernet":
            # Layers that resize take None for training, and so would the batch norms that follow.
            return [ops.cast(self.network(to_pixels(images), training=bool(training)), "float32")]
        maps = self.pyramid(images, training=training)
        answers = [self.network(maps, training=training)]
        if auxiliary:
            answers.append(self.auxiliary(maps["P4"], training=training))
        return [enlarge(logits, images.shape[1:3]) for logits in answers]  # (B, H, W, classes) each

    def problem_of_labels(self, labels: Any) -> str | None:
        if problem := problem_of_absence(labels, self):
            return problem
        if (
            not hasattr(labels, "shape")
            or len(labels.shape) != 3
            or tuple(labels.shape[1:]) != self.encoder.image_shape[:2]
        ):
            height, width = self.encoder.image_shape[:2]
            return f"Expected label maps (B, {height}, {width}) of the images' size, received {shape_text(labels)}."
        return problem_of_classes(labels, self.classes, (IGNORE,))

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Compute the cross entropy of label maps (B, H, W) int32."""
        images, labels, _ = batch
        # A batch norm moves its averages while it computes, before it is known whether the step is skipped. Keras'
        # StatelessScope would catch that, but scopes do not nest: in the one of a step on JAX it would hide the values
        # that are differentiated.
        averages = self._moving_averages() if training else {}
        before = {name: ops.copy(v) for name, v in averages.items()}
        logits, *auxiliary = self._answers(images, training, auxiliary=self.auxiliary is not None)
        outputs = {name: ops.copy(v) for name, v in averages.items()}
        for name, v in averages.items():
            v.assign(before[name])
        weights = None if self.class_weights is None else np.array(self.class_weights, "float32")
        loss, hits = pixel_cross_entropy(logits, labels, weights)
        loss, outputs["pixel_accuracy"] = ops.mean(loss), ops.mean(hits)
        for logits in auxiliary:
            outputs["auxiliary_loss"] = ops.mean(pixel_cross_entropy(logits, labels, weights)[0])
            loss = loss + self.auxiliary_weight * outputs["auxiliary_loss"]
        return loss, outputs

    def after_step(self, step: Int[Array, ""] | int, outputs: dict[str, Array]) -> None:
        for name, v in self._moving_averages().items():
            v.assign(outputs[name])

    def _moving_averages(self):
        """Collect the moving averages of batch norms by unique names."""
        variables = [v for v in self.network.non_trainable_variables if v.name in ("moving_mean", "moving_variance")]
        return {f"moving_{i}": v for i, v in enumerate(variables)}

    def get_config(self):
        names = ("head", "neck", "width", "auxiliary_weight", "drop", "class_weights")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own}
