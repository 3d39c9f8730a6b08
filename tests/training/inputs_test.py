"""The check of what models are given, for every kind of data that Keras takes."""

import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.patches import to_pixels
from keras_splitmask.training.inputs import CheckedModel
from keras_splitmask.training.objective_model import ObjectiveModel
from keras_splitmask.training.pixels import check_pixels

SHAPE = (8, 8, 3)
DIVIDE = r"^Expected float pixels in 0\.\.1, received 0 to 255; divide them by 255 \(images / 255\) or pass uint8\.$"
KINDS = ("array", "tensor", "dataset", "labelled", "pydataset", "generator", "grain", "loader", "weighted")


class Batches(keras.utils.PyDataset):
    def __init__(self, images):
        super().__init__()
        self.images = images
        self.epochs = 0

    def __len__(self):
        return len(self.images) // 4

    def __getitem__(self, i):
        return (self.images[4 * i : 4 * i + 4],)

    def on_epoch_end(self):
        self.epochs += 1


def stream(kind, images):
    """Images (12, H, W, C) as three batches, and what else `fit` wants."""
    if kind in ("array", "tensor"):
        return (images if kind == "array" else ops.convert_to_tensor(images)), {"batch_size": 4}
    if kind in ("dataset", "labelled", "weighted"):
        import tensorflow as tf

        parts = (images, np.zeros(len(images)), np.ones(len(images)))[
            : {"dataset": 1, "labelled": 2, "weighted": 3}[kind]
        ]
        return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(4), {}
    if kind == "pydataset":
        return Batches(images), {}
    if kind == "generator":
        return ((images[i : i + 4],) for i in range(0, 12, 4)), {"steps_per_epoch": 3}
    if kind == "grain":
        import grain

        return grain.MapDataset.source(images).map(lambda x: (x,)).batch(4), {}
    import torch

    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.as_tensor(images)), batch_size=4), {}


@pytest.fixture
def make_images(rng):
    def made(count=12, shape=SHAPE):
        images = rng.integers(0, 256, (count, *shape)).astype("uint8")
        images.reshape(count, -1)[:, :2] = 0, 255
        return images

    return made


class Brightness(ObjectiveModel):
    """A model whose loss is a weight times the mean pixel, so that each step of a rate of 1 takes this mean from the
    weight."""

    def __init__(self):
        super().__init__(None)
        self.w = self.add_weight(shape=(), initializer="zeros", name="w")
        self.built = True

    def call(self, images, training=None):
        return ops.mean(to_pixels(images), axis=(1, 2, 3)) + 0 * self.w

    def objective(self, batch, training):
        return self.w * ops.mean(self(batch.images)), {}


@pytest.fixture
def model():
    model = Brightness()
    model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    return model


def state(model):
    return [ops.convert_to_numpy(v) for v in model.variables]


@pytest.mark.backend
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "weighted"])
def test_pixels_up_to_255_are_refused_before_anything_is_learnt(model, make_images, kind):
    before = state(model)
    data, options = stream(kind, make_images().astype("float32"))
    with pytest.raises(ValueError, match=DIVIDE):
        model.fit(data, verbose=0, shuffle=False, **options)
    assert all(np.array_equal(old, new) for old, new in zip(before, state(model), strict=True))
    data, options = stream(kind, make_images().astype("float32"))
    with pytest.raises(ValueError, match=DIVIDE):
        model.predict(data, verbose=0, **{"steps" if k == "steps_per_epoch" else k: v for k, v in options.items()})


@pytest.mark.backend
@pytest.mark.parametrize(
    "kind, dtype",
    [*((k, d) for k in KINDS[:-1] for d in ("uint8", "float32")), ("array", "uint16"), ("dataset", "float16")],
)
def test_every_batch_of_good_pixels_is_learnt_from_once(model, make_images, kind, dtype):
    images = make_images()
    pixels = images / 255
    images = pixels.astype(dtype) if "float" in dtype else images.astype(dtype) * (257 if dtype == "uint16" else 1)
    epochs = 1 if kind == "generator" else 2
    data, options = stream(kind, images)
    model.fit(data, epochs=epochs, verbose=0, shuffle=False, **options)
    assert int(model.optimizer.iterations) == 3 * epochs
    assert float(model.w) == pytest.approx(-3 * epochs * pixels.mean(), rel=1e-3)
    data, options = stream(kind, images)
    steps = {"steps" if k == "steps_per_epoch" else k: v for k, v in options.items()}
    np.testing.assert_allclose(model.predict(data, verbose=0, **steps), pixels.mean(axis=(1, 2, 3)), rtol=2e-3)
    if kind == "pydataset":
        assert data.epochs  # `on_epoch_end` reaches the user's object


