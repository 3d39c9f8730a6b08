"""What is written for other libraries and read again, and what is refused; their classes themselves are asked in
huggingface_test.py."""

import json
import re
import resource
import time

import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.interchange.safetensors_files import open_safetensors

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed: pip install safetensors")
LAYOUTS = ["vit", "deit", "beit", "mae", "timm"]


def make_encoder(layout="vit", **arguments):
    arguments = {"extra_tokens": int(layout == "deit"), "epsilon": 1e-6 if layout == "timm" else 1e-12, **arguments}
    encoder = ks.Encoder(
        **{"image_shape": (12, 12, 5), "patch_size": 4, "width": 12, "depth": 2, "heads": 3, **arguments}
    )
    rng = np.random.default_rng(0)
    for weight in encoder.trainable_variables:
        weight.assign_add(0.1 * rng.standard_normal(weight.shape).astype("float32"))
    return encoder


def arrays(encoder):
    return {name: ops.convert_to_numpy(weight) for name, weight in ks.interchange.named_weights(encoder).items()}


@pytest.fixture
def saved(tmp_path):
    """A folder of the layout vit, and a function that changes its weights and files."""
    folder = tmp_path / "saved"
    ks.interchange.save_encoder(make_encoder(image_shape=(12, 12, 3)), folder)

    def change(drop=(), add=(), config=None, processor=None):
        weights = safetensors.load_file(folder / "model.safetensors")
        weights = {**{name: array for name, array in weights.items() if name not in drop}, **dict(add)}
        safetensors.save_file(weights, folder / "model.safetensors")
        if config is not None:
            (folder / "config.json").write_text(
                json.dumps({**json.loads((folder / "config.json").read_text()), **config})
            )
        if processor is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        return folder

    return change


@pytest.mark.backend
@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        *((layout, changes) for layout in LAYOUTS for changes in ({}, {"positions": "sine_cosine"})),
        ("beit", {"relative_positions": True}),
    ],
    ids=str,
)
def test_a_round_trip_is_exact(layout, changes, tmp_path):
    encoder, reports = make_encoder(layout, **changes), []
    ks.interchange.save_encoder(encoder, tmp_path / "out", layout)
    again = ks.interchange.load_encoder(tmp_path / "out", reports.append)
    expected = arrays(encoder)
    if layout == "beit":  # has no biases of keys
        for i in (1, 2):
            expected[f"block_{i}/attention/qkv/bias"][12:24] = 0
    assert arrays(again).keys() == expected.keys()
    for name, array in arrays(again).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert again.get_config()["epsilon"] == encoder.epsilon and again.heads == 3 and again.image_shape == (12, 12, 5)
    assert not reports[0].fresh and not reports[0].notes and not reports[0].dropped
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1  # whoever may read one may read all


def test_not_square_images_keep_their_grid(tmp_path):
    encoder = make_encoder(image_shape=(8, 20, 3))
    ks.interchange.save_encoder(encoder, tmp_path / "out")
    assert ks.interchange.load_encoder(tmp_path / "out").grid == (2, 5)


def test_what_nothing_states_is_assumed_and_reported(saved):
    folder = saved()
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(
        UserWarning,
        match="pixels are normalised with mean 0.485 0.456 0.406 .* since no preprocessor_config.json states them",
    ):
        ks.interchange.load_encoder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(
        ValueError,
        match="Expected config.json beside the weights to state num_attention_heads, received none, and a width of 12",
    ):
        ks.interchange.load_encoder(folder)


