"""The metric that tells a good tokenizer from a poor one while a model trains."""

from __future__ import annotations

import keras
from keras import ops

from keras_splitmask.backend.typing import Array, Float, Int, Num


class WordPerplexity(keras.metrics.Metric):
    """Perplexity of the visual words seen since the last reset: how many words are in use, if used equally often.

    A low value means a poor target: most patches have the same few words.
    """

    def __init__(self, vocabulary: int, name: str = "word_perplexity", **kwargs):
        super().__init__(name=name, **kwargs)
        self.vocabulary = vocabulary
        self.counts = self.add_weight(shape=(vocabulary,), initializer="zeros", name="counts")

    def update_state(self, ids: Int[Array, "B N"], sample_weight: Num[Array, ""] | float | None = None) -> None:
        """Count words (B, N) int32; with `sample_weight` 0, a scalar, none of them."""
        ids = ops.reshape(ids, (-1,))
        counted = ops.ones_like(ids, "float32")
        counted = counted if sample_weight is None else counted * ops.cast(sample_weight > 0, "float32")
        # With the number of words given, since JAX needs static shapes.
        self.counts.assign(self.counts + ops.segment_sum(counted, ids, self.vocabulary))

    def result(self) -> Float[Array, ""]:
        """The perplexity, a float32 scalar."""
        probabilities = self.counts / ops.maximum(ops.sum(self.counts), 1.0)
        # 0 times the logarithm of 0 would be NaN.
        return ops.exp(-ops.sum(probabilities * ops.log(probabilities + 1e-12)))
