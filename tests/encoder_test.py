import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.encoder import SIZES, Attention, Block, DropPath, Encoder

RELATIVE = {"relative_positions": True}
# Parameters at 224x224x3 pixels in 16x16 patches, without a head, as the literature has them. It gives the cls token a
# position; we do not, since both would be learned and only their sum is used. vit_micro is our own size, so its number
# is arithmetic.
PARAMETERS = {
    "vit_micro": 128 * (768 + 1 + 196 + 1 + 1) + 4 * (12 * 128**2 + 13 * 128) + 2 * 128,
    "vit_tiny": 5_524_416,
    "vit_small": 21_665_664,
    "vit_base": 85_798_656,
    "vit_large": 303_301_632,
}


def parameters(width, depth, patch_size, channels, count):
    block = (
        2 * 2 * width
        + (width + 1) * 3 * width
        + (width + 1) * width
        + (width + 1) * 4 * width
        + (4 * width + 1) * width
    )
    embedding = (patch_size**2 * channels + 1) * width + count * width  # and a position for each patch
    return embedding + width + depth * block + 2 * width  # cls token; final norm


@pytest.mark.parametrize("size", SIZES)
def test_parameters_of_every_size(size):
    width, depth, heads = SIZES[size]
    expected = PARAMETERS[size] - width  # the cls token's position
    assert parameters(width, depth, 16, 3, 14 * 14) == expected
    assert width % heads == 0
    if size != "vit_large":  # 1.2 GB and several seconds; the other four cover the code
        assert Encoder.from_size(size, (224, 224, 3)).count_params() == expected


def test_no_size_is_missing_from_the_table():
    assert set(PARAMETERS) == set(SIZES)


def test_parameters_of_other_images(make_encoder):
    encoder = make_encoder((48, 80, 5), patch_size=16, width=8)
    assert encoder.count_params() == parameters(8, 2, 16, 5, 3 * 5)
    fixed = make_encoder((48, 80, 5), patch_size=16, width=8, positions="sine_cosine")
    assert sum(math.prod(w.shape) for w in fixed.trainable_weights) == parameters(8, 2, 16, 5, 0)


def test_relative_positions_add_a_table_to_each_block(make_encoder):
    plain, relative = make_encoder((12, 20, 3)), make_encoder((12, 20, 3), relative_positions=True)
    assert relative.count_params() - plain.count_params() == 2 * 2 * (5 * 9 + 3)  # blocks, heads, and their positions
    assert "relative_positions" not in plain.get_config()  # as in files from before there were any


