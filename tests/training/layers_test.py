import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.training.layers import Dense, LayerNormalization


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
