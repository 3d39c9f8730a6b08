"""A batch that is taken in parts is the same step, and one that cannot be divided into them is refused."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks


@pytest.mark.backend
@pytest.mark.parametrize("method", ["splitmask", pytest.param("dino", marks=pytest.mark.long)])
def test_a_batch_in_parts_takes_the_same_step(make_encoder, make_images, method):
    """Same loss, same gradients: after two steps of SGD the same weights. Drop path and augmentation draw as for the
    whole batch."""

    images = make_images(6, (8, 12, 3))

    def train(accumulate):
        keras.utils.set_random_seed(0)
        encoder = make_encoder((8, 12, 3), depth=1, drop_path=0.2)
        if method == "dino":
            views = {"global": np.stack([images, images[::-1]], axis=1), "local": images[:, None, :4, :8]}
            layer = ks.augment.views_preset("dino")
            model = ks.baselines.DINO(
                encoder, 8, prototypes=24, local_shape=(4, 8), augmentation=layer, accumulate=accumulate
            )
        else:
            views = images
            words = ks.tokenizers.RandomProjection((8, 12, 3), 4, vocabulary=16)
            model = ks.SplitMask(
                encoder,
                words,
                decoder_depth=1,
                augmentation=ks.augment.preset("three_augment")[1],
                accumulate=accumulate,
            )
        model.compile(keras.optimizers.SGD(0.1), jit_compile=keras.backend.backend() == "jax")
        logs = model.fit(views, batch_size=6, epochs=2, shuffle=False, verbose=0).history
        logs.pop("feature_std", None)  # of DINO's parts each by itself
        return [*logs.values(), *(ops.convert_to_numpy(v) for v in model.trainable_variables)]

    one, three = train(1), train(3)
    assert len(one) == len(three) > 20
    for expected, received in zip(one, three, strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-5, rtol=1e-5)


PARTS = (
    "^Expected a number of images in each batch that is a multiple of accumulate=4, received {}; choose another batch"
    " size, or leave out the last"
)


@pytest.fixture
def in_parts(make_encoder):
    """A model that takes its batches in four parts."""
    model = ks.baselines.MAE(make_encoder((8, 12, 3), depth=1), decoder_depth=1, decoder_width=32, accumulate=4)
    model.compile("sgd", jit_compile=keras.backend.backend() == "jax")
    return model


@pytest.mark.backend
def test_parts_must_be_alike(in_parts, make_images):
    images = make_images(14, (8, 12, 3))
    for count, options, received in (
        (6, {"batch_size": 6}, 6),
        (14, {"batch_size": 8}, 6),
        (14, {"batch_size": 4}, 2),
        (9, {}, 9),
    ):
        with pytest.raises(ValueError, match=PARTS.format(received)):
            in_parts.fit(images[:count], verbose=0, **options)
    assert int(in_parts.optimizer.iterations) == 0  # a last batch is thought of before the first is learnt from
    in_parts.fit(images[:12], batch_size=8, verbose=0)
    in_parts.fit(images, batch_size=8, validation_split=0.42, verbose=0)  # 8 are trained on, and 6 judged, all at once
    assert int(in_parts.optimizer.iterations) == 3
    with pytest.raises(ValueError, match=PARTS.format("(6|another number)")):  # TensorFlow does not know
        in_parts.fit(((images[i : i + 8],) for i in (0, 8)), verbose=0)
    with pytest.raises(ValueError, match=PARTS.format(6)):
        in_parts.train_on_batch(images[:6])


@pytest.mark.tensorflow
def test_a_last_batch_whose_size_tensorflow_does_not_know_is_refused_in_one_line(in_parts, make_images):
    import tensorflow as tf

    with pytest.raises(ValueError, match=PARTS.format("another number")) as error:
        in_parts.fit(tf.data.Dataset.from_tensor_slices(make_images(6, (8, 12, 3))).batch(4), verbose=0)
    assert "\n" not in str(error.value) and int(in_parts.optimizer.iterations) == 1
