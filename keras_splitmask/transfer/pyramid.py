"""A plain Vision Transformer as the backbone of dense heads: its features at strides of 4 to 32 pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras
from keras import ops

from keras_splitmask.backend.layers import Dense, LayerNormalization, gelu
from keras_splitmask.backend.typing import Array, Float, Shaped
from keras_splitmask.encoder import Encoder

STRIDES = {"P2": 4, "P3": 8, "P4": 16, "P5": 32}
NECKS = ("blocks", "simple")


def tapped_blocks(depth: int) -> list[int]:
    """Choose the four blocks to take features from, numbered from 1: of 12 the 4th, 6th, 8th and 12th (XCiT, section
    4.3, and BEiT)."""
    return [max(1, round(depth * share)) for share in (1 / 3, 1 / 2, 2 / 3, 1)]


@keras.saving.register_keras_serializable("keras_splitmask")
class Enlarge(keras.layers.Layer):
    """A transposed convolution of 2x2 pixels with a stride of 2, (B, h, w, D) to (B, 2h, 2w, D): one matrix product."""

    def __init__(self, width: int, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.project = Dense(4 * width, dtype=self.dtype_policy, name="project")

    def build(self, shape):
        self.project.build(shape)

    def call(self, x: Float[Array, "B h w C"]) -> Float[Array, "B 2*h 2*w D"]:
        height, width = x.shape[1:3]
        x = ops.reshape(self.project(x), (-1, height, width, 2, 2, self.width))  # (B, h, w, 2, 2, D)
        # The two rows of a pixel's square go beside the rows, its columns beside the columns: (B, h, 2, w, 2, D).
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 2 * height, 2 * width, self.width))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@keras.saving.register_keras_serializable("keras_splitmask")
class Pyramid(keras.layers.Layer):
    """Images (B, H, W, C) to feature maps by level, "P2" (B, H / 4, W / 4, D) to "P5" (B, H / 32, W / 32, D), rounded
    up.

    Levels finer than the patches are enlarged by transposed convolutions, with a norm and GELU in between. Coarser
    levels are max-pooled. BEiT has batch norms here; these are layer norms, so that the output for an image does not
    depend on its batch.

    Args:
        encoder: an `Encoder` whose patch size is a power of two, such as 16.
        neck: "blocks", to take the levels from four blocks (XCiT and BEiT), or "simple", all from the last (ViTDet,
            section 3).
        levels: names of `STRIDES` to return, from fine to coarse.
    """

    def __init__(
        self,
        encoder: Encoder,
        neck: str = "blocks",
        levels: Sequence[str] = tuple(STRIDES),
        name: str = "pyramid",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if neck not in NECKS:
            raise ValueError(f"Expected neck to be one of {', '.join(NECKS)}, received {neck!r}.")
        side = encoder.patch_size
        if side & (side - 1):
            raise ValueError(
                f"Expected patches whose side is a power of two, received patch_size={side}; load the encoder with"
                " patch_size=16."
            )
        self.encoder = encoder
        self.neck = neck
        self.levels = tuple(levels)
        width, policy = encoder.width, self.dtype_policy
        # From the shallowest to the deepest block, as from the finest to the coarsest level. The coarsest of `levels`
        # has the deepest, so without P5 all levels move up by a block.
        blocks = tapped_blocks(encoder.depth) if neck == "blocks" else [encoder.depth] * 4
        names = list(STRIDES)
        blocks = blocks[len(names) - 1 - names.index(self.levels[-1]) :]
        self.taps = {
            level: f"block_{block}" for level, block in zip(names, blocks, strict=False) if level in self.levels
        }
        # Between pre-norm blocks the tokens are a sum that no norm has scaled, so each tap needs a norm.
        self.norms = {
            t: LayerNormalization(epsilon=1e-6, dtype=policy, name=f"norm_{t}")
            for t in sorted(set(self.taps.values()))
            if t != self._last
        }
        # With patches of 16 pixels, P2 is enlarged twice and P3 once; P4 stays, and P5 is pooled.
        self.ladders = {
            level: self._ladder(level, side // stride, width, policy)
            for level, stride in STRIDES.items()
            if level in levels and side > stride
        }
        self.build((None, *encoder.image_shape))

    @property
    def _last(self):
        return f"block_{self.encoder.depth}"

    def _ladder(self, level, factor, width, policy):
        steps = []
        # The factor is a power of two; each step doubles the sides.
        for i in range(factor.bit_length() - 1):
            if i:
                steps += [
                    LayerNormalization(epsilon=1e-6, dtype=policy, name=f"{level}_norm_{i}"),
                    keras.layers.Activation(gelu, dtype=policy),
                ]
            steps.append(Enlarge(width, dtype=policy, name=f"{level}_enlarge_{i + 1}"))
        return steps

    def build(self, images_shape):
        shape = (None, *self.encoder.grid, self.encoder.width)
        for layer in (*self.norms.values(), *(step for ladder in self.ladders.values() for step in ladder)):
            layer.build(shape)
        self.built = True

    def call(
        self, images: Shaped[Array, "B H W C"], training: bool | None = None
    ) -> dict[str, Float[Array, "B _ _ D"]]:
        tokens, states = self.encoder.encode_by_block(self.encoder.embed(images), training=training)  # (B, 1 + N, D)
        # The last block's tokens have the encoder's own norm, which was learnt with it.
        normed = {tap: norm(states[tap]) for tap, norm in self.norms.items()} | {self._last: tokens}
        # Without cls; extra tokens are not among those that the encoder returns.
        maps = {tap: ops.reshape(x[:, 1:], (-1, *self.encoder.grid, self.encoder.width)) for tap, x in normed.items()}
        return {level: self._resized(level, maps[tap]) for level, tap in self.taps.items()}

    def _resized(self, level, x):
        for step in self.ladders.get(level, ()):
            x = step(x)
        shrink = STRIDES[level] // self.encoder.patch_size  # 0 for levels finer than the patches
        return ops.max_pool(x, shrink, shrink, padding="same", data_format="channels_last") if shrink > 1 else x

    def get_config(self):
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "neck": self.neck,
            "levels": self.levels,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "encoder": keras.saving.deserialize_keras_object(config["encoder"])})


@keras.saving.register_keras_serializable("keras_splitmask")
class FeaturePyramid(keras.layers.Layer):
    """Feature pyramid network (Lin et al., 2017): maps of `width` channels, each merged with all coarser ones.

    Input and output are dictionaries of feature maps, from fine to coarse.

    Args:
        width: channels of every map.
        levels: names of the levels to return, such as ("P3", "P4", "P5", "P6", "P7"). Levels that the input lacks are
            made from its coarsest by convolutions of stride 2, or with `pooled=True` by taking every other pixel.
    """

    def __init__(
        self, width: int, levels: Iterable[str], pooled: bool = False, name: str = "feature_pyramid", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        self.width = width
        self.levels = tuple(levels)
        self.pooled = pooled

    def build(self, shapes):
        # The convolutions name channels_last, since keras.json may say channels_first.
        policy = self.dtype_policy
        self.own = [level for level in self.levels if level in shapes]
        more = [level for level in self.levels if level not in shapes and not self.pooled]
        self.lateral = {level: Dense(self.width, dtype=policy, name=f"{level}_lateral") for level in self.own}
        # A 3x3 convolution against the aliasing of the enlarged maps (Lin et al., 2017, section 3).
        self.smooth = {
            level: keras.layers.Conv2D(
                self.width, 3, padding="same", data_format="channels_last", dtype=policy, name=f"{level}_smooth"
            )
            for level in self.own
        }
        self.coarser = {
            level: keras.layers.Conv2D(
                self.width, 3, 2, padding="same", data_format="channels_last", dtype=policy, name=level
            )
            for level in more
        }
        for level in self.own:
            self.lateral[level].build(shapes[level])
            self.smooth[level].build((None, None, None, self.width))
        for i, layer in enumerate(self.coarser.values()):
            # The first extra level reads the coarsest input, each other one the level before it.
            layer.build((None, None, None, self.width if i else shapes[self.own[-1]][-1]))

    def call(self, maps: dict[str, Float[Array, "B _ _ C"]]) -> dict[str, Float[Array, "B _ _ D"]]:
        answer, above = {}, None  # `above`: the merged map of the next coarser level
        # From coarse to fine, each level adds the enlarged coarser one to its own (section 3).
        for level in reversed(self.own):
            x = self.lateral[level](maps[level])  # (B, h, w, width)
            above = x if above is None else x + _twice(above, x.shape[1:3])
            answer[level] = self.smooth[level](above)
        # Mask R-CNN: P6 is P5 subsampled, for proposals only (Lin et al., 2017, section 4.1). RetinaNet: P6 is a
        # convolution of the backbone's P5, and P7 one of ReLU(P6) (focal loss, section 4).
        coarsest = answer[self.own[-1]] if self.pooled else maps[self.own[-1]]
        # From fine to coarse, so that an extra level finds the one before it in `coarsest`.
        for level in self.levels:
            if level not in answer:
                coarsest = (
                    coarsest[:, ::2, ::2]
                    if self.pooled
                    else self.coarser[level](ops.relu(coarsest) if len(answer) > len(self.own) else coarsest)
                )
                answer[level] = coarsest
        return {level: answer[level] for level in self.levels}

    def get_config(self):
        return {**super().get_config(), "width": self.width, "levels": self.levels, "pooled": self.pooled}


def _twice(x, size):
    """Double a feature map (B, h, w, D) by nearest neighbour, and cut it to `size`, which may be odd."""
    return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)[:, : size[0], : size[1]]
