"""A whole classifier for timm: its files, the way back, and the real classes of timm and transformers."""

import json

import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.interchange import load, load_encoder, named_weights, save_classifier, save_encoder

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed: pip install safetensors")
pytestmark = pytest.mark.backend
NAMES = ["cat", "dög", "owl"]


def make_classifier(class_names=NAMES, crop_ratio=0.875, **arguments):
    encoder = ks.Encoder(
        **{"image_shape": (8, 12, 3), "patch_size": 4, "width": 12, "depth": 2, "heads": 3, **arguments}
    )
    classifier = ks.transfer.Classifier(encoder, 3, class_names=class_names, crop_ratio=crop_ratio)
    rng = np.random.default_rng(0)
    for weight in classifier.trainable_variables:
        weight.assign_add(0.1 * rng.standard_normal(weight.shape).astype("float32"))
    return classifier


def arrays(model):
    return {name: ops.convert_to_numpy(weight) for name, weight in named_weights(model).items()}


def change(folder, drop=(), names=NAMES, **options):
    """Change the config.json of a folder, and leave out parts of it."""
    config = json.loads((folder / "config.json").read_text()) | {"label_names": names}
    config["model_args"] |= options
    config = {name: value for name, value in config.items() if name not in drop}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def pixels(make_images):
    """Images, and the same as timm takes them: (2, 8, 12, 3) uint8 and (2, 3, 8, 12) float32."""
    images = make_images(2, (8, 12, 3))
    normalised = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return images, normalised.transpose(0, 3, 1, 2).astype("float32")


def test_the_files_hold_the_head_and_the_names(tmp_path):
    classifier = make_classifier()
    save_classifier(classifier, tmp_path / "whole")
    save_encoder(classifier, tmp_path / "encoder", "timm")
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == ["config.json", "model.safetensors"]
    whole, encoder = (safetensors.load_file(tmp_path / name / "model.safetensors") for name in ("whole", "encoder"))
    assert set(whole) - set(encoder) == {"head.weight", "head.bias"} and set(encoder) < set(whole)
    assert all(np.array_equal(whole[name], encoder[name]) for name in encoder)
    assert whole["head.weight"].shape == (3, 12) and whole["head.weight"].dtype == "float32"
    np.testing.assert_array_equal(whole["head.weight"], ops.convert_to_numpy(classifier.head.kernel).T)
    np.testing.assert_array_equal(whole["head.bias"], ops.convert_to_numpy(classifier.head.bias))
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 3 and config["label_names"] == NAMES
    assert config["global_pool"] == config["model_args"]["global_pool"] == "avg"
    assert config["model_args"]["fc_norm"] is False and config["pretrained_cfg"]["crop_pct"] == 0.875
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert config["num_classes"] == 0 and config["global_pool"] == "token" and "label_names" not in config


def test_a_round_trip_is_exact(tmp_path, pixels):
    classifier, reports = make_classifier(), []
    save_classifier(classifier, tmp_path / "out")
    again = load(tmp_path / "out", reports.append)
    assert isinstance(again, ks.transfer.Classifier) and again.class_names == NAMES and again.crop_ratio == 0.875
    before, after = arrays(classifier), arrays(again)
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    assert set(reports[0].loaded) == {name.removeprefix("encoder/") for name in before} and not reports[0].dropped
    logits = [ops.convert_to_numpy(model(pixels[0])) for model in (classifier, again)]
    np.testing.assert_array_equal(*logits)


def test_an_encoder_leaves_the_head_and_says_so(tmp_path):
    save_classifier(make_classifier(), tmp_path / "out")
    reports = []
    assert isinstance(load_encoder(tmp_path / "out", reports.append), ks.Encoder)
    assert reports[0].dropped == {"head.weight": "of a head", "head.bias": "of a head"}
    assert "dropped   head.bias, head.weight (of a head)" in str(reports[0])
    assert ks.interchange.initialise(make_classifier(), tmp_path / "out").dropped == reports[0].dropped


