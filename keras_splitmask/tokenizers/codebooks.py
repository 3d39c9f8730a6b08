"""Visual words without a network: the nearest of V unit vectors in pixel space, by cosine (section 3.3 of the
paper)."""

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend import chunks
from keras_splitmask.backend.layers import argmax
from keras_splitmask.patches import denormalise, grid_shape, normalise, to_images, to_patches
from keras_splitmask.seeds import check_seed
from keras_splitmask.training.pixels import check_pixels


class Codebook(keras.layers.Layer):
    """Images (B, H, W, C) to words (B, N) int32, one a patch: the word whose vector has the highest cosine similarity
    with it.

    Args:
        image_shape: (height, width, channels), any number of channels.
        patch_size: side of a patch in pixels.
        vocabulary: V, number of words; 8192 in the paper.
        resolution: "half" to look at a patch at half its resolution, as the paper does (8x8 pixels of a 16x16 patch),
            or "full". Left out, it is half for patches of an even number of pixels from 8 up, and full for others.
        seed: of the random codebooks and of k-means' start.

    `fit(images)` learns the codebook where there is something to learn, and for every tokenizer the mean patch of each
    word, which is what `draw(ids)` shows.
    """

    learns = False  # whether the words mean nothing before `fit`

    def __init__(self, image_shape, patch_size, vocabulary=8192, resolution=None, seed=0, name="tokenizer", **kwargs):
        # Words are chosen in float32 whatever the precision of training, so that targets never depend on it.
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
        self._fitted = False  # as far as is known; the weights say
        self.build((None, *self.image_shape))

    def build(self, images_shape):
        shape = (self.vocabulary, self.dimension)
        self.vectors = self.add_weight(shape=shape, initializer=self._initial, trainable=False, name="vectors")
        self.mean_patches = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="portraits")
        self.built = True

    def _initial(self, shape, dtype=None):
        raise NotImplementedError

    @property
    def fitted(self):
        """Whether `fit` was called, on this tokenizer or on one that it was loaded from."""
        self._fitted = self._fitted or bool(ops.any(self.mean_patches != 0))
        return self._fitted

    def _learn(self, patches, image_of_patch, rng, report):
        """Codebook (V, d) from patches (M, d) float16 of several images, or None to keep the one at hand."""
        return None

    def word_patches(self, images):
        """Images (B, H, W, C) to the patches that words are chosen for: (B, N, d) float32, normalised, at the words'
        resolution."""
        self._check_shape(images.shape)
        x = normalise(images)
        if self.shrink > 1:
            height, width, channels = self.image_shape
            x = ops.reshape(x, (-1, height // 2, 2, width // 2, 2, channels))
            x = ops.mean(x, axis=(2, 4))  # (B, H / 2, W / 2, C)
        return to_patches(x, self.patch_size // self.shrink)

    def _check_shape(self, shape):
        """Images of another shape might be cut into as many patches of several images each."""
        if None not in shape[1:] and tuple(shape[1:]) != self.image_shape:
            raise ValueError(f"Expected images of {self.image_shape}, received {tuple(shape[1:])}.")

    def call(self, images):
        patches = self.word_patches(images)  # (B, N, d)
        _, ids = chunks.by_parts(
            lambda _, part: (_, self.words(*part)), ops.zeros(()), (patches,), width=self.vocabulary
        )
        return chunks.join_parts(ids)

    def words(self, patches):
        """Patches (..., d) as `word_patches` gives them, to words (...) int32. A patch's length has no influence."""
        return argmax(ops.matmul(patches, ops.transpose(self.vectors)))

    def same_words(self, other):
        """Whether another tokenizer gives a patch the same word, whatever the size of the images."""
        if type(self) is not type(other):
            return False
        mine, theirs = ((t.patch_size, t.resolution, t.image_shape[-1]) for t in (self, other))
        return mine == theirs and np.array_equal(
            ops.convert_to_numpy(self.vectors), ops.convert_to_numpy(other.vectors)
        )

    def fit(self, images, max_patches=100_000, batch_size=256, report=lambda line: None):
        """Learn from images (B, H, W, C), of which at most `max_patches` patches are looked at; the paper has 3 million
        for k-means.

        Args:
            images: an array, or what else has a length and a shape and gives the images of an array of indices.
            max_patches: they take 2 d bytes each, and little else grows with their number.
            batch_size: images to ask for at once.
            report: a function that is told of the progress, in a line now and then.

        Raises:
            ValueError: of images of another shape, or that are no pixels; see `training.pixels.check_pixels`.
        """
        if not hasattr(images, "shape"):
            raise ValueError(
                f"Expected an array of images of {self.image_shape}, received a {type(images).__name__}; join its parts"
                " by numpy.concatenate."
            )
        self._check_shape(images.shape)
        if not len(images):
            raise ValueError("Expected at least one image to learn words from, received none.")
        rng = np.random.default_rng(self.seed)
        per_image = self.grid[0] * self.grid[1]
        take = min(per_image, max(1, max_patches // len(images)))
        chosen = rng.permutation(len(images))[: max(1, max_patches // take)]
        patches = np.empty((len(chosen), take, self.dimension), "float16")
        for start in range(0, len(chosen), batch_size):
            if start and start // 20_000 != (start - batch_size) // 20_000:
                report(f"{start} of {len(chosen)} images read")
            batch = np.asarray(images[chosen[start : start + batch_size]])
            check_pixels(batch, chosen[start : start + batch_size])
            batch = ops.convert_to_numpy(self.word_patches(batch))  # (b, N, d)
            places = rng.random(batch.shape[:2]).argsort(axis=1)[:, :take, None]
            patches[start : start + batch_size] = np.take_along_axis(batch, places, axis=1)
        image_of_patch = np.repeat(np.arange(len(patches)), take)
        patches = patches.reshape(-1, self.dimension)
        vectors = self._learn(patches, image_of_patch, rng, report)
        if vectors is not None:
            self.vectors.assign(_unit(vectors))
        sums, counts = _sums(patches, lambda part: ops.convert_to_numpy(self.words(part)), self.vocabulary)
        # A word that was not met is drawn as its own direction, at the contrast of an average patch.
        contrast = sum(np.linalg.norm(part, axis=1).sum() for part in _pieces(patches)) / len(patches)
        unmet = ops.convert_to_numpy(self.vectors) * contrast
        self.mean_patches.assign(np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], unmet))
        return self

    def draw(self, ids):
        """Words (B, N) to images (B, H, W, C) float32 in 0..1, each word as the mean of the patches that it stood for
        in `fit`."""
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
    """Words are random vectors, element by element uniform in 0..1: the paper's default, which needs no data at all."""

    def _initial(self, shape, dtype=None):
        return ops.convert_to_tensor(_unit(np.random.default_rng(self.seed).random(shape)), dtype)


@keras.saving.register_keras_serializable("keras_splitmask")
class RandomPatches(Codebook):
    """Words are patches of the training images, each from another image as long as there are enough of them."""

    learns = True

    def _initial(self, shape, dtype=None):
        return ops.convert_to_tensor(_unit(np.random.default_rng(self.seed).standard_normal(shape)), dtype)

    def _learn(self, patches, image_of_patch, rng, report):
        order = rng.permutation(len(patches))
        # How many patches of the same image come before, in the random order: first the first of each image, then the
        # second.
        image = image_of_patch[order]
        by_image = np.argsort(image, kind="stable")
        starts = np.searchsorted(image[by_image], image[by_image])
        turn = np.empty(len(order), int)
        turn[by_image] = np.arange(len(order)) - starts
        order = order[np.argsort(turn, kind="stable")]
        return patches[np.resize(order, self.vocabulary)].astype("float32")


@keras.saving.register_keras_serializable("keras_splitmask")
class KMeans(RandomPatches):
    """Words are the centroids of k-means on patches of the training images (Euclidean, then scaled to length one)."""

    def _learn(self, patches, image_of_patch, rng, report, rounds=10):
        centroids = super()._learn(patches, image_of_patch, rng, report)
        for i in range(rounds):
            report(f"k-means of {len(patches)} patches, round {i + 1} of {rounds}")
            sums, counts = _sums(patches, lambda part, centroids=centroids: _nearest(part, centroids), self.vocabulary)
            # A centroid that nothing is near to starts again from a patch.
            centroids = np.where(
                counts[:, None] > 0,
                sums / np.maximum(counts, 1)[:, None],
                patches[rng.integers(len(patches), size=len(sums))],
            )
        return centroids


def _unit(vectors):
    return (vectors / (np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-12)).astype("float32")


def _pieces(patches, size=4096):
    """Patches (M, d) float16 a few at a time, as float32, so that of what is computed from them little is in memory at
    once."""
    for start in range(0, len(patches), size):
        yield patches[start : start + size].astype("float32")


def _nearest(patches, centroids):
    """Row of the nearest centroid (V, d) for each patch (M, d), by Euclidean distance."""
    closeness = patches @ centroids.T
    closeness -= (centroids**2).sum(axis=1) / 2
    return np.argmax(closeness, axis=1)


def _sums(patches, words_of, vocabulary):
    """Sum (V, d) and number (V,) of the patches (M, d) of each word; `words_of` is a function from patches to words."""
    sums, counts = np.zeros((vocabulary, patches.shape[1]), "float32"), np.zeros(vocabulary, "int64")
    for part in _pieces(patches):
        words = words_of(part)
        order = np.argsort(words, kind="stable")
        met, starts, count = np.unique(words[order], return_index=True, return_counts=True)
        sums[met] += np.add.reduceat(part[order], starts, axis=0)
        counts[met] += count
    return sums, counts
