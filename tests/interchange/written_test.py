"""What saving an encoder for another library writes, and where it refuses."""

import numpy as np
import pytest

import keras_splitmask as ks
from keras_splitmask.interchange.safetensors_files import open_safetensors, safetensors_content
from tests.interchange.files_test import make_encoder

safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed: pip install safetensors")


@pytest.mark.parametrize(
    ("layout", "arguments", "message"),
    [
        ("swin", {}, "Expected a layout among vit, deit, beit, mae, timm, received 'swin'"),
        (
            "deit",
            {"extra_tokens": 0},
            "Expected an encoder with extra_tokens=1 for the layout deit, received 0; choose vit",
        ),
        (
            "vit",
            {"extra_tokens": 1},
            "Expected an encoder with extra_tokens=0 for the layout vit, received 1; choose deit",
        ),
        ("beit", {"image_shape": (8, 12, 3)}, "Expected square images for the layout beit, received 8x12"),
        ("vit", {"relative_positions": True}, "Expected an encoder without relative positions for the layout vit"),
        ("timm", {"epsilon": 1e-12}, "Expected an encoder with epsilon=1e-06 for the layout timm"),
    ],
)
def test_what_a_layout_cannot_express_is_refused_and_nothing_written(layout, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ks.interchange.save_encoder(make_encoder(**arguments), tmp_path / "new" / "out", layout)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_never_overwritten(tmp_path):
    with pytest.raises(ValueError, match="Expected a folder that does not exist yet"):
        ks.interchange.save_encoder(make_encoder(), tmp_path)


@pytest.mark.parametrize("name", ["file/out", "x" * 300, "\ud800"])
def test_a_folder_that_cannot_be_written(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="Expected a folder that can be written, received '.*'") as caught:
        ks.interchange.save_encoder(make_encoder(), tmp_path / name)
    assert str(caught.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.backend
def test_what_an_interrupted_export_left_is_not_taken_along_and_weights_are_float32(tmp_path):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "stale.json").touch()
    ks.interchange.save_encoder(make_encoder(dtype="bfloat16"), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert {array.dtype for array in safetensors.load_file(tmp_path / "out" / "model.safetensors").values()} == {
        np.dtype("float32")
    }


def test_files_are_those_of_the_package_safetensors(tmp_path, rng):
    arrays = {"w": rng.random((3, 5), "float32"), "b.é": rng.random(7, "float32"), "scalar": np.array(2, "float32")}
    content = safetensors_content(arrays, {"format": "pt"})
    assert content == safetensors.save(arrays, metadata={"format": "pt"})
    doubles = {"w": rng.random((2, 3))}
    safetensors.save_file(doubles, tmp_path / "w.safetensors")
    (stored,) = open_safetensors(tmp_path / "w.safetensors").values()
    np.testing.assert_array_equal(stored.read(), doubles["w"].astype("float32"))
