import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask import losses

pytestmark = pytest.mark.backend

AXES = np.eye(2, dtype="float32")


def inpaint(logits, ids, dtype="float32"):
    ids = ops.convert_to_tensor(np.array(ids, "int32"))
    return [ops.convert_to_numpy(x) for x in losses.inpaint(ops.cast(np.array(logits), dtype), ids)]


def match(a, b, labels=None, temperature=0.2, rows=slice(None)):
    a, b = np.array(a, "float32"), np.array(b, "float32")
    labels = np.arange(len(a), dtype="int32")[rows] if labels is None else labels
    return [ops.convert_to_numpy(x) for x in losses.match(a[rows], b[rows], a, b, labels, temperature)]


def test_inpaint_is_the_mean_cross_entropy_of_an_examples_patches():
    logits = [[[0, math.log(3)], [0, math.log(3)]], [[0, 0], [0, 0]]]  # words at odds of 1 : 3, and even
    loss, hits = inpaint(logits, [[1, 0], [0, 1]])
    np.testing.assert_allclose(loss, [(-math.log(3 / 4) - math.log(1 / 4)) / 2, math.log(2)], rtol=1e-6)
    np.testing.assert_array_equal(hits, [1 / 2, 1])  # words of equal logits count as predicted


def test_inpaint_ignores_a_constant_and_survives_large_half_precision_logits():
    np.testing.assert_allclose(inpaint([[[60000.0, 0.0]]], [[1]], "float16")[0], [60000.0], rtol=1e-3)
    np.testing.assert_allclose(inpaint([[[1000.0, 1000.0 + math.log(3)]]], [[1]])[0], [math.log(4 / 3)], rtol=1e-3)


def test_means_of_large_float16_numbers_are_finite():
    """Pooled tokens: their sum is beyond what float16 holds."""
    mean = ops.convert_to_numpy(ops.mean(ops.cast(np.full((2, 2048, 4), 100.0), "float16"), axis=1))
    np.testing.assert_array_equal(mean, np.full((2, 4), 100.0))


def test_match_of_equal_halves():
    loss, hits = match(AXES, AXES)  # logits 1 / 0.2 = 5 for the own image and 0 for the other
    np.testing.assert_allclose(loss, 2 * [math.log(1 + math.exp(-5))], rtol=1e-4)
    np.testing.assert_array_equal(hits, [1, 1])


def test_match_of_swapped_halves():
    loss, hits = match(AXES, AXES[::-1])
    np.testing.assert_allclose(loss, 2 * [math.log(1 + math.exp(5))], rtol=1e-5)
    np.testing.assert_array_equal(hits, [0, 0])


def test_match_is_the_mean_of_both_directions():
    loss, hits = match(AXES, AXES[[0, 0]])
    from_a = [math.log(2), math.log(2)]  # both halves b look alike to either a
    from_b = [math.log(1 + math.exp(-5)), math.log(1 + math.exp(5))]
    np.testing.assert_allclose(loss, [(x + y) / 2 for x, y in zip(from_a, from_b, strict=True)], rtol=1e-5)
    np.testing.assert_array_equal(hits, [1, 0])  # the first of equals is nearest


def test_match_ignores_lengths_and_obeys_temperature():
    loss, _ = match(7 * AXES, AXES * np.array([[0.1], [30]]), temperature=0.5)
    np.testing.assert_allclose(loss, 2 * [math.log(1 + math.exp(-1 / 0.5))], rtol=1e-4)


def test_permuting_the_batch_permutes_the_match_loss(rng):
    a, b = rng.standard_normal((2, 6, 4))
    order = rng.permutation(6)
    loss, hits = match(a, b)
    permuted_loss, permuted_hits = match(a[order], b[order])
    np.testing.assert_allclose(permuted_loss, loss[order], rtol=1e-5)
    np.testing.assert_array_equal(permuted_hits, hits[order])
    assert np.ptp(loss) > 0.1


def test_a_replicas_loss_is_its_rows_of_the_whole_batchs(rng):
    a, b = rng.standard_normal((2, 6, 4))
    whole, _ = match(a, b)
    of_replica, _ = match(a, b, rows=slice(2, 4))
    np.testing.assert_allclose(of_replica, whole[2:4], rtol=1e-5)


def test_unit_vectors_and_the_zero_vector():
    scaled = ops.convert_to_numpy(losses.unit(np.array([[3.0, 4.0], [0.0, 0.0]], "float32")))
    np.testing.assert_allclose(scaled, [[3 / 5, 4 / 5], [0, 0]], rtol=1e-6)


def test_reconstruct_compares_patches_of_zero_mean_and_unit_variance():
    patches = np.array(
        [[[1, 3], [0, 10]], [[5, 5], [4, 2]]], "float32"
    )  # (2, 2, 2): -1 and 1, -1 and 1; 0 and 0, 1 and -1
    predicted = np.array([[[-1, 1], [0, 0]], [[2, 0], [-1, -1]]], "float32")
    loss = ops.convert_to_numpy(losses.reconstruct(predicted, ops.convert_to_tensor(patches)))
    np.testing.assert_allclose(loss, [(0 + 0 + 1 + 1) / 4, (4 + 0 + 4 + 0) / 4], rtol=1e-5)


def test_reconstruct_of_a_flat_patch_is_finite_and_in_float32():
    loss = losses.reconstruct(
        ops.cast(np.ones((1, 3, 4)), "float16"), ops.convert_to_tensor(np.full((1, 3, 4), 0.5, "float32"))
    )
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(loss), [1.0])
