"""Our pyramid as a backbone that KerasCV's heads take. Needs keras-cv, and is imported where a head of it is made
alone."""

from __future__ import annotations

import keras

from keras_splitmask.backend.optional import optional

keras_cv = optional("keras_cv", "cv")


@keras.saving.register_keras_serializable("keras_splitmask")
class ViTBackbone(keras_cv.models.Backbone):  # type: ignore[name-defined]
    """A functional model from pixels (B, H, W, C) float32 in 0..1 to the levels of a `Pyramid`, each a layer called by
    its name.

    KerasCV 0.9.0 finds a level as the output of a layer, and on Keras 3.15 (`No such layer: P3`) only if it is an
    output of the model too.
    """

    def __init__(self, pyramid, name="backbone", **kwargs):
        pixels = keras.Input(pyramid.encoder.image_shape)
        levels = {level: keras.layers.Identity(name=level)(x) for level, x in pyramid(pixels).items()}
        super().__init__(inputs=pixels, outputs=levels, name=name, **kwargs)
        self.pyramid = pyramid
        self.pyramid_level_inputs = {level: level for level in pyramid.levels}

    def get_config(self):
        return {**super().get_config(), "pyramid": keras.saving.serialize_keras_object(self.pyramid)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "pyramid": keras.saving.deserialize_keras_object(config["pyramid"])})


def check_channels_last() -> None:
    """Refuse to build KerasCV's own parts where Keras is set to put channels first, which they would follow. Raises
    ValueError."""
    if (order := keras.config.image_data_format()) != "channels_last":
        raise ValueError(
            f'Expected image_data_format="channels_last" in keras.json with KerasCV\'s heads, received "{order}"; '
            'change it there, or call keras.config.set_image_data_format("channels_last") first.'
        )
