import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.tokenizers import KMeans, RandomPatches, RandomProjection

pytestmark = pytest.mark.backend

ALL = [RandomProjection, RandomPatches, KMeans]
MEAN, STD = {3: [0.485, 0.456, 0.406]}, {3: [0.229, 0.224, 0.225]}


def patches_in_numpy(images, size, shrink):
    """Normalised patches (B, N, d), each pixel the mean of shrink x shrink pixels."""
    x = (images / 255 - MEAN.get(images.shape[-1], 0.5)) / STD.get(images.shape[-1], 0.5)
    x = sum(x[:, i::shrink, j::shrink] for i in range(shrink) for j in range(shrink)) / shrink**2
    size //= shrink
    rows, columns = x.shape[1] // size, x.shape[2] // size
    squares = [x[:, size * r : size * (r + 1), size * c : size * (c + 1)] for r in range(rows) for c in range(columns)]
    return np.stack(squares, axis=1).reshape(len(x), rows * columns, -1)


def nearest_by_cosine(patches, vectors):
    cosines = patches @ vectors.T / np.linalg.norm(patches, axis=-1)[..., None] / np.linalg.norm(vectors, axis=-1)
    return cosines.argmax(axis=-1)


def words(tokenizer, images):
    return ops.convert_to_numpy(tokenizer(images))


def tiled(patches, rows, columns):
    """Images of one patch (M, size, size, C) each, repeated."""
    return np.tile(patches, (1, rows, columns, 1))


def test_same_words_recognises_equal_tokenizers(make_images):
    first = RandomProjection((16, 16, 3), 8, 32)
    assert first.same_words(RandomProjection((24, 8, 3), 8, 32).fit(make_images(2, (24, 8, 3))))
    for other in (
        RandomPatches((16, 16, 3), 8, 32),
        RandomProjection((16, 16, 3), 8, 32, seed=1),
        RandomProjection((16, 16, 3), 8, 16),
        RandomProjection((16, 16, 3), 4, 32, "full"),  # patches of 4x4 pixels as well
        RandomProjection((16, 16, 12), 4, 32, "half"),
    ):
        assert not first.same_words(other)


