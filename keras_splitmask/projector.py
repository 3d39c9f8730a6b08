"""The projector of the match loss: what is compared need not be what is kept."""

from __future__ import annotations

import keras

from keras_splitmask.backend.layers import Dense, gelu
from keras_splitmask.backend.typing import Array, Float
from keras_splitmask.options import check_number

OUTPUTS = 128  # as in SimCLR


@keras.saving.register_keras_serializable("keras_splitmask")
class Projector(keras.layers.Layer):
    """Two dense layers before a contrastive loss, which are left behind after pre-training (SimCLR, Chen et al., 2020).

    The loss asks for equal vectors of two views of an image, and so for vectors without what augmentation changes. With
    a projector, the encoder's own output keeps it.

    Args:
        width: units of the hidden layer.
    """

    def __init__(self, width: int, name: str = "projector", **kwargs):
        super().__init__(name=name, **kwargs)
        width = check_number("the width of a projector", width, 1, 2**30, whole=True)
        self.width = width
        self.hidden = Dense(width, dtype=self.dtype_policy, name="hidden")
        self.projected = Dense(OUTPUTS, dtype=self.dtype_policy, name="projected")

    def build(self, vectors_shape):
        self.hidden.build(vectors_shape)
        self.projected.build((*vectors_shape[:-1], self.width))

    def call(self, vectors: Float[Array, "*axes D"]) -> Float[Array, "*axes E"]:
        """Project vectors (..., D) to (..., 128)."""
        return self.projected(gelu(self.hidden(vectors)))

    def compute_output_shape(self, vectors_shape):
        return (*vectors_shape[:-1], OUTPUTS)

    def get_config(self):
        return {**super().get_config(), "width": self.width}
