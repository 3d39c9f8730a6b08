import math
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.backend.layers import Dense, LayerNormalization, attention, gelu


@pytest.mark.backend
@pytest.mark.parametrize("policy, tolerance", [("float32", 1e-6), ("mixed_bfloat16", 2e-2)])
@pytest.mark.parametrize("layer", [Dense, LayerNormalization])
def test_equals_that_of_keras(rng, layer, policy, tolerance):
    x = (3 + rng.standard_normal((2, 3, 5))).astype("float32")
    options = {"units": 7} if layer is Dense else {"epsilon": 0.5}
    ours, theirs = layer(**options, dtype=policy), getattr(keras.layers, layer.__name__)(**options, dtype=policy)
    for each in (ours, theirs):
        each.build(x.shape)
    for variable in ours.variables:
        variable.assign(rng.standard_normal(variable.shape))
    theirs.set_weights(ours.get_weights())
    answer, expected = ours(x), theirs(x)
    assert keras.backend.standardize_dtype(answer.dtype) == keras.backend.standardize_dtype(expected.dtype)
    as_numbers = [ops.convert_to_numpy(ops.cast(value, "float32")) for value in (answer, expected)]
    np.testing.assert_allclose(*as_numbers, rtol=tolerance, atol=tolerance)


@pytest.mark.backend
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 4e-2)])
def test_gelu_and_its_gradient_are_those_of_the_normal_distribution(rng, value_and_gradients, dtype, tolerance):
    x = np.linspace(-6, 6, 49).astype("float32")
    towards = rng.standard_normal(x.shape).astype("float32")

    def weigh(x):
        return ops.sum(ops.multiply(ops.cast(gelu(ops.cast(x, dtype)), "float32"), towards))

    value, slopes = value_and_gradients(weigh, [x])
    below = np.array([math.erfc(-each / 2**0.5) / 2 for each in x])  # of the standard normal distribution
    assert value == pytest.approx(np.sum(x * below * towards), rel=tolerance, abs=tolerance)
    np.testing.assert_allclose(slopes, towards * (below + x * np.exp(-x * x / 2) / math.tau**0.5), atol=tolerance)


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_the_loss_of_words_refuses_a_quantized_head(make_model, make_images, mode):
    """In float8 the kernel stays float32, but the layer rounds it: a loss of the kernel would be of another model."""
    images, splitmask = make_images(4, (16, 16, 3)), make_model()
    beit = ks.baselines.BEiT(splitmask.encoder, splitmask.tokenizer)
    beit.compile(optimizer="sgd", run_eagerly=True)
    for model, head in ((splitmask, splitmask.decoder.words), (beit, beit.words)):
        hidden = ops.ones((2, model.encoder.width)) / 3
        before = ops.convert_to_numpy(head(hidden))
        head.quantize(mode)
        assert 0 < np.abs(ops.convert_to_numpy(head(hidden)) - before).max()
        with pytest.raises(ValueError, match=f"Expected a head of float weights, received {mode}; train and evaluate"):
            model.evaluate(images, verbose=0)


def test_a_quantized_model_computes_with_int8(make_model, rng, tmp_path):
    """Nearly the same, so that the scales are right, but not the same."""
    model, images = make_model(), rng.random((4, 16, 16, 3), "float32")

    def outputs():
        return np.concatenate([ops.convert_to_numpy(x).ravel() for x in keras.tree.flatten(model.encoder(images))])

    before = outputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # other layers have nothing to quantize
        model.quantize("int8")
    error = np.linalg.norm(outputs() - before) / np.linalg.norm(before)
    assert 1e-4 < error < 0.05
    dense = [layer for layer in model._flatten_layers() if isinstance(layer, Dense)]
    assert len(dense) > 8 and {keras.backend.standardize_dtype(layer.kernel.dtype) for layer in dense} == {"int8"}
    (tmp_path / "model.keras").write_text("of another model")
    with pytest.raises(ValueError, match="^Expected float weights to save, received int8; save the model first"):
        model.save(tmp_path / "model.keras")
    assert (tmp_path / "model.keras").read_text() == "of another model"


@pytest.mark.backend
@pytest.mark.parametrize("start", [0, 2])
def test_attention_adds_a_bias(rng, value_and_gradients, start):
    """It and the gradients of its inputs are those of the definition."""
    qkv = rng.standard_normal((2, 5, 3 * 8)).astype("float32")
    bias = rng.standard_normal((1, 2, 5 - start, 5)).astype("float32")
    towards = rng.standard_normal((2, 5 - start, 8)).astype("float32")

    def defined(qkv, bias):
        query, key, value = ops.unstack(ops.transpose(ops.reshape(qkv, (2, 5, 3, 2, 4)), (2, 0, 3, 1, 4)))
        logits = ops.add(ops.matmul(query[:, :, start:], ops.swapaxes(key, 2, 3)) / 4**0.5, bias)
        mixed = ops.matmul(ops.softmax(logits), value)
        return ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (2, 5 - start, 8))

    ours, theirs = (
        value_and_gradients(lambda qkv, bias, own=own: ops.sum(ops.multiply(own(qkv, bias), towards)), [qkv, bias])
        for own in (lambda qkv, bias: attention(qkv, 2, start, bias), defined)
    )
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX alone refuses it.")
@pytest.mark.backend
@pytest.mark.parametrize(
    "count, start, allowed", [(6, 0, True), (6, 2, True), (6, 3, False), (5, 0, False), (5, 1, False)]
)
def test_cudnn_is_not_asked_for_the_attention_of_odd_numbers_of_tokens(rng, monkeypatch, count, start, allowed):
    asked = []
    keras_attention = ops.dot_product_attention

    def noted(*x, flash_attention):
        asked.append(flash_attention)
        return keras_attention(*x)

    monkeypatch.setattr(ops, "dot_product_attention", noted)
    qkv = rng.standard_normal((2, count, 3, 2, 8)).astype("float32")
    answer = attention(ops.convert_to_tensor(qkv.reshape(2, count, 3 * 16)), 2, start)
    assert asked == [None if allowed else False]

    query, key, value = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    shares = np.exp(query @ key.transpose(0, 1, 3, 2) / 8**0.5)
    expected = (shares / shares.sum(axis=-1, keepdims=True) @ value).transpose(0, 2, 1, 3)[:, start:]
    expected = expected.reshape(2, count - start, 16)
    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)
