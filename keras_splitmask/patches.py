"""Images and grids of patches: the only file that knows rows, columns and channels."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend.layers import Dense, gather_rows, reshape
from keras_splitmask.backend.typing import Array, Float, Int, Num, Shaped
from keras_splitmask.training.pixels import dtype_name, problem_of_dtype

# Mean and standard deviation of ImageNet's pixels, as in BEiT and DeiT. They hold for three channels; other images are
# scaled from 0..1 to -1..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def grid_shape(image_shape: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches in an image.

    Args:
        image_shape: (height, width, channels).
        patch_size: side of a square patch, in pixels.

    Raises:
        ValueError: if the patch does not divide both sides.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"Expected image_shape=(height, width, channels), received {tuple(image_shape)}.")
    height, width, _ = image_shape
    if patch_size < 1 or height % patch_size or width % patch_size:
        near = tuple(max(1, round(side / max(1, patch_size))) * max(1, patch_size) for side in (height, width))
        raise ValueError(
            f"Expected an image whose sides are multiples of the patch size, received {height}x{width} pixels and "
            f"patch_size={patch_size}; resize the images to {near[0]}x{near[1]} or choose another patch size."
        )
    return height // patch_size, width // patch_size


def to_pixels(images: Shaped[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Convert images, uint8, uint16 or float, to float32 pixels in 0..1. Floats must already be."""
    # Torch cannot compute with uint16, so Keras converts such images to int32.
    if problem := problem_of_dtype(dtype_name(images)):
        raise ValueError(problem)
    scale = {"uint8": 255.0, "uint16": 65535.0, "int32": 65535.0}.get(
        keras.backend.standardize_dtype(images.dtype), 1.0
    )
    return ops.cast(images, "float32") / scale


def pixel_statistics(channels: int) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
    """The mean and the standard deviation, float32, by which pixels with this number of channels are normalised."""
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ([0.5] * channels, [0.5] * channels)
    return np.array(mean, "float32"), np.array(std, "float32")


def normalise(images: Shaped[Array, "*axes C"]) -> Float[Array, "*axes C"]:
    """Convert images to float32 pixels with about zero mean and unit variance in each channel."""
    mean, std = pixel_statistics(images.shape[-1])
    return ops.divide(ops.subtract(to_pixels(images), mean), std)


def denormalise(pixels: Float[Array, "*axes C"]) -> Float[Array, "*axes C"]:
    """The inverse of `normalise`, clipped to 0..1."""
    mean, std = pixel_statistics(pixels.shape[-1])
    return ops.clip(ops.add(ops.multiply(pixels, std), mean), 0.0, 1.0)


