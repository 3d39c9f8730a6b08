"""KerasCV's RetinaNet on a plain Vision Transformer."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from keras_splitmask.backend.typing import Array, Float, Num, Shaped
from keras_splitmask.encoder import Encoder
from keras_splitmask.patches import to_pixels
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.pixels import problem_of_absence
from keras_splitmask.transfer import boxes
from keras_splitmask.transfer.class_model import ClassModel
from keras_splitmask.transfer.pyramid import STRIDES, FeaturePyramid, Pyramid

# Of the five levels those from the encoder, each with twice the stride of the one before; the others are made from the
# last. The paper leaves P2 out, which has four times as many anchors.
LEVELS = {"P3-P7": ("P3", "P4", "P5"), "P2-P6": ("P2", "P3", "P4")}
KERASCV_LEVELS = LEVELS["P3-P7"]  # how KerasCV names them
# Three sizes in each octave, as in the paper; with three ratios they make the nine anchors of a position.
SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
KERASCV_WIDTH = 256  # of KerasCV's feature pyramid and heads, which cannot be changed


@keras.saving.register_keras_serializable("keras_splitmask")
class Levels(FeaturePyramid):
    """Turn the maps of a `FeaturePyramid` into a list, as KerasCV's RetinaNet expects."""

    def call(self, maps):
        return list(super().call(maps).values())


