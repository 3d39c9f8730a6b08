"""The shallow decoder (section 4): from the tokens that a branch saw to all patches of the image."""

from __future__ import annotations

import keras
from keras import ops

from keras_splitmask.backend.layers import Dense, LayerNormalization
from keras_splitmask.backend.typing import Array, Float, Int
from keras_splitmask.encoder import Block
from keras_splitmask.options import check_number


@keras.saving.register_keras_serializable("keras_splitmask")
class Decoder(keras.layers.Layer):
    """Transformer blocks over all N patches of a branch; in the paper two blocks of the encoder's width.

    Each unseen patch enters as the mask token plus its position. Attention does not depend on the order of tokens, so
    they need not be sorted back into the grid: seen patches come first, unseen ones after them.

    Args:
        count: N, patches of an image.
        width: D, the encoder's.
        heads: attention heads.
        depth: number of blocks.
        vocabulary: V, the number of words to predict; 0 for a decoder without a word head.
    """

    def __init__(
        self, count: int, width: int, heads: int, depth: int = 2, vocabulary: int = 0, name: str = "decoder", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        depth = check_number("the depth of a decoder", depth, 1, 2**20, whole=True)
        self.count = count
        self.width = width
        self.heads = heads
        self.depth = depth
        self.vocabulary = vocabulary
        self.blocks = [Block(width, heads, dtype=self.dtype_policy, name=f"block_{i + 1}") for i in range(depth)]
        self.norm = LayerNormalization(epsilon=1e-6, dtype=self.dtype_policy, name="norm")
        self.words: keras.layers.Layer = (
            Dense(vocabulary, dtype=self.dtype_policy, name="words") if vocabulary else None
        )

    def build(self, tokens_shape):
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        self.mask_token = self.add_weight(shape=(self.width,), initializer=small, name="mask_token")
        self.table = self.add_weight(shape=(self.count, self.width), initializer=small, name="positions")
        for layer in (*self.blocks, self.norm, *([self.words] if self.words else [])):
            layer.build((None, None, self.width))

    def call(
        self, tokens: Float[Array, "B t D"], positions: Int[Array, "B m"], training: bool | None = None
    ) -> tuple[Float[Array, "B t D"], Float[Array, "B m D"]]:
        """Decode all patches of B branches: the seen ones, cls first, and the unseen ones.

        Args:
            tokens: the encoder's t = 1 + n for the seen patches, cls first.
            positions: of the m = N - n unseen patches.
        """
        hidden = self._before_last_block(tokens, positions, training)  # (2B, 1 + N, D)
        hidden = self.norm(self.blocks[-1](hidden, training=training))
        seen, unseen = ops.split(hidden, [tokens.shape[1]], axis=1)
        return seen, unseen

    def only_unseen(
        self, tokens: Float[Array, "B t D"], positions: Int[Array, "B m"], training: bool | None = None
    ) -> Float[Array, "B m D"]:
        """The unseen patches of `call`; the last block spares the work for tokens that nobody reads."""
        hidden = self._before_last_block(tokens, positions, training)
        return self.norm(self.blocks[-1](hidden, training=training, start=tokens.shape[1]))

    def _before_last_block(self, tokens, positions, training):
        # Seen tokens carry the encoder's positions; only mask tokens need the decoder's own.
        masks = ops.cast(self.mask_token + ops.take(self.table, positions, axis=0), tokens.dtype)  # (2B, N - n, D)
        hidden = ops.concatenate([tokens, masks], axis=1)  # (2B, 1 + N, D)
        for block in self.blocks[:-1]:
            hidden = block(hidden, training=training)
        return hidden

    def get_config(self):
        own = ("count", "width", "heads", "depth", "vocabulary")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