@pytest.mark.backend
@pytest.mark.parametrize(
    "images, message",
    [
        (
            np.zeros((2, 4, 4, 3), "int64"),
            "Expected pixels as uint8, uint16 or float in 0..1, received int64; convert them to uint8, or divide",
        ),
        (np.full((2, 4, 4, 3), 200, "int32"), "received int32 of 200 to 200; convert them to uint8."),
        (np.full((2, 4, 4, 3), 70000, "int32"), "received int32 of 70000 to 70000; convert them to float in 0..1."),
        (np.full((2, 4, 4, 3), -300, "int32"), "received int32 of -300 to -300; convert them to float in 0..1."),
        (
            np.linspace(-1, 1, 96).reshape(2, 4, 4, 3),
            "received -1 to 1; undo the scaling to -1..1 ((images + 1) / 2) or pass uint8.",
        ),
        (
            np.linspace(-2.1, 2.6, 96).reshape(2, 4, 4, 3),
            "received -2.1 to 2.6; pass them in 0..1 or as uint8, not normalised",
        ),
        (np.linspace(0, 1.2, 96).reshape(2, 4, 4, 3), "received 0 to 1.2; clip them to 0..1"),
        (
            np.linspace(0, 60000, 96).reshape(2, 4, 4, 3),
            "received 0 to 6e+04; divide them by 65535 (images / 65535) or pass uint16.",
        ),
        (
            np.array([0.5, np.nan]).reshape(2, 1, 1, 1),
            "Expected finite pixels, received NaN or infinity in image 1; leave such images out.",
        ),
        (
            np.array([np.inf, 0.5]).reshape(2, 1, 1, 1),
            "Expected finite pixels, received NaN or infinity in image 0; leave such images out.",
        ),
    ],
)
def test_pixels_of_other_ranges_are_refused(model, images, message):
    for data in (images, {"global": images[:, None], "local": np.zeros((2, 1, 4, 4, 3), "uint8")}):
        with pytest.raises(ValueError, match=re.escape(message)):
            check_pixels(data)
    nan = "finite" in message  # a step skips it
    for method in (
        model.fit,
        model.evaluate,
        model.predict,
        *(() if nan else (model, model.train_on_batch, model.test_on_batch, model.predict_on_batch)),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            method(images)
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(np.zeros((2, 4, 4, 3), "uint8"), validation_data=(images, np.zeros(2)), verbose=0)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.backend
def test_plausible_pixels_pass(model):
    """int32 is uint16, as torch has it; a little beyond 0..1 is rounding."""
    for images, mean in (
        (np.full((2, 4, 4, 3), 13107, "int32"), 0.2),
        (np.full((2, 4, 4, 3), 51, "uint16"), 51 / 65535),
        (np.full((2, 4, 4, 3), True), 1.0),
        (np.full((2, 4, 4, 3), 1.004), 1.004),
        (np.zeros((0, 4, 4, 3), "float32"), None),
    ):
        check_pixels(images)
        if mean is not None:
            np.testing.assert_allclose(model.predict(images, verbose=0), [mean] * 2, rtol=1e-3)


@pytest.mark.backend
def test_an_image_far_down_an_array_is_found(model, make_images):
    images = (make_images(40) / 255).astype("float32")
    images[37] = np.nan
    with pytest.raises(ValueError, match="in image 37"):
        model.fit(images, batch_size=4)


@pytest.mark.backend
def test_validation_batches_are_checked_and_training_progress_is_kept(model, make_images):
    images = make_images()
    for kind in ("dataset", "pydataset"):
        with pytest.raises(ValueError, match=DIVIDE):
            model.fit(images, batch_size=4, validation_data=stream(kind, images.astype("float32"))[0], verbose=0)
    assert float(model.w) == pytest.approx(-6 * images.mean() / 255, rel=1e-4)


@pytest.mark.tensorflow
def test_tensorflows_own_batches_are_watched_with_several_steps_at_once_and_under_strategies(make_images):
    import tensorflow as tf

    images = make_images().astype("float32")
    good, bad = (tf.data.Dataset.from_tensor_slices(x).batch(4) for x in (images / 255, images))
    model = Brightness()
    model.compile(keras.optimizers.SGD(1.0), steps_per_execution=3, jit_compile=False)
    model.fit(good, verbose=0)
    with tf.distribute.MirroredStrategy(["cpu:0"]).scope():
        mirrored = Brightness()
        mirrored.compile(keras.optimizers.SGD(1.0), steps_per_execution=3, jit_compile=False)
    for method in (model.fit, mirrored.evaluate):
        with pytest.raises(ValueError, match=DIVIDE):
            method(bad, verbose=0)
    assert float(model.w) == pytest.approx(-3 * images.mean() / 255, rel=1e-4)
    assert mirrored.evaluate(good, verbose=0, return_dict=True)["loss"] == 0
    mirrored.fit(good, verbose=0)
    learnt = [each.evaluate(good, verbose=0, return_dict=True)["loss"] for each in (model, mirrored)]
    assert learnt[0] < -0.1 and learnt[1] == pytest.approx(learnt[0], rel=1e-6)
    integers = mirrored.distribute_strategy.experimental_distribute_dataset(bad.map(lambda x: tf.cast(x, "int64")))
    with pytest.raises(ValueError, match="received int64"):
        mirrored.evaluate(integers, verbose=0)


@pytest.mark.backend
def test_every_model_of_images_checks_them():
    baselines, transfer = ks.baselines, ks.transfer
    for kind in (
        ks.Encoder,
        ks.SplitMask,
        baselines.BEiT,
        baselines.MAE,
        baselines.DINO,
        baselines.DeiT,
        baselines.Untrained,
    ):
        assert issubclass(kind, CheckedModel)
    for kind in (transfer.Classifier, transfer.Segmenter, transfer.RetinaNet, transfer.MaskRCNN):
        assert issubclass(kind, CheckedModel)


@pytest.mark.backend
def test_a_tokenizer_that_is_not_the_encoders_is_refused(make_encoder):
    encoder = make_encoder((16, 16, 3), 4)
    for shape, patch in (((16, 16, 3), 2), ((16, 16, 3), 8), ((8, 32, 3), 4), ((32, 32, 3), 4)):
        for build in (ks.SplitMask, ks.baselines.BEiT):
            with pytest.raises(
                ValueError, match=re.escape(f"received one of image_shape={shape}, patch_size={patch}; build it with")
            ):
                build(encoder, ks.tokenizers.RandomProjection(shape, patch, 8))


@pytest.mark.backend
@pytest.mark.parametrize("kind", [ks.tokenizers.KMeans, ks.tokenizers.RandomPatches])
def test_a_tokenizer_learns_before_the_model_does(make_model, make_images, tmp_path, kind):
    images = make_images()
    model = make_model(image_shape=SHAPE, tokenizer=kind(SHAPE, 4, 8))
    for method in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(
            ValueError,
            match=f"Expected a fitted {kind.__name__}, received one that has seen no images; call tokenizer.fit",
        ):
            method(images)
    model.predict(images, verbose=0)  # needs no words
    model.tokenizer.fit(images)
    model.train_on_batch(images)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.tokenizer.fitted and int(loaded.optimizer.iterations) == 1


@pytest.mark.backend
def test_a_tokenizer_fits_only_pixels(make_images):
    images = make_images(40).astype("float32")
    for bad, message in ((images, "divide them by 255"), (images.astype("int64"), "received int64")):
        with pytest.raises(ValueError, match=message):
            ks.tokenizers.KMeans(SHAPE, 4, 8).fit(bad)
    images /= 255
    images[23] = np.nan
    with pytest.raises(ValueError, match="in image 23;"):
        ks.tokenizers.KMeans(SHAPE, 4, 8).fit(images, batch_size=8)


@pytest.mark.backend
@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"class_weight": {0: 1.0}},
            "Expected no class_weight with Brightness, whose loss has no weights; leave them out.",
        ),
        ({"sample_weight": np.ones(12)}, "Expected no sample_weight with Brightness, whose loss has no weights"),
    ],
)
def test_weights_of_classes_and_images_are_refused(model, make_images, options, message):
    methods = [model.fit, model.train_on_batch] + (
        [model.evaluate, model.test_on_batch] if "sample_weight" in options else []
    )
    for method in methods:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            method(make_images(), **options)
    assert float(ops.convert_to_numpy(model.w)) == 0


