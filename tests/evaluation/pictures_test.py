import numpy as np
import pytest
from keras import ops
from PIL import Image

import keras_splitmask as ks
from keras_splitmask.evaluation.pictures import (
    COLUMNS,
    MASKED_COLUMNS,
    has_picture,
    inpainting_panels,
    inpainting_strips,
    masked_panels,
    save_inpainting,
    sheet,
)


def patches(images):
    """(B, H, W, C) to (B, N, P) in 4x4 patches, by NumPy's own means."""
    batch, height, width, channels = images.shape
    split = images.reshape(batch, height // 4, 4, width // 4, 4, channels).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(batch, -1, 16 * channels)


LONG = [pytest.param(*one, marks=pytest.mark.long) for one in (((16, 16, 1), 0.5), ((12, 20, 5), 0.5))]


@pytest.mark.backend
@pytest.mark.parametrize(("image_shape", "keep"), [((16, 8, 3), 0.25), *LONG])
def test_the_columns_are_what_they_say(make_model, make_images, image_shape, keep):
    model = make_model(image_shape=image_shape, keep=keep)
    # No patch of a colour that stands for what is not seen, and none of one brightness.
    images = np.clip(make_images(3, image_shape), 0, 126)
    model.tokenizer.fit(images)
    rows = inpainting_panels(model, images)
    assert rows.shape == (3, 6, *image_shape) and rows.dtype == np.float32 and COLUMNS[-1] == "true words"
    original, half_a, half_b, from_a, from_b, true = (patches(column) for column in rows.swapaxes(0, 1))
    np.testing.assert_allclose(rows[:, 0], images / 255, atol=1e-6)

    count, seen = original.shape[1], model.split.seen_count
    seen_a, seen_b = ((half == original).all(axis=-1) for half in (half_a, half_b))  # (B, N)
    assert (seen_a.sum(axis=1) == seen).all() and (seen_b.sum(axis=1) == seen).all() and not (seen_a & seen_b).any()
    if 2 * seen == count:
        assert (seen_a | seen_b).all()
    assert (half_a[~seen_a] == 0.5).all() and (half_b[~seen_b] == 0.5).all()

    drawn = {
        word.tobytes()
        for word in patches(ops.convert_to_numpy(model.tokenizer.draw(np.arange(32).repeat(count).reshape(32, count))))[
            :, 0
        ]
    }
    for sees, prediction in ((seen_a, from_a), (seen_b, from_b)):
        assert (prediction[sees] == original[sees]).all()
        assert {word.tobytes() for word in prediction[~sees]} <= drawn  # what is predicted is a word
    assert (rows[:, 5] == ops.convert_to_numpy(model.tokenizer.draw(model.tokenizer(images)))).all()


def test_words_stand_where_they_were_predicted(make_model, make_images):
    """A decoder that always says the right word gives back the words of every unseen patch, in their places."""
    model, images = make_model(), make_images(4)
    ids = ops.convert_to_numpy(model.tokenizer(images))
    asked = []
    model.split.unseen = lambda order: asked.append(ks.Split.unseen(model.split, order)) or asked[-1]
    model.decoder.words.call = lambda tokens: ops.one_hot(
        np.take_along_axis(ids.repeat(2, axis=0), ops.convert_to_numpy(asked[0]), axis=1), 32
    )
    original, _, _, from_a, from_b, true = (
        patches(column) for column in inpainting_panels(model, images).swapaxes(0, 1)
    )
    for prediction in (from_a, from_b):
        as_word = (prediction == true).all(axis=-1)
        assert (as_word | (prediction == original).all(axis=-1)).all() and as_word.sum() == 4 * 8


@pytest.mark.backend
@pytest.mark.long
def test_predictions_are_drawn_at_masked_patches(make_encoder, make_images):
    image_shape = (12, 20, 3)
    images = np.clip(make_images(3, image_shape), 0, 126)
    tokenizer = ks.tokenizers.RandomProjection(image_shape, 4, 32).fit(images)
    beit, mae = (
        ks.baselines.BEiT(make_encoder(image_shape), tokenizer),
        ks.baselines.MAE(make_encoder(image_shape), decoder_depth=1),
    )
    words = {
        word.tobytes()
        for word in patches(ops.convert_to_numpy(tokenizer.draw(np.arange(32).repeat(15).reshape(32, 15))))[:, 0]
    }
    for model in (beit, mae):
        rows = masked_panels(model, images)
        assert rows.shape == (3, 3, *image_shape) and rows.dtype == np.float32 and len(MASKED_COLUMNS) == 3
        original, masked, predicted = (patches(column) for column in rows.swapaxes(0, 1))
        np.testing.assert_allclose(rows[:, 0], images / 255, atol=1e-6)
        hidden = (masked == 0.5).all(axis=-1)  # no pixel is as bright
        assert (hidden.sum(axis=1) == model.masked_count).all() and (masked[~hidden] == original[~hidden]).all()
        assert (predicted[~hidden] == original[~hidden]).all() and (predicted[hidden] != original[hidden]).any(
            axis=-1
        ).all()
        if model is beit:
            assert {word.tobytes() for word in predicted[hidden]} <= words
        assert (predicted >= 0).all() and (predicted <= 1).all()


def test_what_has_a_picture(make_encoder, make_model):
    assert has_picture(make_model()) and not has_picture(make_model(inpaint_weight=0))
    assert has_picture(ks.baselines.MAE(make_encoder(), decoder_depth=1)) and not has_picture(
        ks.baselines.Untrained(make_encoder())
    )


def test_a_sheet_shows_colours_grey_and_what_it_can_of_more_channels():
    rows = np.zeros((2, 3, 8, 16, 5), "float32")
    rows[1, 2, ..., :] = (1, 0.5, 0, 1, 1)
    picture = sheet(rows, ("a", "b", "c"), tile=32, gap=4)  # twice the size, since 32 / 16 = 2
    assert picture.shape == (16 + 2 * (16 + 4), 3 * (32 + 4) - 4, 3) and picture.dtype == np.uint8
    top, left = 16 + 20, 2 * 36
    assert (picture[top : top + 16, left : left + 32] == (255, 128, 0)).all() and (picture[top + 16 :] == 255).all()
    assert (picture[top : top + 16, : left - 4 - 36] == 0).all()
    grey = sheet(rows[..., :1], ("a", "b", "c"), tile=4)
    assert grey.shape == (16 + 2 * 12, 3 * 20 - 4, 3) and (grey[-12:-4, -16:] == 255).all()
    assert (sheet(rows[..., :2], ("a", "b", "c"), tile=4) == grey).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_file_has_the_size_it_should(make_model, make_images, tmp_path, channels):
    model = make_model(image_shape=(16, 8, channels))
    save_inpainting(tmp_path / "picture.png", model, make_images(2, (16, 8, channels)))
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.format == "PNG" and picture.size == (6 * (7 * 8 + 4) - 4, 16 + 2 * (7 * 16 + 4))  # 112 / 16 = 7


@pytest.mark.backend
def test_strips_show_the_same_patches_at_each_call_and_leave_the_random_numbers_alone(make_model, make_images):
    model, images = make_model(image_shape=(28, 28, 3), patch_size=7), np.clip(make_images(3, (28, 28, 3)), 0, 126)
    model.tokenizer.fit(images)
    seed = ops.convert_to_numpy(model.split.seed_generator.state)
    fixed, predicted = inpainting_strips(model, images)
    again, later = inpainting_strips(model, images)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.split.seed_generator.state), seed)
    assert list(fixed) == ["original", "seen", "true_words"]
    assert all((fixed[name] == again[name]).all() for name in fixed) and (predicted == later).all()
    side, height = 112, 3 * 112 + 2 * 4  # 112 / 28 = 4 pixels for each, and gaps of 4
    for strip in (*fixed.values(), predicted):
        assert strip.shape == (height, side, 3) and strip.dtype == np.uint8
    for i in range(3):
        part = slice(i * (side + 4), i * (side + 4) + side)
        assert (fixed["original"][part] == images[i].repeat(4, axis=0).repeat(4, axis=1)).all()
    seen = (fixed["seen"] != 128).all(axis=-1)  # which no pixel of the images is
    assert 0.3 < seen.mean() < 0.6 and (predicted[seen] == fixed["original"][seen]).all()

    hidden = ~seen
    hidden[side : side + 4] = hidden[2 * side + 4 : 2 * side + 8] = False
    kernel = model.decoder.words.kernel
    kernel.assign(-ops.convert_to_tensor(kernel))  # as if the model had learnt
    _, changed = inpainting_strips(model, images)
    assert (changed[seen] == predicted[seen]).all() and (changed[hidden] != predicted[hidden]).any()


def test_strips_of_one_masked_view_and_of_wide_grey_images(make_encoder, make_images):
    mae = ks.baselines.MAE(make_encoder((16, 8, 1)), decoder_depth=1)
    fixed, predicted = inpainting_strips(mae, make_images(2, (16, 8, 1)))
    assert list(fixed) == ["original", "seen"] and predicted.shape == (2 * 112 + 4, 56, 3)