def in_numpy(encoder, images):
    """A second implementation of a Vision Transformer, in float64: tokens (B, 1 + N, D) after the final norm."""
    weights = {w.path.split("/", 1)[1]: ops.convert_to_numpy(w).astype("float64") for w in encoder.weights}

    def dense(x, name):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + encoder.epsilon)
        return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    def attention(x, name):
        head = encoder.width // encoder.heads
        query, key, value = np.split(dense(x, f"{name}/qkv"), 3, axis=-1)
        heads = []
        for h in range(encoder.heads):
            q, k, v = (part[..., h * head : (h + 1) * head] for part in (query, key, value))
            scores = q @ k.swapaxes(1, 2) / math.sqrt(head)
            if encoder.relative_positions:
                scores = scores + biases(weights[f"{name}/relative_positions"][:, h])
            scores = np.exp(scores)
            heads.append(scores / scores.sum(-1, keepdims=True) @ v)
        return dense(np.concatenate(heads, axis=-1), f"{name}/project")

    def biases(table):
        """By the distance from the key to the query, down and to the right; the last three are of cls."""
        rows, columns = encoder.grid
        distances = table[:-3].reshape(2 * rows - 1, 2 * columns - 1)
        square = np.empty((1 + rows * columns,) * 2)
        square[0], square[1:, 0], square[0, 0] = table[-3:]
        for i, (r, c) in enumerate(np.ndindex(rows, columns), 1):
            for j, (s, d) in enumerate(np.ndindex(rows, columns), 1):
                square[i, j] = distances[r - s + rows - 1, c - d + columns - 1]
        return square

    size, x = encoder.patch_size, (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    rows, columns = encoder.grid
    squares = [
        x[:, size * r : size * (r + 1), size * c : size * (c + 1)].reshape(len(x), -1)
        for r in range(rows)
        for c in range(columns)
    ]
    x = dense(np.stack(squares, axis=1), "patch_embedding/project") + weights["patch_embedding/positions"]
    first = [weights[name] for name in ("cls_token", "extra_tokens") if name in weights]
    x = np.concatenate([*(np.repeat(t, len(x), axis=0) for t in first), x], axis=1)
    for i in range(encoder.depth):
        x = x + attention(norm(x, f"block_{i + 1}/norm_attention"), f"block_{i + 1}/attention")
        hidden = dense(norm(x, f"block_{i + 1}/norm_mlp"), f"block_{i + 1}/expand")
        gelu = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
        x = x + dense(gelu, f"block_{i + 1}/contract")
    return np.delete(norm(x, "norm"), range(1, 1 + encoder.extra_tokens), axis=1)


@pytest.mark.backend
@pytest.mark.parametrize("other", [{}, {"extra_tokens": 2, "epsilon": 0.1}, RELATIVE], ids=str)
def test_encoder_is_a_vision_transformer(make_encoder, make_images, rng, other):
    encoder, images = make_encoder((12, 20, 3), **other), make_images(2, (12, 20, 3))
    encoder.set_weights(
        [
            w + (1.0 if w.shape[0] == 9 * 5 + 3 else 0.1) * rng.standard_normal(w.shape).astype("float32")
            for w in encoder.get_weights()
        ]
    )
    tokens = in_numpy(encoder, images)
    answer = encoder(images)
    np.testing.assert_allclose(ops.convert_to_numpy(answer["cls"]), tokens[:, 0], atol=1e-4)
    np.testing.assert_allclose(ops.convert_to_numpy(answer["pooled"]), tokens[:, 1:].mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(
        ops.convert_to_numpy(answer["feature_map"]), tokens[:, 1:].reshape(2, 3, 5, 16), atol=1e-4
    )


@pytest.mark.backend
def test_every_block_is_given_on_request(make_encoder, make_images):
    encoder, images = make_encoder((12, 20, 3), depth=3, extra_tokens=1), make_images(2, (12, 20, 3))
    answer = encoder(images, every_block=True)
    assert tuple(answer["block_3"].shape) == (2, 1 + 15, 16)
    assert set(answer) == {"pooled", "cls", "feature_map", "block_1", "block_2", "block_3"}
    last = encoder.norm(answer["block_3"])
    np.testing.assert_allclose(ops.convert_to_numpy(last[:, 0]), ops.convert_to_numpy(answer["cls"]), atol=1e-6)
    assert set(encoder(images)) == {"pooled", "cls", "feature_map"}


@pytest.mark.backend
def test_encode_takes_any_subset_in_any_order(make_encoder, make_images):
    encoder = make_encoder()
    tokens = encoder.embed(make_images(2))
    some = np.array([9, 2, 5, 11, 0])
    given = ops.convert_to_numpy(encoder.encode(ops.take(tokens, some, axis=1)))
    sorted_first = ops.convert_to_numpy(encoder.encode(ops.take(tokens, np.sort(some), axis=1)))
    assert given.shape == (2, 1 + 5, 16)
    np.testing.assert_allclose(given[:, 0], sorted_first[:, 0], atol=1e-5)
    np.testing.assert_allclose(given[:, 1:], sorted_first[:, 1 + some.argsort().argsort()], atol=1e-5)


def test_relative_positions_are_of_whole_images(make_encoder, make_images):
    encoder, tokenizer = make_encoder(**RELATIVE), ks.tokenizers.RandomProjection((16, 16, 3), 4, vocabulary=8)
    tokens = encoder.embed(make_images(2))
    with pytest.raises(ValueError, match="tokens of all 16 patches, in order, .* relative positions, received 5"):
        encoder.encode(tokens[:, :5])
    for method, *arguments in (
        (ks.SplitMask, tokenizer),
        (ks.baselines.BEiT, tokenizer),
        (ks.baselines.MAE,),
        (ks.baselines.DINO, 1, 8),
    ):
        with pytest.raises(ValueError, match="Expected an encoder without relative positions .*; fine-tune it"):
            method(encoder, *arguments)
    with pytest.raises(ValueError, match="no extra tokens with relative_positions=True, received extra_tokens=1"):
        make_encoder(extra_tokens=1, **RELATIVE)


@pytest.mark.backend
@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.long)])
def test_relative_positions_are_learned(make_encoder, make_images, policy):
    keras.config.set_dtype_policy(policy)
    model = ks.transfer.Classifier(make_encoder(**RELATIVE), 3)
    model.compile(optimizer=ks.training.adamw(0.1, steps=2, warmup=0, layer_decay=0.9, depth=2))
    model.fit(make_images(4), np.array([0, 1, 2, 0], "int32"), batch_size=4, shuffle=False, verbose=0)
    table = ops.convert_to_numpy(model.encoder.blocks[0].attention.table)
    assert table.dtype == "float32" and np.isfinite(table).all() and (table != 0).all()


@pytest.mark.backend
def test_some_patches_are_embedded_as_among_all(make_encoder, make_images):
    encoder, images = make_encoder(), make_images(2)
    indices = np.array([[5, 0, 3], [1, 1, 15]], "int32")
    for pixels in (images, images.astype("uint16"), images.astype("float32") / 255):
        tokens = np.take_along_axis(ops.convert_to_numpy(encoder.embed(pixels)), indices[..., None], axis=1)
        np.testing.assert_allclose(ops.convert_to_numpy(encoder.embed(pixels, indices=indices)), tokens, atol=1e-5)


