import numpy as np
import pytest

from keras_splitmask import evaluation
from keras_splitmask.evaluation import similarity


def by_hand(vectors, threshold):
    """Groups of connected images, by the matrix of all pairs."""
    linked = vectors @ vectors.T >= threshold
    for _ in range(len(vectors)):
        linked = linked @ linked
    return sorted(({*np.flatnonzero(row).tolist()} for row in np.unique(linked, axis=0) if row.sum() > 1), key=min)


@pytest.mark.parametrize("block", [1, 37, 1 << 24])
def test_groups_and_nearest_are_those_of_all_pairs(rng, monkeypatch, block):
    monkeypatch.setattr(similarity, "BLOCK", block)
    features = rng.normal(size=(60, 8)).astype("float32")
    features[[5, 17, 40]] = features[2]
    features[30] = features[31] + 0.05 * rng.normal(size=8)
    vectors = evaluation.directions(features)
    for threshold in (0.999, 0.9, 0.7):
        groups, nearest, best = evaluation.near_duplicates(vectors, threshold)
        assert sorted(map(set, groups), key=min) == by_hand(vectors, threshold - 1e-6)
        assert [len(group) for group in groups] == sorted(map(len, groups), reverse=True)
    cosines = vectors @ vectors.T - 9 * np.eye(60)
    np.testing.assert_allclose(best, np.minimum(cosines.max(axis=1), 1), atol=1e-6)
    assert {2, 5, 17, 40} in map(set, groups) and nearest[30] == 31
    odd = evaluation.oddness(vectors, 3)
    np.testing.assert_allclose(odd, 1 - np.sort(cosines, axis=1)[:, -3:].mean(axis=1), atol=1e-5)
    indices, cosine = evaluation.most_similar(vectors, vectors[[2, 30]], 4)
    assert set(indices[0]) == {2, 5, 17, 40} and indices[1][:2].tolist() == [30, 31]
    np.testing.assert_allclose(cosine[0], 1, atol=1e-6)


def test_a_chain_is_one_group():
    angles = np.deg2rad([0, 10, 20, 30, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    groups, *_ = evaluation.near_duplicates(vectors, np.cos(np.deg2rad(11)))
    assert groups == [[0, 1, 2, 3]]


def test_images_that_are_all_the_same_are_duplicates():
    for count in (2, 3, 20):
        vectors = evaluation.directions(np.full((count, 5), 0.3, "float32"))
        groups, _, best = evaluation.near_duplicates(vectors, 0.99)
        assert groups == [list(range(count))] and np.allclose(best, 1)


def test_features_are_centred_and_scaled_and_others_likewise(rng):
    features = (rng.normal(size=(40, 6)) * [1, 1, 1, 1, 1, 100] + 50).astype("float32")
    vectors, others = evaluation.directions(features, features[:3])
    expected = (features - features.mean(axis=0)) / features.std(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-3)
    np.testing.assert_array_equal(others, vectors[:3])


def test_too_few_images_have_no_outliers():
    with pytest.raises(ValueError, match="Expected at least two images"):
        evaluation.oddness(np.ones((1, 3), "float32"))
