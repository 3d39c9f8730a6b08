"""Pre-train with visual words of your own: here the brightness of a patch in 16 steps."""

import keras
from keras import ops

import keras_splitmask as ks
from keras_splitmask.patches import normalise, to_patches

LIMIT, EPOCHS = 1000, 20


@keras.saving.register_keras_serializable("my_lab")
class Brightness(keras.layers.Layer):
    vocabulary = 16

    def call(self, images):  # (B, H, W, C) to (B, N) int32
        mean = ops.mean(to_patches(normalise(images), 7), axis=-1)
        return ops.cast(ops.clip(4 * (mean + 2), 0, self.vocabulary - 1), "int32")


images, _ = ks.data.read_all(ks.data.open_source("sample"), (28, 28, 1), limit=LIMIT)
model = ks.SplitMask(ks.Encoder.from_size("vit_micro", image_shape=(28, 28, 1), patch_size=7), Brightness())
model.compile(ks.training.adamw(1e-3, steps=EPOCHS * LIMIT // 64))
model.fit(images, batch_size=64, epochs=EPOCHS, shuffle=False)
