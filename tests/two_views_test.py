"""SplitMask on two views of each image: each half has its own."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.training.batch import Batch
from tests.splitmask_test import array

pytestmark = pytest.mark.backend


def two_views_computed_again(model, views, order):
    """View by view: what each half sees of its own view, and the words of that view; returns both losses."""
    n, split = model.split.seen_count, model.split
    inpaint, vectors = [], []
    for i in range(len(views)):
        for view, start in ((views[i, :1], 0), (views[i, 1:], n)):
            seen = order[i, start : start + n]
            unseen = np.array([p for p in order[i] if p not in seen])[model.picked]
            tokens = model.encoder.encode(array(model.encoder.embed(view))[:, seen])
            hidden = array(tokens)[:, 1:].mean(axis=1) @ array(model.projector.hidden.kernel)
            hidden = ops.gelu(hidden + array(model.projector.hidden.bias), approximate=False)
            vectors.append(
                array(hidden) @ array(model.projector.projected.kernel) + array(model.projector.projected.bias)
            )
            logits = array(model.decoder.words(model.decoder(tokens, unseen[None].astype("int32"))[1]))[0]
            share = np.exp(logits.astype("float64")) / np.exp(logits.astype("float64")).sum(axis=1, keepdims=True)
            inpaint.append(-np.log(share[np.arange(len(unseen)), array(model.tokenizer(view))[0, unseen]]).mean())
    assert len(unseen) == round(model.predicted * (split.count - n))
    vectors = np.concatenate(vectors)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    logits = np.exp(vectors[0::2] @ vectors[1::2].T / model.temperature)
    hits = [-np.log(logits.diagonal() / logits.sum(axis=axis)).mean() for axis in (0, 1)]
    return np.mean(inpaint), np.mean(hits)


@pytest.mark.parametrize("split, by_patch", [("random", True), ("block", True), ("random", False)])
def test_two_views_are_halved_predicted_and_matched_each_by_its_own_patches(
    make_model, make_images, fix_order, split, by_patch
):
    given = {"keep": 0.25, "predicted": 0.5, "projector": 24, "split": split}
    model = make_model(image_shape=(12, 20, 3), **given)
    model.tokenizer.by_patch = by_patch
    images, order = make_images(8, (12, 20, 3)).reshape(4, 2, 12, 20, 3), fix_order(4)
    loss, report = model.objective(Batch(images), training=False)
    inpaint, match = two_views_computed_again(model, images, order)
    np.testing.assert_allclose(float(report["inpaint_loss"]), inpaint, rtol=1e-4)
    np.testing.assert_allclose(float(report["match_loss"]), match, rtol=1e-4)
    np.testing.assert_allclose(float(loss), inpaint + match, rtol=1e-4)


def test_two_equal_views_are_one_view(make_model, make_images, fix_order):
    model, images = make_model(image_shape=(12, 20, 3)), make_images(4, (12, 20, 3))
    fix_order(4)
    one, two = (
        model.objective(Batch(given), training=False)[0] for given in (images, np.stack([images, images], axis=1))
    )
    np.testing.assert_allclose(float(two), float(one), rtol=1e-5)


def test_micro_batches_of_two_views_make_the_same_step(make_model, make_images):
    images = make_images(16, (12, 20, 3)).reshape(8, 2, 12, 20, 3)

    def train(accumulate):
        keras.utils.set_random_seed(0)
        model = make_model(
            image_shape=(12, 20, 3), projector=8, split="random", inpaint_weight=0, accumulate=accumulate
        )
        model.split.call = lambda images: ops.tile(ops.arange(15)[None], (ops.shape(images)[0], 1))
        logs = model.train_on_batch(images, return_dict=True)
        return [logs["loss"], *(array(v) for v in model.trainable_variables)]

    for expected, received in zip(train(1), train(4), strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-6, rtol=1e-4)
