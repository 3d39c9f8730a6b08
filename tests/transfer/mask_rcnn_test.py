import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.seeded import seeded_objective
from keras_splitmask.transfer.mask_rcnn import MaskRCNN

pytestmark = pytest.mark.backend
SHAPE = (64, 96, 3)


def make(classes=2, **options):
    sizes = {"width": 16, "hidden": 32, "proposals": 30, "samples": 16, "anchor_scale": 4.0, "max_detections": 10}
    return MaskRCNN(ks.Encoder(SHAPE, 16, 32, 2, 2), classes, **{**sizes, **options})


def test_shapes_are_static_and_losses_finite_without_objects(scenes):
    model, (images, targets) = make(), scenes(2)
    answer = model(images)
    assert {name: tuple(x.shape) for name, x in answer.items()} == {
        "boxes": (2, 10, 4),
        "scores": (2, 10),
        "labels": (2, 10),
        "masks": (2, 10, 28, 28),
    }
    assert set(model.objective(Batch(images, targets), training=True)[1]) == {
        "proposal_loss",
        "class_loss",
        "box_loss",
        "mask_loss",
    }
    nothing = {"boxes": 0 * targets["boxes"], "labels": 0 * targets["labels"] - 1, "masks": 0 * targets["masks"]}
    model.compile(
        ks.training.adamw(1e-3, 4, warmup=1),
        run_eagerly=keras.backend.backend() != "jax",
        jit_compile=keras.backend.backend() == "jax",
    )
    logs = model.fit(((images, nothing) for _ in range(2)), steps_per_epoch=2, shuffle=False, verbose=0).history
    assert (
        logs["skipped_steps"] == [0] and np.isfinite(logs["loss"][0]) and logs["box_loss"] == logs["mask_loss"] == [0]
    )


@pytest.mark.long
def test_losses_at_the_start_are_those_of_ignorance(scenes):
    """With zero weights in the last layers: log 2 for each anchor, log 3 for each region of two classes and background,
    log 2 for each pixel."""
    model, (images, targets) = make(), scenes(4)
    for layer in (
        model.proposal_head.logits,
        model.region_head.logits,
        model.mask_head.logits,
        model.proposal_head.deltas,
        model.region_head.deltas,
    ):
        layer.kernel.assign(0 * layer.kernel)
    found = targets["boxes"].copy()
    _, report = model.objective(Batch(images[1:], {name: x[1:] for name, x in targets.items()}), training=False)
    assert float(report["class_loss"]) == pytest.approx(np.log(3), rel=1e-5)
    assert float(report["mask_loss"]) == pytest.approx(np.log(2), rel=1e-5)
    empty = {"boxes": found[:1], "labels": targets["labels"][:1], "masks": targets["masks"][:1]}
    _, report = model.objective(Batch(images[:1], empty), training=False)
    assert float(report["proposal_loss"]) == pytest.approx(np.log(2), rel=1e-5) and float(report["mask_loss"]) == 0


def test_anchors_in_what_is_ignored_are_not_learnt_from(scenes):
    """Where the model is sure of objects, in one object, and sure of background elsewhere, the loss is that object or
    nothing."""
    model, (_, targets) = make(), scenes(2)
    targets = {name: x[1:] for name, x in targets.items()}
    box, anchors = targets["boxes"][0, 0], model.anchors[0]
    sides = np.minimum(anchors[:, 2:], box[2:]) - np.maximum(anchors[:, :2], box[:2])
    inside = np.prod(np.maximum(sides, 0), axis=1) / np.prod(anchors[:, 2:] - anchors[:, :2], axis=1) >= 0.3
    assert 20 < inside.sum() < 1000
    logits = ops.convert_to_tensor(np.where(inside, 20, -20).astype("float32")[None])
    nothing = {"boxes": 0 * targets["boxes"], "labels": 0 * targets["labels"] - 1}
    deltas = ops.zeros((1, len(anchors), 4))
    assert float(model._proposal_loss(logits, deltas, nothing)) > 0.1
    assert float(model._proposal_loss(logits, deltas, {**nothing, "ignored": box[None, None]})) == pytest.approx(
        0, abs=1e-6
    )


