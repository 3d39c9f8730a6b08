"""UPerNet (Xiao et al., 2018, "Unified Perceptual Parsing for Scene Understanding"): a pyramid of feature maps to the
class of each pixel."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend.drop_path import DropPath, seed_of
from keras_splitmask.backend.layers import Dense, LayerNormalization
from keras_splitmask.backend.typing import Array, Float

BINS = (1, 2, 3, 6)  # of the pyramid pooling (Zhao et al., 2017, section 3.2)


def enlarge(x, size):
    """Resize a map (B, h, w, D) to `size` (rows, columns), bilinearly between pixel centres, alike on all backends."""
    if tuple(x.shape[1:3]) == tuple(size):
        return x
    # Not by `ops.image.resize`: of sizes such as 3 to 7 tf2onnx makes a factor that gives 6 in float32.
    rows, columns = (bilinear_matrix(old, new) for old, new in zip(x.shape[1:3], size, strict=True))
    return _product(rows, columns, x)


def bilinear_matrix(size: int, new: int) -> Float[Array, "new size"]:
    """Make the matrix (new, size) float32 that resizes a line; beyond the centres of its ends it goes on as there."""
    places = np.clip((np.arange(new) + 0.5) * (size / new) - 0.5, 0, size - 1)
    return np.maximum(1 - np.abs(places[:, None] - np.arange(size)), 0).astype("float32")


def pooling_matrix(size: int, bins: int) -> Float[Array, "bins size"]:
    """Make the matrix (bins, size) float32 that averages a line over `bins` intervals of about equal length.

    The intervals overlap if `size` is not divisible by `bins`.
    """
    # The intervals of PyTorch's adaptive average pooling.
    matrix = np.zeros((bins, size), "float32")
    for i in range(bins):
        start, end = i * size // bins, -(-(i + 1) * size // bins)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def pool(x: Float[Array, "B h w D"], bins: int) -> Float[Array, "B bins bins D"]:
    """Average a map (B, h, w, D) of any size over bins: (B, bins, bins, D)."""
    rows, columns = (pooling_matrix(size, bins) for size in x.shape[1:3])
    return _product(rows, columns, x)


def _product(rows, columns, x):
    """Products of (new, h) and (new, w) numbers with a map (B, h, w, D), which every backend compiles and exports."""
    height, width, channels = x.shape[1:]
    x = ops.matmul(ops.cast(rows, x.dtype), ops.reshape(x, (-1, height, width * channels)))  # (B, new, w D)
    x = ops.matmul(ops.cast(columns, x.dtype), ops.reshape(x, (-1, width, channels)))  # (B new, new, D)
    return ops.reshape(x, (-1, len(rows), len(columns), channels))


@keras.saving.register_keras_serializable("keras_splitmask")
class ConvNorm(keras.layers.Layer):
    """A convolution of `side` x `side` pixels, a norm and ReLU: a map (B, h, w, C) to (B, h, w, D).

    BEiT has batch norms here. These normalise the channels of each pixel, so that the output for an image does not
    depend on its batch.
    """

    def __init__(self, width: int, side: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.side = side
        policy = self.dtype_policy
        # channels_last is named, since keras.json may say channels_first.
        if side == 1:
            self.convolution = Dense(width, dtype=policy, name="convolution")  # the same, and faster on torch
        else:
            self.convolution = keras.layers.Conv2D(
                width,
                side,
                padding="same",
                data_format="channels_last",
                use_bias=False,
                dtype=policy,
                name="convolution",
            )
        self.norm = LayerNormalization(epsilon=1e-6, dtype=policy, name="norm")

    def build(self, shape):
        self.convolution.build((None, None, None, shape[-1]))
        self.norm.build((None, None, None, self.width))

    def call(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w D"]:
        return ops.relu(self.norm(self.convolution(x)))

    def get_config(self):
        return {**super().get_config(), "width": self.width, "side": self.side}


@keras.saving.register_keras_serializable("keras_splitmask")
class PixelClassifier(keras.layers.Layer):
    """Map (B, h, w, C) to logits (B, h, w, classes) float32: a 3x3 `ConvNorm`, dropout of channels, a linear layer.

    UPerNet ends with it. By itself it is the auxiliary head (Long et al., 2015, as Zhao et al., 2017, use it).
    """

    def __init__(self, classes: int, width: int, drop: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes
        self.width = width
        self.drop = drop
        policy = self.dtype_policy
        self.fuse = ConvNorm(width, 3, dtype=policy, name="fuse")
        # Seeded by the head's name: by default it would be the layer's own, which is the same in both heads.
        self.drop_channels = DropPath(
            drop, noise_shape=(None, 1, 1, None), seed=seed_of(self.name), dtype=policy, name="drop_channels"
        )
        self.classify = Dense(classes, dtype=policy, name="classify")

    def build(self, shape):
        self.fuse.build(shape)
        self.classify.build((None, None, None, self.width))

    def call(self, x: Float[Array, "B h w C"], training: bool | None = None) -> Float[Array, "B h w K"]:
        return ops.cast(self.classify(self.drop_channels(self.fuse(x), training=training)), "float32")

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "width": self.width, "drop": self.drop}


@keras.saving.register_keras_serializable("keras_splitmask")
class UPerNet(keras.layers.Layer):
    """A dictionary of maps from fine to coarse, {"P2": (B, h, w, C), ...}, to logits (B, h, w, classes) float32 at the
    size of the finest.

    The coarsest map is pooled to 1, 4, 9 and 36 bins, which gives every pixel the context of the whole image. Finer
    maps are merged with the coarser ones. Then all are concatenated.

    Args:
        classes: number of classes.
        width: channels of every map in it; 512 in the paper, 768 in BEiT on ViT-B.
        drop: dropout rate of the channels before the classifier.
    """

    def __init__(self, classes: int, width: int = 512, drop: float = 0.1, name: str = "upernet", **kwargs):
        super().__init__(name=name, **kwargs)
        self.classes = classes
        self.width = width
        self.drop = drop

    def build(self, shapes):
        width, policy = self.width, self.dtype_policy
        *finer, coarsest = shapes
        self.pooled = [ConvNorm(width, 1, dtype=policy, name=f"pooled_{bins}") for bins in BINS]
        self.scene = ConvNorm(width, 3, dtype=policy, name="scene")
        self.laterals = {level: ConvNorm(width, 1, dtype=policy, name=f"{level}_lateral") for level in finer}
        self.smooths = {level: ConvNorm(width, 3, dtype=policy, name=f"{level}_smooth") for level in finer}
        self.classifier = PixelClassifier(self.classes, width, self.drop, dtype=policy, name="classifier")
        for layer in self.pooled:
            layer.build(shapes[coarsest])
        self.scene.build((None, None, None, shapes[coarsest][-1] + len(BINS) * width))  # C + 4 D channels in
        for level in finer:
            self.laterals[level].build(shapes[level])
            self.smooths[level].build((None, None, None, width))
        self.classifier.build((None, None, None, len(shapes) * width))

    def call(self, maps: dict[str, Float[Array, "B _ _ C"]], training: bool | None = None) -> Float[Array, "B h w K"]:
        *finer, coarsest = maps
        above = self._scene(maps[coarsest])  # (B, h, w, D)
        answers = [above]
        for level in reversed(finer):
            x = self.laterals[level](maps[level])
            above = x + enlarge(above, x.shape[1:3])  # (B, h, w, D)
            # The sum itself goes on to the next finer level, its smoothed copy to the classifier.
            answers.insert(0, self.smooths[level](above))  # fine to coarse, as the classifier's weights expect
        size = answers[0].shape[1:3]
        # All levels at the size of the finest, side by side: (B, h, w, levels x D).
        return self.classifier(ops.concatenate([enlarge(x, size) for x in answers], axis=-1), training=training)

    def _scene(self, x):
        """Merge the coarsest map (B, h, w, C) with its averages over bins: (B, h, w, D)."""
        # Each (B, bins, bins, C) to (B, bins, bins, D), then enlarged to (B, h, w, D).
        parts = [enlarge(layer(pool(x, bins)), x.shape[1:3]) for bins, layer in zip(BINS, self.pooled, strict=True)]
        return self.scene(ops.concatenate([x, *parts], axis=-1))

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "width": self.width, "drop": self.drop}
