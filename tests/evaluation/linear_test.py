import numpy as np
import pytest
from keras import ops

from keras_splitmask.evaluation import best_block, block_features, linear, linear_probe


@pytest.mark.backend
def test_each_block_is_judged_on_its_own_features(rng):
    labels, test_labels = (rng.integers(0, 3, count) for count in (300, 300))

    def features(labels):
        noise = rng.standard_normal((len(labels), 3, 6)).astype("float32")
        noise[:, 1, :3] += 5 * np.eye(3)[labels]  # block 2 separates, block 3 half of the time, block 1 not at all
        noise[:, 2, :3] += (
            5 * np.eye(3)[np.where(rng.random(len(labels)) < 0.5, labels, rng.integers(0, 3, len(labels)))]
        )
        return noise

    trained = features(labels)
    accuracies = linear_probe(trained, labels, features(test_labels), test_labels, epochs=10, batch_size=64)
    assert accuracies.shape == (3,)
    assert best_block(trained, labels, epochs=10, batch_size=64) == 1
    assert best_block(trained[:2], labels[:2]) == 2  # too few images to choose by
    # Chance is 1/3, with a standard deviation of sqrt(1/3 * 2/3 / 300) = 0.027.
    assert abs(accuracies[0] - 1 / 3) < 4 * 0.027
    assert accuracies[1] > 0.98
    assert abs(accuracies[2] - (1 / 2 + 1 / 2 * 1 / 3)) < 0.1


def test_random_labels_stay_at_chance(rng):
    features = rng.standard_normal((200, 1, 4))
    features[:, 0, 0] *= 1e4  # a feature of another size than the others
    labels, test_labels = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    (accuracy,) = linear_probe(features, labels, rng.standard_normal((200, 1, 4)), test_labels, epochs=5)
    assert abs(accuracy - 1 / 2) < 4 * (1 / 4 / 200) ** 0.5


def test_few_images_and_classes_that_only_the_test_set_has(rng):
    features = rng.standard_normal((3, 2, 4)).astype("float32")
    accuracies = linear_probe(
        features, np.array([1, 1, 2]), features, np.array([1, 1, 9]), epochs=40, learning_rate=0.1
    )
    np.testing.assert_allclose(accuracies, 2 / 3)
    with pytest.raises(ValueError, match="Expected labels of at least two classes, received 0 for all of 3 images"):
        linear_probe(features, np.zeros(3, int), features, np.zeros(3, int))


@pytest.mark.backend
def test_all_batches_have_one_size_so_that_nothing_is_traced_again(make_encoder, make_images, monkeypatch):
    sizes, call = [], linear._BlockFeatures.call
    monkeypatch.setattr(linear._BlockFeatures, "call", lambda self, x: (sizes.append(x.shape[0]), call(self, x))[1])
    assert len(block_features(make_encoder(depth=1), make_images(5), batch_size=3)) == 5
    assert set(sizes) <= {3, None} and len(sizes) <= 2


@pytest.mark.backend
def test_features_are_the_encoders_own_states(make_encoder, make_images):
    encoder, images = make_encoder(depth=3), make_images(5)
    features = block_features(encoder, images, batch_size=2)
    assert features.shape == (5, 3, 2 * 16) and features.dtype == np.float32
    tokens = encoder.embed(images)
    tokens = ops.concatenate([ops.broadcast_to(encoder.cls_token, (5, 1, 16)), tokens], axis=1)
    for i, block in enumerate(encoder.blocks):
        tokens = block(tokens)
        expected = ops.convert_to_numpy(ops.concatenate([tokens[:, 0], ops.mean(tokens[:, 1:], axis=1)], axis=-1))
        np.testing.assert_allclose(features[:, i], expected, atol=1e-5)
