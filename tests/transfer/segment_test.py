import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.backend.distribution import part_of_batch
from keras_splitmask.encoder import DropPath
from keras_splitmask.training.batch import Batch
from keras_splitmask.transfer.segment import Segmenter, pixel_cross_entropy
from keras_splitmask.transfer.upernet import enlarge, pool

pytestmark = pytest.mark.backend
SHAPE = (20, 28, 3)  # so that grids of patches of 4 pixels, and of their halves, are odd


@pytest.fixture
def make_segmenter(make_encoder):
    def make(classes=3, width=16, depth=1, **arguments):
        keras.utils.set_random_seed(0)
        return Segmenter(make_encoder(SHAPE, depth=depth), classes, width=width, **arguments)

    return make


@pytest.fixture
def make_scenes(rng):
    """Dark images (count, H, W, C) uint8 with a red and a green box, and their label maps (count, H, W) int32, whose
    rims are ignored."""

    def make(count=4):
        images = rng.integers(0, 60, (count, *SHAPE), "uint8")
        labels = np.zeros((count, *SHAPE[:2]), "int32")
        for i in range(count):
            for label, colour in ((1, (250, 30, 30)), (2, (30, 250, 30))):
                size = rng.integers(8, 14, 2)
                top, left = rng.integers(0, np.array(SHAPE[:2]) - size)
                box = np.s_[i, top : top + size[0], left : left + size[1]]
                images[box], labels[box] = colour, label
        labels[:, 0], labels[:, :, 0] = 255, 255
        return images, labels

    return make


def compile_(model, optimizer):
    """Compiled but where it starts sooner without."""
    jax = keras.backend.backend() == "jax"
    model.compile(optimizer, run_eagerly=not jax, jit_compile=jax)
    return model


def step(model, images, labels):
    """What a step reports; Keras compiles it once for each model."""
    return model.fit(((images, labels) for _ in range(1)), steps_per_epoch=1, shuffle=False, verbose=0).history


def weights_of(model):
    return [ops.convert_to_numpy(v) for v in model.trainable_variables]