def test_eager_and_compiled_answers_are_equal(make_encoder, make_images):
    encoder, images = make_encoder(), make_images(4)
    encoder.compile(jit_compile=keras.backend.backend() != "torch")
    compiled = encoder.predict(images, verbose=0)
    for name, value in encoder(images).items():
        np.testing.assert_allclose(compiled[name], ops.convert_to_numpy(value), atol=1e-5)


@pytest.mark.backend
def test_block_that_starts_late_gives_the_last_tokens_of_the_whole_block(rng):
    block = Block(8, 2)
    tokens = rng.standard_normal((2, 7, 8)).astype("float32")
    whole = ops.convert_to_numpy(block(tokens))
    np.testing.assert_allclose(ops.convert_to_numpy(block(tokens, start=3)), whole[:, 3:], atol=1e-5)
    np.testing.assert_allclose(
        ops.convert_to_numpy(block.attention(tokens, start=6)),
        ops.convert_to_numpy(block.attention(tokens))[:, 6:],
        atol=1e-5,
    )


@pytest.mark.backend
def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    drop, x = DropPath(0.25), np.ones((4000, 2, 3), "float32")
    dropped = ops.convert_to_numpy(drop(x, training=True))
    assert ((dropped == dropped[:, :1, :1]).all(axis=(1, 2))).all()
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(dropped.mean(), 1, atol=5 * math.sqrt(0.25 / 0.75 / 4000))
    np.testing.assert_array_equal(ops.convert_to_numpy(drop(x, training=False)), x)


def test_drop_path_rises_linearly_to_its_rate(make_encoder):
    rates = [block.drop.rate for block in make_encoder(depth=5, drop_path=0.2).blocks]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.15, 0.2])
    assert make_encoder(depth=1, drop_path=0.2).blocks[0].drop.rate == 0


@pytest.mark.backend
def test_mixed_bfloat16_is_near_float32(make_encoder, make_images):
    images = make_images(2)
    exact = make_encoder()
    rough = make_encoder(dtype="mixed_bfloat16")
    rough.set_weights(exact.get_weights())
    answer = rough(images)
    assert keras.backend.standardize_dtype(answer["pooled"].dtype) == "bfloat16"
    assert all(w.dtype == "float32" for w in rough.weights if w.name != "seed_generator_state")
    difference = ops.convert_to_numpy(ops.cast(answer["pooled"], "float32")) - ops.convert_to_numpy(
        exact(images)["pooled"]
    )
    assert 0 < np.abs(difference).max() < 0.1


def layers():
    return [
        DropPath(0.25, (None, 1, 1, None), seed=3),
        Attention(8, 2),
        Block(8, 2, drop_path=0.25),
        Encoder((12, 20, 5), 4, 8, 2, 2, drop_path=0.1, positions="sine_cosine", name="other"),
        Encoder((12, 20, 5), 4, 8, 2, 2, epsilon=1e-12, extra_tokens=1),
        Attention(8, 2, 48),
        Block(8, 2, relative_positions=48),
        Encoder((12, 20, 5), 4, 8, 2, 2, **RELATIVE),
    ]


@pytest.mark.parametrize("layer", layers(), ids=lambda layer: type(layer).__name__)
def test_config_round_trip(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.backend
@pytest.mark.parametrize("other", [{}, RELATIVE], ids=str)
def test_saved_encoder_is_restored_exactly(make_encoder, make_images, rng, tmp_path, other):
    encoder, images = make_encoder(positions="sine_cosine", drop_path=0.1, **other), make_images(2)
    for block in encoder.blocks if other else ():
        block.attention.table.assign(rng.standard_normal(block.attention.table.shape))
    encoder.save(tmp_path / "encoder.keras")
    again = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(
        ops.convert_to_numpy(again(images)["pooled"]), ops.convert_to_numpy(encoder(images)["pooled"])
    )


def test_errors(make_encoder):
    with pytest.raises(
        ValueError,
        match="Expected a size among vit_micro, vit_tiny, vit_small, vit_base, vit_large, received 'vit_smal'",
    ):
        Encoder.from_size("vit_smal", (32, 32, 3))
    for name, value in {"width": 0, "depth": 0, "heads": 0, "extra_tokens": -1}.items():
        with pytest.raises(ValueError, match=f"extra_tokens of at least 0, received .*{name}={value}"):
            Encoder(**{"image_shape": (16, 16, 3), "patch_size": 4, "width": 8, "depth": 1, "heads": 2, name: value})
    with pytest.raises(ValueError, match="width divisible by the number of heads, received width=10, heads=4"):
        make_encoder(width=10, heads=4)
    with pytest.raises(ValueError, match=r"drop path rate in \[0, 1\), received rate=1.5"):
        make_encoder(drop_path=1.5)
    with pytest.raises(ValueError, match="received 18x18 pixels and patch_size=4"):
        make_encoder((18, 18, 3))