@pytest.mark.parametrize("resolution, shrink", [("half", 2), ("full", 1)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_words_are_nearest_by_cosine(make_images, channels, resolution, shrink):
    images = make_images(4, (16, 24, channels))
    tokenizer = RandomProjection((16, 24, channels), 8, vocabulary=64, resolution=resolution)
    patches = patches_in_numpy(images, 8, shrink)
    assert tokenizer.dimension == patches.shape[-1]
    ids = words(tokenizer, images)
    assert ids.dtype == "int32" and ids.shape == (4, 6) == tokenizer.compute_output_shape(images.shape)
    np.testing.assert_array_equal(ids, nearest_by_cosine(patches, ops.convert_to_numpy(tokenizer.vectors)))


@pytest.mark.parametrize("resolution", ["full", "half"])
def test_words_of_some_patches_are_those_among_all(make_images, resolution):
    images = make_images(3, (8, 16, 3))
    tokenizer = RandomProjection((8, 16, 3), 4, 64, resolution)
    indices = np.array([[7, 0], [1, 1], [2, 6]], "int32")
    words = ops.convert_to_numpy(tokenizer(images, indices=indices))
    np.testing.assert_array_equal(words, np.take_along_axis(ops.convert_to_numpy(tokenizer(images)), indices, axis=1))


def test_resolution_is_half_where_that_leaves_enough():
    found = {
        size: RandomProjection((2 * size, 2 * size, 1), size, vocabulary=2).resolution for size in (4, 7, 8, 9, 16)
    }
    assert found == {4: "full", 7: "full", 8: "half", 9: "full", 16: "half"}


@pytest.mark.parametrize("kind", ALL)
def test_vectors_are_unit_and_depend_only_on_the_seed(kind, make_images):
    images = make_images(16)
    first, again, other = (kind((16, 16, 3), 4, vocabulary=20, seed=seed).fit(images).vectors for seed in (1, 1, 2))
    np.testing.assert_allclose(np.linalg.norm(ops.convert_to_numpy(first), axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(first), ops.convert_to_numpy(again))
    assert (ops.convert_to_numpy(first) != ops.convert_to_numpy(other)).any()


def test_random_projection_needs_no_data_and_learns_none(make_images):
    tokenizer = RandomProjection((16, 16, 3), 4, vocabulary=50)
    before = ops.convert_to_numpy(tokenizer.vectors)
    assert before.min() >= 0 and 0.5 < before.mean() * 48**0.5 < 1  # uniform in 0..1, then scaled
    np.testing.assert_array_equal(ops.convert_to_numpy(tokenizer.fit(make_images()).vectors), before)


def test_random_patches_come_from_different_images_as_long_as_there_are_enough(make_images):
    images = tiled(make_images(30, (4, 4, 3)), 4, 4)  # every patch tells which image it is from
    tokenizer = RandomPatches((16, 16, 3), 4, vocabulary=20).fit(images)
    one_per_image = patches_in_numpy(images, 4, 1)[:, 0]
    sources = nearest_by_cosine(ops.convert_to_numpy(tokenizer.vectors), one_per_image)
    assert len(set(sources)) == 20
    cosines = (ops.convert_to_numpy(tokenizer.vectors) * one_per_image[sources]).sum(axis=1) / np.linalg.norm(
        one_per_image[sources], axis=1
    )
    np.testing.assert_allclose(cosines, 1, rtol=1e-5)


def test_random_patches_use_few_images_evenly(make_images):
    images = tiled(make_images(6, (4, 4, 3)), 4, 4)
    tokenizer = RandomPatches((16, 16, 3), 4, vocabulary=20).fit(images)
    sources = nearest_by_cosine(ops.convert_to_numpy(tokenizer.vectors), patches_in_numpy(images, 4, 1)[:, 0])
    assert sorted(np.bincount(sources)) == [3, 3, 3, 3, 4, 4]  # 20 words of 6 images


def test_more_words_than_patches_is_no_error(make_images):
    tokenizer = RandomPatches((16, 16, 3), 4, vocabulary=100).fit(make_images(2))
    assert np.isfinite(ops.convert_to_numpy(tokenizer.vectors)).all()


def test_kmeans_finds_planted_clusters(rng):
    prototypes = rng.integers(30, 226, (4, 4, 4, 1))
    planted = rng.integers(0, 4, (40, 4, 4))
    images = prototypes[planted] + rng.integers(-4, 5, (40, 4, 4, 4, 4, 1))  # (images, rows, columns, 4, 4, C)
    images = images.transpose(0, 1, 3, 2, 4, 5).reshape(40, 16, 16, 1).astype("uint8")
    tokenizer = KMeans((16, 16, 1), 4, vocabulary=8).fit(images)
    ids = words(tokenizer, images).reshape(-1)
    owners = [set(planted.reshape(-1)[ids == word]) for word in set(ids)]
    assert all(len(owner) == 1 for owner in owners)  # no word stands for two clusters
    clusters = patches_in_numpy(tiled(prototypes, 4, 4), 4, 1)[:, 0]
    near = nearest_by_cosine(clusters, ops.convert_to_numpy(tokenizer.vectors))
    cosines = (clusters * ops.convert_to_numpy(tokenizer.vectors)[near]).sum(axis=1) / np.linalg.norm(clusters, axis=1)
    assert cosines.min() > 0.99


def test_kmeans_fits_the_patches_better_than_its_start(make_images):
    images = make_images(40, (8, 8, 1))
    patches = patches_in_numpy(images, 4, 1).reshape(-1, 16)
    patches /= np.linalg.norm(patches, axis=1, keepdims=True)
    start, end = (kind((8, 8, 1), 4, vocabulary=8).fit(images) for kind in (RandomPatches, KMeans))
    closeness = [(patches @ ops.convert_to_numpy(t.vectors).T).max(axis=1).mean() for t in (start, end)]
    assert closeness[1] > closeness[0] + 0.02


def test_fit_looks_at_no_more_patches_than_it_may(make_images, monkeypatch):
    looked_at = []
    monkeypatch.setattr(
        RandomPatches,
        "_learn",
        lambda self, patches, image, rng, report: looked_at.append((len(patches), len(set(image)))),
    )
    tokenizer = RandomPatches((16, 16, 3), 4, vocabulary=8)
    tokenizer.fit(make_images(20), max_patches=40, batch_size=7)
    tokenizer.fit(make_images(20), max_patches=10)
    tokenizer.fit(make_images(2))
    assert looked_at == [(40, 20), (10, 10), (32, 2)]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_draw_shows_the_patches_of_words(make_images, channels):
    coarse = make_images(6, (8, 12, channels))
    images = coarse.repeat(2, axis=1).repeat(2, axis=2)  # nothing is lost at half resolution
    tokenizer = RandomPatches((16, 24, channels), 8, vocabulary=36).fit(images)
    ids = tokenizer(images)
    assert len(np.unique(words(tokenizer, images))) == 36  # every patch has a word of its own
    drawn = ops.convert_to_numpy(tokenizer.draw(ids))
    assert drawn.shape == images.shape and drawn.dtype == "float32"
    np.testing.assert_allclose(drawn, images / 255, atol=5e-4)  # float16, an eighth of a grey level


def test_draw_shows_the_mean_of_a_words_patches(make_images):
    images = make_images(8, (8, 8, 1))
    tokenizer = RandomProjection((8, 8, 1), 4, vocabulary=2).fit(images)
    ids = words(tokenizer, images)
    drawn = ops.convert_to_numpy(tokenizer.draw(np.array([[0, 1, 1, 0]], "int32")))[0]
    patches = patches_in_numpy(images, 4, 1)
    for word, corner in ((0, drawn[:4, :4]), (1, drawn[:4, 4:])):
        np.testing.assert_allclose(corner.reshape(-1), patches[ids == word].mean(axis=0) * 0.5 + 0.5, atol=5e-4)


def test_words_do_not_depend_on_the_precision_of_training(make_images):
    images = make_images()
    exact = words(RandomProjection((16, 16, 3), 4, vocabulary=64), images)
    keras.config.set_dtype_policy("mixed_bfloat16")
    np.testing.assert_array_equal(words(RandomProjection((16, 16, 3), 4, vocabulary=64), images), exact)


def test_nothing_of_a_tokenizer_is_trained():
    assert not RandomProjection((16, 16, 3), 4, vocabulary=8).trainable_weights


@pytest.mark.parametrize("kind", ALL)
def test_config_round_trip(kind):
    tokenizer = kind((16, 24, 5), 8, vocabulary=7, resolution="full", seed=5, name="other")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(tokenizer))
    assert type(again) is kind and again.get_config() == tokenizer.get_config()
    assert (again.vocabulary, again.resolution, again.seed) == (7, "full", 5)


def test_errors(make_images):
    with pytest.raises(ValueError, match="at least two words, received vocabulary=1"):
        RandomProjection((16, 16, 3), 4, vocabulary=1)
    with pytest.raises(ValueError, match='"half" or "full", received \'quarter\''):
        RandomProjection((16, 16, 3), 4, resolution="quarter")
    with pytest.raises(ValueError, match='Half of patch_size=7 is not a whole number of pixels; use resolution="full"'):
        RandomProjection((14, 14, 3), 7, resolution="half")
    with pytest.raises(ValueError, match="received 18x16 pixels and patch_size=4"):
        RandomProjection((18, 16, 3), 4)
    with pytest.raises(ValueError, match=r"Expected images of \(16, 16, 3\), received \(16, 16, 1\)"):
        KMeans((16, 16, 3), 4, vocabulary=8).fit(make_images(4, (16, 16, 1)))
    with pytest.raises(ValueError, match="Expected at least one image to learn words from, received none"):
        KMeans((16, 16, 3), 4, vocabulary=8).fit(make_images(4, (16, 16, 3))[:0])
    for images in ([1, 2], iter([make_images(4, (16, 16, 3))])):
        with pytest.raises(
            ValueError, match=r"Expected an array of images of \(16, 16, 3\), received an object of type list"
        ):
            RandomPatches((16, 16, 3), 4, vocabulary=8).fit(images)
    with pytest.raises(ValueError, match=r"Expected images of \(16, 16, 3\), received \(8, 32, 3\)"):  # as many pixels
        RandomProjection((16, 16, 3), 4, vocabulary=8)(make_images(4, (8, 32, 3)))


@pytest.mark.endurance
def test_kmeans_of_three_million_patches_fits_into_two_gigabytes():
    """Patches of 8x8x3 and 8,192 words, the paper's numbers, with fewer rounds; the images are made as they are asked
    for."""
    program = """
import resource, sys
import numpy as np
from keras_splitmask.tokenizers import KMeans

class Images:
    shape = (15_307, 224, 224, 3)
    def __len__(self):
        return len(range(self.shape[0]))
    def __getitem__(self, indices):
        return np.random.default_rng(indices[0]).integers(0, 256, (len(indices), *self.shape[1:]), "uint8")

learn = KMeans._learn
KMeans._learn = lambda self, *arguments: learn(self, *arguments, rounds=1)
images = Images()
KMeans(images.shape[1:], 16).fit(images, max_patches=3_000_172, batch_size=64, report=print)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    end = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=1800)
    assert end.returncode == 0, end.stderr
    *progress, peak = end.stdout.splitlines()
    print(f"\npeak memory {int(peak) / 2**20:.0f} MiB; {progress}")
    assert "k-means of 3000172 patches, round 1 of 1" in progress and int(peak) < 2 * 2**30