def to_patches(images: Shaped[Array, "B H W C"], patch_size: int) -> Shaped[Array, "B N P"]:
    """Cut images into patches, row by row; P = patch_size * patch_size * C."""
    height, width, channels = images.shape[1:]
    rows, columns = grid_shape((height, width, channels), patch_size)
    x = reshape(images, (-1, rows, patch_size, columns, patch_size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, rows, columns, patch_size, patch_size, C)
    return reshape(x, (-1, rows * columns, patch_size * patch_size * channels))


def normalise_patches(patches: Shaped[Array, "B n P"], channels: int) -> Float[Array, "B n P"]:
    """`normalise` for patches of images with this number of channels, as `to_patches` cuts them."""
    count, length = patches.shape[1:]
    pixels = normalise(reshape(patches, (-1, count, length // channels, channels)))
    return reshape(pixels, (-1, count, length))


def to_images(patches: Num[Array, "B N P"], image_shape: Sequence[int], patch_size: int) -> Num[Array, "B H W C"]:
    """Join patches to images: the inverse of `to_patches`."""
    height, width, channels = image_shape
    rows, columns = grid_shape(image_shape, patch_size)
    x = reshape(patches, (-1, rows, columns, patch_size, patch_size, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, rows, patch_size, columns, patch_size, C)
    return reshape(x, (-1, height, width, channels))


def sine_cosine_positions(rows: int, columns: int, width: int) -> Float[Array, "N D"]:
    """A fixed table of positions: half of the width encodes the row, half the column (MAE, section 4)."""
    if width % 4:
        raise ValueError(f"Expected a width divisible by 4 for sine-cosine positions, received width={width}.")
    frequencies = 1.0 / 10000 ** (np.arange(width // 4) / (width // 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (row, column)]  # 2 x (N, width / 4)
    return np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], axis=1).astype("float32")


def number_relative_positions(rows: int, columns: int) -> Int[Array, "n n"]:
    """Number the relative position of each query (row) to each key (column), as BEiT does: (1 + N, 1 + N) int32, cls
    first.

    A patch is at one of (2 rows - 1)(2 columns - 1) distances from another. Then follow the numbers of a patch seen
    from cls, of cls seen from a patch, and of cls seen from itself.
    """
    row, column = np.indices((rows, columns), "int32").reshape(2, -1)  # (N,) each
    down, right = (axis[:, None] - axis for axis in (row, column))  # (N, N), from 1 - rows to rows - 1
    count = count_relative_positions(rows, columns)
    pairs = np.pad((down + rows - 1) * (2 * columns - 1) + right + columns - 1, ((1, 0), (1, 0)))
    pairs[0], pairs[1:, 0], pairs[0, 0] = count - 3, count - 2, count - 1
    return pairs


def count_relative_positions(rows: int, columns: int) -> int:
    """The number of relative positions in a grid; see `number_relative_positions`."""
    return (2 * rows - 1) * (2 * columns - 1) + 3


@keras.saving.register_keras_serializable("keras_splitmask")
class PatchEmbedding(keras.layers.Layer):
    """Images (B, H, W, C) to tokens (B, N, D): a linear map of each patch, plus its absolute position.

    Args:
        image_shape: (height, width, channels).
        patch_size: side of a patch in pixels; divides height and width.
        width: D.
        positions: "learned", or "sine_cosine" for a fixed table.
    """

    def __init__(self, image_shape: Sequence[int], patch_size: int, width: int, positions: str = "learned", **kwargs):
        super().__init__(**kwargs)
        if positions not in ("learned", "sine_cosine"):
            raise ValueError(f'Expected positions to be "learned" or "sine_cosine", received {positions!r}.')
        self.image_shape = tuple(image_shape)
        self.patch_size = patch_size
        self.width = width
        self.positions = positions
        self.grid = grid_shape(image_shape, patch_size)
        self.project = Dense(width, dtype=self.dtype_policy, name="project")

    def build(self, images_shape):
        self.project.build((None, None, self.patch_size**2 * self.image_shape[-1]))
        learned = self.positions == "learned"
        self.table = self.add_weight(
            shape=(self.grid[0] * self.grid[1], self.width),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02) if learned else self._fixed_table,
            trainable=learned,
            name="positions",
        )

    def _fixed_table(self, shape, dtype=None):
        return ops.convert_to_tensor(sine_cosine_positions(*self.grid, self.width), dtype)

    def position_table(self) -> Float[Array, "N D"]:
        """The vectors of all positions."""
        return ops.convert_to_tensor(self.table)

    def positions_at(self, indices: Int[Array, "B n"]) -> Float[Array, "B n D"]:
        """The vectors of the positions with these indices."""
        return ops.take(self.position_table(), indices, axis=0)

    def call(
        self,
        images: Shaped[Array, "B H W C"],
        table: Float[Array, "N D"] | None = None,
        indices: Int[Array, "B n"] | None = None,
    ) -> Float[Array, "B n D"]:
        """Embed all patches of images, or those with these indices.

        `table` holds the positions of another grid, for images of that grid; the layer's own by default.
        """
        if table is None and tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"Expected images of {self.image_shape} (height, width, channels), received {tuple(images.shape[1:])}; "
                "resize or convert the images, or build the encoder with their image_shape."
            )
        patches = to_patches(images, self.patch_size)  # (B, N, P)
        positions = self.position_table() if table is None else table  # (N, D)
        if indices is not None:
            # Before the work on pixels, which the other patches are spared.
            patches, positions = gather_rows(patches, indices), ops.take(positions, indices, axis=0)  # (B, n, D)
        pixels = ops.cast(normalise_patches(patches, images.shape[-1]), self.compute_dtype)
        return self.project(pixels) + ops.cast(positions, self.compute_dtype)  # (B, n, D)

    def compute_output_shape(self, images_shape):
        return images_shape[0], self.grid[0] * self.grid[1], self.width

    def get_config(self):
        own = {"image_shape": self.image_shape, "patch_size": self.patch_size, "width": self.width}
        return {**super().get_config(), **own, "positions": self.positions}
