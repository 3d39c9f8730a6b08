"""Against the real classes of transformers and timm, with random weights."""

import json
import re

import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks

pytestmark = pytest.mark.backend
pytest.importorskip("safetensors", reason="safetensors is not installed: pip install safetensors")
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 16,
    "patch_size": 4,
}
BEIT = {"use_absolute_position_embeddings": True, "use_mean_pooling": False}
RELATIVE = {"use_mean_pooling": False, "use_relative_position_bias": True}
SHARED = {"use_relative_position_bias": False, "use_shared_relative_position_bias": True}
MEAN, STD = np.array([0.485, 0.456, 0.406], "float32"), np.array([0.229, 0.224, 0.225], "float32")
# The class of the model, and arguments of its configuration beside sizes.
CLASSES = {
    "ViTModel": {},
    "ViTModel without biases": {"qkv_bias": False},
    "ViTForImageClassification": {"num_labels": 3},
    "DeiTModel": {},
    "BeitModel": {**BEIT, "layer_scale_init_value": 0.0},
    "BeitModel without positions": {"use_mean_pooling": False, "layer_scale_init_value": 0.0},
    "BeitModel with layer scale": {**BEIT, "layer_scale_init_value": 0.1},
    "Data2VecVisionModel": BEIT,
    "BeitModel with relative positions": RELATIVE,
    "BeitModel with relative positions for all blocks": {**RELATIVE, **SHARED},
    "BeitModel with both": {**RELATIVE, **SHARED, "use_relative_position_bias": True},
    "BeitModel with all positions": {**RELATIVE, **BEIT},
    "BeitForMaskedImageModeling": {**RELATIVE, "use_mean_pooling": True, "vocab_size": 8},
    "Data2VecVisionModel with relative positions": RELATIVE,
    "Dinov2Model": {},
    "Dinov2Model without biases": {"qkv_bias": False, "use_mask_token": False},
    "Dinov2ForImageClassification": {"num_labels": 3},
    "Dinov2WithRegistersModel": {"num_register_tokens": 2},
    "ViTMSNModel": {},
    "ViTMSNForImageClassification": {"num_labels": 3},
    "ViTMAEModel": {"mask_ratio": 0.0},
    "ViTMAEForPreTraining": {
        "mask_ratio": 0.0,
        "decoder_hidden_size": 16,
        "decoder_num_attention_heads": 2,
        "decoder_num_hidden_layers": 1,
    },
}


def model_of(name, **changes):
    """A model of transformers in which every weight is random."""
    transformers = pytest.importorskip("transformers")
    kind = name.split()[0]
    config = getattr(
        transformers,
        re.sub("Model|ForImageClassification|ForPreTraining|ForMaskedImageModeling", "Config", kind),
    )
    return shaken(getattr(transformers, kind)(config(**{**SIZES, **CLASSES.get(name, {}), **changes})).eval())


def shaken(model):
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "position" not in name or weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


def tokens_of(model, images, **options):
    """Its last hidden states, for uint8 images normalised as ImageNet's: (B, ..., D)."""
    import torch

    pixels = torch.tensor(((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():
        if hasattr(model, "forward_features"):
            return model.forward_features(pixels).numpy()
        if hasattr(model.config, "mask_ratio"):  # which shuffles the patches: in order, given that noise
            base = getattr(model, "vit", model)
            return base(pixels, noise=torch.arange(16.0).expand(len(images), 16)).last_hidden_state.numpy()
        base = getattr(model, model.base_model_prefix, model)
        tokens = base(pixels, **options).last_hidden_state
        # Beyond its base: the norm of a BEiT that predicts words.
        return (model.layernorm(tokens) if hasattr(model, "layernorm") and base is not model else tokens).numpy()


def check_equal(encoder, expected, images):
    """Our answer and their tokens (B, 1 + extra + N, D)."""
    answer = {name: ops.convert_to_numpy(value) for name, value in encoder(images).items()}
    patches = expected[:, 1 + encoder.extra_tokens :]
    np.testing.assert_allclose(answer["cls"], expected[:, 0], atol=1e-4)
    np.testing.assert_allclose(answer["feature_map"].reshape(patches.shape), patches, atol=1e-4)
    np.testing.assert_allclose(answer["pooled"], patches.mean(axis=1), atol=1e-4)


def save(model, folder):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MEAN.tolist(), "image_std": STD.tolist()})
    )


@pytest.mark.parametrize("name", CLASSES)
def test_answers_are_those_of_transformers(name, make_images, tmp_path):
    model, images, reports = model_of(name), make_images(3, (16, 16, 3)), []
    save(model, tmp_path)
    encoder = ks.interchange.load_encoder(tmp_path, reports.append)
    check_equal(encoder, tokens_of(model, images), images)
    assert not reports[0].fresh and {*reports[0].loaded, *reports[0].folded} == set(
        ks.interchange.named_weights(encoder)
    )


