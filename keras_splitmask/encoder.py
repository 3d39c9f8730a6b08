"""The one Vision Transformer that every method shares, and all that leaves the library in the end."""

import zlib

import keras
from keras import ops

from keras_splitmask.backend import distribution
from keras_splitmask.backend.layers import Dense, LayerNormalization, attention, gelu
from keras_splitmask.patches import PatchEmbedding
from keras_splitmask.seeds import check_seed
from keras_splitmask.training.inputs import CheckedModel

# name: (width, depth, heads). The MLP is four times as wide.
SIZES = {
    "vit_micro": (128, 4, 4),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}


def seed_of(name):
    """A seed (31 bits) that follows from a name: layers of different names draw different numbers."""
    return zlib.crc32(name.encode()) >> 1


@keras.saving.register_keras_serializable("keras_splitmask")
class DropPath(keras.layers.Layer):
    """Stochastic depth: in training, drops a residual branch for a share `rate` of the examples (Huang et al., 2016).

    Args:
        rate: in [0, 1).
        seed: int. By default it follows from the layer's name, so that two layers drop different examples.
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"Expected a drop path rate in [0, 1), received rate={rate}.")
        self.rate = rate
        self.seed = None if seed is None else check_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(seed_of(self.name) if seed is None else self.seed)
        self.built = True

    def call(self, x, training=None):
        if not training or not self.rate:
            return x
        shape = (ops.shape(x)[0],) + (1,) * (len(x.shape) - 1)
        kept = distribution.uniform(shape, seed=self.seed_generator) >= self.rate
        return x * ops.cast(kept, x.dtype) / (1 - self.rate)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable("keras_splitmask")
class Attention(keras.layers.Layer):
    """Multi-head self-attention, (B, n, D) to (B, m, D): the tokens from index `start` on ask, all of them answer."""

    def __init__(self, width, heads, **kwargs):
        super().__init__(**kwargs)
        if width % heads:
            raise ValueError(
                f"Expected a width divisible by the number of heads, received width={width}, heads={heads}."
            )
        self.width = width
        self.heads = heads
        self.qkv = Dense(3 * width, dtype=self.dtype_policy, name="qkv")
        self.project = Dense(width, dtype=self.dtype_policy, name="project")

    def build(self, tokens_shape):
        self.qkv.build((None, None, self.width))
        self.project.build((None, None, self.width))

    def call(self, tokens, start=0):
        count = tokens.shape[1]
        qkv = ops.reshape(self.qkv.call(tokens), (-1, count, 3, self.heads, self.width // self.heads))
        return self.project.call(ops.reshape(attention(qkv, start), (-1, count - start, self.width)))

    def get_config(self):
        return {**super().get_config(), "width": self.width, "heads": self.heads}


@keras.saving.register_keras_serializable("keras_splitmask")
class Block(keras.layers.Layer):
    """A pre-norm transformer block, (B, n, D) to (B, n, D); with `start`, to the tokens from that index on alone.

    It uses the `call` of its layers, all of its own precision: what Keras does around a layer takes torch 0.1 ms each
    time.
    """

    def __init__(self, width, heads, drop_path=0.0, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.heads = heads
        self.drop_path = drop_path
        self.epsilon = epsilon
        policy = self.dtype_policy
        self.norm_attention = LayerNormalization(epsilon=epsilon, dtype=policy, name="norm_attention")
        self.attention = Attention(width, heads, dtype=policy, name="attention")
        self.norm_mlp = LayerNormalization(epsilon=epsilon, dtype=policy, name="norm_mlp")
        self.expand = Dense(4 * width, dtype=policy, name="expand")
        self.contract = Dense(width, dtype=policy, name="contract")
        self.drop = DropPath(drop_path, seed_of(self.name), dtype=policy, name="drop")

    def build(self, tokens_shape):
        shape = (None, None, self.width)
        for layer in (self.norm_attention, self.attention, self.norm_mlp, self.expand):
            layer.build(shape)
        self.contract.build((None, None, 4 * self.width))

    def call(self, tokens, training=None, start=0):
        attended = self.attention.call(self.norm_attention.call(tokens), start=start)
        tokens = (tokens[:, start:] if start else tokens) + self.drop.call(attended, training=training)
        hidden = gelu(self.expand.call(self.norm_mlp.call(tokens)))
        return tokens + self.drop.call(self.contract.call(hidden), training=training)

    def get_config(self):
        own = {"width": self.width, "heads": self.heads, "drop_path": self.drop_path, "epsilon": self.epsilon}
        return {**super().get_config(), **own}


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
        epsilon: added to the variance in every norm; models of other libraries have 1e-12.
        extra_tokens: learned tokens that take part in every block as cls does, and are in no answer: a distillation
            token or registers.

    Calling it on images (B, H, W, C), uint8 or uint16 or float in 0..1, gives a dictionary of
    "pooled" (B, D), the mean of the patches' tokens; "cls" (B, D); and "feature_map" (B, rows, columns, D).
    With `every_block=True` also, for each block, its tokens (B, 1 + N, D), cls first, before the final norm.
    """

    def __init__(
        self,
        image_shape,
        patch_size,
        width,
        depth,
        heads,
        drop_path=0.0,
        positions="learned",
        epsilon=1e-6,
        extra_tokens=0,
        name="encoder",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if min(width, depth, heads) < 1 or extra_tokens < 0:
            raise ValueError(
                f"Expected width, depth and heads of at least 1 and extra_tokens of at least 0, received {width=},"
                f" {depth=}, {heads=}, {extra_tokens=}."
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
        policy = self.dtype_policy
        self.patch_embedding = PatchEmbedding(
            image_shape, patch_size, width, positions, dtype=policy, name="patch_embedding"
        )
        self.blocks = [
            Block(width, heads, drop_path * i / max(1, depth - 1), epsilon, dtype=policy, name=f"block_{i + 1}")
            for i in range(depth)
        ]
        self.norm = LayerNormalization(epsilon=epsilon, dtype=policy, name="norm")
        self.grid = self.patch_embedding.grid
        self.build((None, *self.image_shape))

    @classmethod
    def from_size(cls, size, image_shape, patch_size=16, **kwargs):
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

    def embed(self, images, table=None):
        """Images (B, H, W, C) to tokens (B, N, D) that know their positions; of another size with a `table` (N, D) of
        their grid's."""
        return self.patch_embedding(images, table=table)

    def encode(self, tokens, training=None, states=None):
        """Any subset of an image's tokens (B, n, D) to (B, 1 + n, D), cls first; fills the dictionary `states`, if
        given, block by block."""
        count = 1 + tokens.shape[1]
        others = [self.cls_token, self.extra] if self.extra_tokens else [self.cls_token]
        others = [ops.broadcast_to(ops.cast(t, tokens.dtype), (ops.shape(tokens)[0], *t.shape[1:])) for t in others]
        tokens = ops.concatenate([others[0], tokens, *others[1:]], axis=1)  # (B, 1 + n + extra, D)
        for block in self.blocks:
            tokens = block(tokens, training=training)
            if states is not None:
                states[block.name] = tokens[:, :count]
        return self.norm(tokens[:, :count])

    def call(self, images, training=None, every_block=False):
        states = {}
        tokens = self.encode(self.embed(images), training=training, states=states)
        answer = {
            "pooled": ops.mean(tokens[:, 1:], axis=1),
            "cls": tokens[:, 0],
            "feature_map": ops.reshape(tokens[:, 1:], (-1, *self.grid, self.width)),
        }
        return {**answer, **states} if every_block else answer

    def get_config(self):
        own = (
            "image_shape",
            "patch_size",
            "width",
            "depth",
            "heads",
            "drop_path",
            "positions",
            "epsilon",
            "extra_tokens",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
