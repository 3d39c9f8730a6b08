"""DeiT (Touvron et al., 2021, "Training data-efficient image transformers"), without distillation, on
SplitMask's encoder."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend.layers import Dense
from keras_splitmask.backend.typing import Array, Float
from keras_splitmask.encoder import Encoder
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.objective_model import ObjectiveModel
from keras_splitmask.training.pixels import problem_of_absence, shape_text


@keras.saving.register_keras_serializable("keras_splitmask")
class DeiT(ObjectiveModel):
    """Learn the labels: what pre-training without them is compared with.

    It is given images and the probabilities of their classes, mixed and smoothed: `data.batches(..., mix={...})`.

    Args:
        encoder: an `Encoder`.
        classes: number of classes.
        augmentation: an `Augment` of the images that a training step is given; None, since DeiT augments before it
            mixes.
        seed: with the step's number, it decides all randomness of training.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        augmentation: keras.layers.Layer | None = None,
        seed: int = 0,
        name: str = "deit",
        **kwargs,
    ):
        super().__init__(encoder, logged=["accuracy"], seed=seed, augmentation=augmentation, name=name, **kwargs)
        if classes < 2:
            raise ValueError(f"Expected at least two classes, received classes={classes}.")
        self.classes = classes
        self.head = Dense(classes, dtype=self.dtype_policy, name="head")
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        self.head.build((None, self.encoder.width))
        super().build(images_shape)

    def problem_of_labels(self, labels: Any) -> str | None:
        if problem := problem_of_absence(labels, self):
            return problem
        if getattr(labels, "shape", ())[1:] == (self.classes,):
            return None
        return (
            f"Expected label probabilities (B, {self.classes}), received {shape_text(labels)};"
            f" keras.ops.one_hot(labels, {self.classes}) makes them of classes."
        )

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Compute the cross entropy of label probabilities (B, classes), and the accuracy.

        A mixed image counts as correct if the predicted class is the class with the larger share in the mixture.
        """
        # By the cls token, as in DeiT; `transfer.Classifier` takes the mean of the patches, as BEiT does.
        logits = self.head(self.encoder(batch.images, training=training)["cls"])  # (B, classes)
        loss, hits = losses.classify(logits, batch.labels)
        return ops.mean(loss), {"accuracy": ops.mean(hits)}

    def get_config(self):
        return {
            **super().get_config(),
            "classes": self.classes,
        }
