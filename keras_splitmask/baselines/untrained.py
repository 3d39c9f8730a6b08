"""No pre-training at all: what every other method must be better than."""

from __future__ import annotations

import keras

from keras_splitmask.backend.typing import Array, Float, Shaped
from keras_splitmask.encoder import Encoder
from keras_splitmask.training.inputs import CheckedModel


@keras.saving.register_keras_serializable("keras_splitmask")
class Untrained(CheckedModel):
    """An encoder as it was initialised, to be saved and read as that of a pre-trained model.

    Args:
        encoder: an `Encoder`.
    """

    def __init__(self, encoder: Encoder, name: str = "untrained", **kwargs):
        super().__init__(name=name, **kwargs)
        self.encoder = encoder
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        self.built = True

    def call(self, images: Shaped[Array, "B H W C"], training: bool | None = None) -> dict[str, Float[Array, "B ..."]]:
        """Images (B, H, W, C) to the encoder's answer."""
        return self.encoder(images, training=training)

    def get_config(self):
        return {**super().get_config(), "encoder": keras.saving.serialize_keras_object(self.encoder)}