@pytest.mark.backend
@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss": "mse"}, "Expected no loss of Brightness, which has its own loss and metrics; compile it without."),
        ({"metrics": ["mae"], "loss_weights": [1.0]}, "Expected no loss_weights, metrics of Brightness"),
        ({"weighted_metrics": ["mae"]}, "Expected no weighted_metrics of Brightness"),
        (
            {"optimizer": keras.optimizers.SGD(1.0, gradient_accumulation_steps=3)},
            (
                "Expected an optimizer without gradient_accumulation_steps, received 3; build Brightness with"
                " accumulate=3, and give it batches"
            ),
        ),
    ],
)
def test_arguments_that_compile_would_ignore_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Brightness().compile(**options)


@pytest.mark.backend
@pytest.mark.parametrize(
    "callback",
    [
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.5),
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=10.0),
    ],
)
def test_a_callback_sets_the_learning_rate_where_it_is_a_number(model, make_images, callback):
    images = make_images()
    model.fit(images, batch_size=12, epochs=2, verbose=0, callbacks=[callback])
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == 0.5
    model.compile(ks.training.adamw(1e-3, 10), jit_compile=False)
    before, name = state(model), type(callback).__name__
    with pytest.raises(
        ValueError,
        match=(
            f"^Expected an optimizer whose learning rate is a number with {name}, received one that follows a schedule;"
            " leave"
        ),
    ):
        model.fit(images, batch_size=12, verbose=0, callbacks=[callback])
    assert all(np.array_equal(*pair) for pair in zip(before, state(model), strict=True))


