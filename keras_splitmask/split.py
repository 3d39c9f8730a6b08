"""Which patches each branch sees (section 4 of the paper): two disjoint sets of exactly n patches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
from keras import ops

from keras_splitmask.backend import distribution
from keras_splitmask.backend.layers import gather_rows, reshape
from keras_splitmask.backend.typing import Array, Int, Num, Shaped
from keras_splitmask.options import check_number, check_seed

# Each covers 8% to 38% of the grid. Twelve covered half of it in all of 20,000 draws, on grids from 2x30 to 14x14.
RECTANGLES = 12


def gather(tokens: Num[Array, "B N *D"], positions: Int[Array, "B n"]) -> Num[Array, "B n *D"]:
    """Pick the rows of `tokens` at `positions`."""
    if len(tokens.shape) == 3:
        return gather_rows(tokens, positions)
    return ops.take_along_axis(tokens, positions, axis=1)


def words_at(
    tokenizer: keras.layers.Layer, images: Shaped[Array, "B H W C"], positions: Int[Array, "B n"]
) -> Int[Array, "B n"]:
    """The words of the patches at `positions`; a tokenizer that looks at each patch by itself is spared the others."""
    if getattr(tokenizer, "by_patch", False) and positions.shape[1] < math.prod(tokenizer.grid):
        return tokenizer(images, indices=positions)
    return gather(tokenizer(images), positions)


def masked_count(count: int, mask_ratio: float) -> int:
    """The number of masked patches among an image's `count`: floor(count * mask_ratio), at least one and not all."""
    masked = math.floor(count * mask_ratio) if 0 < mask_ratio < 1 else 0
    if not 0 < masked < count:
        raise ValueError(
            f"Expected a mask_ratio in (0, 1) that masks at least one patch, received mask_ratio={mask_ratio} of"
            f" {count} patches; choose another, or a smaller patch_size."
        )
    return masked


@keras.saving.register_keras_serializable("keras_splitmask")
class Split(keras.layers.Layer):
    """Draw the order in which an image's patches are assigned to the two branches.

    Branch A sees the first n patches of the order, branch B the next n, with n = floor(N * keep). So the two sets are
    disjoint, and their size is fixed. With keep=0.5 and even N they cover the image, as in section 4 of the paper. With
    keep=0.25 each branch misses 75%, the paper's setting for its smallest data sets. With odd N, neither branch sees
    the last patch of the order, and both predict it.

    Args:
        grid: (rows, columns) of patches.
        keep: fraction of the patches that one branch sees, in (0, 0.5].
        kind: "random" for single patches; "block" for BEiT's blocks, rectangles of 16 to 75 patches of 196 (scaled to
            other grids) with an aspect ratio from 0.3 to 1/0.3.
        seed: seed of the layer's random numbers.
    """

    def __init__(self, grid: Sequence[int], keep: float = 0.5, kind: str = "block", seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        check_number("keep, the fraction of the patches that one branch sees,", keep, 0, 0.5, above=True)
        if kind not in ("random", "block"):
            raise ValueError(f'Expected the split\'s kind to be "random" or "block", received {kind!r}.')
        self.grid = tuple(grid)
        self.keep = keep
        self.kind = kind
        self.seed = check_seed(seed)
        self.count = math.prod(self.grid)
        self.seen_count = math.floor(self.count * keep)
        if not self.seen_count:
            raise ValueError(
                f"Expected at least one patch per branch, received keep={keep} of {self.count} patches; choose a"
                " smaller patch_size, or raise keep."
            )
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.built = True

    def call(self, images: Shaped[Array, "B ..."]) -> Int[Array, "B N"]:
        """Draw an order of patches, int32, for images. Only their number matters."""
        keys = self._uniform((ops.shape(images)[0], self.count))  # (B, N)
        if self.kind == "block":
            # Keys are in [0, 1) and ranks are whole numbers, so the order within a rectangle stays random.
            keys = keys + self._block_ranks(ops.shape(images)[0])
        return ops.cast(ops.argsort(keys, axis=1), "int32")

    def seen(self, x: Num[Array, "B N *D"]) -> Num[Array, "2*B n *D"]:
        """Select what each branch sees of `x`, given in order. Rows 2i and 2i + 1 are the two halves of image i."""
        n = self.seen_count
        return self._stack(x[:, :n], x[:, n : 2 * n])

    def unseen(self, x: Num[Array, "B N *D"]) -> Num[Array, "2*B m *D"]:
        """Select what each branch does not see of `x`, given in order, as in `seen`: m = N - n."""
        n = self.seen_count
        without_b = ops.concatenate([x[:, :n], x[:, 2 * n :]], axis=1)
        return self._stack(x[:, n:], without_b)

    def _stack(self, a, b):
        # Interleaved rather than concatenated: on many devices, both halves of an image stay on the device that has it.
        return reshape(ops.stack([a, b], axis=1), (-1, *a.shape[1:]))

    def _uniform(self, shape, low=0.0, high=1.0):
        return distribution.uniform(shape, low, high, self.seed_generator)

    def _block_ranks(self, batch):
        """The rank (B, N) float of the first random rectangle that covers a patch; `RECTANGLES` if none does."""
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
        ranks = reshape(ops.arange(RECTANGLES, dtype="float32"), (1, RECTANGLES, 1))
        return ops.min(ops.where(covers, ranks, float(RECTANGLES)), axis=1)

    def compute_output_shape(self, images_shape):
        return images_shape[0], self.count

    def get_config(self):
        return {**super().get_config(), "grid": self.grid, "keep": self.keep, "kind": self.kind, "seed": self.seed}
