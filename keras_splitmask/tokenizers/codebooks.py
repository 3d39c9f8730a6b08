"""Visual words without a network: the nearest of V unit vectors in pixel space, by cosine (section 3.3)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend import chunks
from keras_splitmask.backend.layers import argmax, gather_rows
from keras_splitmask.backend.typing import Array, Float, Int, Shaped
from keras_splitmask.options import check_seed
from keras_splitmask.patches import denormalise, grid_shape, normalise_patches, to_images, to_patches
from keras_splitmask.training.pixels import check_pixels

SILENCE = 20  # seconds between two lines about the progress of k-means


class Codebook(keras.layers.Layer):
    """Map images (B, H, W, C) to visual words (B, N) int32, one per patch, by the highest cosine similarity.

    Args:
        image_shape: (height, width, channels), any number of channels.
        patch_size: side of a patch in pixels.
        vocabulary: V, number of words; 8192 in the paper.
        resolution: "half" to compare patches at half their resolution, as the paper does (8x8 pixels of a 16x16
            patch), or "full". By default "half" for patches of an even number of pixels from 8 up, "full" for others.
        seed: seed of the random codebooks and of the start of k-means.

    `fit(images)` learns the codebook, if it is learned, and the mean patch of each word, which `draw(ids)` shows.
    """

    learns = False  # whether `fit` must be called before the words mean anything
    by_patch = True  # a patch's word depends on that patch alone, so `call` takes the indices of some

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: int,
        vocabulary: int = 8192,
        resolution: str | None = None,
        seed: int = 0,
        name: str = "tokenizer",
        **kwargs,
    ):
        # float32 always, so that the targets do not depend on the precision of training.
        super().__init__(**{"trainable": False, **kwargs, "name": name, "dtype": "float32"})
        if vocabulary < 2:
            raise ValueError(f"Expected a vocabulary of at least two words, received vocabulary={vocabulary}.")
        if resolution not in (None, "half", "full"):
            raise ValueError(f'Expected resolution "half" or "full", received {resolution!r}.')
        if resolution is None:
            resolution = "half" if patch_size >= 8 and patch_size % 2 == 0 else "full"
        if resolution == "half" and patch_size % 2:
            raise ValueError(f'Half of patch_size={patch_size} is not a whole number of pixels; use resolution="full".')
        self.image_shape = tuple(image_shape)
        self.patch_size = patch_size
        self.vocabulary = vocabulary
        self.resolution = resolution
        self.seed = check_seed(seed)
        self.shrink = 2 if resolution == "half" else 1
        self.grid = grid_shape(image_shape, patch_size)
        self.dimension = (patch_size // self.shrink) ** 2 * self.image_shape[-1]
        self._fitted = False  # a cache; `fitted` looks at the weights
        self.build((None, *self.image_shape))

    def build(self, images_shape):
        shape = (self.vocabulary, self.dimension)
        self.vectors = self.add_weight(shape=shape, initializer=self._initial, trainable=False, name="vectors")
        # "portraits" is the name in checkpoints.
        self.mean_patches = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="portraits")
        self.built = True

    def _initial(self, shape, dtype=None):
        return ops.convert_to_tensor(_unit(np.random.default_rng(self.seed).standard_normal(shape)), dtype)

    @property
    def fitted(self) -> bool:
        """Return whether `fit` was called, on this tokenizer or on the one that was saved."""
        self._fitted = self._fitted or bool(ops.any(self.mean_patches != 0))
        return self._fitted

    def _learn(self, patches, image_of_patch, rng, report):
        """Learn a codebook (V, d) from patches (M, d) float16 of several images; None keeps the present one."""
        return None

    def word_patches(
        self, images: Shaped[Array, "B H W C"], indices: Int[Array, "B n"] | None = None
    ) -> Float[Array, "B n d"]:
        """Cut images into normalised patches (B, n, d) float32 of the codebook's resolution: all, or some."""
        self._check_shape(images.shape)
        patches = to_patches(images, self.patch_size)  # (B, N, P)
        patches = patches if indices is None else gather_rows(patches, indices)
        count, channels = patches.shape[1], images.shape[-1]
        x = normalise_patches(patches, channels)
        if self.shrink > 1:
            # BEiT's tokenizer sees the same crop at 112 pixels; the paper's 192 numbers are 8x8 pixels of that.
            side = self.patch_size // 2
            x = ops.mean(ops.reshape(x, (-1, count, side, 2, side, 2, channels)), axis=(3, 5))
        return ops.reshape(x, (-1, count, self.dimension))  # (B, n, d)

    def _check_shape(self, shape):
        """Raise ValueError for images of another shape, which might be cut into patches across images."""
        if None not in shape[1:] and tuple(shape[1:]) != self.image_shape:
            raise ValueError(f"Expected images of {self.image_shape}, received {tuple(shape[1:])}.")

    def call(self, images: Shaped[Array, "B H W C"], indices: Int[Array, "B n"] | None = None) -> Int[Array, "B n"]:
        """Return the words of all patches of images, or of those with these indices."""
        patches = (self.word_patches(images, indices),)  # (B, n, d)
        _, words = chunks.by_parts(
            lambda x, part: (x, self.words(*part)), ops.zeros(()), patches, width=self.vocabulary
        )
        return chunks.join_parts(words)

    def words(self, patches: Float[Array, "*axes d"]) -> Int[Array, "*axes"]:
        """Map patches (..., d), as `word_patches` returns them, to words (...) int32; their length has no influence."""
        return argmax(ops.matmul(patches, ops.transpose(self.vectors)))  # of unit vectors, so by the cosine

    def same_words(self, other: Any) -> bool:
        """Return whether another tokenizer maps every patch to the same word, for images of any size."""
        if type(self) is not type(other):
            return False
        mine, theirs = ((t.patch_size, t.resolution, t.image_shape[-1]) for t in (self, other))
        return mine == theirs and np.array_equal(
            ops.convert_to_numpy(self.vectors), ops.convert_to_numpy(other.vectors)
        )

    def fit(
        self,
        images: Any,
        max_patches: int = 100_000,
        batch_size: int = 256,
        report: Callable[[str], Any] = lambda line: None,
    ) -> Codebook:
        """Learn from at most `max_patches` patches of images (B, H, W, C); the paper uses 3 million for k-means.

        Args:
            images: an array, or an object with a length and a shape that returns the images of an array of indices.
            max_patches: number of patches; each takes 2 d bytes, and little else grows with their number.
            batch_size: images to read at once.
            report: a function that receives a line about the progress now and then.

        Raises:
            ValueError: if images have another shape or are not pixels; see `training.pixels.check_pixels`.
        """
        if not hasattr(images, "shape"):
            raise ValueError(
                f"Expected an array of images of {self.image_shape}, received an object of type"
                f" {type(images).__name__}; join its parts with numpy.concatenate."
            )
        self._check_shape(images.shape)
        if not len(images):
            raise ValueError("Expected at least one image to learn words from, received none.")
        rng = np.random.default_rng(self.seed)
        take = min(math.prod(self.grid), max(1, max_patches // len(images)))
        chosen = rng.permutation(len(images))[: max(1, max_patches // take)]
        # float16: the paper's 3 million patches of 192 numbers then take 1.2 GB.
        patches: Array = np.empty((len(chosen), take, self.dimension), "float16")
        for start in range(0, len(chosen), batch_size):
            if start and start // 20_000 != (start - batch_size) // 20_000:
                report(f"{start} of {len(chosen)} images read")
            batch = np.asarray(images[chosen[start : start + batch_size]])
            check_pixels(batch, chosen[start : start + batch_size])
            batch = ops.convert_to_numpy(self.word_patches(batch))  # (b, N, d)
            chosen_patches = rng.random(batch.shape[:2]).argsort(axis=1)[:, :take, None]  # (b, take, 1)
            patches[start : start + batch_size] = np.take_along_axis(batch, chosen_patches, axis=1)
        image_of_patch = np.repeat(np.arange(len(patches)), take)  # (M,)
        patches = patches.reshape(-1, self.dimension)  # (M, d)
        if (vectors := self._learn(patches, image_of_patch, rng, report)) is not None:
            self.vectors.assign(_unit(vectors))
        sums, counts = _sums(patches, lambda part: ops.convert_to_numpy(self.words(part)), self.vocabulary)
        # A word without a patch is drawn as its own direction, with the contrast of an average patch.
        contrast = sum(np.linalg.norm(part, axis=1).sum() for part in _pieces(patches)) / len(patches)
        unmet = ops.convert_to_numpy(self.vectors) * contrast
        self.mean_patches.assign(np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], unmet))
        return self

    def draw(self, ids: Int[Array, "B N"]) -> Float[Array, "B H W C"]:
        """Draw words (B, N) as images (B, H, W, C) float32 in 0..1: each word is the mean of its patches in `fit`."""
        height, width, channels = self.image_shape
        shape = (height // self.shrink, width // self.shrink, channels)
        images = to_images(ops.take(self.mean_patches, ids, axis=0), shape, self.patch_size // self.shrink)
        for axis in (1, 2):
            images = ops.repeat(images, self.shrink, axis=axis)
        return denormalise(images)

    def compute_output_shape(self, images_shape):
        return images_shape[0], self.grid[0] * self.grid[1]

    def get_config(self):
        own = ("image_shape", "patch_size", "vocabulary", "resolution", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


@keras.saving.register_keras_serializable("keras_splitmask")
class RandomProjection(Codebook):
    """Words are random vectors with elements uniform in 0..1: the default of the paper, which needs no data."""

    def _initial(self, shape, dtype=None):
        return ops.convert_to_tensor(_unit(np.random.default_rng(self.seed).random(shape)), dtype)


@keras.saving.register_keras_serializable("keras_splitmask")
class RandomPatches(Codebook):
    """Words are patches of the training images, each from a different image if there are enough images."""

    learns = True

    def _learn(self, patches, image_of_patch, rng, report):
        return pick_patches(patches, image_of_patch, self.vocabulary, rng)


@keras.saving.register_keras_serializable("keras_splitmask")
class KMeans(Codebook):
    """Words are the centroids of k-means on patches of the training images (Euclidean, then scaled to length one)."""

    learns = True

    def _learn(self, patches, image_of_patch, rng, report, rounds=10):
        # Euclidean, and `fit` scales the result: the paper does not say whether its k-means is spherical.
        centroids = pick_patches(patches, image_of_patch, self.vocabulary, rng)
        reported = -math.inf
        for i in range(rounds):
            if time.monotonic() - reported > SILENCE:
                report(f"k-means of {len(patches)} patches, round {i + 1} of {rounds}")
                reported = time.monotonic()
            sums, counts = _sums(patches, lambda part, centroids=centroids: _nearest(part, centroids), self.vocabulary)
            # A centroid without a patch starts again from a random patch.
            centroids = np.where(
                counts[:, None] > 0,
                sums / np.maximum(counts, 1)[:, None],
                patches[rng.integers(len(patches), size=len(sums))],
            )
        return centroids


def pick_patches(
    patches: Float[Array, "M d"], image_of_patch: Int[Array, " M"], count: int, rng: np.random.Generator
) -> Float[Array, "V d"]:
    """Pick `count` random patches (count, d) float32 of (M, d), each from a different image if there are enough.

    Args:
        patches: (M, d) float16.
        image_of_patch: (M,) int, the image that each patch is from.
        count: number of patches.
        rng: NumPy random generator.
    """
    order = rng.permutation(len(patches))
    # In random order, take the first patch of each image, then the second of each, and so on: `turn` is the number of
    # earlier patches of the same image.
    image = image_of_patch[order]
    by_image = np.argsort(image, kind="stable")
    starts = np.searchsorted(image[by_image], image[by_image])  # where the patches of each image begin
    turn = np.empty(len(order), int)
    turn[by_image] = np.arange(len(order)) - starts
    order = order[np.argsort(turn, kind="stable")]
    return patches[np.resize(order, count)].astype("float32")  # `resize` repeats them if there are too few


def _unit(vectors):
    return (vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-12)).astype("float32")


def _pieces(patches, size=4096):
    """Yield patches (M, d) float16 as float32, a few at a time, to keep temporary arrays small."""
    for start in range(0, len(patches), size):
        yield patches[start : start + size].astype("float32")


def _nearest(patches, centroids):
    """Index of the nearest centroid (V, d) for each patch (M, d), by Euclidean distance."""
    # |x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2), so the nearest c has the largest x c - |c|^2 / 2.
    closeness = patches @ centroids.T  # (M, V)
    closeness -= (centroids**2).sum(axis=1) / 2
    return np.argmax(closeness, axis=1)


def _sums(patches, words_of, vocabulary):
    """Sum (V, d) and count (V,) of the patches (M, d) of each word; `words_of` maps patches to words."""
    sums, counts = np.zeros((vocabulary, patches.shape[1]), "float32"), np.zeros(vocabulary, "int64")
    for part in _pieces(patches):
        words = words_of(part)
        order = np.argsort(words, kind="stable")
        present, starts, count = np.unique(words[order], return_index=True, return_counts=True)
        sums[present] += np.add.reduceat(part[order], starts, axis=0)
        counts[present] += count
    return sums, counts
