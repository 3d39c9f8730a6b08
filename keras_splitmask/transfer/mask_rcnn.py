"""Mask R-CNN (He et al., 2017) on a plain Vision Transformer: objects, their boxes and their outlines."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_splitmask.backend import distribution
from keras_splitmask.backend.typing import Array, Bool, Float, Num, Shaped
from keras_splitmask.encoder import Encoder
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.pixels import problem_of_absence
from keras_splitmask.transfer import boxes, regions
from keras_splitmask.transfer.class_model import ClassModel
from keras_splitmask.transfer.mask_rcnn_heads import (
    BOX_BINS,
    LEVELS,
    MASK_BINS,
    RATIOS,
    MaskHead,
    ProposalHead,
    RegionHead,
)
from keras_splitmask.transfer.pyramid import STRIDES, FeaturePyramid, Pyramid

# Ren et al., 2015, section 3.1.3, and a ratio of 1:3 in the second stage (He et al., 2017, section 3.1).
ANCHORS, POSITIVE_ANCHORS = 256, 128  # anchors per image to train on, and the most that are objects
POSITIVE_SHARE = 1 / 4  # largest fraction of objects among the regions to train on
# Fast R-CNN's program multiplies the second stage's goals by 10 and 5, which makes them about as large as the first's.
NEAR_ANCHOR, NEAR_REGION = (1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)  # variances


@keras.saving.register_keras_serializable("keras_splitmask")
class MaskRCNN(ClassModel):
    """Detect objects in two stages: propose regions, then classify them and refine their boxes and masks.

    `fit` takes images and {"boxes": (B, M, 4), "labels": (B, M), "masks": (B, M, S, S)}, as
    `data.detection_batches(..., mask_size=S)` returns them. "ignored" (B, I, 4) is optional: boxes that are neither
    objects to learn nor background. The constants are the paper's for a feature pyramid. The losses are computed for
    each image and averaged over images, so they do not depend on how a batch is divided.

    Args:
        encoder: an `Encoder`.
        classes: number of classes.
        neck: see `Pyramid`.
        width: channels of the feature pyramid and the heads. Fewer are cheaper.
        masks: whether to predict masks; without, it is Faster R-CNN.
        anchor_scale: side of a level's anchors in units of its stride. Lower it for small objects.
        proposals: number of regions from the first stage.
        samples: number of these regions and true boxes that the second stage is trained on; up to a quarter of them
            are objects.
        hidden: width of the second stage.
        max_detections, score_threshold, iou_threshold: see `boxes.keep_best`.
        **kwargs: `class_names` and `value_range`, see `ClassModel`; `seed`, `accumulate` and `augmentation`, which may
            change colours only, see `ObjectiveModel`; and arguments of `keras.Model`.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        neck: str = "blocks",
        width: int = 256,
        masks: bool = True,
        anchor_scale: float = 8.0,
        proposals: int = 1000,
        samples: int = 512,
        hidden: int = 1024,
        max_detections: int = 100,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        name: str = "mask_rcnn",
        **kwargs,
    ):
        logged = ["proposal_loss", "class_loss", "box_loss"] + ["mask_loss"] * masks
        super().__init__(encoder, classes, logged=logged, name=name, **kwargs)
        if min(classes, proposals) < 1 or samples < 4:
            raise ValueError(
                f"Expected classes and proposals of at least 1, samples of at least 4, received {classes=},"
                f" {proposals=}, {samples=}."
            )
        self.neck, self.width, self.masks = neck, width, masks
        self.anchor_scale, self.proposals, self.samples, self.hidden = anchor_scale, proposals, samples, hidden
        self.max_detections, self.score_threshold, self.iou_threshold = max_detections, score_threshold, iou_threshold
        # One size on each level: by default 8 strides, the 32 pixels on P2 to 512 on P6 of Lin et al., 2017.
        self.anchors = boxes.anchors(
            encoder.image_shape, LEVELS.values(), [[anchor_scale * stride] for stride in LEVELS.values()]
        )[None]
        self.draws = keras.random.SeedGenerator(self.seed)
        policy = self.dtype_policy
        self.pyramid = Pyramid(encoder, neck, dtype=policy)
        self.feature_pyramid = FeaturePyramid(width, LEVELS, pooled=True, dtype=policy)
        self.proposal_head = ProposalHead(width, dtype=policy, name="proposal_head")
        self.region_head = RegionHead(classes, width, hidden, dtype=policy, name="region_head")
        self.mask_head: keras.layers.Layer = MaskHead(classes, width, dtype=policy, name="mask_head") if masks else None
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        self.feature_pyramid.build({level: (None, None, None, self.encoder.width) for level in STRIDES})
        for head in (self.proposal_head, self.region_head, self.mask_head):
            if head is not None:
                head.build(None)
        super().build(images_shape)

    def call(self, images: Shaped[Array, "B H W C"], training: bool | None = None) -> dict[str, Num[Array, "B K ..."]]:
        """Images (B, H, W, C) to "boxes" (B, K, 4), "scores" (B, K), "labels" (B, K) int32, -1 where there are no more
        objects, and "masks" (B, K, 28, 28) float32, probabilities inside each box."""
        maps = self.feature_pyramid(self.pyramid(images, training=training))  # "P2" to "P6", (B, h, w, width)
        logits, deltas = self.proposal_head(maps)  # (B, A), (B, A, 4)
        candidates, there = self.propose(logits, deltas, before=1000)
        # (B, R, 7, 7, width) to (B, R, classes + 1) and (B, R, classes, 4).
        logits, deltas = self.region_head(regions.align(maps, candidates, BOX_BINS))
        found = boxes.decode(
            deltas, candidates[:, :, None], self.encoder.image_shape, NEAR_REGION
        )  # (B, R, classes, 4)
        # The last class is background, which is no answer. A region that is padding scores 0.
        scores = ops.softmax(logits)[..., :-1] * ops.cast(there, "float32")[..., None]
        best = boxes.keep_best(found, scores, self.max_detections, self.iou_threshold, self.score_threshold)
        answer = {name: best[name] for name in ("boxes", "scores", "labels")}
        if self.masks:
            # In the refined boxes that are kept; training takes masks in the regions (He et al., 2017, section 3.1).
            answer["masks"] = ops.sigmoid(self.mask_head(regions.align(maps, best["boxes"], MASK_BINS), best["labels"]))
        return answer

    def propose(
        self, logits: Float[Array, "B A"], deltas: Float[Array, "B A 4"], before: int
    ) -> tuple[Float[Array, "B R 4"], Bool[Array, "B R"]]:
        """Propose regions (B, R, 4), and whether each is valid (B, R) bool.

        Args:
            logits: (B, A).
            deltas: (B, A, 4).
            before: number of the best boxes of each level that enter the suppression.
        """
        found = boxes.decode(
            # Proposals are constants for the second stage (Ren et al., 2015, section 3.2: approximate joint training).
            ops.stop_gradient(deltas),
            ops.convert_to_tensor(self.anchors),
            self.encoder.image_shape,
            NEAR_ANCHOR,
        )
        # A delta may push a box out of the image, where `decode` cuts it to nothing.
        scores = ops.sigmoid(ops.stop_gradient(logits)) * ops.cast(boxes.area(found) > 0, "float32")
        chosen, first = [], 0
        for number, stride in enumerate(LEVELS.values()):
            # One size per level, so a position has `RATIOS` anchors.
            count = RATIOS * math.prod([-(-side // stride) for side in self.encoder.image_shape[:2]])
            best, places = boxes.top(scores[:, first : first + count], min(before, count))
            chosen.append((best, boxes.take(found[:, first : first + count], places), ops.full_like(places, number)))
            first += count
        scores, found, levels = (ops.concatenate(parts, axis=1) for parts in zip(*chosen, strict=True))
        # Within a level only, by an IoU of 0.7 (Ren et al., 2015, section 3.3).
        kept, scores = boxes.suppress(found, scores, levels, min(self.proposals, scores.shape[1]), 0.7)
        return ops.where((scores > 0)[..., None], boxes.take(found, kept), 0.0), scores > 0

    def problem_of_labels(self, targets: Any) -> str | None:
        return problem_of_absence(targets, self) or boxes.problem_of_targets(
            targets, self.classes, ("boxes", "labels", *["masks"] * self.masks)
        )

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Compute the loss of the objects' boxes (B, M, 4), labels (B, M) and masks (B, M, S, S), and its parts."""
        images, targets, _ = batch
        maps = self.feature_pyramid(self.pyramid(images, training=training))
        logits, deltas = self.proposal_head(maps)  # (B, A), (B, A, 4)
        outputs = {"proposal_loss": self._proposal_loss(logits, deltas, targets)}
        candidates, there = self.propose(logits, deltas, before=2000)
        # True boxes are candidates, too: at first the proposals hardly meet an object.
        candidates = ops.concatenate([candidates, targets["boxes"]], axis=1)
        there = ops.concatenate([there, targets["labels"] >= 0], axis=1)
        # Objects from an IoU of 0.5 on (Girshick, 2015).
        nearest, kind = boxes.match(
            candidates, targets["boxes"], targets["labels"], 0.5, 0.5, ignored=targets.get("ignored")
        )
        quota = round(self.samples * POSITIVE_SHARE)
        # Both thresholds are equal, so only a region in a box to ignore is neither object nor background.
        chosen, there = regions.sample(ops.where(there, kind, -1), self._keys(kind), self.samples, quota)
        candidates, nearest = boxes.take(candidates, chosen), boxes.take(nearest, chosen)
        # Below, the number `classes` stands for background.
        positive = there & (boxes.take(kind, chosen) > 0)  # (B, samples)
        objects, labels = (
            boxes.take(targets["boxes"], nearest),
            ops.where(positive, boxes.take(targets["labels"], nearest), self.classes),
        )
        outputs["class_loss"], outputs["box_loss"] = self._region_losses(maps, candidates, objects, labels, there)
        if self.masks:
            # The positive ones come first.
            candidates, objects, labels, nearest = (x[:, :quota] for x in (candidates, objects, labels, nearest))
            outputs["mask_loss"] = self._mask_loss(maps, candidates, objects, labels, nearest, targets["masks"])
        return sum(outputs.values()), outputs

    def _keys(self, like):
        return distribution.uniform((ops.shape(like)[0], like.shape[1]), seed=self.draws)

    def _proposal_loss(self, logits, deltas, targets):
        """Of a sample of the anchors: whether there is an object, and where; both over their number (Ren et al., 2015,
        equation 1)."""
        anchors = ops.convert_to_tensor(self.anchors)
        there = targets["boxes"], targets["labels"]
        # Ren et al., 2015, section 3.1.2: objects from an IoU of 0.7 on, background below 0.3.
        nearest, kind = boxes.match(anchors, *there, 0.3, 0.7, best_too=True, ignored=targets.get("ignored"))
        chosen, there = regions.sample(kind, self._keys(kind), ANCHORS, POSITIVE_ANCHORS)
        positive = there & (boxes.take(kind, chosen) > 0)  # (B, m), m at most 256
        anchors = boxes.take(ops.broadcast_to(anchors, ops.shape(deltas)), chosen)
        goals = boxes.encode(boxes.take(targets["boxes"], boxes.take(nearest, chosen)), anchors, NEAR_ANCHOR)
        logits = boxes.take(logits, chosen)
        # The binary cross entropy of a logit x, log(1 + exp(x)) - x t, without overflow.
        entropy = ops.softplus(logits) - logits * ops.cast(positive, "float32")
        # Smooth L1 with its bend at 1/9 is Huber's loss over delta = 1/9. Keras averages the four coordinates, hence
        # the 4.
        huber = 4 * keras.losses.huber(goals, boxes.take(deltas, chosen), delta=1 / 9)
        return _mean_over(there, ops.where(there, entropy, 0.0) + ops.where(positive, huber * 9, 0.0))

    def _region_losses(self, maps, candidates, objects, labels, there):
        logits, deltas = self.region_head(regions.align(maps, candidates, BOX_BINS))
        entropy = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        positive = there & (labels < self.classes)
        # Each class has a box of its own, and only that of the true class learns.
        own = ops.one_hot(ops.where(positive, labels, -1), self.classes)[..., None]  # (B, samples, classes, 1)
        # Where there is no object, any box with a size will do: padding has none, and a division by 0 would give NaN
        # gradients, which no `where` around the loss takes back.
        goals = boxes.encode(
            objects,
            ops.where(positive[..., None], candidates, ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])),
            NEAR_REGION,
        )
        # Smooth L1 (Girshick, 2015, equation 3) is Huber's loss with its default delta of 1.
        huber = 4 * keras.losses.huber(goals, ops.sum(deltas * own, axis=2))
        return _mean_over(there, ops.where(there, entropy, 0.0)), _mean_over(there, ops.where(positive, huber, 0.0))

    def _mask_loss(self, maps, candidates, objects, labels, nearest, masks):
        positive = labels < self.classes
        # Class 0 stands in for background, whose masks count for nothing below.
        logits = self.mask_head(regions.align(maps, candidates, MASK_BINS), ops.where(positive, labels, 0))
        goals = regions.masks_in(candidates, objects, boxes.take(masks, nearest), 2 * MASK_BINS)  # (B, n, 28, 28)
        # One logit for each pixel: classes do not compete for it (He et al., 2017, section 3).
        entropy = ops.mean(ops.softplus(logits) - logits * goals, axis=(2, 3))
        return _mean_over(positive, ops.where(positive, entropy, 0.0))

    def get_config(self):
        names = ("neck", "width", "masks", "anchor_scale", "proposals", "samples", "hidden")
        names += ("max_detections", "score_threshold", "iou_threshold")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own}


def _mean_over(there, values):
    """The sum of an image's values (B, n) over how many there are, and its mean over images."""
    return ops.mean(ops.sum(values, axis=1) / ops.maximum(ops.sum(ops.cast(there, "float32"), axis=1), 1.0))