@keras.saving.register_keras_serializable("keras_splitmask")
class PredictionHead(keras.layers.Layer):
    """RetinaNet's head as in KerasCV, with convolutions of another width: (B, h, w, D) to (B, h, w, outputs)."""

    def __init__(self, outputs: int, width: int, bias: float = 0.0, depth: int = 3, **kwargs):
        # 3 convolutions and orthogonal kernels are KerasCV's; the paper has 4 and Gaussian ones (section 4).
        super().__init__(**kwargs)
        self.outputs, self.width, self.bias, self.depth = outputs, width, bias, depth
        # channels_last is named, since keras.json may say channels_first.
        options = {
            "padding": "same",
            "data_format": "channels_last",
            "kernel_initializer": "orthogonal",
            "dtype": self.dtype_policy,
        }
        self.hidden = [
            keras.layers.Conv2D(width, 3, activation="relu", name=f"hidden_{i + 1}", **options) for i in range(depth)
        ]
        self.last = keras.layers.Conv2D(
            outputs, 3, bias_initializer=keras.initializers.Constant(bias), name="last", **options
        )

    def build(self, shape):
        for layer in (*self.hidden, self.last):
            layer.build((None, None, None, self.width))

    def call(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w K"]:
        for layer in self.hidden:
            x = layer(x)
        return self.last(x)

    def get_config(self):
        return {
            **super().get_config(),
            "outputs": self.outputs,
            "width": self.width,
            "bias": self.bias,
            "depth": self.depth,
        }


def anchor_sizes(levels, anchor_scale):
    """The strides of five levels, and for each the square roots of the areas of its anchors, both in pixels."""
    strides = [STRIDES[LEVELS[levels][0]] * 2**i for i in range(5)]
    return strides, [[anchor_scale * stride * scale for scale in SCALES] for stride in strides]


def focal_loss(truth: Float[Array, "*axes"], logits: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Compute the focal loss of each logit, truth 0 or 1, with the paper's constants.

    NaN gives NaN, while Keras' own loss raises an error on torch.
    """
    chance = ops.sigmoid(logits)
    wrong = truth * (1 - chance) + (1 - truth) * chance  # 1 - p_t of the paper
    # By the logits, since an object that is surely taken for background must still have a gradient. Keras' loss clips
    # probabilities on some backends.
    cross_entropy = ops.softplus(logits) - truth * logits
    # Equation 5 with alpha 0.25, for background 0.75, and gamma 2.
    return (0.25 * truth + 0.75 * (1 - truth)) * wrong**2 * cross_entropy


@keras.saving.register_keras_serializable("keras_splitmask")
class RetinaNet(ClassModel):
    """Detect boxes (Lin et al., 2017, "Focal loss for dense object detection") with KerasCV's network on our encoder.

    `fit` takes images and {"boxes": (B, M, 4), "labels": (B, M)}, as `data.detection_batches` returns them. "ignored"
    (B, I, 4) is optional: boxes that are neither objects to learn nor background. The loss of an image is divided by
    the number of anchors that match its objects; then the mean over images is taken.

    Three parts of KerasCV 0.9.0 are replaced, since they fail with Keras 3.15. Its label encoding updates a metric
    inside the step. Its loss is doubled under a MirroredStrategy and depends on how a batch is divided. Its
    non-maximum suppression cannot be exported, and needs torchvision on torch.

    Args:
        encoder: an `Encoder`, of images whose sides are multiples of 32.
        classes: number of classes.
        neck: see `Pyramid`.
        width: channels of the feature pyramid and the heads; 256 in KerasCV. Fewer are cheaper.
        anchor_scale: side of a level's smallest anchors in units of its stride; 4 in the paper. Lower it for small
            objects.
        levels: one of `LEVELS`. The strides are 8 to 128 pixels with P3-P7, as in the paper, and 4 to 64 with P2-P6,
            for small objects.
        max_detections, score_threshold, iou_threshold: see `boxes.keep_best`.
        **kwargs: `class_names` and `value_range`, see `ClassModel`; `seed`, `accumulate` and `augmentation`, which may
            change colours only, see `ObjectiveModel`; and arguments of `keras.Model`.

    Raises:
        ImportError: without the package keras-cv.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        neck: str = "blocks",
        width: int = KERASCV_WIDTH,
        anchor_scale: float = 4.0,
        levels: str = "P3-P7",
        max_detections: int = 100,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        name: str = "retinanet",
        **kwargs,
    ):
        from keras_splitmask.transfer.kerascv_backbone import ViTBackbone, keras_cv

        super().__init__(encoder, classes, logged=["class_loss", "box_loss"], name=name, **kwargs)
        if classes < 1:
            raise ValueError(f"Expected at least one class, received classes={classes}.")
        if levels not in LEVELS:
            raise ValueError(f"Expected levels to be one of {', '.join(LEVELS)}, received {levels!r}.")
        if any(side % 32 for side in encoder.image_shape[:2]):
            raise ValueError(
                "Expected sides that are multiples of 32 for KerasCV's RetinaNet, received"
                f" image_shape={encoder.image_shape}."
            )
        self.neck = neck
        self.width = width
        self.anchor_scale = anchor_scale
        self.levels = levels
        self.max_detections = max_detections
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.anchors = boxes.anchors(encoder.image_shape, *anchor_sizes(levels, anchor_scale))[None]  # (1, A, 4)
        backbone = ViTBackbone(Pyramid(encoder, neck, LEVELS[levels], dtype=self.dtype_policy))
        backbone.pyramid_level_inputs = dict(zip(KERASCV_LEVELS, LEVELS[levels], strict=True))
        # "yxyx": boxes as everywhere in this library, top, left, bottom, right.
        self.network = keras_cv.models.RetinaNet(backbone, classes, "yxyx", **self._parts())
        self.build((None, *encoder.image_shape))

    def _parts(self):
        """Make the parts that replace KerasCV's own."""
        from keras_splitmask.transfer.kerascv_backbone import check_channels_last

        if self.width == KERASCV_WIDTH:
            check_channels_last()
            return {}
        # 9: three sizes with three ratios at each position.
        rare = -math.log((1 - 0.01) / 0.01)  # at first everything is predicted as background (section 4.1)
        return {
            "feature_pyramid": Levels(self.width, ("P3", "P4", "P5", "P6", "P7"), dtype=self.dtype_policy),
            "classification_head": PredictionHead(
                9 * self.classes, self.width, rare, dtype=self.dtype_policy, name="classification_head"
            ),
            "box_head": PredictionHead(9 * 4, self.width, dtype=self.dtype_policy, name="box_head"),
        }

    def predictions(
        self, images: Shaped[Array, "B H W C"], training: bool | None = None
    ) -> tuple[Float[Array, "B A 4"], Float[Array, "B A K"]]:
        """Map images (B, H, W, C) to deltas (B, A, 4) and logits (B, A, classes), both float32."""
        # `ViTBackbone` takes float pixels only.
        answer = self.network({"images": to_pixels(images)}, training=training)
        return ops.cast(answer["box"], "float32"), ops.cast(answer["classification"], "float32")

    def call(self, images: Shaped[Array, "B H W C"], training: bool | None = None) -> dict[str, Num[Array, "B K ..."]]:
        """Map images (B, H, W, C) to "boxes" (B, K, 4), "scores" (B, K) and "labels" (B, K) int32, padded with -1."""
        deltas, logits = self.predictions(images, training=training)
        found = boxes.decode(deltas, ops.convert_to_tensor(self.anchors), self.encoder.image_shape)
        best = boxes.keep_best(
            found, ops.sigmoid(logits), self.max_detections, self.iou_threshold, self.score_threshold
        )
        return {name: best[name] for name in ("boxes", "scores", "labels")}

    def problem_of_labels(self, targets: Any) -> str | None:
        return problem_of_absence(targets, self) or boxes.problem_of_targets(targets, self.classes)

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Compute the loss of the objects' boxes (B, M, 4) and labels (B, M), and its two parts."""
        images, targets, _ = batch
        deltas, logits = self.predictions(images, training)
        anchors = ops.convert_to_tensor(self.anchors)
        there = targets["boxes"], targets["labels"]  # (B, M, 4), (B, M)
        # Thresholds of the paper. KerasCV does not give every object its nearest anchor; small ones would then have
        # none.
        nearest, kind = boxes.match(anchors, *there, 0.4, 0.5, best_too=True, ignored=targets.get("ignored"))  # (B, A)
        labels = ops.where(kind > 0, boxes.take(targets["labels"], nearest), -1)  # (B, A)
        # One-hot of -1 is all zeros: background is no class, but the absence of all (sigmoids instead of a softmax).
        focal = focal_loss(ops.one_hot(labels, self.classes), logits)  # (B, A, classes)
        goals = boxes.encode(boxes.take(targets["boxes"], nearest), anchors)  # (B, A, 4)
        huber = 4 * keras.losses.huber(goals, deltas)  # (B, A), the sum over the coordinates
        objects = ops.cast(kind > 0, "float32")
        share = 1 / ops.maximum(ops.sum(objects, axis=1), 1.0)  # (B,)
        # Anchors of kind -1 teach nothing: between the thresholds, or in a box to ignore.
        class_loss = ops.mean(ops.sum(ops.where(kind >= 0, ops.sum(focal, axis=-1), 0.0), axis=1) * share)
        box_loss = ops.mean(ops.sum(ops.where(kind > 0, huber, 0.0), axis=1) * share)
        return class_loss + box_loss, {"class_loss": class_loss, "box_loss": box_loss}

    def get_config(self):
        names = ("neck", "width", "anchor_scale", "levels", "max_detections", "score_threshold", "iou_threshold")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own}
