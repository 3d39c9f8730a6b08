"""DeiT (Touvron et al., 2021, "Training data-efficient image transformers"), without distillation, told once, on
SplitMask's encoder."""

import keras
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend.layers import Dense
from keras_splitmask.training.pixels import shape_text
from keras_splitmask.training.steps import PretextModel


@keras.saving.register_keras_serializable("keras_splitmask")
class DeiT(PretextModel):
    """Learn the labels: what pre-training without them is compared with.

    It is given images and the probabilities of their classes, mixed and smoothed: `data.batches(..., mix={...})`.

    Args:
        encoder: an `Encoder`.
        classes: number of classes.
        augmentation: an `Augment` of the images that a training step is given; None, since DeiT augments before it
            mixes.
        seed: with the step's number, it decides all randomness of training.
    """

    takes_labels = True

    def __init__(self, encoder, classes, augmentation=None, seed=0, name="deit", **kwargs):
        super().__init__(reports=["accuracy"], seed=seed, augmentation=augmentation, name=name, **kwargs)
        if classes < 2:
            raise ValueError(f"Expected at least two classes, received classes={classes}.")
        self.encoder = encoder
        self.classes = classes
        self.head = Dense(classes, dtype=self.dtype_policy, name="head")
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        self.head.build((None, self.encoder.width))
        super().build(images_shape)

    def call(self, images, training=None):
        """Images (B, H, W, C) to the encoder's answer: what is kept when training is over."""
        return self.encoder(images, training=training)

    def problem_of_given(self, labels):
        if getattr(labels, "shape", ())[1:] == (self.classes,):
            return None
        return (
            f"Expected label probabilities (B, {self.classes}), received {shape_text(labels)};"
            f" keras.ops.one_hot(labels, {self.classes}) makes them of classes."
        )

    def objective(self, images, labels, training):
        """Images (B, H, W, C) and label probabilities (B, classes) to the loss, a scalar, and the values to report.

        An image is named rightly whose likeliest class is that of which most is in it.
        """
        logits = self.head(self.encoder(images, training=training)["cls"])  # (B, classes)
        loss, hits = losses.classify(logits, labels)
        return ops.mean(loss), {"accuracy": ops.mean(hits)}

    def get_config(self):
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "classes": self.classes,
        }

    @classmethod
    def from_config(cls, config):
        layers = {name: keras.saving.deserialize_keras_object(config.get(name)) for name in ("encoder", "augmentation")}
        return cls(**{**config, **layers})
