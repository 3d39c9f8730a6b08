import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask import data
from keras_splitmask.augment import PRESETS, Augment, AugmentViews, blur, grey, host_preset, preset, views_preset
from keras_splitmask.training.seeded import seeded_objective

pytestmark = pytest.mark.backend

COUNT = 400
LUMINANCE = np.array([0.2989, 0.587, 0.114], "float32")


def array(x):
    return ops.convert_to_numpy(x)


def views(images, **arguments):
    return array(Augment(**arguments)(images, training=True))


@pytest.fixture
def copies(make_images):
    """One random image (4, 6, C) uint8, `COUNT` times: what differs afterwards differs by chance."""
    return lambda channels=3: np.repeat(make_images(1, (4, 6, channels)), COUNT, axis=0)


def test_without_operations_or_outside_of_training_nothing_changes(make_images):
    images = make_images()
    np.testing.assert_array_equal(array(Augment(flip=True, grey=1.0, jitter=(0.5, 0.5, 0.5, 0.5))(images)), images)
    np.testing.assert_allclose(views(images), images / np.float32(255), rtol=1e-6)
    np.testing.assert_array_equal(
        views(images / np.float32(255), jitter=(0.5,) * 4, jitter_share=0.0), images / np.float32(255)
    )
    np.testing.assert_allclose(views(images.astype("uint16") * 257), images / np.float32(255), rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_every_image_is_mirrored_or_not(copies, channels):
    x = copies(channels) / np.float32(255)
    out = views(x, flip=True)
    mirrored, same = ((out == y).all(axis=(1, 2, 3)) for y in (x[:, :, ::-1], x))
    assert (mirrored ^ same).all() and abs(mirrored.mean() - 0.5) < 0.1


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_solarised_pixels_of_the_brighter_half_are_inverted(copies, channels):
    x = copies(channels)
    np.testing.assert_allclose(views(x, solarise=1.0), np.where(x < 128, x, 255 - x) / 255.0, atol=1e-6)


def test_grey_images_keep_equal_channels_and_other_depths_stay(copies):
    x = copies() / np.float32(255)
    np.testing.assert_allclose(views(x, grey=1.0), (x @ LUMINANCE)[..., None].repeat(3, axis=-1), atol=1e-6)
    other = copies(5) / np.float32(255)
    np.testing.assert_array_equal(views(other, grey=1.0, jitter=(0.0, 0.0, 0.5, 0.5)), other)


def test_blur_is_a_gaussian_of_each_images_own_deviation():
    x = np.zeros((3, 25, 31, 1), "float32")
    x[:, 12, 15] = 1
    deviations = np.array([1.0, 2.0, 0.1], "float32")
    out = array(blur(x, ops.reshape(deviations, (-1, 1, 1, 1))))[..., 0]
    np.testing.assert_allclose(out.sum(axis=(1, 2)), 1, rtol=1e-4)
    rows, columns = np.arange(25) - 12, np.arange(31) - 15
    np.testing.assert_allclose((out.sum(axis=2) * rows**2).sum(axis=1), [1, 4, 0], atol=0.01)  # the variance, by rows
    np.testing.assert_allclose((out.sum(axis=1) * columns**2).sum(axis=1), [1, 4, 0], atol=0.01)
    constant = np.full((3, 8, 5, 2), 0.25, "float32")
    np.testing.assert_allclose(array(blur(constant, ops.reshape(deviations, (-1, 1, 1, 1)))), constant, rtol=1e-5)


def test_blurred_images_are_smoother_each_by_its_own_amount(copies):
    spread = views(copies(5), blur=1.0).std(axis=(1, 2, 3))
    assert len(np.unique(spread)) > 0.95 * COUNT and spread.max() < 1.01 * (copies(5) / 255).std()


def scaling(x, y):
    """The factor f and the largest error of y = mean(y) + f (x - mean(x)) for each image."""
    x, y = (v.reshape(COUNT, -1) - v.reshape(COUNT, -1).mean(axis=1, keepdims=True) for v in (x, y))
    factor = (x * y).sum(axis=1) / (x * x).sum(axis=1)
    return factor, np.abs(y - factor[:, None] * x).max()


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_brightness_and_contrast_scale_each_image_by_its_own_factor(copies, channels):
    x = 0.4 + copies(channels) / np.float32(255) * 0.2  # far from 0 and 1, where it would be clipped
    for jitter in ((0.4, 0.0, 0.0, 0.0), (0.0, 0.4, 0.0, 0.0)):
        out = views(x, jitter=jitter)
        factor, error = scaling(x, out)
        assert (
            error < 1e-5 and 0.6 <= factor.min() < 0.63 and 1.37 < factor.max() <= 1.4 and abs(factor.mean() - 1) < 0.04
        )
        middle = (lambda v: (v @ LUMINANCE).mean(axis=(1, 2))) if channels == 3 else (lambda v: v.mean(axis=(1, 2, 3)))
        np.testing.assert_allclose(middle(out), middle(x) * (factor if jitter[0] else 1), rtol=1e-3)


def test_saturation_keeps_the_luminance_and_hue_keeps_value_and_saturation(copies):
    x = 0.4 + copies() / np.float32(255) * 0.2
    out = views(x, jitter=(0.0, 0.0, 0.5, 0.0))
    np.testing.assert_allclose(out @ LUMINANCE, x @ LUMINANCE, rtol=1e-3)
    chroma = [(v - v @ LUMINANCE[:, None]).reshape(COUNT, -1) for v in (x, out)]
    factor = (chroma[0] * chroma[1]).sum(axis=1) / (chroma[0] ** 2).sum(axis=1)
    assert 0.5 <= factor.min() < 0.54 and 1.46 < factor.max() <= 1.5
    out = views(x, jitter=(0.0, 0.0, 0.0, 0.1))
    for extreme in (np.max, np.min):
        np.testing.assert_allclose(extreme(out, axis=-1), extreme(x, axis=-1), atol=1e-5)
    red = np.tile(np.array([0.8, 0.2, 0.2], "float32"), (COUNT, 1, 1, 1))
    angle = array(ops.image.rgb_to_hsv(views(red, jitter=(0.0, 0.0, 0.0, 0.1)), data_format="channels_last"))[
        :, 0, 0, 0
    ]
    angle = np.where(angle > 0.5, angle - 1, angle)
    assert -0.1001 < angle.min() < -0.09 and 0.09 < angle.max() < 0.1001


def test_shares_of_images_and_at_most_one_of_three(copies):
    x = copies() / np.float32(255)

    def changed(out):
        return (out != x).any(axis=(1, 2, 3))

    for arguments in (
        {"grey": 0.3},
        {"solarise": 0.3},
        {"blur": 0.3},
        {"jitter": (0.5, 0.0, 0.0, 0.0), "jitter_share": 0.3},
    ):
        assert abs(changed(views(x, **arguments)).mean() - 0.3) < 0.08
    out = views(x, grey=0.3, solarise=0.3, one_of=True)
    each = [
        np.isclose(out, views(x, **one), atol=1e-6).all(axis=(1, 2, 3)).mean()
        for one in ({"grey": 1.0}, {"solarise": 1.0}, {})
    ]
    np.testing.assert_allclose(each, [0.3, 0.3, 0.4], atol=0.08)
    both = views(x, grey=0.5, solarise=0.5)
    twice = np.isclose(both, views(views(x, grey=1.0), solarise=1.0), atol=1e-6).all(axis=(1, 2, 3))
    assert abs(twice.mean() - 0.25) < 0.08


def test_presets_are_complete_and_come_back_from_their_config(make_images):
    images = make_images(4, (8, 12, 3))
    for name in PRESETS:
        host, layer = preset(name, seed=7)
        assert host in data.CROPS
        if layer is None:
            assert name == "none"
            continue
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert again.get_config() == layer.get_config() and again.seed == 7
        out = array(layer(images, training=True))
        assert out.shape == images.shape and out.dtype == np.float32 and 0 <= out.min() and out.max() <= 1
        np.testing.assert_array_equal(array(again(images, training=True)), out)
    with pytest.raises(
        ValueError, match="Expected augmentation to be one of none, flip, crop_flip, .*, received 'spin'"
    ):
        preset("spin")


def test_pixels_stay_float32_in_mixed_precision(make_images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    layer = preset("dino")[1]
    assert keras.backend.standardize_dtype(layer(make_images(2), training=True).dtype) == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grey": 1.5}, "Expected fractions of the images in .*received grey=1.5, solarise=0.0"),
        ({"jitter_share": -0.1}, "received .*jitter_share=-0.1"),
        ({"grey": 0.6, "blur": 0.6, "one_of": True}, "summing up to at most 1, received grey=0.6"),
        (
            {"jitter": (0.4, 0.4)},
            r"Expected jitter=\(brightness, contrast, saturation, hue\).* received jitter=\(0.4, 0.4\)",
        ),
        ({"jitter": (0.4, 0.4, 0.4, 0.6)}, "that of hue up to 0.5, received"),
    ],
)
def test_other_values_than_augmentations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Augment(**arguments)


