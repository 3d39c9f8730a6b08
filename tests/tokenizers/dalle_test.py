import itertools

import keras
import numpy as np
import pytest
import torch
from keras import ops
from PIL import Image

import keras_splitmask as ks
from keras_splitmask.tokenizers import Dalle, RandomProjection
from keras_splitmask.tokenizers.dvae import decoder_convolutions, encoder_convolutions

pytestmark = pytest.mark.backend


def array(x):
    return ops.convert_to_numpy(x)


def convolution(x, kernel, bias):
    """(B, H, W, C), zeros around it, with a kernel (out, in, side, side): each sum written out."""
    side = kernel.shape[-1]
    height, width = x.shape[1:3]
    x = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    y = sum(
        x[:, i : i + height, j : j + width] @ kernel[:, :, i, j].T for i, j in itertools.product(range(side), repeat=2)
    )
    return y + bias


def dvae_in_numpy(x, arrays, change_size):
    """Half of a dVAE in float64, from what is published of it: four groups of two blocks, each block's sum weighted 1 /
    8**2."""

    def layer(name, x):
        return convolution(x, arrays[f"{name}.w"].astype("float64"), arrays[f"{name}.b"])

    x = layer("blocks.input", x)
    for group in "1234":
        for block in "12":
            path = f"blocks.group_{group}.block_{block}"
            y = x
            for i in "1234":
                y = layer(f"{path}.res_path.conv_{i}", np.maximum(y, 0))
            x = (layer(f"{path}.id_path", x) if f"{path}.id_path.w" in arrays else x) + y / 64
        if group != "4":
            x = change_size(x)
    return layer("blocks.output.conv", np.maximum(x, 0))


