"""The shallow decoder: from what a branch saw to the words of what it did not, and to one vector per half."""

import keras
from keras import ops

from keras_splitmask.backend.layers import Dense, LayerNormalization
from keras_splitmask.encoder import Block


@keras.saving.register_keras_serializable("keras_splitmask")
class Decoder(keras.layers.Layer):
    """Transformer blocks over all N positions of a branch (section 4; two blocks of the encoder's width).

    Attention does not care about order, so the tokens stay in the order in which they were dealt: seen first, unseen
    after.

    Args:
        count: N, patches of an image.
        width: D, the encoder's.
        heads: attention heads.
        depth: number of blocks.
        vocabulary: V, words to predict; 0 for a decoder that predicts none.
    """

    def __init__(self, count, width, heads, depth=2, vocabulary=0, name="decoder", **kwargs):
        super().__init__(name=name, **kwargs)
        if depth < 1:
            raise ValueError(f"Expected a decoder of at least one block, received depth={depth}.")
        self.count = count
        self.width = width
        self.heads = heads
        self.depth = depth
        self.vocabulary = vocabulary
        self.blocks = [Block(width, heads, dtype=self.dtype_policy, name=f"block_{i + 1}") for i in range(depth)]
        self.norm = LayerNormalization(epsilon=1e-6, dtype=self.dtype_policy, name="norm")
        self.words = Dense(vocabulary, dtype=self.dtype_policy, name="words") if vocabulary else None

    def build(self, tokens_shape):
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        self.mask_token = self.add_weight(shape=(self.width,), initializer=small, name="mask_token")
        self.table = self.add_weight(shape=(self.count, self.width), initializer=small, name="positions")
        for layer in (*self.blocks, self.norm, *([self.words] if self.words else [])):
            layer.build((None, None, self.width))

    def call(self, tokens, unseen, training=None, only_unseen=False):
        """Encoded tokens (2B, 1 + n, D) and the unseen `positions` (2B, N - n) to (2B, 1 + N, D), in that order.

        With `only_unseen`, to (2B, N - n, D): the last block then spares the work for tokens that nobody reads.
        """
        seen = tokens.shape[1]
        masks = ops.cast(self.mask_token + ops.take(self.table, unseen, axis=0), tokens.dtype)  # (2B, N - n, D)
        tokens = ops.concatenate([tokens, masks], axis=1)  # (2B, 1 + N, D)
        for block in self.blocks[:-1]:
            tokens = block(tokens, training=training)
        return self.norm(self.blocks[-1](tokens, training=training, start=seen if only_unseen else 0))

    def get_config(self):
        own = ("count", "width", "heads", "depth", "vocabulary")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}