@pytest.mark.parametrize("name", ["ViTModel", "ViTMSNModel", "Dinov2WithRegistersModel"])
def test_a_state_dict_saved_by_hand_is_the_same(name, make_images, tmp_path):
    """Its names are those in memory, which since transformers 5 are others than those of save_pretrained."""
    safetensors = pytest.importorskip("safetensors.torch")
    model, images = model_of(name), make_images(2, (16, 16, 3))
    save(model, tmp_path)
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    check_equal(ks.interchange.load_encoder(tmp_path, print), tokens_of(model, images), images)


@pytest.mark.parametrize("layout", ["vit", "deit", "beit", "mae"])
def test_transformers_reads_what_was_written(layout, make_images, tmp_path):
    transformers = pytest.importorskip("transformers")
    encoder, images = make_encoder(extra_tokens=int(layout == "deit")), make_images(2, (16, 16, 3))
    ks.interchange.save_encoder(encoder, tmp_path / "out", layout)
    name = {"vit": "ViTModel", "deit": "DeiTModel", "beit": "BeitModel", "mae": "ViTMAEModel"}[layout]
    options = {} if layout in ("beit", "mae") else {"add_pooling_layer": False}
    model, report = getattr(transformers, name).from_pretrained(tmp_path / "out", output_loading_info=True, **options)
    missing = [key for key in report["missing_keys"] if "pooler" not in key]
    assert not missing and not report["unexpected_keys"], report
    check_equal(
        encoder_without_key_biases(encoder) if layout == "beit" else encoder, tokens_of(model.eval(), images), images
    )


def make_encoder(**arguments):
    encoder = ks.Encoder((16, 16, 3), 4, 24, 2, 3, **{"epsilon": 1e-12, **arguments})
    rng = np.random.default_rng(0)
    for weight in encoder.weights:
        if weight.name != "seed_generator_state":
            weight.assign_add(0.1 * rng.standard_normal(weight.shape).astype("float32"))
    return encoder


def encoder_without_key_biases(encoder):
    for i in range(encoder.depth):
        bias = encoder.blocks[i].attention.qkv.bias
        value = ops.convert_to_numpy(bias).copy()
        value[24:48] = 0
        bias.assign(value)
    return encoder


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 2}, {"init_values": 0.1}, {"no_embed_class": True}, {"distilled": True}], ids=str
)
def test_answers_are_those_of_timm(options, make_images, tmp_path):
    timm, safetensors = pytest.importorskip("timm"), pytest.importorskip("safetensors.torch")
    arguments = {
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "num_classes": 0,
        **options,
    }
    kind = (
        timm.models.deit.VisionTransformerDistilled
        if arguments.pop("distilled", False)
        else timm.models.VisionTransformer
    )
    model, images = shaken(kind(**arguments).eval()), make_images(2, (16, 16, 3))
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    card = {"mean": MEAN.tolist(), "std": STD.tolist(), "input_size": [3, 16, 16]}
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "vit_tiny_patch16_224", "model_args": arguments, "pretrained_cfg": card})
    )
    encoder = ks.interchange.load_encoder(tmp_path / "model.safetensors", print)
    assert encoder.extra_tokens == options.get("reg_tokens", int("distilled" in options))
    check_equal(encoder, tokens_of(model, images), images)


