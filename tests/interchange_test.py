import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.interchange import copy_weights, load_encoder, load_model, named_weights


def arrays(layer):
    return {name: ops.convert_to_numpy(weight) for name, weight in named_weights(layer).items()}


def same(a, b):
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.backend
def test_an_encoder_comes_back_with_other_arguments(make_model, make_images, tmp_path):
    model, images = make_model(depth=2, drop_path=0.1), make_images(2)
    model.save(tmp_path / "model.keras")
    expected = ops.convert_to_numpy(model(images)["pooled"])
    for place, changes in ((tmp_path, {}), (tmp_path / "model.keras", {"drop_path": 0.4}), (str(tmp_path), {"drop_path": 0.0})):
        encoder = load_encoder(place, **changes)
        assert encoder.drop_path == changes.get("drop_path", 0.1)
        assert same(arrays(encoder), arrays(model.encoder))
        np.testing.assert_allclose(ops.convert_to_numpy(encoder(images)["pooled"]), expected, atol=1e-6)
    assert load_encoder(tmp_path, drop_path=0.4).blocks[-1].drop.rate == 0.4
    half = load_encoder(tmp_path, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(half(images)["pooled"].dtype) == "bfloat16" and same(arrays(half), arrays(model.encoder))


def test_an_encoder_alone_and_a_model_without_one(make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.save(tmp_path / "encoder.keras")
    assert same(arrays(load_encoder(tmp_path / "encoder.keras")), arrays(encoder))
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match="Expected a model with an encoder in .*other.keras, received a Sequential"):
        load_encoder(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=r"patch_embedding/positions has shape \(16, 16\), expected \(32, 16\)"):
        load_encoder(tmp_path / "encoder.keras", image_shape=(16, 32, 3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "Expected a run's folder or a .keras file, received .*nowhere: there is no file"),
        ("", "there is no file .*model.keras"),
        ("garbage.keras", "garbage.keras is not a model that keras_splitmask can read: "),
        ("empty.keras", "empty.keras is not a model that keras_splitmask can read: "),
        ("model.h5", "model.h5 is not a model that keras_splitmask can read: "),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path, name, message):
    for file in ("garbage.keras", "model.h5"):
        (tmp_path / file).write_bytes(b"neither this\nnor that\n" * 100)
    (tmp_path / "empty.keras").write_bytes(b"")
    with pytest.raises(ValueError, match=message) as error:
        load_model(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.backend
def test_weights_are_copied_by_name(make_encoder):
    source, target = make_encoder(drop_path=0.3), make_encoder(name="another")
    assert not same(arrays(source), arrays(target))
    copy_weights(source, target)
    assert same(arrays(source), arrays(target))
    assert len(named_weights(source)) == len(source.trainable_variables)  # no state of random numbers


def test_what_does_not_fit_is_named_and_nothing_copied(make_encoder):
    target = make_encoder(depth=2)
    before = arrays(target)
    with pytest.raises(ValueError, match="The weights do not fit: block_2/.* is missing; .*; and 6 more.") as error:
        copy_weights(make_encoder(depth=1), target)
    assert str(error.value).count(" is missing") == 6  # of the 12 weights of a block
    with pytest.raises(ValueError, match="The weights do not fit: block_3/norm_attention/gamma is left over"):
        copy_weights(make_encoder(depth=3), target)
    with pytest.raises(ValueError) as error:
        copy_weights(make_encoder((16, 8, 3)), target)
    assert str(error.value) == "The weights do not fit: patch_embedding/positions has shape (8, 16), expected (16, 16)."
    assert same(arrays(target), before)


@pytest.mark.backend
def test_a_run_of_one_backend_is_read_on_another(make_model, make_images, python, tmp_path):
    """This backend writes, and another reads the same numbers."""
    model, images = make_model(image_shape=(8, 12, 5)), make_images(2, (8, 12, 5))
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    script = "import sys, numpy as np, keras, keras_splitmask as ks; run = sys.argv[1]; "
    script += "pooled = ks.interchange.load_encoder(run)(np.load(run + '/images.npy'))['pooled']; "
    script += "np.save(run + '/pooled.npy', keras.ops.convert_to_numpy(pooled))"
    python("-c", script, tmp_path, backend="jax" if keras.backend.backend() == "tensorflow" else "tensorflow")
    np.testing.assert_allclose(np.load(tmp_path / "pooled.npy"), ops.convert_to_numpy(model(images)["pooled"]), atol=1e-5)
