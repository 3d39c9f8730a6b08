import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.training.dense import Dense


@pytest.mark.backend
@pytest.mark.parametrize("policy, tolerance", [("float32", 1e-6), ("mixed_bfloat16", 2e-2)])
def test_equals_keras_dense(rng, policy, tolerance):
    x = rng.standard_normal((2, 3, 5)).astype("float32")
    ours, theirs = Dense(7, dtype=policy), keras.layers.Dense(7, dtype=policy)
    for layer in (ours, theirs):
        layer.build(x.shape)
    ours.bias.assign(np.arange(7))
    theirs.set_weights(ours.get_weights())
    answer, expected = ours(x), theirs(x)
    assert keras.backend.standardize_dtype(answer.dtype) == keras.backend.standardize_dtype(expected.dtype)
    as_numbers = [ops.convert_to_numpy(ops.cast(value, "float32")) for value in (answer, expected)]
    np.testing.assert_allclose(*as_numbers, rtol=tolerance, atol=tolerance)