@pytest.mark.backend
def test_a_batch_of_one_image_is_refused_where_images_are_compared(make_model, make_images):
    model, images = make_model(depth=1, decoder_depth=1), make_images(3, (16, 16, 3))
    message = (
        "^Expected batches of at least two images, since the match loss compares images, received batches of one; raise"
        " the batch size"
    )
    for fit in (
        lambda: model.fit(images, batch_size=1, verbose=0),
        lambda: model.evaluate(images[:1], verbose=0),
        lambda: model.train_on_batch(images[:1]),
    ):
        with pytest.raises(ValueError, match=message):
            fit()
    with pytest.warns(UserWarning, match="The last batch has one image, from which the match loss learns nothing"):
        model.evaluate(images, batch_size=2, verbose=0)


@pytest.mark.backend
def test_a_model_predicts_without_being_compiled_and_says_so_where_it_learns(make_images):
    model, images = Brightness(), make_images()
    np.testing.assert_allclose(model.predict(images, verbose=0), images.mean(axis=(1, 2, 3)) / 255, rtol=1e-5)
    with pytest.raises(ValueError, match="must call `compile\\(\\)`"):
        model.fit(images, verbose=0)


@pytest.mark.backend
def test_a_model_that_cannot_learn_and_images_that_are_none_are_refused(model, make_images):
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="^Expected at least one image, received none.$"):
            method(np.zeros((0, *SHAPE), "uint8"))
    model.trainable = False
    for method in (model.fit, model.train_on_batch):
        with pytest.raises(
            ValueError,
            match="^Expected a Brightness with weights to learn, received one with none; set `trainable = True` before",
        ):
            method(make_images())