def test_pixels_that_are_normalised_otherwise_give_the_same_answer(saved, make_images):
    images = make_images(2, (12, 12, 3))
    folder = saved()
    before = ops.convert_to_numpy(ks.interchange.load_encoder(folder)(images)["pooled"])
    # The same function of pixels, with other statistics: weights times std, bias moved by the mean.
    weights = safetensors.load_file(folder / "model.safetensors")
    kernel, bias = (f"embeddings.patch_embeddings.projection.{name}" for name in ("weight", "bias"))
    mean, std = (
        np.array(values, "float32").reshape(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    other = weights[kernel] * (0.5 / std)
    shift = (weights[kernel] * ((0.5 - mean) / std)).sum(axis=(1, 2, 3))
    safetensors.save_file({**weights, kernel: other, bias: weights[bias] + shift}, folder / "model.safetensors")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    reports = []
    after = ks.interchange.load_encoder(folder, reports.append)(images)["pooled"]
    np.testing.assert_allclose(ops.convert_to_numpy(after), before, atol=1e-5)
    assert set(reports[0].folded) == {"patch_embedding/project/kernel", "patch_embedding/project/bias"}


QUERY = "encoder.layer.1.attention.attention.query.weight"


@pytest.mark.parametrize("beside", [0, 1, 2])  # rows of the table of positions that are not of patches
@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_grid_that_no_file_states_follows_from_the_positions(make_images, tmp_path, side, beside):
    layout, shape, name = "deit" if beside == 2 else "vit", (4 * side, 4 * side, 3), "embeddings.position_embeddings"
    encoder, images = make_encoder(layout, image_shape=shape), make_images(2, shape)
    ks.interchange.save_encoder(encoder, folder := tmp_path / "saved", layout)
    weights = safetensors.load_file(folder / "model.safetensors")
    weights[name] = weights[name][:, -(beside + side * side) :]  # tokens get no positions of us
    safetensors.save_file(weights, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "image_size"}))
    again = ks.interchange.load_encoder(folder)
    assert again.image_shape == shape
    for output, expected in zip(again(images).values(), encoder(images).values(), strict=True):
        assert np.array_equal(ops.convert_to_numpy(output), ops.convert_to_numpy(expected))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": [QUERY]}, "block_2/attention/qkv/kernel is missing"),
        ({"drop": ["layernorm.bias"]}, "norm/beta is missing"),
        ({"add": {QUERY: np.zeros((12, 13), "float32")}}, "block_2/attention/qkv/kernel is missing"),
        (
            {"add": {"encoder.layer.0.output.dense.weight": np.zeros((12, 50), "float32")}},
            r"block_1/contract/kernel has shape \(50, 12\), expected \(48, 12\)",
        ),
        (
            {"add": {"encoder.layer.0.gate.weight": np.zeros(3, "float32")}},
            "Expected the weights of a plain Vision Transformer, received .* encoder.layer.0.gate.weight",
        ),
        (
            {"add": {"encoder.layer.0.attention.relative_position_bias": np.zeros(3, "float32")}},
            "Expected absolute positions or BEiT's, received .*; choose another, such as a BeitModel, ViTModel",
        ),
        (
            {"add": {"layernorm.bias": np.zeros(12, "int8")}},
            "The weights of .* do not fit: norm/beta is missing",
        ),
        ({"drop": ["embeddings.cls_token"]}, "Expected one Vision Transformer with a cls token"),
        ({"config": {"hidden_act": "relu"}}, "Expected a model with hidden_act gelu, received 'relu'"),
        (
            {"config": {"model_type": "swin"}},
            "Expected a model_type among beit, data2vec-vision, deit, dinov2, dinov2_with_registers, timm_wrapper, vit,"
            " vit_mae, vit_msn beside .*, received 'swin'",
        ),
        (
            {"config": {"use_swiglu_ffn": True}},
            "Expected a model without use_swiglu_ffn, received one with it beside .*; choose dinov2-small",
        ),
        (
            {"config": {"model_args": {"act_layer": "relu"}}},
            "received one with 'act_layer' beside .*; choose one without, such as vit_base_patch16_224",
        ),
        ({"config": {"num_hidden_layers": 3}}, "depth 3 for 2 of the weights"),
        (
            {"drop": ["embeddings.position_embeddings"]},
            "Expected a table of positions in .*, received none; is the file whole",
        ),
        (
            {"add": {"embeddings.position_embeddings": np.zeros(12, "float32")}},
            r"Expected tokens and positions \(1, count, 12\) in .*, received .*/positions \(12,\)",
        ),
        (
            {"drop": [f"encoder.layer.{i}.attention.attention.query.bias" for i in (0, 1)]},
            "block_1/attention/qkv/bias is missing",
        ),
        (
            {"add": {"layernorm.bias": np.full(12, np.nan, "float32")}},
            "received .*: layernorm.bias has values that are not finite",
        ),
        (
            {"config": {"image_size": 20}},
            "Expected positions of 5x5 patches in .*, as config.json beside it states, received 10",
        ),
        (
            {"config": {"image_size": "12"}},
            "Expected image_size to be a positive int or two in .*config.json, received '12'",
        ),
        (
            {"config": {"image_size": [12]}},
            r"Expected image_size to be a positive int or two in .*config.json, received \[12\]",
        ),
        (
            {"config": {"num_attention_heads": 0}},
            "Expected num_attention_heads to be a positive int in .*config.json, received 0",
        ),
        (
            {"config": {"layer_norm_eps": "small"}},
            "Expected layer_norm_eps to be a positive float in .*config.json, received 'small'",
        ),
        ({"config": {"model_args": [1]}}, r"Expected model_args to be a JSON object in .*config.json, received \[1\]"),
        (
            {"processor": {"image_mean": [0.5] * 3, "image_std": [0.5, 0, 0.5]}},
            "Expected image_mean and a positive image_std of each channel",
        ),
        (
            {"processor": {"image_mean": [0.5] * 3, "image_std": [1e-300] * 3}},
            "Expected image_mean and a positive image_std of each channel",
        ),
        (
            {"processor": {"image_mean": [0.5] * 3}},
            "Expected image_mean and a positive image_std of each channel beside .* and None",
        ),
        (
            {"processor": {"image_mean": [0.5] * 2, "image_std": [0.5] * 2}},
            "Expected image_mean and image_std of 3 channels in .*, received 2 and 2",
        ),
        ({"processor": {"rescale_factor": None}}, "Expected a rescale_factor of 1/255"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(saved, change, message):
    with pytest.raises(ValueError, match=message):
        ks.interchange.load_encoder(saved(**change))


@pytest.mark.parametrize("query", ["attention.attention.query", "attention.q_proj"])
@pytest.mark.parametrize("registers", [0, 2])
def test_dinov2_by_its_own_names(query, registers, rng, tmp_path):
    """Names and shapes as in facebook/dinov2-small, but for sizes, and with `query` as in memory."""
    key, value = query.replace("query", "key").replace("q_", "k_"), query.replace("query", "value").replace("q_", "v_")
    project = "attention.output.dense" if "query" in query else "attention.o_proj"
    shapes = {"embeddings.cls_token": (1, 1, 12), "embeddings.mask_token": (1, 12)}
    shapes |= {"embeddings.position_embeddings": (1, 10, 12), "layernorm.weight": (12,), "layernorm.bias": (12,)}
    shapes |= {
        f"embeddings.patch_embeddings.projection.{n}": s for n, s in [("weight", (12, 3, 4, 4)), ("bias", (12,))]
    }
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, 12)
    for i in (0, 1):
        block = {f"{name}.lambda1": (12,) for name in ("layer_scale1", "layer_scale2")}
        block |= {f"{name}.{kind}": (12,) for name in ("norm1", "norm2") for kind in ("weight", "bias")}
        sizes = {query: (12, 12), key: (12, 12), value: (12, 12), project: (12, 12)}
        for name, size in {**sizes, "mlp.fc1": (48, 12), "mlp.fc2": (12, 48)}.items():
            block |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
        shapes |= {f"encoder.layer.{i}.{name}": shape for name, shape in block.items()}
    theirs = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    safetensors.save_file(theirs, tmp_path / "model.safetensors")
    config = {"model_type": f"dinov2{'_with_registers' * bool(registers)}", "num_attention_heads": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    reports = []
    encoder = ks.interchange.load_encoder(tmp_path, reports.append)
    assert (encoder.extra_tokens, encoder.epsilon, encoder.grid, encoder.depth) == (registers, 1e-6, (3, 3), 2)
    assert reports[0].dropped == {"embeddings.mask_token": "for masked patches"} and not reports[0].fresh
    ours, block = arrays(encoder), {name[16:]: array for name, array in theirs.items() if ".layer.1." in name}
    positions = theirs["embeddings.position_embeddings"]
    expected = {
        "cls_token": theirs["embeddings.cls_token"] + positions[:, :1],
        "patch_embedding/positions": positions[0, 1:],
        "norm/gamma": theirs["layernorm.weight"],
        "block_2/norm_attention/beta": block["norm1.bias"],
        "block_2/norm_mlp/gamma": block["norm2.weight"],
        "block_2/attention/qkv/kernel": np.concatenate([block[f"{n}.weight"].T for n in (query, key, value)], axis=1),
        "block_2/attention/project/bias": block[f"{project}.bias"] * block["layer_scale1.lambda1"],
        "block_2/expand/kernel": block["mlp.fc1.weight"].T,
        "block_2/contract/kernel": block["mlp.fc2.weight"].T * block["layer_scale2.lambda1"],
    }
    if registers:
        expected["extra_tokens"] = theirs["embeddings.register_tokens"]
    for name, array in expected.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_heads_and_decoders_are_left_out_and_named(saved):
    reports = []
    ks.interchange.load_encoder(
        saved(add={"classifier.weight": np.zeros((3, 12), "float32"), "decoder.mask_token": np.zeros(3, "float32")}),
        reports.append,
    )
    head = "of a head, left out since one is read only beside a config.json of timm"
    assert reports[0].dropped == {"classifier.weight": head, "decoder.mask_token": "of a decoder"}
    assert "dropped   " in str(reports[0]) and f"classifier.weight ({head})" in str(reports[0])


NUMBERS = [
    "1e308",
    "1e999",
    "Infinity",
    "NaN",
    "-1",
    "0.5",
    "true",
    "1" + "0" * 400,
    "9" * 5000,
    "[" * 10**5,
    "[[4]]",
    "{}",
    '"' + "x" * 10**5 + '"',
    str(2**40),
]


def refused_at_once(folder):
    """The one line of a refusal that takes neither time nor memory."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError) as error:
        ks.interchange.load_encoder(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 800, str(error.value)[:2000]
    assert (
        time.process_time() - started < 5 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024
    )  # KiB
    return str(error.value)


def test_numbers_that_no_model_has(saved):
    folder = saved()
    config, processor = ((folder / f"{kind}.json").read_text() for kind in ("config", "preprocessor_config"))
    for name in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
        "num_channels",
        "layer_norm_eps",
        "model_type",
        "hidden_act",
    ):
        for number in NUMBERS:
            (folder / "config.json").write_text(changed := re.sub(rf'"{name}": [^,\n]*', f'"{name}": {number}', config))
            assert changed != config
            if (name, number) != ("layer_norm_eps", "0.5"):
                line = refused_at_once(folder)
                assert "config.json" in line or "beside" in line
    (folder / "config.json").write_text(config)
    for name in ("rescale_factor", "image_mean", "image_std"):
        for number in NUMBERS:
            (folder / "preprocessor_config.json").write_text(
                re.sub(rf'"{name}": (\[[^]]*\]|[^,\n]*)', f'"{name}": {number}', processor)
            )
            if (name, number) not in (("image_mean", "-1"), ("image_mean", "0.5"), ("image_std", "0.5")):
                refused_at_once(folder)


def test_files_beside_the_weights_that_are_none(saved):
    folder = saved()
    for content in (b"\xff\xfe{", b"[]", b'{"a": 1, "a": 2}', b" " * 2**21, b'{"a":' * 10**5, b"\0" * 10):
        (folder / "config.json").write_bytes(content)
        assert "config.json" in refused_at_once(folder)
    with open(folder / "config.json", "wb") as file:
        file.truncate(2**33)
    assert "more than 1048576 bytes" in refused_at_once(folder)


def test_weights_that_describe_more_than_they_are(saved):
    blocks = {f"encoder.layer.{i}.layernorm_before.weight": np.ones(1, "float32") for i in range(2000)}
    wide = {
        "embeddings.patch_embeddings.projection.weight": np.ones((2048, 1, 1, 1), "float32"),
        "embeddings.cls_token": np.ones((1, 1, 2048), "float32"),
    }
    assert "Expected the weights of 2000 blocks" in refused_at_once(saved(add=blocks))
    assert "do not fit" in refused_at_once(
        saved(
            drop=list(blocks)[2:],
            add={
                **wide,
                "embeddings.patch_embeddings.projection.bias": np.ones(2048, "float32"),
                "embeddings.position_embeddings": np.ones((1, 10, 2048), "float32"),
            },
            config={"hidden_size": 2048, "num_channels": 1, "patch_size": 1, "image_size": 3, "num_attention_heads": 2},
            processor={},
        )
    )


def beit(tmp_path, add, drop=(), **config):
    """A folder of the layout beit with relative positions, changed."""
    folder = tmp_path / "beit"
    ks.interchange.save_encoder(make_encoder(image_shape=(12, 12, 3), relative_positions=True), folder, "beit")
    weights = safetensors.load_file(folder / "model.safetensors")
    weights = {name: array for name, array in weights.items() if not any(part in name for part in drop)} | add
    safetensors.save_file(weights, folder / "model.safetensors")
    content = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(content))
    return folder


TABLE = "encoder.layer.1.attention.attention.relative_position_bias.relative_position_bias_table"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"drop": ["_bias_table"]},
            "Expected tables of relative positions in .*, as config.json beside it states, received none",
        ),
        (
            {"use_relative_position_bias": False},
            "Expected no tables of relative positions in .* states, received some",
        ),
        ({"drop": [TABLE]}, "do not fit: block_2/attention/relative_positions is missing"),
        ({"add": {TABLE: np.zeros((29, 3), "float32")}}, "do not fit: block_2/attention/relative_positions"),
        (
            {"add": {"encoder.relative_position_bias.relative_position_bias_table": np.zeros((29, 3), "float32")}},
            "do not fit: relative_positions is left over",
        ),
        ({"drop": ["position_embeddings"]}, "Expected a table of positions in .*, received none"),
        ({"drop": ["layernorm.weight", "layernorm.bias"]}, "do not fit: norm/gamma is missing"),
    ],
)
def test_a_beit_that_is_not_whole_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ks.interchange.load_encoder(beit(tmp_path, **{"add": {}, **changes}))


def test_numbers_of_relative_positions_in_a_file_are_dropped(tmp_path):
    name = TABLE.replace("bias_table", "index")
    reports = []
    ks.interchange.load_encoder(beit(tmp_path, {name: np.zeros((10, 10), "float32")}), reports.append)
    assert reports[0].dropped == {name: "calculated"}


def test_positions_that_are_not_there(saved):
    name = "embeddings.position_embeddings"
    folder = saved(
        drop=[name], config={"model_type": "beit", "use_absolute_position_embeddings": False, "image_size": 2**18}
    )
    assert "Expected images of at most 65536 patches, received 65536x65536" in refused_at_once(folder)
    assert "embeddings.position_embeddings has a shape that no weight has" in refused_at_once(
        saved(add={name: np.zeros((1, 2**40, 0), "float32")})
    )
    small = {
        "embeddings.cls_token": np.zeros((1, 1, 2**14), "float32"),
        "embeddings.patch_embeddings.projection.weight": np.zeros((2**14, 1, 1, 1), "float32"),
        "embeddings.patch_embeddings.projection.bias": np.zeros(2**14, "float32"),
    }
    stated = {"hidden_size": 2**14, "num_channels": 1, "patch_size": 1, "image_size": 2**8}
    beit = {"model_type": "beit", "use_absolute_position_embeddings": False}
    assert "Expected weights for 256x256 patches" in refused_at_once(
        saved(add=small, drop=[name], config=stated | beit)
    )


@pytest.mark.parametrize(
    "content", [b"", b"garbage", (1 << 60).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"]
)
def test_damaged_files_are_refused(content, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(
        ValueError, match="Expected a .safetensors file of floating point numbers, received .*model.safetensors"
    ):
        ks.interchange.load_encoder(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pth", "weights.pt"])
def test_an_encoder_from_what_torch_saves(tmp_path, name):
    torch = pytest.importorskip("torch")
    encoder = ks.Encoder((16, 24, 3), patch_size=8, width=192, depth=1, heads=3)
    ks.interchange.save_encoder(encoder, tmp_path / "vit")
    arrays = open_safetensors(tmp_path / "vit" / "model.safetensors")
    weights = {key: torch.tensor(array.read()) for key, array in arrays.items()}
    (tmp_path / "vit" / "model.safetensors").unlink()
    torch.save({"model": weights, "epoch": 3}, tmp_path / "vit" / name)
    again = ks.interchange.load_encoder(tmp_path / "vit" / (name if name.startswith("weights") else ""))
    assert again.get_config() == encoder.get_config()
    pairs = zip(again.weights, encoder.weights, strict=True)
    assert all(np.array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b)) for a, b in pairs)


def test_other_files_of_a_model_are_refused(tmp_path):
    (tmp_path / "tf_model.h5").touch()
    with pytest.raises(ValueError, match="Expected model.safetensors in .*, received tf_model.h5; save the model with"):
        ks.interchange.load_encoder(tmp_path)
