"""The three heads of Mask R-CNN: proposals, boxes with their classes, and masks."""

from __future__ import annotations

import keras
from keras import ops

from keras_splitmask.backend.layers import Dense
from keras_splitmask.backend.typing import Array, Float, Int
from keras_splitmask.transfer.pyramid import STRIDES, Enlarge

# P6 is for proposals only; regions are read from P2 to P5.
LEVELS = {**STRIDES, "P6": 64}
RATIOS = 3  # anchors at each position
# Bins along a side of a region (He et al., 2017, Figure 4).
BOX_BINS, MASK_BINS = 7, 14


@keras.saving.register_keras_serializable("keras_splitmask")
class ProposalHead(keras.layers.Layer):
    """Feature maps of all levels to whether there is an object (B, A), as logits, and the deltas (B, A, 4) of its box,
    both float32."""

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        small, policy = keras.initializers.RandomNormal(stddev=0.01), self.dtype_policy  # Ren et al., section 3.1.3
        # channels_last is named, since keras.json may say channels_first.
        self.hidden = keras.layers.Conv2D(
            width, 3, padding="same", data_format="channels_last", activation="relu", dtype=policy, name="hidden"
        )
        self.logits = Dense(RATIOS, kernel_initializer=small, dtype=policy, name="logits")
        self.deltas = Dense(4 * RATIOS, kernel_initializer=small, dtype=policy, name="deltas")

    def build(self, shape):
        for layer in (self.hidden, self.logits, self.deltas):
            layer.build((None, None, None, self.width))

    def call(self, maps: dict[str, Float[Array, "B _ _ D"]]) -> tuple[Float[Array, "B A"], Float[Array, "B A 4"]]:
        # One head for all levels, whose objects look alike at their scale (Lin et al., 2017, section 4.1).
        hidden = [self.hidden(maps[level]) for level in LEVELS]  # (B, h, w, width) each
        # By position, then ratio: (B, h w ratios). `boxes.anchors` has the same order.
        logits = [ops.reshape(self.logits(x), (-1, x.shape[1] * x.shape[2] * RATIOS)) for x in hidden]
        deltas = [ops.reshape(self.deltas(x), (-1, x.shape[1] * x.shape[2] * RATIOS, 4)) for x in hidden]
        return tuple(ops.cast(ops.concatenate(parts, axis=1), "float32") for parts in (logits, deltas))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("keras_splitmask")
class RegionHead(keras.layers.Layer):
    """Regions (B, R, 7, 7, D) to logits (B, R, classes + 1), the last for background, and deltas (B, R, classes, 4),
    both float32."""

    def __init__(self, classes: int, width: int, hidden: int, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.width, self.hidden = classes, width, hidden
        policy = self.dtype_policy
        self.both = [Dense(hidden, dtype=policy, name=f"hidden_{i + 1}") for i in range(2)]
        # Deviations of 0.01 for the classes and 0.001 for the boxes, as in Fast R-CNN (Girshick, 2015).
        self.logits = Dense(
            classes + 1, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), dtype=policy, name="logits"
        )
        self.deltas = Dense(
            4 * classes, kernel_initializer=keras.initializers.RandomNormal(stddev=0.001), dtype=policy, name="deltas"
        )

    def build(self, shape):
        self.both[0].build((None, None, BOX_BINS**2 * self.width))
        for layer in (self.both[1], self.logits, self.deltas):
            layer.build((None, None, self.hidden))

    def call(self, x: Float[Array, "B R 7 7 D"]) -> tuple[Float[Array, "B R logits"], Float[Array, "B R K 4"]]:
        count = x.shape[1]
        x = ops.reshape(x, (-1, count, BOX_BINS**2 * self.width))  # (B, R, 49 width)
        for layer in self.both:
            x = ops.relu(layer(x))  # (B, R, hidden)
        deltas = ops.reshape(self.deltas(x), (-1, count, self.classes, 4))  # each class has a box of its own
        return ops.cast(self.logits(x), "float32"), ops.cast(deltas, "float32")

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "width": self.width, "hidden": self.hidden}


@keras.saving.register_keras_serializable("keras_splitmask")
class MaskHead(keras.layers.Layer):
    """Regions (B, R, 14, 14, D) and their labels (B, R) to the logits (B, R, 28, 28) float32 of the mask of such an
    object."""

    def __init__(self, classes: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.width = classes, width
        policy = self.dtype_policy
        # Four convolutions and one enlargement (He et al., 2017, Figure 4).
        self.hidden = [
            keras.layers.Conv2D(
                width,
                3,
                padding="same",
                data_format="channels_last",
                activation="relu",
                dtype=policy,
                name=f"hidden_{i + 1}",
            )
            for i in range(4)
        ]
        self.enlarge = Enlarge(width, dtype=policy, name="enlarge")
        self.logits = Dense(classes, dtype=policy, name="logits")

    def build(self, shape):
        for layer in (*self.hidden, self.enlarge, self.logits):
            layer.build((None, None, None, self.width))

    def call(self, x: Float[Array, "B R 14 14 D"], labels: Int[Array, "B R"]) -> Float[Array, "B R 28 28"]:
        count = x.shape[1]
        x = ops.reshape(x, (-1, MASK_BINS, MASK_BINS, self.width))  # (B R, 14, 14, width)
        for layer in self.hidden:
            x = layer(x)
        logits = self.logits(ops.relu(self.enlarge(x)))  # (B R, 28, 28, classes)
        # -1 stands for no object, whose mask nobody reads.
        own = ops.one_hot(ops.reshape(ops.maximum(labels, 0), (-1,)), self.classes, dtype=logits.dtype)
        logits = ops.sum(logits * own[:, None, None], axis=-1)  # (B R, 28, 28)
        return ops.cast(ops.reshape(logits, (-1, count, 2 * MASK_BINS, 2 * MASK_BINS)), "float32")

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "width": self.width}
