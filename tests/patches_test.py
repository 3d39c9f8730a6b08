import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask import patches

pytestmark = pytest.mark.backend


def test_grid_has_rows_before_columns():
    assert patches.grid_shape((48, 80, 5), 16) == (3, 5)


def test_patch_that_does_not_divide_the_image_says_what_would():
    with pytest.raises(
        ValueError,
        match="multiples of the patch size, received 50x80 pixels and patch_size=16; resize the images to 48x80",
    ):
        patches.grid_shape((50, 80, 3), 16)
    with pytest.raises(ValueError, match="patch_size=0"):
        patches.grid_shape((50, 80, 3), 0)


@pytest.mark.parametrize("image_shape", [(16, 16), (0, 16, 3), (16, 16, 3, 1)])
def test_image_shape_that_is_none(image_shape):
    with pytest.raises(ValueError, match=r"Expected image_shape=\(height, width, channels\), received"):
        patches.grid_shape(image_shape, 4)


def test_patches_are_the_image_cut_row_by_row(make_images):
    images = make_images(2, (12, 20, 5))
    cut = ops.convert_to_numpy(patches.to_patches(ops.convert_to_tensor(images), 4))
    assert cut.shape == (2, 15, 80)
    for row in range(3):
        for column in range(5):
            square = images[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            np.testing.assert_array_equal(cut[:, 5 * row + column], square.reshape(2, -1))


def test_to_images_undoes_to_patches(make_images):
    images = make_images(2, (12, 20, 5))
    back = patches.to_images(patches.to_patches(ops.convert_to_tensor(images), 4), (12, 20, 5), 4)
    np.testing.assert_array_equal(ops.convert_to_numpy(back), images)


@pytest.mark.parametrize("dtype, white", [("uint8", 255), ("uint16", 65535), ("float32", 1.0)])
def test_pixels_are_in_0_to_1_whatever_their_type(dtype, white):
    images = np.full((1, 2, 2, 1), white, dtype)
    np.testing.assert_allclose(ops.convert_to_numpy(patches.to_pixels(images)), 1.0, rtol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(patches.normalise(images)), (1.0 - 0.5) / 0.5, rtol=1e-6)


def test_normalised_pixels_stay_tensors_and_on_their_device():
    normalised = patches.normalise(ops.convert_to_tensor(np.full((1, 2, 2, 3), 255, "uint8")))
    assert ops.is_tensor(normalised) and ops.is_tensor(patches.denormalise(normalised))


def test_three_channels_are_normalised_by_imagenet():
    white = ops.convert_to_numpy(patches.normalise(np.full((1, 1, 1, 3), 255, "uint8")))[0, 0, 0]
    np.testing.assert_allclose(white, [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_denormalise_undoes_normalise(rng, channels):
    images = rng.random((2, 4, 4, channels), "float32")
    back = patches.denormalise(patches.normalise(images))
    np.testing.assert_allclose(ops.convert_to_numpy(back), images, atol=1e-6)


def test_denormalise_clips():
    np.testing.assert_array_equal(
        ops.convert_to_numpy(patches.denormalise(np.array([[-9.0, 9.0]], "float32"))), [[0.0, 1.0]]
    )


def test_sine_cosine_codes_row_then_column():
    table = patches.sine_cosine_positions(3, 5, 8)
    row, column = 2, 4  # frequencies 1 and 1 / 10000^(1/2) = 1 / 100
    angles = [row, row / 100], [column, column / 100]
    expected = np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)])
    np.testing.assert_allclose(table[row * 5 + column], expected, rtol=1e-6)
    assert table.shape == (15, 8)


def test_sine_cosine_needs_a_width_divisible_by_four():
    with pytest.raises(ValueError, match="width divisible by 4 for sine-cosine positions, received width=6"):
        patches.sine_cosine_positions(2, 2, 6)


@pytest.mark.parametrize("positions", ["learned", "sine_cosine"])
def test_embedding_is_a_linear_map_plus_position(make_images, positions):
    layer = patches.PatchEmbedding((12, 20, 5), 4, 8, positions)
    images = make_images(2, (12, 20, 5))
    tokens = ops.convert_to_numpy(layer(images))
    cut = ops.convert_to_numpy(patches.to_patches(ops.convert_to_tensor((images / 255 - 0.5) / 0.5), 4))
    weights = (layer.project.kernel, layer.project.bias, layer.position_table())
    kernel, bias, table = (ops.convert_to_numpy(w) for w in weights)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.positions_at(np.array([[3, 1]]))), table[None, [3, 1]])
    np.testing.assert_allclose(tokens, cut @ kernel + bias + table, atol=1e-4)
    assert tokens.shape == layer.compute_output_shape(images.shape)
    if positions == "sine_cosine":
        np.testing.assert_array_equal(table, patches.sine_cosine_positions(3, 5, 8))
    assert len(layer.trainable_weights) == (3 if positions == "learned" else 2)


def test_embedding_refuses_other_images_and_other_positions(make_images):
    layer = patches.PatchEmbedding((12, 20, 3), 4, 8)
    with pytest.raises(
        ValueError, match=r"Expected images of \(12, 20, 3\) \(height, width, channels\), received \(12, 20, 1\)"
    ):
        layer(make_images(2, (12, 20, 1)))
    with pytest.raises(ValueError, match="received 'rotary'"):
        patches.PatchEmbedding((12, 20, 3), 4, 8, "rotary")


def test_embedding_config_round_trip():
    layer = patches.PatchEmbedding((12, 20, 5), 4, 8, "sine_cosine", name="other")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    assert (again.image_shape, again.patch_size, again.width, again.positions) == ((12, 20, 5), 4, 8, "sine_cosine")