def test_classes_without_names_are_named_by_their_numbers(tmp_path):
    save_classifier(make_classifier(class_names=None), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["label_names"] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fc_norm": True}, "it is another function than ours"),
        ({"global_pool": "token"}, "it is another function than ours"),
        ({"drop": ["label_names"]}, "its config.json has no label_names, all different"),
        ({"names": NAMES[:2]}, "its weights are not those of 2 classes, the label_names in its config.json"),
        ({"drop": ["architecture"]}, "one is read only beside a config.json of timm"),
    ],
    ids=str,
)
def test_a_head_that_may_be_another_function_is_dropped(tmp_path, changes, reason):
    save_classifier(make_classifier(), tmp_path / "out")
    change(tmp_path / "out", **changes)
    reports = []
    assert isinstance(load(tmp_path / "out", reports.append), ks.Encoder)
    assert reports[0].dropped == dict.fromkeys(("head.weight", "head.bias"), f"of a head, left out since {reason}")


@pytest.mark.parametrize(
    "names", [["cat", "owl"], ["cat", "cat", "owl"], ["cat", "owl", 3], "cat", {"cat": 1}], ids=str
)
def test_names_that_are_not_those_of_the_classes_make_no_classifier(tmp_path, names):
    save_classifier(make_classifier(), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "label_names": names}))
    assert isinstance(load(tmp_path / "out", print), ks.Encoder)


@pytest.mark.parametrize(
    ("model", "layout", "message"),
    [
        (make_classifier, "vit", "Expected the layout timm for a whole classifier, received vit"),
        (make_classifier, "jpeg", "Expected a layout among vit, deit, beit, mae, timm, received 'jpeg'"),
        (
            lambda: make_classifier(extra_tokens=1),
            "timm",
            "Expected an encoder with extra_tokens=0 for the layout timm",
        ),
        (lambda: make_classifier(epsilon=1e-12), "timm", "Expected an encoder with epsilon=1e-06 for the layout timm"),
        (
            lambda: make_classifier().encoder,
            "timm",
            "Expected a Classifier, received a model of type Encoder; use save_encoder",
        ),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, model, layout, message):
    with pytest.raises(ValueError, match=message):
        save_classifier(model(), tmp_path / "out", layout)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(8, 12, 3), (8, 8, 5)], ids=str)
def test_logits_are_those_of_timm(tmp_path, make_images, shape):
    timm, torch = pytest.importorskip("timm"), pytest.importorskip("torch")
    classifier, images = make_classifier(image_shape=shape), make_images(2, shape)
    save_classifier(classifier, tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    card = model.pretrained_cfg
    assert list(card["label_names"]) == NAMES and model.num_classes == 3
    given = ((images / 255 - np.array(card["mean"])) / np.array(card["std"])).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = model(torch.tensor(given, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(logits, ops.convert_to_numpy(classifier(images)), atol=1e-5)


def test_logits_and_names_are_those_of_transformers(tmp_path, pixels):
    pytest.importorskip("timm")
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    image = pytest.importorskip("PIL.Image")
    classifier, folder = make_classifier(crop_ratio=1.0), tmp_path / "out"
    save_classifier(classifier, folder)
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(torch.tensor(pixels[1])).logits.numpy()
    expected = ops.convert_to_numpy(classifier(pixels[0]))
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    named = transformers.pipeline("image-classification", model=str(folder))([image.fromarray(x) for x in pixels[0]])
    assert [found[0]["label"] for found in named] == [NAMES[label] for label in expected.argmax(axis=-1)]


def test_transformers_saves_what_comes_back_whole(tmp_path, pixels):
    """Its wrapper of timm puts a prefix before all names."""
    pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers")
    classifier = make_classifier()
    save_classifier(classifier, tmp_path / "out")
    transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again", print)
    assert again.class_names == NAMES
    logits = [ops.convert_to_numpy(model(pixels[0])) for model in (classifier, again)]
    np.testing.assert_allclose(*logits, atol=1e-5)
