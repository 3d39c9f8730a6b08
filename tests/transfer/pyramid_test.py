import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.transfer.pyramid import Enlarge, FeaturePyramid, Pyramid, tapped_blocks

pytestmark = pytest.mark.backend


def test_blocks_are_those_of_xcit_and_beit():
    assert tapped_blocks(12) == [4, 6, 8, 12]
    assert tapped_blocks(24) == [8, 12, 16, 24]
    assert tapped_blocks(1) == [1, 1, 1, 1]


@pytest.mark.parametrize("neck", ["blocks", "simple"])
@pytest.mark.parametrize(
    ("image_shape", "patch_size"), [((48, 80, 3), 16), ((24, 40, 5), 8), ((64, 96, 1), 32), ((20, 12, 3), 4)]
)
def test_levels_have_strides_of_4_to_32(make_encoder, make_images, image_shape, patch_size, neck):
    pyramid = Pyramid(make_encoder(image_shape, patch_size), neck)
    maps = pyramid(make_images(2, image_shape))
    assert {level: tuple(x.shape) for level, x in maps.items()} == {
        f"P{i}": (2, -(-image_shape[0] // 2**i), -(-image_shape[1] // 2**i), 16) for i in (2, 3, 4, 5)
    }


def test_enlarge_is_a_transposed_convolution(rng):
    x = rng.standard_normal((2, 3, 5, 4)).astype("float32")
    layer = Enlarge(6)
    y = ops.convert_to_numpy(layer(x))
    kernel, bias = (ops.convert_to_numpy(w) for w in (layer.project.kernel, layer.project.bias))
    expected = np.zeros((2, 6, 10, 6))
    for i in range(3):
        for j in range(5):
            expected[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = (x[:, i, j] @ kernel + bias).reshape(2, 2, 2, 6)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_coarse_levels_are_maxima_of_a_block_and_the_last_has_the_encoders_norm(make_encoder, make_images):
    encoder, images = make_encoder((16, 24, 3), 4, depth=3), make_images(2, (16, 24, 3))
    maps = Pyramid(encoder)(images)
    last = ops.convert_to_numpy(encoder(images)["feature_map"])  # (2, 4, 6, D)
    expected = np.stack([last[:, :, :6].max(axis=(1, 2))])[0][:, None, None]  # all of it lies in one cell of 32 pixels
    np.testing.assert_allclose(ops.convert_to_numpy(maps["P5"]), expected, atol=1e-5)
    first = ops.convert_to_numpy(encoder(images, every_block=True)["block_1"])[:, 1:]
    first = (first - first.mean(-1, keepdims=True)) / np.sqrt(first.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(maps["P2"]).reshape(2, 24, 16), first, atol=1e-4)


def test_every_weight_learns_and_has_a_place_in_layer_decay(make_encoder, make_images):
    pyramid = Pyramid(make_encoder((32, 32, 3), 16, depth=4))
    optimizer = ks.training.LayerwiseAdamW(1e-3, 0.5, 4)
    optimizer.build(pyramid.trainable_variables)  # raises if no rule claims a weight
    scales = {v.path: optimizer.scale(v) for v in pyramid.trainable_variables}
    assert scales["encoder/patch_embedding/project/kernel"] == 0.5**5
    assert scales["encoder/block_4/expand/kernel"] == 0.5 and scales["pyramid/P2_enlarge_1/project/kernel"] == 1


def test_a_wanted_part_alone_is_built(make_encoder, make_images):
    pyramid = Pyramid(make_encoder((32, 32, 3), 16, depth=4), levels=("P3", "P4", "P5"))
    assert set(pyramid(make_images(1, (32, 32, 3)))) == {"P3", "P4", "P5"}
    assert not [v.path for v in pyramid.weights if "P2" in v.path]


def test_feature_pyramid_adds_what_is_coarser(rng):
    maps = {
        level: rng.standard_normal((2, *side, 4)).astype("float32")
        for level, side in (("P3", (5, 6)), ("P4", (3, 3)), ("P5", (2, 2)))
    }
    layer = FeaturePyramid(8, ("P3", "P4", "P5", "P6", "P7"))
    answer = layer(maps)
    assert {level: tuple(x.shape) for level, x in answer.items()} == {
        "P3": (2, 5, 6, 8), "P4": (2, 3, 3, 8), "P5": (2, 2, 2, 8), "P6": (2, 1, 1, 8), "P7": (2, 1, 1, 8)
    }  # fmt: skip
    changed = layer({**maps, "P5": maps["P5"] + 1})
    assert not np.allclose(*map(ops.convert_to_numpy, (changed["P3"], answer["P3"])))
    finer = layer({**maps, "P3": maps["P3"] + 1})
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (finer["P4"], answer["P4"])))


def test_pooled_levels_leave_every_other_pixel_out(rng):
    maps = {
        "P4": rng.standard_normal((1, 4, 6, 4)).astype("float32"),
        "P5": rng.standard_normal((1, 2, 3, 4)).astype("float32"),
    }
    answer = FeaturePyramid(8, ("P4", "P5", "P6"), pooled=True)(maps)
    np.testing.assert_array_equal(ops.convert_to_numpy(answer["P6"]), ops.convert_to_numpy(answer["P5"])[:, ::2, ::2])


def test_round_trips_of_configurations(make_encoder, make_images):
    pyramid, images = Pyramid(make_encoder((16, 16, 3), 8), "simple", ("P3", "P4")), make_images(2, (16, 16, 3))
    again = Pyramid.from_config(pyramid.get_config())
    again.set_weights(pyramid.get_weights())
    assert again.get_config() == pyramid.get_config()
    np.testing.assert_array_equal(*(ops.convert_to_numpy(p(images)["P3"]) for p in (pyramid, again)))
    layer = FeaturePyramid(8, ("P3", "P4"), pooled=True)
    assert FeaturePyramid.from_config(layer.get_config()).get_config() == layer.get_config()


def test_bad_arguments_are_refused(make_encoder):
    with pytest.raises(ValueError, match="Expected neck to be one of blocks, simple, received 'fpn'."):
        Pyramid(make_encoder(), "fpn")
    with pytest.raises(ValueError, match="a power of two, received patch_size=6"):
        Pyramid(make_encoder((12, 12, 3), 6))


def test_mixed_precision(make_encoder, make_images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    pyramid = Pyramid(make_encoder((32, 32, 3), 16))
    assert {keras.backend.standardize_dtype(x.dtype) for x in pyramid(make_images(1, (32, 32, 3))).values()} == {
        "bfloat16"
    }