def test_views_depend_only_on_seed_and_step(make_model, make_images):
    images = make_images()
    model = make_model(keras.optimizers.SGD(0.0), augmentation=preset("three_augment")[1], run_eagerly=False)

    def loss(step):
        model.optimizer.iterations.assign(step)
        model.reset_metrics()
        return float(model.train_on_batch(images, return_dict=True)["loss"])

    told = [loss(step) for step in range(3)]
    assert len(set(told)) == 3
    model.augmentation(images, training=True)  # draws, outside of a step, change nothing
    assert [loss(step) for step in (2, 0, 1)] == [told[2], told[0], told[1]]
    model.seed = 1  # compiled into the step, so it is compared eagerly
    assert abs(array(seeded_objective(model, images, 1, training=True)[0]) - told[1]) > 1e-3
    model.seed = 0
    np.testing.assert_allclose(array(seeded_objective(model, images, 1, training=True)[0]), told[1], rtol=1e-5)


def test_only_training_augments_words_and_branches_alike(make_model, make_images, monkeypatch):
    images, seen = make_images(), {}
    model, plain = make_model(augmentation=preset("three_augment")[1]), make_model()
    ids, embed = model.tokenizer.call, model.encoder.embed
    monkeypatch.setattr(model.tokenizer, "call", lambda x, **of: (seen.update(words=x), ids(x, **of))[1])
    monkeypatch.setattr(model.encoder, "embed", lambda x, **of: (seen.update(halves=x), embed(x, **of))[1])
    seeded_objective(model, images, 3, training=True)
    np.testing.assert_array_equal(array(seen["words"]), array(seen["halves"]))
    assert (np.abs(array(seen["words"]) - images / 255).max(axis=(1, 2, 3)) > 0.01).any()
    seeded_objective(model, images, 3, training=False)
    np.testing.assert_array_equal(array(seen["halves"]), images)
    assert plain.augmentation is None and len(plain.non_trainable_variables) < len(model.non_trainable_variables)