@pytest.mark.parametrize("size, bins", [((4, 6), 1), ((5, 7), 2), ((7, 3), 3), ((5, 1), 6)])
def test_pools_are_means_of_stretches(rng, size, bins):
    x = rng.random((2, *size, 3), "float32")
    stretches = [[(i * side // bins, int(np.ceil((i + 1) * side / bins))) for i in range(bins)] for side in size]
    expected = [
        [x[:, a:b, c:d].mean(axis=(1, 2)) for c, d in stretches[1]] for a, b in stretches[0]
    ]  # bins, bins, B, D
    np.testing.assert_allclose(ops.convert_to_numpy(pool(x, bins)), np.moveaxis(expected, 2, 0), rtol=1e-5)


@pytest.mark.parametrize("old, new", [((5, 7), (19, 28)), ((1, 1), (3, 4)), ((6, 6), (4, 3)), ((2, 3), (2, 3))])
def test_maps_are_enlarged_between_the_centres_of_pixels(rng, old, new):
    x = rng.random((2, *old, 3), "float32")
    rows, columns = (np.clip((np.arange(n) + 0.5) * o / n - 0.5, 0, o - 1) for o, n in zip(old, new, strict=True))
    rows, columns = (
        np.maximum(1 - np.abs(at[:, None] - np.arange(o)), 0) for at, o in ((rows, old[0]), (columns, old[1]))
    )
    expected = np.einsum("ri,cj,bijd->brcd", rows, columns, x)
    np.testing.assert_allclose(ops.convert_to_numpy(enlarge(x, new)), expected, atol=1e-5)


@pytest.mark.parametrize("weights", [None, np.array([0.5, 2, 0, 1, 1, 3], "float32")])
def test_the_loss_is_that_of_numpy(rng, weights):
    logits = rng.standard_normal((3, 4, 5, 6)).astype("float32")
    labels = rng.integers(0, 6, (3, 4, 5)).astype("int32")
    labels[0, :2], labels[2] = 255, 255  # half of the first image, and all of the last
    loss, hits = map(ops.convert_to_numpy, pixel_cross_entropy(logits, labels, weights))
    weights = np.ones(6) if weights is None else weights
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for i in (0, 1):
        valid = [(r, c) for r in range(4) for c in range(5) if labels[i, r, c] != 255]
        np.testing.assert_allclose(
            loss[i],
            np.mean([-np.log(shares[i, r, c, k]) * weights[k] for r, c in valid for k in [labels[i, r, c]]]),
            rtol=1e-5,
        )
        np.testing.assert_allclose(hits[i], np.mean([shares[i, r, c].argmax() == labels[i, r, c] for r, c in valid]))
    assert loss[2] == hits[2] == 0


def test_weights_of_classes_are_saved_and_checked(make_segmenter, make_scenes, tmp_path):
    model, (images, labels) = make_segmenter(class_weights=[0.2, 1.0, 3.0]), make_scenes(2)
    model.save(tmp_path / "model.keras")
    losses = [
        float(ops.convert_to_numpy(one.objective(Batch(images, labels), training=False)[0]))
        for one in (model, keras.saving.load_model(tmp_path / "model.keras"), make_segmenter())
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] != pytest.approx(losses[2], rel=1e-3)
    for wrong in ([1.0, 1.0], [1.0, -1.0, 1.0], [1.0, float("nan"), 1.0]):
        with pytest.raises(ValueError, match="Expected 3 class_weights of at least 0, received"):
            make_segmenter(class_weights=wrong)


def test_the_objective_is_the_loss_at_the_images_size_and_the_auxiliary_heads(make_segmenter, make_scenes):
    model, (images, labels) = make_segmenter(auxiliary_weight=0.5), make_scenes(2)
    loss, report = model.objective(Batch(images, labels), training=False)
    logits = model(images)
    assert logits.shape == (2, *SHAPE[:2], 3)
    main, hits = (ops.convert_to_numpy(x).mean() for x in pixel_cross_entropy(logits, labels))
    loss, auxiliary, accuracy = (
        ops.convert_to_numpy(x) for x in (loss, report["auxiliary_loss"], report["pixel_accuracy"])
    )
    np.testing.assert_allclose([loss, accuracy], [main + 0.5 * auxiliary, hits], rtol=1e-5)
    alone = make_segmenter(auxiliary_weight=0)
    assert [metric.name for metric in alone.logged_means] == ["pixel_accuracy", "gradient_norm"]
    assert (
        len(alone.trainable_variables) == len(model.trainable_variables) - 5
    )  # 3x3, its norm's two, and the linear map's two


def test_an_image_has_the_same_answer_in_any_batch(make_segmenter, make_images):
    model, images = make_segmenter(), make_images(2, SHAPE)
    logits = ops.convert_to_numpy(model(images))
    np.testing.assert_allclose(
        ops.convert_to_numpy(model(np.stack([255 - images[0], images[1]])))[1], logits[1], atol=1e-5
    )


def test_scenes_are_memorised(make_segmenter, make_scenes):
    model, (images, labels) = make_segmenter(width=24, depth=2, drop=0.0), make_scenes(2)
    model.compile(ks.training.adamw(1e-2, 150, warmup=10), jit_compile=keras.backend.backend() == "jax")
    history = model.fit(((images, labels) for _ in range(150)), steps_per_epoch=150, shuffle=False, verbose=0).history
    predicted, valid = model.predict(images, verbose=0).argmax(axis=-1), labels != 255
    ious = [
        (valid & (predicted == c) & (labels == c)).sum() / (valid & ((predicted == c) | (labels == c))).sum()
        for c in range(3)
    ]
    assert np.mean(ious) > 0.9
    assert history["skipped_steps"] == [0]


def test_channels_are_dropped_as_a_whole_and_the_same_in_a_part_of_a_batch():
    x, drop = np.ones((8, 2, 3, 16), "float32"), lambda: DropPath(0.5, (None, 1, 1, None), seed=3)
    whole = ops.convert_to_numpy(drop()(x, training=True))
    assert set(np.unique(whole)) == {0, 2} and (whole == whole[:, :1, :1]).all()
    assert 0.3 < (whole == 0).mean() < 0.7
    np.testing.assert_array_equal(ops.convert_to_numpy(drop()(x)), x)
    with part_of_batch(1, 2, 4):  # the second of two parts of four images
        np.testing.assert_array_equal(ops.convert_to_numpy(drop()(x[:4], training=True)), whole[1::2])


def test_images_without_labels_and_bad_ones_do_no_harm_in_half_the_precision(make_segmenter, make_scenes):
    model, (images, labels) = compile_(make_segmenter(dtype="mixed_bfloat16"), "sgd"), make_scenes(2)
    images = images.astype("float32") / 255
    assert model.network.compute_dtype == "bfloat16"
    assert model.compute_output_spec(keras.KerasTensor(images.shape)).dtype == "float32"
    without = step(model, images, np.full_like(labels, 255))
    assert without["loss"] == without["gradient_norm"] == without["skipped_steps"] == [0]
    before = weights_of(model)
    assert model.train_on_batch(np.full_like(images, np.nan), labels, return_dict=True)["skipped_steps"] == 1
    assert all(np.array_equal(*pair) for pair in zip(before, weights_of(model), strict=True))
    assert step(model, images, labels)["skipped_steps"] == [0] and not np.array_equal(before[-1], weights_of(model)[-1])


def test_a_saved_model_is_the_same(make_segmenter, make_images, tmp_path):
    model, images = make_segmenter(neck="simple", drop=0.2, auxiliary_weight=0.1), make_images(2, SHAPE)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_config() == model.get_config()
    np.testing.assert_array_equal(ops.convert_to_numpy(again(images)), ops.convert_to_numpy(model(images)))


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch writes no SavedModel")
def test_an_exported_model_takes_any_number_of_images(make_segmenter, make_images, tmp_path):
    import tensorflow as tf

    model, images = make_segmenter(), make_images(3, SHAPE)
    signature = [keras.InputSpec(shape=(None, *SHAPE), dtype="uint8")]
    model.export(tmp_path, format="tf_saved_model", input_signature=signature, verbose=False)
    exported = tf.saved_model.load(tmp_path)
    np.testing.assert_allclose(exported.serve(images).numpy()[:2], ops.convert_to_numpy(model(images[:2])), atol=1e-4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"classes": 1}, "Expected 2 to 255 classes, received classes=1."),
        ({"classes": 256}, "Expected 2 to 255 classes, received classes=256."),
        ({"head": "fcn"}, "Expected head to be one of upernet, deeplab, segformer, received 'fcn'."),
        ({"drop": 1.0}, "received rate=1.0"),
    ],
)
def test_what_makes_no_segmenter_is_refused(make_segmenter, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_segmenter(**arguments)
