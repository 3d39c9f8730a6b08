"""Pre-train with a method of your own: here, predict from a noisy image how bright each patch is."""

import keras
from keras import ops

import keras_splitmask as ks
from keras_splitmask.patches import normalise, to_patches


class Denoise(ks.training.ObjectiveModel):
    def __init__(self, encoder, **kwargs):
        super().__init__(encoder, **kwargs)
        self.noise, self.head = keras.random.SeedGenerator(0), keras.layers.Dense(1)
        self.head.build((None, None, None, encoder.width))

    def objective(self, batch, training):
        truth = ops.mean(to_patches(normalise(batch.images), self.encoder.patch_size), axis=-1)  # (B, N)
        noise = keras.random.uniform(ops.shape(batch.images), seed=self.noise)
        noisy = 0.8 * ops.cast(batch.images, "float32") / 255 + 0.2 * noise
        predicted = self.head(self.encoder(noisy, training=training)["feature_map"])  # (B, rows, columns, 1)
        return ops.mean((ops.reshape(predicted, ops.shape(truth)) - truth) ** 2), {}


LIMIT, EPOCHS = 1000, 20
images, _ = ks.data.read_all(ks.data.open_source("sample"), (28, 28, 1), limit=LIMIT)
model = Denoise(ks.Encoder.from_size("vit_micro", image_shape=(28, 28, 1), patch_size=7))
model.compile(ks.training.adamw(1e-3, steps=EPOCHS * LIMIT // 50))
model.fit(images, batch_size=50, epochs=EPOCHS, shuffle=False)
