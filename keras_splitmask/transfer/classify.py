"""Classify images with an encoder: one linear map of the pooled patches."""

import keras


@keras.saving.register_keras_serializable("keras_splitmask")
class Classifier(keras.Model):
    """Images (B, H, W, C) to logits (B, classes) float32, from the mean of the patches' tokens (BEiT, section 2.6).

    Compile it with a loss on logits, and `fit` it like any Keras model.

    Args:
        encoder: an `Encoder`.
        classes: number of classes.
        frozen: keep the encoder as it is and learn the head alone.
    """

    def __init__(self, encoder, classes, frozen=False, name="classifier", **kwargs):
        super().__init__(name=name, **kwargs)
        if classes < 2:
            raise ValueError(f"Expected at least two classes, received classes={classes}.")
        self.encoder = encoder
        self.classes = classes
        self.frozen = frozen
        encoder.trainable = not frozen
        # Near zero, so that the first steps do not pull the encoder about (BEiT's 0.001).
        start = keras.initializers.TruncatedNormal(stddev=0.02 * 0.001)
        self.head = keras.layers.Dense(classes, kernel_initializer=start, dtype="float32", name="head")
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        self.head.build((None, self.encoder.width))
        self.built = True

    def call(self, images, training=None):
        return self.head(self.encoder(images, training=training and not self.frozen)["pooled"])

    def get_config(self):
        own = {"encoder": keras.saving.serialize_keras_object(self.encoder), "classes": self.classes, "frozen": self.frozen}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "encoder": keras.saving.deserialize_keras_object(config["encoder"])})
