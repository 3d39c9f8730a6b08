"""Annotations of the library hold in all tests: tests/annotations.py checks every call, and this checks that."""

from __future__ import annotations

import collections
import random

import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend.typing import Array, Float, Int
from keras_splitmask.split import Split, gather
from tests.annotations import CHECKED, checked


@checked
def rows(tokens: Float[Array, "B N D"], places: Int[Array, "B n"], wrong: bool = False) -> Float[Array, "B n D"]:
    answer = ops.take_along_axis(tokens, ops.expand_dims(places, -1), axis=1)
    return ops.transpose(answer, (0, 2, 1)) if wrong else answer


@checked
def pair(x: Float[Array, "B ..."], name: str | None = None) -> tuple[Float[Array, "2*B ..."], int]:
    if name == "refused":
        raise ValueError("as documented")
    return ops.concatenate([x, x]), len(x.shape)


@checked
def scaled(count: int, factor: float = 1.0, sizes: tuple[int, ...] = (), exact: bool = False) -> float:
    return count * factor


def test_numbers_of_numpy_are_numbers():
    assert scaled(3, 2) == scaled(np.int64(3), np.float32(2), (np.int32(1), 2), np.bool_(True)) == 6
    assert scaled(np.uint8(3), np.int64(2)) == 6
    with pytest.raises(TypeError, match="scaled: count "):
        scaled(np.float32(3))
    with pytest.raises(TypeError, match="scaled: sizes "):
        scaled(3, 2, (np.float32(1),))
    with pytest.raises(TypeError, match="scaled: exact "):
        scaled(3, 2, (), np.int64(1))


@pytest.mark.backend
def test_a_check_draws_no_random_number():
    state = random.getstate()
    scaled(3, 2, tuple(range(100)))  # beartype looks at one of them, by chance
    assert random.getstate() == state


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


def ones(*shape, dtype="float32"):
    return ops.ones(shape, dtype)


# Each of these calls returns a wrong result, without an error of its own, where it is not checked.
WRONG = {
    "reconstruct: patches": lambda encoder: losses.reconstruct(ones(2, 4, 3), ones(1, 4, 3)),
    "classify: labels": lambda encoder: losses.classify(ones(2, 3), ones(1, 3)),
    "unit: vectors": lambda encoder: losses.unit(ones(2, 3, dtype="bool")),
    "gather: positions": lambda encoder: gather(ones(2, 6), ones(1, 4, dtype="int32")),
    "Split.seen: x": lambda encoder: Split((4, 4)).seen(ones(2, 16, dtype="bool")),
    "Encoder.call: every_block": lambda encoder: encoder(ones(2, 16, 16, 3), every_block=1),
    "PatchEmbedding.call: indices": lambda encoder: encoder.embed(
        ones(2, 16, 16, 3), indices=ones(1, 4, dtype="int32")
    ),
    "Block.call: training": lambda encoder: encoder.encode_by_block(ones(2, 5, 16), training="yes"),
}


@pytest.mark.backend
@pytest.mark.parametrize("problem", WRONG)
def test_the_library_is_checked(problem, make_encoder):
    encoder = make_encoder(depth=1)
    with pytest.raises(TypeError, match=problem):
        WRONG[problem](encoder)


def test_no_part_of_the_library_goes_unchecked():
    found = {name.removeprefix("keras_splitmask.") for name in CHECKED}
    parts = collections.Counter(name.split(".")[0] for name in found)
    least = {"patches": 10, "split": 5, "encoder": 8, "decoder": 3, "losses": 6, "splitmask": 4, "tokenizers": 15}
    least |= {"baselines": 20, "evaluation": 20, "training": 40, "transfer": 50}
    assert not {part: (parts[part], count) for part, count in least.items() if parts[part] < count}
    assert {
        "losses.match",
        "split.Split.call",
        "encoder.Encoder.from_size",
        "tokenizers.codebooks.Codebook.fitted",
    } <= found