def test_timm_reads_what_was_written(make_images, tmp_path):
    timm = pytest.importorskip("timm")
    encoder, images = make_encoder(epsilon=1e-6), make_images(2, (16, 16, 3))
    ks.interchange.save_encoder(encoder, tmp_path / "out", "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    check_equal(encoder, tokens_of(model, images), images)


def test_positions_are_resampled_for_another_grid(make_images, tmp_path):
    save(model_of("ViTModel"), tmp_path)
    reports = []
    encoder = ks.interchange.load_encoder(tmp_path, reports.append, image_shape=(24, 16, 3))
    assert (
        encoder.grid == (6, 4)
        and reports[0].resized == {"patch_embedding/positions": "4x4 to 6x4 patches"}
        and not reports[0].fresh
    )
    assert encoder(make_images(1, (24, 16, 3)))["pooled"].shape == (1, 24)


def test_swiglu_is_refused(tmp_path):
    save(model_of("Dinov2Model", use_swiglu_ffn=True), tmp_path)
    with pytest.raises(ValueError, match="Expected a model without use_swiglu_ffn, received one with it"):
        ks.interchange.load_encoder(tmp_path)


@pytest.mark.parametrize("shape", [(32, 32, 3), (24, 24, 3), (12, 12, 3), (8, 24, 3)], ids=str)
def test_relative_positions_are_resampled_as_in_transformers(shape, make_images, tmp_path):
    """For larger images, smaller ones, and those that are not square."""
    model, images, reports = model_of("BeitModel with relative positions"), make_images(2, shape), []
    save(model, tmp_path)
    encoder = ks.interchange.load_encoder(tmp_path, reports.append, image_shape=shape)
    check_equal(encoder, tokens_of(model, images, interpolate_pos_encoding=True), images)
    assert (
        reports[0].resized["block_1/attention/relative_positions"] == f"4x4 to {shape[0] // 4}x{shape[1] // 4} patches"
    )


@pytest.mark.parametrize("kind", ["Beit", "Data2VecVision"])
def test_blocks_are_those_of_a_model_that_pools_by_the_mean(kind, make_images, tmp_path):
    """As are the published models that are fine-tuned. Their norm follows the pooling, so only the blocks are equal."""
    import torch

    relative = {"use_relative_position_bias": True, "use_mean_pooling": True, "num_labels": 3}
    model, images, reports = model_of(f"{kind}ForImageClassification", **relative), make_images(2, (16, 16, 3)), []
    save(model, tmp_path)
    encoder = ks.interchange.load_encoder(tmp_path, reports.append)
    last = tokens_of(model, images)
    np.testing.assert_allclose(ops.convert_to_numpy(encoder(images, every_block=True)["block_2"]), last, atol=1e-4)
    norm = getattr(model, model.base_model_prefix).pooler.layernorm
    with torch.no_grad():
        check_equal(encoder, norm(torch.tensor(last)).numpy(), images)
    assert any("where this model normalises the mean" in note for note in reports[0].notes)


@pytest.mark.parametrize("kind", ["Beit", "Data2VecVision"])
def test_a_norm_that_a_model_lacks_is_plain(kind, make_images, tmp_path):
    transformers = pytest.importorskip("transformers")
    relative = {"use_relative_position_bias": True, "use_mean_pooling": True}
    model, images, reports = model_of(f"{kind}Model", **relative), make_images(2, (16, 16, 3)), []
    if kind == "Beit":
        bare = transformers.BeitModel(model.config, add_pooling_layer=False).eval()
        bare.load_state_dict(model.state_dict(), strict=False)
        model = bare
    save(model, tmp_path)
    encoder = ks.interchange.load_encoder(tmp_path, reports.append)
    states = encoder(images, every_block=True)
    np.testing.assert_allclose(ops.convert_to_numpy(states["block_2"]), tokens_of(model, images), atol=1e-4)
    assert reports[0].folded["norm/gamma"] == "1, since the model has none"
    assert any("this model has no norm after its blocks" in note for note in reports[0].notes)


def test_transformers_reads_relative_positions(make_images, tmp_path):
    transformers = pytest.importorskip("transformers")
    encoder, images = make_encoder(relative_positions=True), make_images(2, (16, 16, 3))
    ks.interchange.save_encoder(encoder, tmp_path / "out", "beit")
    model, report = transformers.BeitModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    check_equal(encoder_without_key_biases(encoder), tokens_of(model.eval(), images), images)


TIMM_BEIT = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 1, "init_values": 0.1}


@pytest.mark.parametrize(
    "options",
    [
        {"use_rel_pos_bias": True, "use_abs_pos_emb": False},
        {"use_shared_rel_pos_bias": True},
        {"use_rel_pos_bias": True, "qkv_bias": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("described", [False, True])
def test_beit_of_timm(options, described, make_images, tmp_path):
    timm, safetensors = pytest.importorskip("timm"), pytest.importorskip("safetensors.torch")
    arguments = {**TIMM_BEIT, **options, "global_pool": "token", "num_classes": 0}
    model, images = shaken(timm.models.beit.Beit(**arguments).eval()), make_images(2, (16, 16, 3))
    weights = {name: array for name, array in model.state_dict().items() if "k_bias" not in name}
    safetensors.save_file(weights, tmp_path / "model.safetensors")
    if described:
        card = {"mean": MEAN.tolist(), "std": STD.tolist(), "input_size": [3, 16, 16]}
        config = {"architecture": "beit_base_patch16_224", "model_args": arguments, "pretrained_cfg": card}
        (tmp_path / "config.json").write_text(json.dumps(config))
    check_equal(ks.interchange.load_encoder(tmp_path, print), tokens_of(model, images), images)


def test_other_relative_positions_are_refused(tmp_path):
    timm, safetensors = pytest.importorskip("timm"), pytest.importorskip("safetensors.torch")
    model = timm.models.vision_transformer_relpos.VisionTransformerRelPos(
        img_size=16, patch_size=4, embed_dim=64, depth=2, num_heads=1, class_token=True
    )
    safetensors.save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="Expected absolute positions or BEiT's, received .* other relative positions"):
        ks.interchange.load_encoder(tmp_path)


def test_tables_of_relative_positions_must_be_those_that_are_stated(tmp_path):
    save(model_of("BeitModel with relative positions"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "use_relative_position_bias": False}))
    with pytest.raises(ValueError, match="Expected no tables of relative positions in .* states, received some"):
        ks.interchange.load_encoder(tmp_path)
