"""Annotations of the library hold in all tests: tests/annotations.py checks every call, and this checks that."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.backend.typing import Array, Float, Int
from tests.annotations import checked


@checked
def rows(tokens: Float[Array, "B N D"], places: Int[Array, "B n"], wrong: bool = False) -> Float[Array, "B n D"]:
    answer = ops.take_along_axis(tokens, ops.expand_dims(places, -1), axis=1)
    return ops.transpose(answer, (0, 2, 1)) if wrong else answer


@checked
def pair(x: Float[Array, "B ..."], name: str | None = None) -> tuple[Float[Array, "2*B ..."], int]:
    if name == "refused":
        raise ValueError("as documented")
    return ops.concatenate([x, x]), len(x.shape)


@pytest.mark.backend
def test_calls_that_keep_to_their_annotations_pass():
    tokens, places = np.ones((2, 5, 3), "float32"), np.zeros((2, 4), "int32")
    assert rows(ops.convert_to_tensor(tokens), places).shape == (2, 4, 3)
    assert rows(ops.cast(tokens, "bfloat16"), places).shape == (2, 4, 3)
    assert rows(keras.KerasTensor((None, 5, 3)), keras.KerasTensor((None, 4), "int32")).shape == (None, 4, 3)
    assert pair(ops.ones((3, 2)))[0].shape == (6, 2)
    assert pair(keras.KerasTensor((None, 2)), "x")[0].shape == (None, 2)


@pytest.mark.backend
@pytest.mark.parametrize(
    "function, arguments, name",
    [
        (rows, (np.ones((2, 5, 3), "int32"), np.zeros((2, 4), "int32")), "tokens"),  # no floats
        (rows, (np.ones((2, 5, 3), "float32"), np.zeros((2, 4), "int32"), True), "return"),  # axes exchanged
        (rows, (np.ones((2, 5, 3), "float32"), np.zeros((2, 4), "int32"), 1), "wrong"),
        (pair, (np.ones((3, 2), "float32"), 3), "name"),
    ],
)
def test_calls_that_break_them_do_not(function, arguments, name):
    with pytest.raises(TypeError, match=f"{function.__name__}: {name} "):
        function(*arguments)


def test_errors_of_annotated_functions_are_not_changed():
    with pytest.raises(ValueError, match="as documented"):
        pair("no tensor", "refused")
