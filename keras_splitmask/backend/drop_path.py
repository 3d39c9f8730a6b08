"""Stochastic depth and dropped channels, in which a row drops the same however the batch is divided."""

import zlib

import keras
from keras import ops

from keras_splitmask.backend import distribution
from keras_splitmask.options import check_seed


def seed_of(name):
    """A seed (31 bits) made from a name, so that layers with different names draw different numbers."""
    # Not `hash`, which Python salts differently in each process. 31 bits, since Keras keeps seeds as int32 on torch.
    return zlib.crc32(name.encode()) >> 1


@keras.saving.register_keras_serializable("keras_splitmask")
class DropPath(keras.layers.Layer):
    """Drop random parts of the input in training, and scale up the rest so that the mean stays the same.

    By default it drops whole examples: stochastic depth (Huang et al., 2016), used on residual branches. With
    noise_shape=(None, 1, 1, None) it drops channels of maps (B, h, w, D) (Tompson et al., 2015).

    Args:
        rate: probability to drop, in [0, 1).
        noise_shape: shape of the random mask, None for a size of the input; (None, 1, 1, ...) by default.
        seed: int. By default it is made from the layer's name, so that two layers drop different examples.
    """

    def __init__(self, rate, noise_shape=None, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"Expected a drop path rate in [0, 1), received rate={rate}.")
        self.rate = rate
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)
        # None stays None in the configuration, so that a copy of another name draws other numbers.
        self.seed = None if seed is None else check_seed(seed)
        # With one seed for all, the blocks of an encoder would drop the same images.
        self.seed_generator = keras.random.SeedGenerator(seed_of(self.name) if seed is None else self.seed)
        self.built = True

    def call(self, x, training=None):
        if not training or not self.rate:
            return x
        noise_shape = self.noise_shape or (None,) + (1,) * (len(x.shape) - 1)
        shape = [size if noise is None else noise for size, noise in zip(ops.shape(x), noise_shape, strict=True)]
        # Not `keras.layers.Dropout`, whose numbers depend on how replicas and micro-batches divide the batch.
        kept = distribution.uniform(tuple(shape), seed=self.seed_generator) >= self.rate
        return x * ops.cast(kept, x.dtype) / (1 - self.rate)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "noise_shape": self.noise_shape, "seed": self.seed}
