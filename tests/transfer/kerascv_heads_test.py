import keras
import numpy as np
import pytest
from keras import ops

pytest.importorskip("keras_cv", reason="these heads are KerasCV's, which is not installed")

from keras_splitmask.transfer.segment import Segmenter  # noqa: E402

pytestmark = pytest.mark.backend
SHAPE = (32, 64, 3)
HEADS = pytest.mark.parametrize("head", ["deeplab", "segformer"])


@pytest.fixture
def make_segmenter(make_encoder):
    def make(head, image_shape=SHAPE, width=8, **arguments):
        keras.utils.set_random_seed(0)
        return Segmenter(make_encoder(image_shape, 16, depth=1), 3, head=head, width=width, **arguments)

    return make


def numpy_of(tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


@HEADS
def test_it_learns_and_a_skipped_step_leaves_the_moving_averages(make_segmenter, rng, head):
    model = make_segmenter(head)
    images, labels = rng.random((2, *SHAPE), "float32") / 2, np.zeros((2, *SHAPE[:2]), "int32")
    images[:, :, 32:] += 0.5  # the right half is brighter
    labels[:, :, 32:], labels[:, :, 31] = 2, 255
    jax = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), run_eagerly=not jax, jit_compile=jax)

    def steps(images, count):
        batches = ((images, labels) for _ in range(count))
        return model.fit(batches, steps_per_epoch=1, epochs=count, shuffle=False, verbose=0).history

    before = numpy_of(model._moving_averages().values())
    losses = steps(images, 8)["loss"]
    after = numpy_of([*model._moving_averages().values(), *model.trainable_variables])
    assert losses[-1] < 0.5 * losses[0]
    assert len(before) > 1 and not any(np.array_equal(*pair) for pair in zip(before, after, strict=False))
    assert model.train_on_batch(np.full_like(images, np.nan), labels, return_dict=True)["skipped_steps"] == 1
    kept = numpy_of([*model._moving_averages().values(), *model.trainable_variables])
    assert all(np.array_equal(*pair) for pair in zip(after, kept, strict=True))


@HEADS
def test_it_gives_logits_that_no_other_image_changes_and_saves_them(make_segmenter, make_images, head, tmp_path):
    model, images = make_segmenter(head, drop=0.5), make_images(2, SHAPE)
    logits = ops.convert_to_numpy(model(images))
    assert logits.shape == (2, *SHAPE[:2], 3) and logits.dtype == "float32"
    assert logits.min() < 0 and np.ptp(logits.sum(axis=-1)) > 0.1  # no probabilities
    others = np.stack([255 - images[0], images[1]])
    np.testing.assert_allclose(ops.convert_to_numpy(model(others))[1], logits[1], atol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_config() == model.get_config()
    np.testing.assert_array_equal(ops.convert_to_numpy(again(images)), logits)


@HEADS
def test_it_takes_the_precision_and_the_share_that_it_is_told(make_segmenter, head):
    model = make_segmenter(head, drop=0.25, dtype="mixed_bfloat16")
    layers = model.network._flatten_layers()
    assert {layer.compute_dtype for layer in layers if isinstance(layer, keras.layers.BatchNormalization)} == {
        "bfloat16"
    }
    assert [layer.rate for layer in model.network._flatten_layers() if isinstance(layer, keras.layers.Dropout)] == [
        0.25
    ]
    assert keras.config.dtype_policy().name == "float32"
    assert model.compute_output_spec(keras.KerasTensor((2, *SHAPE))).dtype == "float32"


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch writes no SavedModel")
def test_an_exported_model_takes_any_number_of_images(make_segmenter, make_images, tmp_path):
    import tensorflow as tf

    model, images = make_segmenter("segformer"), make_images(3, SHAPE)
    signature = [keras.InputSpec(shape=(None, *SHAPE), dtype="uint8")]
    model.export(tmp_path, format="tf_saved_model", input_signature=signature, verbose=False)
    exported = tf.saved_model.load(tmp_path)
    np.testing.assert_allclose(exported.serve(images).numpy()[:2], ops.convert_to_numpy(model(images[:2])), atol=1e-4)


def test_what_a_head_cannot_do_is_refused(make_segmenter):
    with pytest.raises(
        ValueError,
        match="Expected accumulate=1 with the batch norms of head='segformer', received accumulate=2; take upernet.",
    ):
        make_segmenter("segformer", accumulate=2)
    with pytest.raises(ValueError, match=r"multiples of 32 for DeepLabV3\+, received image_shape=\(48, 64, 3\)"):
        make_segmenter("deeplab", image_shape=(48, 64, 3))


def test_keras_cv_is_imported_where_a_head_of_it_is_made_alone(python):
    python(
        "-c",
        "import sys, keras_splitmask.transfer.segment; assert 'keras_cv' not in sys.modules",
        backend=keras.backend.backend(),
    )


@HEADS
def test_channels_first_is_refused(make_segmenter, head):
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(
            ValueError, match='Expected image_data_format="channels_last" .* received "channels_first"; change it there'
        ):
            make_segmenter(head)
    finally:
        keras.config.set_image_data_format("channels_last")
