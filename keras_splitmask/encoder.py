"""The Vision Transformer that all methods share: the part of a model that is kept after pre-training."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import keras
from keras import ops

from keras_splitmask.backend.drop_path import DropPath, seed_of
from keras_splitmask.backend.layers import Dense, LayerNormalization, attention, call, gelu
from keras_splitmask.backend.typing import Array, Float, Int, Shaped
from keras_splitmask.patches import PatchEmbedding, count_relative_positions, number_relative_positions
from keras_splitmask.training.inputs import CheckedModel

# name: (width, depth, heads). The MLP is four times as wide.
SIZES = {
    "vit_micro": (128, 4, 4),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}


@keras.saving.register_keras_serializable("keras_splitmask")
class Attention(keras.layers.Layer):
    """Multi-head self-attention. Only the tokens from index `start` on are queries; all are keys and values.

    Each head can learn a bias of the logits for each relative position of two tokens (BEiT, after Swin).

    Args:
        width: D.
        heads: divide the width.
        relative_positions: number of relative positions; 0 for no such biases.
    """

    def __init__(self, width: int, heads: int, relative_positions: int = 0, **kwargs):
        super().__init__(**kwargs)
        if width % heads:
            raise ValueError(
                f"Expected a width divisible by the number of heads, received width={width}, heads={heads}."
            )
        self.width = width
        self.heads = heads
        self.relative_positions = relative_positions
        self.qkv = Dense(3 * width, dtype=self.dtype_policy, name="qkv")
        self.project = Dense(width, dtype=self.dtype_policy, name="project")

    def build(self, tokens_shape):
        self.qkv.build((None, None, self.width))
        self.project.build((None, None, self.width))
        if self.relative_positions:
            # In float32 in every precision, since the gradient of a row is a sum over many pairs.
            shape = (self.relative_positions, self.heads)
            self.table = self.add_weight(shape=shape, initializer="zeros", autocast=False, name="relative_positions")

    def call(
        self, tokens: Float[Array, "B n D"], start: int = 0, pairs: Int[Array, "n n"] | None = None
    ) -> Float[Array, "B m D"]:
        """Mix tokens. `pairs` numbers the relative position of each query (row) to each key (column)."""
        assert (pairs is not None) == (self.relative_positions > 0)
        bias = None if pairs is None else self.bias(pairs[start:])
        return call(self.project, attention(call(self.qkv, tokens), self.heads, start, bias))

    def bias(self, pairs: Int[Array, "m n"]) -> Float[Array, "1 h m n"]:
        """The biases of the logits for these relative positions."""
        biases = ops.transpose(ops.take(self.table, pairs, axis=0), (2, 0, 1))
        return ops.cast(biases, self.compute_dtype)[None]

    def get_config(self):
        own = {"width": self.width, "heads": self.heads, "relative_positions": self.relative_positions}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_splitmask")
class Block(keras.layers.Layer):
    """A pre-norm transformer block. It returns the m tokens from index `start` on, by default all n.

    `relative_positions` and `pairs` are those of its `Attention`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        drop_path: float = 0.0,
        epsilon: float = 1e-6,
        relative_positions: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.width = width
        self.heads = heads
        self.drop_path = drop_path
        self.epsilon = epsilon
        self.relative_positions = relative_positions
        policy = self.dtype_policy
        self.norm_attention = LayerNormalization(epsilon=epsilon, dtype=policy, name="norm_attention")
        self.attention = Attention(width, heads, relative_positions, dtype=policy, name="attention")
        self.norm_mlp = LayerNormalization(epsilon=epsilon, dtype=policy, name="norm_mlp")
        self.expand = Dense(4 * width, dtype=policy, name="expand")
        self.contract = Dense(width, dtype=policy, name="contract")
        self.drop = DropPath(drop_path, seed=seed_of(self.name), dtype=policy, name="drop")

    def build(self, tokens_shape):
        shape = (None, None, self.width)
        for layer in (self.norm_attention, self.attention, self.norm_mlp, self.expand):
            layer.build(shape)
        self.contract.build((None, None, 4 * self.width))

    def call(
        self,
        tokens: Float[Array, "B n D"],
        training: bool | None = None,
        start: int = 0,
        pairs: Int[Array, "n n"] | None = None,
    ) -> Float[Array, "B m D"]:
        attended = call(self.attention, call(self.norm_attention, tokens), start=start, pairs=pairs)
        tokens = (tokens[:, start:] if start else tokens) + call(self.drop, attended, training=training)
        hidden = gelu(call(self.expand, call(self.norm_mlp, tokens)))
        return tokens + call(self.drop, call(self.contract, hidden), training=training)

    def get_config(self):
        own = ("width", "heads", "drop_path", "epsilon", "relative_positions")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


