import math

import numpy as np
import pytest

from keras_splitmask.evaluation import NeighbourProbe, extract, standardise, weighted_knn


def at(*degrees):
    """Unit vectors of the plane (B, 2) at these angles."""
    return np.array([(math.cos(math.radians(d)), math.sin(math.radians(d))) for d in degrees], "float32")


def test_votes_are_weighted_by_the_cosine():
    bank, labels = at(0, 60, 60), np.array([0, 1, 1])
    # Against a query at 0 degrees: one vote of exp(1 / T) for class 0, two of exp(0.5 / T) for class 1; they draw at T
    # = 0.5 / ln 2.
    draw = 0.5 / math.log(2)
    assert math.exp(1 / draw) == pytest.approx(2 * math.exp(0.5 / draw))
    query = 3 * at(0)  # its length has no influence
    assert weighted_knn(bank, labels, query, k=3, temperature=0.9 * draw).tolist() == [0]
    assert weighted_knn(bank, labels, query, k=3, temperature=1.1 * draw).tolist() == [1]
    assert weighted_knn(bank, labels, query, k=1, temperature=1.1 * draw).tolist() == [0]
    assert weighted_knn(bank, labels, query, k=99, temperature=1.1 * draw).tolist() == [1]
    assert weighted_knn(bank, labels, query, k=3, temperature=1e-3).tolist() == [0]  # exp(1 / T) is beyond all floats


def test_without_queries_no_image_votes_for_itself():
    bank, labels = at(0, 1, 90, 91), np.array([5, 7, 7, 5])
    assert weighted_knn(bank, labels, k=1).tolist() == [7, 5, 5, 7]
    assert weighted_knn(bank, labels, bank, k=1).tolist() == [5, 7, 7, 5]
    assert weighted_knn(bank, labels, k=99).tolist() == [7, 5, 5, 7]


def test_more_queries_than_fit_in_one_piece(rng):
    bank = rng.standard_normal((2100, 8)).astype("float32")
    labels = rng.integers(3, 6, 2100)
    assert (weighted_knn(np.repeat(bank, 2, axis=0), np.repeat(labels, 2), k=1) == np.repeat(labels, 2)).all()
    assert (weighted_knn(bank, labels, bank, k=1) == labels).all()


def test_one_image_has_no_neighbour():
    with pytest.raises(ValueError, match="Expected at least two labelled images for a kNN, received 1"):
        weighted_knn(at(0), np.array([0]))
    assert weighted_knn(at(0), np.array([3]), at(10, 20)).tolist() == [3, 3]


def test_standardise_uses_only_the_bank():
    bank, other = np.array([[1.0, 10.0], [3.0, 10.0]]), np.array([[5.0, 10.0]])
    bank, other = standardise(bank, other)
    np.testing.assert_allclose(bank, [[-1, 0], [1, 0]], atol=1e-5)
    np.testing.assert_allclose(other, [[(5 - 2) / 1, 0]], atol=1e-5)
    assert bank.dtype == other.dtype == np.float32


@pytest.mark.backend
def test_batches_of_any_size_give_the_same_features(make_encoder, make_images):
    encoder, images = make_encoder(), make_images(7)
    expected = np.asarray(encoder.predict_on_batch(images)["pooled"])
    for batch_size in (1, 3, 7, 64):
        features = extract(encoder, images, batch_size)
        assert features.shape == (7, 16) and features.dtype == np.float32
        np.testing.assert_allclose(features, expected, atol=1e-5)
    assert extract(encoder, images, 4, key="feature_map").shape == (7, 4, 4, 16)


def test_the_probe_measures_now_and_then(make_encoder, rng):
    """20 images are enough, of classes that do not start at 0: dark ones and bright ones."""
    labels = np.arange(20) % 2 + 3
    images = np.clip(rng.integers(0, 60, (20, 16, 16, 3)) + 150 * (labels == 4)[:, None, None, None], 0, 255).astype(
        "uint8"
    )
    probe = NeighbourProbe(make_encoder(), images, labels.tolist(), every=10, last=25)
    assert probe(0) == {"knn_accuracy": 1.0}
    assert [probe(step) for step in (5, 9)] == [{}, {}]
    assert probe(12) == {"knn_accuracy": 1.0} and probe(20) == {} and probe(22)
    assert probe(24) == {} and probe(25) == {"knn_accuracy": 1.0}  # the end of the run is measured in any case
    alone = NeighbourProbe(
        make_encoder(), images, np.arange(20)
    )  # as many classes as images: nobody has a neighbour of its own
    assert alone(0) == {"knn_accuracy": 0.0}