def halve(x):
    return np.max([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)


def double(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def test_words_equal_a_direct_calculation(dvae, make_images):
    encoder, _ = dvae(hidden=8, vocabulary=30)
    images = make_images(3, (16, 24, 3))
    tokenizer = Dalle.from_files((16, 24, 3), 8, encoder)
    expected = dvae_in_numpy(0.8 * images / 255 + 0.1, np.load(encoder), halve)
    assert expected.shape == (3, 2, 3, 30) and expected.std() > 0.1
    np.testing.assert_allclose(array(tokenizer.logits(images)), expected, atol=1e-4)
    ids = array(tokenizer(images))
    assert ids.dtype == "int32" and ids.shape == (3, 6) == tokenizer.compute_output_shape(images.shape)
    np.testing.assert_array_equal(ids, expected.argmax(axis=-1).reshape(3, 6))
    assert len(np.unique(ids)) > 1


def test_pictures_equal_a_direct_calculation(dvae, rng):
    files = dvae(hidden=8, vocabulary=30)
    ids = rng.integers(0, 30, (2, 6))
    tokenizer = Dalle.from_files((16, 24, 3), 8, *files)
    expected = dvae_in_numpy(np.eye(30)[ids.reshape(2, 2, 3)], np.load(files[1]), double)
    assert expected.shape == (2, 16, 24, 6)
    np.testing.assert_allclose(
        array(tokenizer.decoder(np.eye(30, dtype="float32")[ids.reshape(2, 2, 3)])), expected, atol=1e-4
    )
    pixels = np.clip((1 / (1 + np.exp(-expected[..., :3])) - 0.1) / 0.8, 0, 1)
    np.testing.assert_allclose(array(tokenizer.draw(ids)), pixels, atol=1e-5)
    grey = array(Dalle.from_files((32, 48, 1), 16, *files).draw(ids))
    assert grey.shape == (2, 32, 48, 1) and abs(grey.mean() - pixels.mean()) < 0.01


def test_both_halves_equal_those_of_the_package_dall_e(tmp_path, rng):
    package = pytest.importorskip(
        "dall_e", reason="pip install --no-deps dall-e attrs requests, to compare with the package itself"
    )
    halves = package.Encoder(n_hid=64, vocab_size=512), package.Decoder(n_hid=64, vocab_size=512)
    files = tmp_path / "encoder.pkl", tmp_path / "decoder.pkl"
    for half, file in zip(halves, files, strict=True):
        for name, parameter in half.named_parameters():
            if name.endswith(".b"):
                torch.nn.init.normal_(parameter, std=0.1)
        torch.save(half, file, _use_new_zipfile_serialization=half is halves[0])
    tokenizer = Dalle.from_files((32, 24, 3), 8, *files)
    assert (tokenizer.hidden, tokenizer.vocabulary) == (64, 512)
    images = rng.integers(0, 256, (4, 32, 24, 3), "uint8")
    ids = rng.integers(0, 512, (4, 4, 3))
    words = np.eye(512, dtype="float32")[ids]
    with torch.no_grad():
        pixels = package.map_pixels(torch.tensor(images).permute(0, 3, 1, 2) / 255)
        logits, statistics = halves[0](pixels), halves[1](torch.tensor(words).permute(0, 3, 1, 2))
        drawn = package.unmap_pixels(torch.sigmoid(statistics[:, :3]))
    for found, expected in (
        (tokenizer.logits(images), logits),
        (tokenizer.decoder(words), statistics),
        (tokenizer.draw(ids.reshape(4, 12)), drawn),
    ):
        np.testing.assert_allclose(array(found), expected.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(array(tokenizer(images)), logits.argmax(dim=1).reshape(4, 12).numpy())


def test_the_published_sizes():
    """Tensors and parameters of the files that OpenAI published: 74 and 53,786,240, 76 and 43,829,766."""
    for table, tensors, parameters in ((encoder_convolutions, 74, 53_786_240), (decoder_convolutions, 76, 43_829_766)):
        convolutions = table(256, 8192).values()
        assert 2 * len(convolutions) == tensors
        assert sum(n_out * n_in * side**2 + n_out for n_out, n_in, side in convolutions) == parameters


@pytest.mark.parametrize("patch_size", [4, 8, 14, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_patch_becomes_eight_pixels(make_images, patch_size, channels):
    shape = (2 * patch_size, 3 * patch_size, channels)
    images = make_images(1, shape)
    tokenizer = Dalle(shape, patch_size, vocabulary=7, hidden=4)
    found = array(tokenizer.encoder_pixels(images))
    assert found.shape == (1, 16, 24, channels)
    for channel in range(channels):
        plane = Image.fromarray(images[0, ..., channel].astype("float32") / 255)
        np.testing.assert_allclose(
            found[0, ..., channel], np.asarray(plane.resize((24, 16), Image.Resampling.BILINEAR)), atol=1e-5
        )


def test_grey_images_are_repeated(dvae, make_images):
    encoder, _ = dvae()
    images = make_images(2, (16, 16, 1))
    grey, colour = (Dalle.from_files((16, 16, channels), 8, encoder) for channels in (1, 3))
    np.testing.assert_allclose(array(grey.logits(images)), array(colour.logits(images.repeat(3, axis=-1))), atol=1e-6)


def test_floats_are_the_pixels_of_bytes(dvae, make_images):
    images = make_images(2)
    tokenizer = Dalle.from_files((16, 16, 3), 8, dvae()[0])
    np.testing.assert_allclose(
        array(tokenizer.logits(images)), array(tokenizer.logits((images / 255).astype("float32"))), atol=1e-6
    )


def test_without_a_decoder_a_word_is_drawn_as_fit_met_it(dvae, make_images):
    images = make_images(6, (16, 24, 3))
    tokenizer = Dalle.from_files((16, 24, 3), 8, dvae(vocabulary=50)[0])
    ids = array(tokenizer(images))
    assert np.all(array(tokenizer.draw(ids)) == 0.5)
    drawn = array(tokenizer.fit(images).draw(ids))
    np.testing.assert_array_equal(array(tokenizer(images)), ids)
    squares = (images / 255).reshape(6, 2, 8, 3, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(6, 6, 8, 8, 3)
    for i, place in itertools.product(range(6), range(6)):
        row, column = divmod(place, 3)
        patch = drawn[i, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        np.testing.assert_allclose(patch, squares[ids == ids[i, place]].mean(axis=0), atol=1e-5)


def test_fit_looks_at_no_more_patches_than_it_may(make_images, monkeypatch):
    seen = []
    tokenizer = Dalle((16, 16, 3), 8, vocabulary=9, hidden=4)
    monkeypatch.setattr(
        Dalle, "logits", lambda self, images: seen.append(len(images)) or np.zeros((len(images), 2, 2, 9), "float32")
    )
    tokenizer.fit(make_images(20), max_patches=24, batch_size=4)
    tokenizer.fit(make_images(2))
    assert seen == [4, 2, 2]


def test_fit_leaves_what_has_a_decoder(dvae, make_images):
    tokenizer = Dalle.from_files((16, 16, 3), 8, *dvae())
    before = [array(w) for w in tokenizer.weights]
    assert tokenizer.fit(make_images()) is tokenizer
    assert all(np.array_equal(old, array(new)) for old, new in zip(before, tokenizer.weights, strict=True))


def test_nothing_of_it_is_trained_and_precision_has_no_influence(dvae, make_images):
    files, images = dvae(), make_images()
    exact = Dalle.from_files((16, 16, 3), 8, *files)
    assert not exact.trainable_weights and not any(w.trainable for w in exact.weights)
    keras.config.set_dtype_policy("mixed_bfloat16")
    again = Dalle.from_files((16, 16, 3), 8, *files)
    assert again.logits(images).dtype == exact.logits(images).dtype
    np.testing.assert_array_equal(array(again.logits(images)), array(exact.logits(images)))


@pytest.mark.parametrize("decoder", [False, True])
def test_config_round_trip(decoder):
    tokenizer = Dalle((16, 24, 1), 8, vocabulary=7, hidden=8, decoder=decoder, name="other")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(tokenizer))
    assert type(again) is Dalle and again.get_config() == tokenizer.get_config()
    assert (again.vocabulary, again.hidden, bool(again.decoder)) == (7, 8, decoder)


@pytest.mark.parametrize("halves", [1, 2])
def test_a_saved_model_holds_it(dvae, make_model, make_images, tmp_path, halves):
    images = make_images(4)
    tokenizer = Dalle.from_files((16, 16, 3), 4, *dvae()[:halves]).fit(images)
    model = make_model(tokenizer=tokenizer)
    before = [array(w) for w in tokenizer.weights]
    assert np.isfinite(model.train_on_batch(images, return_dict=True)["loss"])
    model.save(tmp_path / "model.keras")
    again = ks.interchange.load_model(tmp_path / "model.keras").tokenizer
    assert [w.path for w in again.weights] == [w.path for w in tokenizer.weights]
    assert all(np.array_equal(old, array(new)) for old, new in zip(before, again.weights, strict=True))
    ids = tokenizer(images)
    np.testing.assert_array_equal(array(again(images)), array(ids))
    np.testing.assert_array_equal(array(again.draw(ids)), array(tokenizer.draw(ids)))


def test_same_words_recognises_equal_tokenizers(dvae):
    files = dvae()
    first = Dalle.from_files((16, 16, 3), 8, files[0])
    assert first.same_words(Dalle.from_files((24, 8, 3), 8, *files))
    for other in (
        RandomProjection((16, 16, 3), 8, 16),
        Dalle.from_files((16, 16, 3), 4, files[0]),
        Dalle.from_files((16, 16, 1), 8, files[0]),
        Dalle.from_files((16, 16, 3), 8, dvae()[0]),
        Dalle.from_files((16, 16, 3), 8, dvae(vocabulary=17)[0]),
    ):
        assert not first.same_words(other)


def test_weights_that_do_not_fit_are_named(dvae, tmp_path):
    encoder, decoder = dvae(hidden=8)
    arrays = dict(np.load(encoder))

    def refusal(arrays, *more):
        np.savez(tmp_path / "changed.npz", **arrays)
        with pytest.raises(
            ValueError, match="Expected the weights of DALL-E's encoder, received .*changed.npz, which does not fit: "
        ) as caught:
            Dalle.from_files((16, 16, 3), 8, tmp_path / "changed.npz")
        return str(caught.value)

    bias, kernel = "blocks.group_3.block_1.id_path.b", "blocks.group_4.block_2.res_path.conv_2.w"
    assert f"{bias} is missing" in refusal({name: value for name, value in arrays.items() if name != bias})
    assert "blocks.new.w is left over" in refusal({**arrays, "blocks.new.w": arrays[bias]})
    assert f"{kernel} has shape (3, 3, 16, 16), expected (16, 16, 3, 3)" in refusal(
        {**arrays, kernel: arrays[kernel].transpose(2, 3, 0, 1)}
    )
    assert "blocks.input.w is missing" in refusal({"unknown": arrays[bias]}) and "; and 69 more." in refusal(
        {"unknown": arrays[bias]}
    )
    with pytest.raises(
        ValueError,
        match=(
            r"DALL-E's encoder, received .*decoder.npz, which does not fit: .*blocks.input.w has shape \(128, 16,"
            r" 1, 1\)"
        ),
    ):
        Dalle.from_files((16, 16, 3), 8, decoder, encoder)
    with pytest.raises(
        ValueError, match=r"DALL-E's decoder, received .*decoder.npz, which does not fit: .*expected \(128, 16, 1, 1\)"
    ):
        Dalle.from_files((16, 16, 3), 8, encoder, dvae(hidden=8, vocabulary=9)[1])


def test_errors(dvae, make_images, tmp_path):
    with pytest.raises(
        ValueError,
        match=(
            "File not found: .*, expected to hold the weights of DALL-E's encoder; "
            "download https://cdn.openai.com/dall-e/encoder.pkl and pass the path of that"
            r" file\.$"
        ),
    ):
        Dalle.from_files((16, 16, 3), 8, tmp_path / "encoder.pkl")
    with pytest.raises(ValueError, match="download https://cdn.openai.com/dall-e/decoder.pkl"):
        Dalle.from_files((16, 16, 3), 8, dvae()[0], tmp_path / "decoder.pkl")
    with pytest.raises(ValueError, match="its sha256 is [0-9a-f]{64}, expected 00"):
        Dalle.from_files((16, 16, 3), 8, dvae()[0], sha256="00")
    with pytest.raises(
        ValueError,
        match=r"Expected images of 1 or 3 channels.* received image_shape=\(16, 16, 2\); choose another tokenizer",
    ):
        Dalle((16, 16, 2), 8)
    with pytest.raises(ValueError, match="at least two words, received vocabulary=1"):
        Dalle((16, 16, 3), 8, vocabulary=1)
    with pytest.raises(ValueError, match="multiple of 4, received hidden=6"):
        Dalle((16, 16, 3), 8, hidden=6)
    with pytest.raises(ValueError, match="received 18x16 pixels and patch_size=4"):
        Dalle((18, 16, 3), 4)
    with pytest.raises(ValueError, match=r"Expected images of \(16, 16, 3\), received \(16, 24, 3\)"):
        Dalle((16, 16, 3), 8, vocabulary=7, hidden=4)(make_images(1, (16, 24, 3)))
