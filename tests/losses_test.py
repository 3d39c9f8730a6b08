import math
import types

import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend import chunks
from keras_splitmask.backend.layers import Dense

pytestmark = pytest.mark.backend

AXES = np.eye(2, dtype="float32")


def inpaint(logits, ids, dtype="float32"):
    """By a head that hands on what it is given."""
    logits = ops.cast(np.array(logits), dtype)
    head = types.SimpleNamespace(kernel=ops.eye(logits.shape[-1]), bias=ops.zeros(logits.shape[-1]))
    return [
        ops.convert_to_numpy(x) for x in losses.inpaint(head, logits, ops.convert_to_tensor(np.array(ids, "int32")))
    ]


def match(a, b, labels=None, temperature=0.2, rows=slice(None)):
    a, b = np.array(a, "float32"), np.array(b, "float32")
    labels = np.arange(len(a), dtype="int32")[rows] if labels is None else labels
    return [ops.convert_to_numpy(x) for x in losses.match(a[rows], b[rows], a, b, labels, temperature)]


def test_inpaint_is_the_mean_cross_entropy_of_all_patches():
    logits = [[[0, math.log(3)], [0, math.log(3)]], [[0, 0], [0, 0]]]  # words at odds of 1 : 3, and even
    loss, hits = inpaint(logits, [[1, 0], [0, 1]])
    assert loss == pytest.approx((-math.log(3 / 4) - math.log(1 / 4) + 2 * math.log(2)) / 4, rel=1e-6)
    assert hits == 3 / 4


def test_inpaint_ignores_a_constant_and_survives_large_half_precision_logits():
    np.testing.assert_allclose(inpaint([[[60000.0, 0.0]]], [[1]], "float16")[0], 60000.0, rtol=1e-3)
    np.testing.assert_allclose(inpaint([[[1000.0, 1000.0 + math.log(3)]]], [[1]])[0], math.log(4 / 3), rtol=1e-3)


@pytest.mark.parametrize("at_once", [2**21, 60, 1])  # of 3 x 4 x 5 logits
def test_the_gradient_of_inpaint_is_that_of_its_definition(rng, value_and_gradients, monkeypatch, at_once):
    monkeypatch.setattr(chunks, "TABLE_ON_CPU", at_once)
    hidden, ids = rng.standard_normal((3, 4, 6)).astype("float32"), rng.integers(0, 5, (3, 4), "int32")
    head = Dense(5)
    head.build((None, None, 6))
    head.bias.assign(rng.standard_normal(5))
    inputs = [hidden, ops.convert_to_numpy(head.kernel), ops.convert_to_numpy(head.bias)]

    def in_parts(hidden, kernel, bias):
        return (
            3 * losses.inpaint(types.SimpleNamespace(kernel=kernel, bias=bias), hidden, ops.convert_to_tensor(ids))[0]
        )

    def as_defined(hidden, kernel, bias):
        shares = ops.log_softmax(hidden @ kernel + bias)
        return -3 * ops.mean(ops.take_along_axis(shares, ops.convert_to_tensor(ids)[..., None], axis=-1))

    received, expected = (value_and_gradients(function, inputs) for function in (in_parts, as_defined))
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_gradient_of_inpaint_in_float16_is_summed_in_float32(rng, value_and_gradients):
    """In float16, 50,000 rows of tokens of size 8, of which 60% have one word, sum to more than it can hold, whatever
    the loss scale."""
    hidden = (6 * rng.standard_normal((50, 1000, 16))).astype("float16")
    hidden[..., 0] = 8
    ids = np.where(rng.random((50, 1000)) < 0.6, 0, rng.integers(0, 32, (50, 1000))).astype("int32")
    kernel, scale = (0.1 * rng.standard_normal((16, 32))).astype("float16"), 1024

    def scaled(kernel, bias, hidden):
        head = types.SimpleNamespace(kernel=kernel, bias=bias)
        return scale * losses.inpaint(head, ops.cast(hidden, "float16"), ops.convert_to_tensor(ids))[0]

    inputs = [kernel.astype("float32"), np.zeros(32, "float32"), hidden.astype("float32")]
    _, *received = value_and_gradients(scaled, inputs)
    rows, kernel = hidden.reshape(-1, 16).astype("float64"), kernel.astype("float64")
    towards = np.exp(rows @ kernel)
    towards /= towards.sum(axis=1, keepdims=True)
    towards[np.arange(50_000), ids.reshape(-1)] -= 1
    assert np.abs(rows.T @ towards).max() > 65504
    expected = [scale / 50_000 * x for x in (rows.T @ towards, towards.sum(axis=0), towards @ kernel.T)]
    for a, b in zip(received, expected, strict=True):
        assert np.isfinite(a).all() and np.abs(a.reshape(b.shape) - b).max() < 2e-3 * np.abs(b).max()


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


def test_a_share_of_the_batch_has_its_rows_of_the_whole_batchs_loss(rng):
    a, b = rng.standard_normal((2, 6, 4))
    whole, _ = match(a, b)
    share, _ = match(a, b, rows=slice(2, 4))
    np.testing.assert_allclose(share, whole[2:4], rtol=1e-5)


def test_unit_vectors_and_the_zero_vector():
    scaled = ops.convert_to_numpy(losses.unit(np.array([[3.0, 4.0], [0.0, 0.0]], "float32")))
    np.testing.assert_allclose(scaled, [[3 / 5, 4 / 5], [0, 0]], rtol=1e-6)


def test_reconstruct_compares_patches_of_zero_mean_and_unit_deviation():
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
