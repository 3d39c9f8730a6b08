import numpy as np
import pytest
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend import chunks
from keras_splitmask.backend.linear_cross_entropy import linear_cross_entropy

pytestmark = pytest.mark.backend


@pytest.mark.parametrize("at_once", [2**21, 60, 1])  # of 3 x 4 x 5 logits
def test_value_and_gradient_are_those_of_losses_inpaint(rng, value_and_gradients, monkeypatch, at_once):
    monkeypatch.setattr(chunks, "TABLE_ON_CPU", at_once)
    shapes = (3, 4, 6), (6, 5), (5,)
    inputs = [rng.standard_normal(shape).astype("float32") for shape in shapes]
    ids = ops.convert_to_tensor(rng.integers(0, 5, (3, 4), "int32"))

    def by_chunks(hidden, kernel, bias):
        return 3 * linear_cross_entropy(hidden, kernel, bias, ids)[0]

    def as_defined(hidden, kernel, bias):
        return 3 * ops.mean(losses.inpaint(ops.matmul(hidden, kernel) + bias, ids)[0])

    received, expected = (value_and_gradients(function, inputs) for function in (by_chunks, as_defined))
    for a, b in zip(received, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    hidden, kernel, bias = inputs
    _, accuracy = linear_cross_entropy(ops.convert_to_tensor(hidden), kernel, bias, ids)
    logits = ops.convert_to_tensor(hidden @ kernel + bias)
    assert float(accuracy) == pytest.approx(float(ops.mean(losses.inpaint(logits, ids)[1])), abs=1e-6)


def test_words_of_equal_logits_count_as_predicted():
    zeros = ops.zeros((2, 3, 4))
    loss, accuracy = linear_cross_entropy(
        zeros, np.ones((4, 5), "float32"), np.zeros(5, "float32"), ops.zeros((2, 3), "int32")
    )
    assert float(loss) == pytest.approx(np.log(5), rel=1e-6) and float(accuracy) == 1


def test_the_gradient_in_float16_is_summed_in_float32(rng, value_and_gradients):
    """In float16, 50,000 rows of tokens of size 8, of which 60% have one word, sum to more than it can hold, whatever
    the loss scale."""
    hidden = (6 * rng.standard_normal((50, 1000, 16))).astype("float16")
    hidden[..., 0] = 8
    ids = np.where(rng.random((50, 1000)) < 0.6, 0, rng.integers(0, 32, (50, 1000))).astype("int32")
    kernel, scale = (0.1 * rng.standard_normal((16, 32))).astype("float16"), 1024

    def scaled(kernel, bias, hidden):
        return scale * linear_cross_entropy(ops.cast(hidden, "float16"), kernel, bias, ops.convert_to_tensor(ids))[0]

    inputs = [kernel.astype("float32"), np.zeros(32, "float32"), hidden.astype("float32")]
    _, *received = value_and_gradients(scaled, inputs)
    rows, kernel = hidden.reshape(-1, 16).astype("float64"), kernel.astype("float64")
    grad_logits = np.exp(rows @ kernel)
    grad_logits /= grad_logits.sum(axis=1, keepdims=True)
    grad_logits[np.arange(50_000), ids.reshape(-1)] -= 1
    assert np.abs(rows.T @ grad_logits).max() > 65504
    expected = [scale / 50_000 * x for x in (rows.T @ grad_logits, grad_logits.sum(axis=0), grad_logits @ kernel.T)]
    for a, b in zip(received, expected, strict=True):
        assert np.isfinite(a).all() and np.abs(a.reshape(b.shape) - b).max() < 2e-3 * np.abs(b).max()