def test_views_of_an_image_are_augmented_each_on_its_own():
    image = np.random.default_rng(0).random((1, 1, 6, 8, 3), "float32")
    layer = Augment(jitter=(0.4, 0.4, 0.4, 0.1), grey=0.2)
    views = ops.convert_to_numpy(layer(np.tile(image, (3, 2, 1, 1, 1)), training=True))
    assert views.shape == (3, 2, 6, 8, 3) and len({view.tobytes() for of_image in views for view in of_image}) == 6


def test_a_model_is_saved_with_its_augmentation(make_model, make_images, tmp_path):
    for name in ("none", "three_augment"):
        model = make_model(augmentation=preset(name)[1])
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        assert again.get_config() == model.get_config()
        images = make_images(2)
        np.testing.assert_array_equal(array(again(images)["pooled"]), array(model(images)["pooled"]))
    config = {name: value for name, value in model.get_config().items() if name != "augmentation"}
    assert type(model).from_config(config).augmentation is None  # a file from before there was augmentation


def test_grey_of_other_depths_is_the_image(make_images):
    x = make_images(1, (2, 2, 4))
    assert grey(x) is x


def test_each_kind_of_crop_has_its_own_augmentation(make_images):
    crops = {
        "global": make_images(8).reshape(4, 2, 16, 16, 3),
        "local": make_images(12, (8, 4, 3)).reshape(4, 3, 8, 4, 3),
    }
    layer = AugmentViews(Augment(solarise=1.0), None, Augment(grey=1.0))
    out = {name: array(x) for name, x in layer(crops, training=True).items()}
    pixels = {name: x / np.float32(255) for name, x in crops.items()}
    first = pixels["global"][:, 0]
    np.testing.assert_allclose(out["global"][:, 0], np.where(first < 0.5, first, 1 - first), atol=1e-6)
    np.testing.assert_allclose(out["global"][:, 1], pixels["global"][:, 1], atol=1e-6)
    assert out["local"].shape == crops["local"].shape
    np.testing.assert_allclose(out["local"], np.repeat((pixels["local"] @ LUMINANCE)[..., None], 3, axis=-1), atol=1e-3)
    np.testing.assert_array_equal(array(layer(crops)["local"]), crops["local"])
    none = layer({**crops, "local": crops["local"][:, :0]}, training=True)["local"]
    assert tuple(none.shape) == (4, 0, 8, 4, 3)


def test_the_shares_of_dinos_crops():
    layer = views_preset("dino", seed=3)
    assert [(x.blur, x.solarise) for x in (layer.first, layer.second, layer.local)] == [
        (1.0, 0.0),
        (0.1, 0.2),
        (0.5, 0.0),
    ]
    assert all(
        (x.flip, x.grey, x.jitter, x.jitter_share) == (True, 0.2, (0.4, 0.4, 0.2, 0.1), 0.8)
        for x in (layer.first, layer.second, layer.local)
    )
    assert AugmentViews.from_config(layer.get_config()).get_config() == layer.get_config()
    assert views_preset("none").first is None and views_preset("flip").local.flip


def test_an_augmentation_of_the_host_alone():
    assert host_preset("crop_flip") == {"crop": "crop", "flip": True}
    assert host_preset("flip") == {"crop": "none", "flip": True} and host_preset("none") == {
        "crop": "none",
        "flip": False,
    }
    for name in ("dino", "crop"):
        message = f"Expected augmentation to be one of none, flip, crop_flip, quarter_crop_flip, received '{name}'"
        with pytest.raises(ValueError, match=message):
            host_preset(name)
