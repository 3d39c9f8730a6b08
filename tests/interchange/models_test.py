import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.interchange import copy_weights, initialise, load_encoder, load_model, named_weights
from keras_splitmask.resampling import resample_table


def arrays(layer):
    return {name: ops.convert_to_numpy(weight) for name, weight in named_weights(layer).items()}


def same(a, b):
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.backend
def test_an_encoder_comes_back_with_other_arguments(make_model, make_images, tmp_path):
    model, images = make_model(depth=2, drop_path=0.1), make_images(2)
    model.save(tmp_path / "model.keras")
    expected = ops.convert_to_numpy(model(images)["pooled"])
    for place, changes in (
        (tmp_path, {}),
        (tmp_path / "model.keras", {"drop_path": 0.4}),
        (str(tmp_path), {"drop_path": 0.0}),
    ):
        encoder = load_encoder(place, **changes)
        assert encoder.drop_path == changes.get("drop_path", 0.1)
        assert same(arrays(encoder), arrays(model.encoder))
        np.testing.assert_allclose(ops.convert_to_numpy(encoder(images)["pooled"]), expected, atol=1e-6)
    assert load_encoder(tmp_path, drop_path=0.4).blocks[-1].drop.rate == 0.4
    half = load_encoder(tmp_path, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(half(images)["pooled"].dtype) == "bfloat16" and same(
        arrays(half), arrays(model.encoder)
    )


def test_an_encoder_alone_and_a_model_without_one(make_encoder, tmp_path):
    encoder = make_encoder()
    encoder.save(tmp_path / "encoder.keras")
    assert same(arrays(load_encoder(tmp_path / "encoder.keras")), arrays(encoder))
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    with pytest.raises(
        ValueError, match="other.keras is not a model .*: it holds a Sequential of keras, which is not of this library"
    ):
        load_encoder(tmp_path / "other.keras")
    keras.saving.save_model(ks.split.Split((4, 4)), tmp_path / "part.keras")
    with pytest.raises(
        ValueError, match="Expected a model with an encoder in .*part.keras, received an object of type Split"
    ):
        load_encoder(tmp_path / "part.keras")
    with pytest.raises(
        ValueError, match=r"The weights do not fit: cls_token has shape \(1, 1, 16\), expected \(1, 1, 32\); .*more."
    ):
        load_encoder(tmp_path / "encoder.keras", width=32)
    with pytest.raises(ValueError, match="they have 2 attention heads, expected 4"):
        load_encoder(tmp_path / "encoder.keras", heads=4)


@pytest.mark.backend
def test_an_encoder_is_resized_to_images_of_another_size(make_model, tmp_path):
    model, told = make_model(image_shape=(16, 24, 3)), []
    model.save(tmp_path / "model.keras")
    encoder = load_encoder(tmp_path, report=told.append, image_shape=(20, 12, 3))
    before, after = arrays(model.encoder), arrays(encoder)
    assert after["patch_embedding/positions"].shape == (15, 16)
    np.testing.assert_array_equal(
        after.pop("patch_embedding/positions"), resample_table(before.pop("patch_embedding/positions"), (4, 6), (5, 3))
    )
    assert same(before, after)
    assert (
        str(told[0])
        == f"loaded    {len(before)} of {len(before) + 1} weights as they are\nresized   patch_embedding/positions (4x6"
        " to 5x3 patches)"
    )


@pytest.mark.backend
def test_images_and_patches_of_twice_the_size_have_nearly_the_same_features(make_encoder, tmp_path, rng):
    encoder = make_encoder(image_shape=(32, 48, 3), patch_size=8)
    encoder.save(tmp_path / "encoder.keras")
    twice = load_encoder(tmp_path / "encoder.keras", image_shape=(64, 96, 3), patch_size=16)
    images = ops.image.resize(rng.random((4, 4, 6, 3), "float32"), (32, 48), "bilinear")  # smooth, as photographs are
    larger = ops.image.resize(images, (64, 96), "bilinear")
    small, large = (ops.convert_to_numpy(e.embed(x)) for e, x in ((encoder, images), (twice, larger)))
    assert (
        small - large
    ).std() < 0.05 * small.std()  # not 0, since resizing an image mixes the pixels of neighbouring patches
    assert np.array_equal(arrays(encoder)["patch_embedding/positions"], arrays(twice)["patch_embedding/positions"])


@pytest.mark.backend
@pytest.mark.parametrize("positions", ["learned", "sine_cosine"])
def test_grey_images_of_another_grid_and_positions_that_are_calculated(make_encoder, make_images, positions):
    source = make_encoder(image_shape=(16, 24, 3), positions=positions)
    same_grid, other = (make_encoder(image_shape=(*size, 1), positions=positions) for size in ((16, 24), (12, 20)))
    images = make_images(2, (16, 24, 1))
    transferred = copy_weights(source, same_grid)
    np.testing.assert_allclose(
        ops.convert_to_numpy(same_grid.embed(images)),
        ops.convert_to_numpy(source.embed(images.repeat(3, axis=-1))),
        atol=1e-4,
    )
    assert set(transferred.resized.values()) == {"3 to 1 channels of equal weight"} and not transferred.fresh
    assert set(transferred.resized) == {"patch_embedding/project/kernel", "patch_embedding/project/bias"}
    table = arrays(other)["patch_embedding/positions"]
    transferred = copy_weights(source, other)
    assert (
        transferred.resized["patch_embedding/positions"]
        == {"learned": "4x6 to 3x5 patches", "sine_cosine": "calculated for 3x5 patches"}[positions]
    )
    assert np.array_equal(arrays(other)["patch_embedding/positions"], table) == (positions == "sine_cosine")


@pytest.mark.backend
def test_a_whole_model_goes_on_with_its_decoder_and_its_words(make_model, tmp_path):
    source, target = make_model(), make_model(name="another")
    source.save(tmp_path / "model.keras")
    transferred = initialise(target, tmp_path)
    for part in ("encoder", "decoder"):
        assert same(arrays(getattr(target, part)), arrays(getattr(source, part)))
    assert str(transferred) == "loaded    {0} of {0} weights as they are".format(len(target.trainable_variables))


@pytest.mark.parametrize(
    ("changes", "fresh"),
    [
        ({"vocabulary": 16}, "words"),
        ({"tokenizer": ks.tokenizers.RandomProjection((16, 16, 3), 4, 32, seed=1)}, "words"),
        ({"inpaint_weight": 0}, ""),
        ({"decoder_depth": 2}, "block_2/contract/kernel"),
    ],
)
def test_what_means_something_else_is_left_fresh(make_model, changes, fresh):
    source, target = make_model(), make_model(**changes)
    before = arrays(target.decoder)
    transferred = copy_weights(source, target)
    assert same(arrays(target.encoder), arrays(source.encoder))
    old, after = arrays(source.decoder), arrays(target.decoder)
    if fresh == "words":
        assert transferred.fresh == {
            "decoder/words/kernel": "another tokenizer",
            "decoder/words/bias": "another tokenizer",
        }
        assert (
            str(transferred).splitlines()[-1]
            == "fresh     decoder/words/kernel, decoder/words/bias (another tokenizer)"
        )
    expected = before if fresh.startswith("block") else {**old, **{name: before[name] for name in transferred.fresh}}
    assert all(np.array_equal(after[name], expected[name]) for name in after)
    if fresh.startswith("block"):
        assert set(transferred.fresh) == set(after) and "more (decoder/block_2/" in str(transferred)


def test_a_decoder_is_resized_and_a_head_is_new(make_model, make_encoder):
    source, target = make_model(), make_model(image_shape=(8, 24, 3))
    transferred = copy_weights(source, target)
    np.testing.assert_array_equal(
        arrays(target.decoder)["decoder/positions"],
        resample_table(arrays(source.decoder)["decoder/positions"], (4, 4), (2, 6)),
    )
    line = "resized   patch_embedding/positions, decoder/positions (4x4 to 2x6 patches)"
    assert str(transferred).splitlines()[1:] == [
        line
    ]  # the words of a patch are the same, whatever the size of the image
    classifier = ks.transfer.Classifier(make_encoder(depth=1), 3)
    assert copy_weights(source, classifier).fresh == {"head/kernel": "new", "head/bias": "new"}
    assert same(arrays(classifier.encoder), arrays(source.encoder))
    assert set(copy_weights(classifier, make_model()).fresh) == set(arrays(source.decoder))


@pytest.mark.backend
def test_a_file_that_does_not_fit_changes_nothing(make_model, make_encoder, tmp_path):
    target = make_model()
    before = arrays(target)
    make_encoder(depth=3).save(tmp_path / "deep.keras")
    (tmp_path / "garbage.keras").write_bytes(b"garbage")
    for name, message in (
        ("deep.keras", "The weights do not fit: block_2/.* left over"),
        ("garbage.keras", "is not a model"),
        ("no.keras", "there is no file"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            initialise(target, tmp_path / name)
        assert "\n" not in str(error.value) and str(tmp_path / name) in str(error.value)
    assert same(arrays(target), before)
    with pytest.raises(ValueError, match="deep.keras: .*extra tokens"):
        load_encoder(tmp_path / "deep.keras", extra_tokens=1)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(
        ValueError,
        match="there is no file .*model.keras; the run in this folder is not finished: run its command again first",
    ):
        initialise(target, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere",
            "Model not found: .*nowhere. Expected a run folder, a .keras file or weights; there is no file",
        ),
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
        copy_weights(make_encoder(heads=1), target)
    assert str(error.value) == "The weights do not fit: they have 1 attention heads, expected 2."
    with pytest.raises(
        ValueError,
        match=(
            "they have 1 extra tokens, expected 0; make the encoder with extra_tokens=1, or start from another model"
        ),
    ):
        copy_weights(make_encoder(extra_tokens=1), target)
    with pytest.raises(ValueError, match="they have relative positions, expected no .*; fine-tune that model as it is"):
        copy_weights(make_encoder(relative_positions=True), target)
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
    np.testing.assert_allclose(
        np.load(tmp_path / "pooled.npy"), ops.convert_to_numpy(model(images)["pooled"]), atol=1e-5
    )


@pytest.mark.backend
def test_load_gives_the_model_of_a_run_or_an_encoder(make_model, make_encoder, tmp_path):
    encoder = make_encoder(depth=1)
    classifier = ks.transfer.Classifier(encoder, 2, class_names=["left", "right"])
    for name, model in (("tuned", classifier), ("pretrained", make_model())):
        (tmp_path / name).mkdir()
        model.save(tmp_path / name / "model.keras")
    assert ks.load(tmp_path / "tuned").class_names == ["left", "right"]
    assert isinstance(ks.load(str(tmp_path / "tuned" / "model.keras")), ks.transfer.Classifier)
    assert isinstance(ks.load(tmp_path / "pretrained"), ks.SplitMask)

    pytest.importorskip("safetensors")
    ks.interchange.save_encoder(encoder, tmp_path / "vit")
    reports = []
    for path in (tmp_path / "vit", tmp_path / "vit" / "model.safetensors"):
        loaded = ks.load(path, reports.append)
        assert isinstance(loaded, ks.Encoder) and len(reports[-1].loaded) == len(encoder.weights)
        assert all(np.array_equal(a, b) for a, b in zip(loaded.get_weights(), encoder.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "Model not found: {path}. Expected a run folder, a .keras file or weights"),
        ("unfinished", "the run in this folder is not finished: run its command again first."),
        ("linked", "linked/model.keras; this folder holds images: name the folder of a run instead."),
        ("photos", "photos/model.keras; this folder holds images: name the folder of a run instead."),
        ("notes.txt", "notes.txt is not a model that keras_splitmask can read: File is not a zip file"),
    ],
)
def test_load_refuses_what_is_no_model(tmp_path, path, message):
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "a" / "1.JPG").touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "train").symlink_to(tmp_path / "photos")
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(ValueError, match=re.escape(message.format(path=tmp_path / path))):
        ks.load(tmp_path / path)