@keras.saving.register_keras_serializable("keras_splitmask")
class Encoder(CheckedModel):
    """A Vision Transformer with absolute positions (Dosovitskiy et al., 2021), in two steps: `embed`, then `encode`.

    Args:
        image_shape: (height, width, channels).
        patch_size: side of a patch in pixels; divides height and width.
        width: D, length of a token.
        depth: number of blocks, named "block_1" to "block_<depth>".
        heads: attention heads; divide the width.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
        positions: "learned" or "sine_cosine".
        epsilon: added to the variance in every norm; some models of other libraries have 1e-12.
        extra_tokens: number of learned tokens that take part in every block like cls, but are not returned: a
            distillation token or registers.
        relative_positions: whether the blocks also learn biases of their attention by the distance of two patches, as
            in BEiT (Bao et al., 2021). The encoder then takes whole images only, and has no extra tokens.

    Calling it on images (B, H, W, C), uint8 or uint16 or float in 0..1, gives a dictionary of
    "pooled" (B, D), the mean of the patches' tokens; "cls" (B, D); and "feature_map" (B, rows, columns, D).
    With `every_block=True` also, for each block, its tokens (B, 1 + N, D), cls first, before the final norm.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        drop_path: float = 0.0,
        positions: str = "learned",
        epsilon: float = 1e-6,
        extra_tokens: int = 0,
        relative_positions: bool = False,
        name: str = "encoder",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if min(width, depth, heads) < 1 or extra_tokens < 0:
            raise ValueError(
                f"Expected width, depth and heads of at least 1 and extra_tokens of at least 0, received {width=},"
                f" {depth=}, {heads=}, {extra_tokens=}."
            )
        if relative_positions and extra_tokens:
            raise ValueError(
                f"Expected no extra tokens with relative_positions=True, received {extra_tokens=}; leave one out."
            )
        self.image_shape = tuple(image_shape)
        self.patch_size = patch_size
        self.width = width
        self.depth = depth
        self.heads = heads
        self.drop_path = drop_path
        self.positions = positions
        self.epsilon = epsilon
        self.extra_tokens = extra_tokens
        self.relative_positions = relative_positions
        policy = self.dtype_policy
        self.patch_embedding = PatchEmbedding(
            image_shape, patch_size, width, positions, dtype=policy, name="patch_embedding"
        )
        self.grid = self.patch_embedding.grid
        rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
        count = count_relative_positions(*self.grid) if relative_positions else 0
        self.blocks = [
            Block(width, heads, rate, epsilon, count, dtype=policy, name=f"block_{i + 1}")
            for i, rate in enumerate(rates)
        ]
        self.norm = LayerNormalization(epsilon=epsilon, dtype=policy, name="norm")
        self.build((None, *self.image_shape))

    @classmethod
    def from_size(cls, size: str, image_shape: Sequence[int], patch_size: int = 16, **kwargs) -> Encoder:
        """An encoder of a named size: one of `SIZES`."""
        if size not in SIZES:
            raise ValueError(f"Expected a size among {', '.join(SIZES)}, received {size!r}.")
        width, depth, heads = SIZES[size]
        return cls(image_shape, patch_size, width, depth, heads, **kwargs)

    def build(self, images_shape):
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        self.cls_token = self.add_weight(shape=(1, 1, self.width), initializer=small, name="cls_token")
        if self.extra_tokens:
            self.extra = self.add_weight(
                shape=(1, self.extra_tokens, self.width), initializer=small, name="extra_tokens"
            )
        self.patch_embedding.build(images_shape)
        for layer in (*self.blocks, self.norm):
            layer.build((None, None, self.width))
        self.built = True

    def embed(
        self,
        images: Shaped[Array, "B H W C"],
        table: Float[Array, "N D"] | None = None,
        indices: Int[Array, "B n"] | None = None,
    ) -> Float[Array, "B n D"]:
        """Images to tokens with positions, of all patches or of those with these indices; see `PatchEmbedding` for
        images of another size."""
        return self.patch_embedding(images, table=table, indices=indices)

    def encode(self, tokens: Float[Array, "B n D"], training: bool | None = None) -> Float[Array, "B 1+n D"]:
        """Encode any subset of an image's tokens; cls comes first. With relative positions all of them, in order."""
        return self.encode_by_block(tokens, training)[0]

    def encode_by_block(
        self, tokens: Float[Array, "B n D"], training: bool | None = None
    ) -> tuple[Float[Array, "B 1+n D"], dict[str, Float[Array, "B 1+n D"]]]:
        """Encode tokens as `encode` does; also return those before the final norm, by the names of the blocks."""
        count = 1 + tokens.shape[1]
        others = [self.cls_token, self.extra] if self.extra_tokens else [self.cls_token]
        others = [ops.broadcast_to(ops.cast(t, tokens.dtype), (ops.shape(tokens)[0], *t.shape[1:])) for t in others]
        # Extra tokens come last, so that cls is at index 0 and patch i at 1 + i with or without them.
        tokens = ops.concatenate([others[0], tokens, *others[1:]], axis=1)  # (B, 1 + n + extra, D)
        pairs = self._pairs(count) if self.relative_positions else None
        by_block = {}
        for block in self.blocks:
            tokens = block(tokens, training=training, pairs=pairs)
            by_block[block.name] = tokens[:, :count] if self.extra_tokens else tokens
        return self.norm(by_block[self.blocks[-1].name]), by_block

    @functools.cached_property
    def _numbers(self):
        """The numbers (1 + N, 1 + N) of relative positions. Made late, since loading a file does not need them."""
        return number_relative_positions(*self.grid)

    def _pairs(self, count):
        if count != len(self._numbers):
            raise ValueError(
                f"Expected the tokens of all {len(self._numbers) - 1} patches, in order, for an encoder with relative"
                f" positions, received {count - 1}; build it with the image_shape of these images, or without"
                " relative_positions for some of the patches."
            )
        return ops.convert_to_tensor(self._numbers)

    def call(
        self, images: Shaped[Array, "B H W C"], training: bool | None = None, every_block: bool = False
    ) -> dict[str, Float[Array, "B ..."]]:
        tokens, by_block = self.encode_by_block(self.embed(images), training=training)
        features = {
            "pooled": ops.mean(tokens[:, 1:], axis=1),
            "cls": tokens[:, 0],
            "feature_map": ops.reshape(tokens[:, 1:], (-1, *self.grid, self.width)),
        }
        return {**features, **by_block} if every_block else features

    def get_config(self):
        own = ("image_shape", "patch_size", "width", "depth", "heads", "drop_path", "positions", "epsilon")
        # Without the default, an older version of this library still loads the file.
        own += ("extra_tokens", "relative_positions") if self.relative_positions else ("extra_tokens",)
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