@pytest.mark.backend
def test_a_quantized_model_is_evaluated_and_not_trained(make_model, make_images):
    model, images = make_model(depth=1, decoder_depth=1), make_images(4, (16, 16, 3))
    before = model.evaluate(images, verbose=0, return_dict=True)["loss"]
    model.encoder.quantize("int8")
    assert model.evaluate(images, verbose=0, return_dict=True)["loss"] == pytest.approx(before, rel=0.1)
    with pytest.raises(
        ValueError, match="^Expected float weights to train, received int8; train the model before it is quantized.$"
    ):
        model.fit(images, verbose=0)


SCENE = (32, 32, 3)
LABELS = {
    "classifier": ("Expected images and labels, from which Classifier learns, received none", None),
    "classifier 3": ("Expected labels from 0 to 2, received 3; number the classes from 0 on", np.array([0, 1, 2, 3])),
    "classifier -1": ("Expected labels from 0 to 2, received -1", np.array([0, 1, 2, -1])),
    "classifier 0.5": ("Expected labels from 0 to 2, received 0.5", np.array([0, 1, 2, 0.5])),
    "classifier shape": (
        r"Expected labels \(B,\) of classes or \(B, 3\) of their probabilities, received \(4, 5\)",
        np.zeros((4, 5)),
    ),
    "deit": (r"Expected label probabilities \(B, 3\), received \(4,\); keras.ops.one_hot", np.arange(4) % 3),
    "segmenter": (
        r"Expected label maps \(B, 32, 32\) of the images' size, received \(4, 16, 16\)",
        np.zeros((4, 16, 16), "int32"),
    ),
    "segmenter 7": ("Expected labels from 0 to 2, or 255, received 7", np.full((4, 32, 32), 7, "int32")),
    "retinanet": ("Expected labels as a dictionary of boxes, labels, received none called boxes, labels", np.zeros(4)),
    "maskrcnn": (
        "received none called masks; data.detection_batches gives them",
        {"boxes": np.zeros((4, 1, 4)), "labels": np.zeros((4, 1))},
    ),
    "maskrcnn 3": (
        "Expected labels from 0 to 2, or -1, received 3",
        {"boxes": np.zeros((4, 1, 4)), "labels": np.full((4, 1), 3), "masks": np.zeros((4, 1, 8, 8))},
    ),
}


def learner(kind, make_encoder):
    transfer, encoder = ks.transfer, make_encoder(SCENE, 16, depth=1)
    if kind == "retinanet":
        pytest.importorskip("keras_cv")
        return transfer.RetinaNet(encoder, 3, width=8)
    if kind == "maskrcnn":
        return transfer.MaskRCNN(encoder, 3, width=8, hidden=8, proposals=4, samples=4)
    return (
        {"classifier": transfer.Classifier, "deit": ks.baselines.DeiT}[kind](encoder, 3)
        if kind != "segmenter"
        else transfer.Segmenter(encoder, 3, width=8)
    )


@pytest.mark.parametrize("name", LABELS)
def test_invalid_labels_are_refused_before_training(make_encoder, make_images, name):
    message, labels = LABELS[name]
    model, images = learner(name.split()[0], make_encoder), make_images(4, SCENE)
    model.compile("sgd", jit_compile=False)
    methods = [model.fit, model.evaluate, model.train_on_batch]
    for method in methods:
        with pytest.raises(ValueError, match=f"^{message}" if name != "maskrcnn" else message) as error:
            method(images, labels)
        assert "\n" not in str(error.value)
    if labels is not None:
        with pytest.raises(ValueError, match=message):
            model.fit(((images, labels) for _ in range(2)), verbose=0)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.backend
def test_labels_that_mean_something_pass(make_encoder):
    model, labels = learner("classifier", make_encoder), np.array([0, 1, 2, 2])
    for given in (labels, labels[:, None], np.eye(3)[labels], labels.astype("uint8"), ops.convert_to_tensor(labels)):
        assert model.problem_of_labels(given) is None
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=7), jit_compile=False
    )
    assert model.problem_of_labels(np.array([0, 1, 7, 2])) is None
    assert learner("segmenter", make_encoder).problem_of_labels(np.full((1, 32, 32), 255)) is None
