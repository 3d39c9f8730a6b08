"""Images of other axes than a model takes: views, several arrays, or one image without its batch."""

import re

import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from tests.training.inputs_test import SHAPE, stream

OF_SPLITMASK = "Expected images (B, H, W, C), or 2 views of each, (B, 2, H, W, C), received "
OF_OTHERS = "Expected images (B, H, W, C), received "


def compiled(model):
    model.compile(optimizer="sgd", jit_compile=False)
    return model


def check_refused(model, line, calls):
    """Every call is refused in this line, and changes nothing."""
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    for call in calls:
        with pytest.raises(ValueError) as refused:
            call()
        assert re.fullmatch(rf"{re.escape(line)}[^\n]*\.", str(refused.value))
    after = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    assert all(map(np.array_equal, before, after))


@pytest.mark.backend
@pytest.mark.parametrize("axes", [(1,), (3,), (2, 2)])
def test_splitmask_takes_an_image_or_two_views_of_it(make_model, make_images, axes):
    model, views = make_model(image_shape=SHAPE), make_images(4, (*axes, *SHAPE))
    model.fit(make_images(4, SHAPE), verbose=0)
    model.fit(make_images(4, (2, *SHAPE)), verbose=0)
    line = f"{OF_SPLITMASK}{(4, *axes, *SHAPE)}; reshape them"
    check_refused(model, line, [lambda: model.fit(views, verbose=0), lambda: model.evaluate(views, verbose=0)])
    check_refused(make_model(image_shape=SHAPE), line, [lambda: model.train_on_batch(views)])


@pytest.mark.backend
def test_a_single_image_is_no_batch(make_model, make_images):
    """Its rows would be taken for images."""
    model, image = make_model(image_shape=(8, 8, 3)), make_images(1, (8, 8, 3))[0]
    calls = [lambda: model.fit(image, batch_size=8, verbose=0), lambda: model.train_on_batch(image)]
    check_refused(model, f"{OF_SPLITMASK}(8, 8, 3); add an axis for the batch, images[None]", calls)


@pytest.mark.backend
@pytest.mark.parametrize("kind", ["dataset", "pydataset", "generator", "grain"])
def test_views_are_refused_in_every_kind_of_stream(make_model, make_images, kind):
    model = make_model(image_shape=SHAPE)
    data, options = stream(kind, make_images(12, (3, *SHAPE)))
    check_refused(model, OF_SPLITMASK, [lambda: model.fit(data, verbose=0, **options)])


@pytest.mark.backend
def test_other_methods_take_no_views(make_encoder, make_images):
    views, one_hot = make_images(4, (2, *SHAPE)), np.eye(2, dtype="float32")[[0, 1, 0, 1]]
    tokenizer = ks.tokenizers.RandomProjection(SHAPE, 4, 8)
    for build, labels in (
        (ks.baselines.MAE, None),
        (lambda encoder: ks.baselines.BEiT(encoder, tokenizer), None),
        (lambda encoder: ks.baselines.DeiT(encoder, 2), one_hot),
        (lambda encoder: ks.transfer.Classifier(encoder, 2), one_hot.argmax(axis=1)),
    ):
        model = compiled(build(make_encoder(SHAPE, depth=1)))
        calls = [lambda model=model, labels=labels: model.fit(views, labels, verbose=0)]
        check_refused(model, OF_OTHERS, calls)


@pytest.mark.backend
def test_dino_takes_crops(make_encoder, make_images):
    model = compiled(ks.baselines.DINO(make_encoder(SHAPE, depth=1), 10, 16))
    images, views = make_images(4, SHAPE), make_images(4, (2, *SHAPE))
    given = (
        images,
        views,
        {"global": views},
        {"global": images, "local": views},
        {"global": views[:, :1], "local": views},
    )
    calls = [lambda x=x: model.fit(x, verbose=0) for x in given]
    check_refused(model, 'Expected a dictionary of crops, "global" (B, 2, H, W, C) and "local"', calls)
    model.fit({"global": views, "local": make_images(4, (3, 4, 4, 3))}, verbose=0)


@pytest.mark.backend
def test_predictions_are_of_one_array_of_images(make_model, make_encoder, make_images):
    images, views = make_images(4, SHAPE), make_images(4, (2, *SHAPE))
    for model in (make_model(image_shape=SHAPE), make_encoder(SHAPE), ks.baselines.Untrained(make_encoder(SHAPE))):
        calls = [lambda m=model: m.predict(views, verbose=0), lambda m=model: m(views)]
        check_refused(model, f"{OF_OTHERS}(4, 2, 8, 8, 3)", calls)
        calls = [lambda m=model: m.predict([images, images], verbose=0), lambda m=model: m([images, images])]
        check_refused(model, f"{OF_OTHERS}an object of type list", calls)


@pytest.mark.backend
def test_what_a_layer_refuses_is_one_line(make_model, make_images):
    model, images = make_model(image_shape=SHAPE), make_images(4, (12, 8, 3))
    line = "Expected images of (8, 8, 3) (height, width, channels), received (12, 8, 3); resize or convert the images"
    check_refused(model, line, [lambda: model.fit(images, verbose=0), lambda: model.predict(images, verbose=0)])
