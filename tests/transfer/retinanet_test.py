import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.evaluation import average_precision, to_original
from keras_splitmask.training.batch import Batch
from keras_splitmask.transfer import boxes

pytest.importorskip("keras_cv", reason="RetinaNet is KerasCV's, which is not installed")

from keras_splitmask.transfer.kerascv_backbone import ViTBackbone, keras_cv  # noqa: E402
from keras_splitmask.transfer.retinanet import RetinaNet, anchor_sizes, focal_loss  # noqa: E402

pytestmark = pytest.mark.backend
SHAPE = (64, 96, 3)


def make(width=16, classes=2, neck="blocks", **options):
    return RetinaNet(
        ks.Encoder(SHAPE, 16, 32, 2, 2), classes, neck, width, **{"anchor_scale": 2.0, "max_detections": 20, **options}
    )


def test_anchors_are_kerascvs():
    model = make(anchor_scale=4.0)
    theirs = keras_cv.models.RetinaNet.default_anchor_generator("yxyx")
    theirs = np.concatenate([ops.convert_to_numpy(x) for x in theirs(image_shape=SHAPE).values()])
    mine = ops.convert_to_numpy(boxes.clip(ops.convert_to_tensor(model.anchors[0]), SHAPE))
    assert (
        len(mine)
        == len(theirs)
        == sum(9 * -(-SHAPE[0] // s) * -(-SHAPE[1] // s) for s in anchor_sizes("P3-P7", 4.0)[0])
    )
    np.testing.assert_allclose(np.sort(mine.round(3), axis=0), np.sort(theirs.round(3), axis=0), atol=2e-3)


def test_the_network_is_kerascvs_on_our_encoder():
    model = make(width=256)
    assert isinstance(model.network, keras_cv.models.RetinaNet) and isinstance(model.network.backbone, ViTBackbone)
    assert isinstance(model.network.feature_pyramid, keras_cv.models.retinanet.FeaturePyramid)
    assert set(model.network.backbone.pyramid_level_inputs) == {"P3", "P4", "P5"}
    known = {id(v) for v in model.trainable_variables}
    assert all(id(v) in known for v in model.encoder.trainable_variables)


def share_inside(anchor, box):
    """The share of an anchor that lies in a box."""
    sides = [max(0.0, min(anchor[i + 2], box[i + 2]) - max(anchor[i], box[i])) for i in (0, 1)]
    return sides[0] * sides[1] / ((anchor[2] - anchor[0]) * (anchor[3] - anchor[1]))


@pytest.mark.parametrize("ignoring", [False, True])
def test_the_loss_is_that_of_numpy(scenes, ignoring):
    """With an object that is ignored, it is that without the anchors that lie in it by 0.4 or more."""
    model = make()
    images, targets = scenes(3)
    if ignoring:
        targets["labels"][:, 0], targets["ignored"] = -1, targets["boxes"][:, :1].copy()
    deltas, logits = (ops.convert_to_numpy(x) for x in model.predictions(images))
    loss, report = model.objective(Batch(images, targets), training=False)
    class_losses, box_losses = [], []
    for i in range(3):
        own = targets["labels"][i] >= 0
        arguments = [
            ops.convert_to_tensor(x) for x in (model.anchors, targets["boxes"][i : i + 1], targets["labels"][i : i + 1])
        ]
        nearest, kind = (ops.convert_to_numpy(x)[0] for x in boxes.match(*arguments, 0.4, 0.5, best_too=True))
        assert (kind > 0).sum() >= own.sum()
        if ignoring and targets["ignored"][i].any():
            inside = [share_inside(anchor, targets["ignored"][i, 0]) >= 0.4 for anchor in model.anchors[0]]
            assert (np.array(inside) & (kind == 0)).any()
            kind = np.where(np.array(inside) & (kind == 0), -1, kind)
        true = np.zeros_like(logits[i])
        true[np.flatnonzero(kind > 0), targets["labels"][i][nearest[kind > 0]]] = 1
        p = 1 / (1 + np.exp(-logits[i].astype("float64")))
        focal = -np.where(true, 0.25 * (1 - p) ** 2 * np.log(p), 0.75 * p**2 * np.log(1 - p))
        class_losses.append(focal[kind >= 0].sum() / max(1, (kind > 0).sum()))
        a, b = model.anchors[0][kind > 0], targets["boxes"][i][nearest[kind > 0]]
        centre = ((b[:, :2] + b[:, 2:]) / 2 - (a[:, :2] + a[:, 2:]) / 2) / (a[:, 2:] - a[:, :2]) / 0.1
        goals = np.concatenate([centre, np.log((b[:, 2:] - b[:, :2]) / (a[:, 2:] - a[:, :2])) / 0.2], axis=1)
        off = np.abs(goals - deltas[i][kind > 0])
        box_losses.append(np.where(off < 1, off**2 / 2, off - 0.5).sum() / max(1, (kind > 0).sum()))
    assert float(report["class_loss"]) == pytest.approx(np.mean(class_losses), rel=1e-4)
    assert float(report["box_loss"]) == pytest.approx(np.mean(box_losses), rel=1e-4)
    assert float(loss) == pytest.approx(np.mean(class_losses) + np.mean(box_losses), rel=1e-4)


@pytest.mark.backend
def test_a_logit_that_is_not_a_number_is_no_error_but_a_loss_that_is_none():
    """So that the step is skipped, as of all models."""
    truth, logits = np.array([0.0, 1.0, 1.0], "float32"), np.array([np.nan, np.nan, 0.0], "float32")
    loss = ops.convert_to_numpy(focal_loss(ops.convert_to_tensor(truth), ops.convert_to_tensor(logits)))
    np.testing.assert_allclose(loss, [np.nan, np.nan, 0.25 * 0.5**2 * np.log(2)], rtol=1e-6)


def test_an_object_that_is_surely_taken_for_background_has_a_gradient():
    """Of -0.25, the weight of objects (Lin et al., 2017, equation 5); by probabilities it would vanish below -16."""
    for logit, expected in ((-30.0, -0.25), (-3.0, None), (40.0, 0.0)):
        x, step = np.float32(logit), np.float32(0.125)
        above, below = (
            float(focal_loss(ops.convert_to_tensor(1.0), ops.convert_to_tensor(x + sign * step))) for sign in (1, -1)
        )
        p = 1 / (1 + np.exp(-logit))
        own = 0.25 * (2 * (1 - p) * p * (1 - p) * np.log(p) - (1 - p) ** 3) if expected is None else expected
        assert (above - below) / 0.25 == pytest.approx(own, rel=2e-2, abs=1e-6)


def test_levels_from_p2_on_have_half_the_strides(scenes):
    model, images = make(levels="P2-P6"), scenes(1)[0]
    deltas, logits = model.predictions(images)
    count = sum(9 * -(-SHAPE[0] // s) * -(-SHAPE[1] // s) for s in (4, 8, 16, 32, 64))
    assert tuple(deltas.shape) == (1, count, 4) and tuple(logits.shape) == (1, count, 2)
    assert model.anchors.shape == (1, count, 4)
    # The last block still is among those that features are taken from.
    assert make(levels="P2-P6").network.backbone.pyramid.taps["P4"] == "block_2"


def test_a_few_images_are_memorised(scenes, as_coco):
    model, (images, targets) = make(32), scenes(2)
    model.compile(ks.training.adamw(2e-3, 60, warmup=6), jit_compile=keras.backend.backend() == "jax")
    history = model.fit(
        ((images, targets) for _ in range(60)), steps_per_epoch=30, epochs=2, shuffle=False, verbose=0
    ).history
    assert history["loss"][-1] < history["loss"][0] and not history["skipped_steps"][-1]
    answer = model.predict(images, verbose=0)
    found = [
        {"image_id": i, **to_original({name: x[i] for name, x in answer.items()}, 1, *SHAPE[:2])} for i in range(2)
    ]
    assert average_precision(as_coco(targets, SHAPE), found)["ap50"] > 0.9
    assert (answer["scores"][0] < 0.5).all()  # there is nothing in the first


def test_a_saved_model_is_the_same_and_so_is_an_exported_one(scenes, check_saved_and_exported):
    model, images = make(score_threshold=0.005, levels="P2-P6"), scenes(2)[0]
    check_saved_and_exported(model, images)


def test_bad_arguments_are_refused():
    with pytest.raises(
        ValueError, match="multiples of 32 for KerasCV's RetinaNet, received image_shape=\\(48, 96, 3\\)"
    ):
        RetinaNet(ks.Encoder((48, 96, 3), 16, 32, 2, 2), 2)
    with pytest.raises(ValueError, match="Expected at least one class, received classes=0."):
        make(classes=0)
    with pytest.raises(ValueError, match="Expected levels to be one of P3-P7, P2-P6, received 'P1'."):
        make(levels="P1")
