"""Which patches each branch sees: two disjoint sets of exactly n patches, and gathering by position."""

import math

import keras
from keras import ops

from keras_splitmask.backend import distribution
from keras_splitmask.seeds import check_seed

RECTANGLES = (
    12  # of 8% to 38% of the grid each: they covered half of it in all of 20,000 draws on grids from 2x30 to 14x14
)


def gather(tokens, positions):
    """Rows of `tokens` (B, N) or (B, N, D) at `positions` (B, n) int: (B, n) or (B, n, D)."""
    if len(tokens.shape) == 3:
        positions = ops.expand_dims(positions, -1)
    return ops.take_along_axis(tokens, positions, axis=1)


def masked_count(count, mask_ratio):
    """How many of an image's `count` patches are masked: floor(count * mask_ratio), at least one, but not all."""
    masked = math.floor(count * mask_ratio)
    if not 0 < masked < count:
        raise ValueError(
            f"Expected a mask_ratio in (0, 1) that masks at least one patch, received mask_ratio={mask_ratio} of"
            f" {count} patches."
        )
    return masked


def scatter(tokens, positions, count):
    """Put `tokens` (B, n, D) at `positions` (B, n) of a row of `count` zeros: (B, count, D). Undoes `gather`."""
    places = ops.one_hot(positions, count, axis=1, dtype=tokens.dtype)  # (B, count, n)
    return ops.matmul(places, tokens)


@keras.saving.register_keras_serializable("keras_splitmask")
class Split(keras.layers.Layer):
    """Draws the order in which an image's patches are dealt out to the two branches.

    Branch A sees the first n patches of the order, branch B the next n, with n = floor(N * keep): disjoint sets of a
    size that is known beforehand. With keep=0.5 and even N they cover the image, as in section 4 of the paper. With
    keep=0.25 each branch misses 75%, the paper's setting for its smallest data sets. When N is odd, one patch is seen
    by neither and predicted by both.

    Args:
        grid: (rows, columns) of patches.
        keep: share of the patches that one branch sees, in (0, 0.5].
        kind: "random", or "block" for rectangles of 16 to 75 patches of 196 (scaled to other grids), aspect ratio 0.3
            to 1/0.3.
        seed: of the layer's own random numbers.
    """

    def __init__(self, grid, keep=0.5, kind="block", seed=0, **kwargs):
        super().__init__(**kwargs)
        if not 0 < keep <= 0.5:
            raise ValueError(
                f"Expected keep in (0, 0.5], the share of patches that one branch sees, received keep={keep}."
            )
        if kind not in ("random", "block"):
            raise ValueError(f'Expected the split\'s kind to be "random" or "block", received {kind!r}.')
        self.grid = tuple(grid)
        self.keep = keep
        self.kind = kind
        self.seed = check_seed(seed)
        self.count = math.prod(self.grid)
        self.seen_count = math.floor(self.count * keep)
        if not self.seen_count:
            raise ValueError(f"Expected at least one patch per branch, received keep={keep} of {self.count} patches.")
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.built = True

    def call(self, images):
        """images (B, ...) to the order of its patches (B, N) int32; only the size of the batch is read."""
        keys = self._uniform((ops.shape(images)[0], self.count))  # (B, N)
        if self.kind == "block":
            keys = keys + self._block_ranks(ops.shape(images)[0])
        return ops.cast(ops.argsort(keys, axis=1), "int32")

    def seen(self, x):
        """What the branches see of `x` (B, N, ...), given in order: (2B, n, ...), rows 2i and 2i + 1 the halves of
        image i."""
        n = self.seen_count
        return self._stack(x[:, :n], x[:, n : 2 * n])

    def unseen(self, x):
        """What the branches do not see of `x` (B, N, ...), given in order: (2B, N - n, ...), rows as in `seen`."""
        n = self.seen_count
        without_b = ops.concatenate([x[:, :n], x[:, 2 * n :]], axis=1)
        return self._stack(x[:, n:], without_b)

    def _stack(self, a, b):
        # Interleaved rather than end to end, so that on many devices both halves of an image stay on the device that
        # has it.
        return ops.reshape(ops.stack([a, b], axis=1), (-1, *a.shape[1:]))

    def _uniform(self, shape, low=0.0, high=1.0):
        return distribution.uniform(shape, low, high, self.seed_generator)

    def _block_ranks(self, batch):
        """Rank of the first of a series of random rectangles that covers a patch: (B, N) float."""
        rows, columns = self.grid
        shape = (batch, RECTANGLES, 1)
        area = self._uniform(shape, 16 / 196 * self.count, 75 / 196 * self.count)
        aspect = ops.exp(self._uniform(shape, math.log(0.3), -math.log(0.3)))
        height = ops.clip(ops.round(ops.sqrt(area * aspect)), 1, rows)
        width = ops.clip(ops.round(area / height), 1, columns)
        top = ops.floor(self._uniform(shape) * (rows - height + 1))
        left = ops.floor(self._uniform(shape) * (columns - width + 1))
        patch = ops.arange(self.count)
        row = ops.cast(patch // columns, "float32")  # (N,)
        column = ops.cast(patch % columns, "float32")
        covers = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)  # (B, RECTANGLES, N)
        ranks = ops.reshape(ops.arange(RECTANGLES, dtype="float32"), (1, RECTANGLES, 1))
        return ops.min(ops.where(covers, ranks, float(RECTANGLES)), axis=1)

    def compute_output_shape(self, images_shape):
        return images_shape[0], self.count

    def get_config(self):
        return {**super().get_config(), "grid": self.grid, "keep": self.keep, "kind": self.kind, "seed": self.seed}
