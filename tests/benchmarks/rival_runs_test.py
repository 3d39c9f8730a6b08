import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

import keras_splitmask as ks
from keras_splitmask.patches import pixel_statistics
from tests.class_folders import FOLDERS, noise

TINY = ("--image_size=8", "--patch_size=4", "--batch_size=4", "--minutes=0.01")


@pytest.fixture
def photos(rng, tmp_path):
    return noise(tmp_path / "photos", rng, train__a=6, train__b=6, test__a=3, test__b=3)


@pytest.fixture
def installed():
    for name in ("timm", "torchvision", "lightly"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install lightly timm torchvision")


@pytest.mark.parametrize("method", ["mae", "simclr", "dino"])
def test_an_encoder_of_another_package_is_read_as_it_was_trained(
    here, installed, photos, make_images, tmp_path, method
):
    import timm
    import torch

    workdir = tmp_path / "run"
    end = here("rival_runs", f"--method={method}", photos, *TINY, f"--workdir={workdir}")
    assert end.status == 0, end.err
    result = json.loads((workdir / "result.json").read_text())
    assert result["steps"] > 0 and 0 < result["minutes"] < 1 and np.isfinite(result["last_loss"])
    assert result["images_per_second"] > 0 and result["versions"]["timm"] == timm.__version__

    reports, images = [], make_images(3, (8, 8, 3))
    encoder = ks.interchange.load_encoder(workdir, reports.append)
    assert not reports[0].fresh and not reports[0].resized
    model = timm.create_model(f"local-dir:{workdir}", pretrained=True).eval()
    mean, std = pixel_statistics(3)
    with torch.no_grad():
        tokens = model.forward_features(torch.tensor(((images / 255 - mean) / std).transpose(0, 3, 1, 2)).float())
    features = encoder.predict_on_batch(images)
    np.testing.assert_allclose(features["cls"], tokens[:, 0], atol=1e-4)
    np.testing.assert_allclose(features["pooled"], tokens[:, 1:].mean(dim=1), atol=1e-4)

    tuned = here("finetune", f"--init_from={workdir}", photos, *FOLDERS[3:], f"--workdir={tmp_path / 'tuned'}")
    assert tuned.status == 0, tuned.err


def test_labels_are_of_the_images_that_finetune_draws(here, installed, photos, tmp_path):
    drawn = ("--labelled=6", "--seed=3")
    assert here("finetune", photos, *FOLDERS, *drawn, f"--workdir={tmp_path / 'tuned'}").status == 0
    subset = tmp_path / "tuned" / "subset.txt"

    end = here("rival_runs", "--method=resnet18", photos, *TINY, *drawn, f"--workdir={tmp_path / 'resnet'}")
    assert end.status == 0, end.err
    assert (tmp_path / "resnet" / "subset.txt").read_text() == subset.read_text()
    result = json.loads((tmp_path / "resnet" / "result.json").read_text())
    assert result["labelled"] == 6 and 0 <= result["top1"] <= 1 and result["steps"] > 0

    listed = ("--method=pixels", photos, "--image_size=10", f"--labelled={subset}", f"--workdir={tmp_path / 'pixels'}")
    assert here("rival_runs", *listed).status == 0
    assert (tmp_path / "pixels" / "subset.txt").read_text() == subset.read_text()
    result = json.loads((tmp_path / "pixels" / "result.json").read_text())
    assert 0 <= result["top1_8px"] <= 1 and 0 <= result["top1_10px"] <= 1


def test_pixels_are_compared_with_the_labelled_images(here, tmp_path):
    """Pixels distinguish classes of one colour each, without any of the other packages."""
    for split, count in (("train", 4), ("test", 2)):
        for name, grey in (("dark", 40), ("light", 200)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((12, 12, 3), grey + i, "uint8")).save(folder / f"{i}.png")
    photos = f"--dataset=folder:{tmp_path / 'photos'}"
    assert here("rival_runs", "--method=pixels", photos, f"--workdir={tmp_path / 'pixels'}").status == 0
    result = json.loads((tmp_path / "pixels" / "result.json").read_text())
    assert (result["top1_8px"], result["top1_32px"], result["labelled"]) == (1, 1, 8)


@pytest.mark.parametrize(
    "given, line",
    [
        ("--image_size=30", "received 30x30 pixels and --patch_size=4; resize the images to 32x32 or choose another"),
        ("--size=vit_huge", "Expected --size among vit_micro, vit_tiny, vit_small, vit_base, vit_large, received"),
    ],
)
def test_sizes_that_no_encoder_has_are_refused_before_anything_starts(refused, photos, tmp_path, given, line):
    assert line in refused("rival_runs", "--method=mae", photos, given, f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_packages_that_are_missing_are_named(refused, photos, monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lightly" else found(name))
    line = refused("rival_runs", "--method=mae", photos, *TINY, f"--workdir={tmp_path / 'run'}")
    assert "lightly" in line and "pip install lightly timm torchvision" in line