def test_regions_in_what_is_ignored_are_not_learnt_from(scenes, monkeypatch):
    """The loss with a region in an ignored box is that without the region."""
    model, (images, targets) = make(samples=16), scenes(2)
    images, targets = images[1:], {name: x[1:] for name, x in targets.items()}
    box = np.array([30, 50, 60, 90], "float32")
    targets["boxes"][0], targets["labels"][0] = [[5, 5, 25, 30], *[[0] * 4] * 3], [0, -1, -1, -1]
    proposed = np.array([[box, [30, 50, 40, 90], [6, 5, 25, 29], [1, 60, 9, 90]]], "float32")
    losses = {}
    for name, there, ignored in (
        ("removed", [0, 0, 1, 1], 0 * box),
        ("ignored", [1, 1, 1, 1], box),
        ("background", [1, 1, 1, 1], 0 * box),
    ):
        monkeypatch.setattr(
            model,
            "propose",
            lambda *_, there=there, **__: (
                ops.convert_to_tensor(proposed),
                ops.convert_to_tensor(np.array([there], bool)),
            ),
        )
        _, report = model.objective(Batch(images, {**targets, "ignored": ignored[None, None]}), training=False)
        losses[name] = [float(report[part]) for part in ("class_loss", "box_loss", "mask_loss")]
    assert losses["ignored"] == pytest.approx(losses["removed"], rel=1e-5)
    assert losses["background"][0] != pytest.approx(losses["removed"][0], rel=1e-4)


def test_proposals_are_the_best_of_each_level(scenes):
    model = make(proposals=5)
    count = model.anchors.shape[1]
    logits = np.full((1, count), -9.0, "float32")
    middle = 3 * (8 * 24 + 12) + 1  # the square anchor of P2 in row 8, column 12, whose side is 16
    logits[0, [middle, middle + 3]] = (
        5,
        4,
    )  # its neighbour overlaps it by 12 of 20 pixels: 0.6, which is no more than 0.7
    found, there = model.propose(ops.convert_to_tensor(logits), ops.zeros((1, count, 4)), 100)
    assert ops.convert_to_numpy(there)[0].tolist() == [True] * 5
    np.testing.assert_allclose(ops.convert_to_numpy(found)[0, :2], [[26, 42, 42, 58], [26, 46, 42, 62]])


def test_it_learns(scenes):
    model, (images, targets) = make(), scenes(3)
    model.compile(ks.training.adamw(2e-3, 30, warmup=3), jit_compile=keras.backend.backend() == "jax")
    history = model.fit(
        ((images, targets) for _ in range(30)), steps_per_epoch=10, epochs=3, shuffle=False, verbose=0
    ).history
    assert history["loss"][-1] < 0.6 * history["loss"][0] and not history["skipped_steps"][-1]


def test_a_step_draws_the_same_whatever_came_before(scenes):
    model, (images, targets) = make(), scenes(2)
    losses = [float(seeded_objective(model, (images, targets), step, True)[0]) for step in (3, 4, 3)]
    assert losses[0] == losses[2] != losses[1]


def test_without_masks_it_is_faster_rcnn(scenes):
    model, (images, targets) = make(masks=False), scenes(2)
    targets.pop("masks")
    assert set(model.objective(Batch(images, targets), training=True)[1]) == {"proposal_loss", "class_loss", "box_loss"}
    assert set(model(images)) == {"boxes", "scores", "labels"} and model.mask_head is None


@pytest.mark.long
def test_a_saved_model_is_the_same_and_so_is_an_exported_one(scenes, check_saved_and_exported):
    model, images = make(score_threshold=0.1), scenes(2)[0]
    check_saved_and_exported(model, images)


def test_mixed_precision(scenes):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model, (images, targets) = make(), scenes(2)
    loss, report = model.objective(Batch(images, targets), training=True)
    assert np.isfinite(float(loss)) and {keras.backend.standardize_dtype(x.dtype) for x in report.values()} == {
        "float32"
    }
    assert keras.backend.standardize_dtype(model(images)["masks"].dtype) == "float32"


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="samples of at least 4, received classes=2, proposals=30, samples=3."):
        make(samples=3)
