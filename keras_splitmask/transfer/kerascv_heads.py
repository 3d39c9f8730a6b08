"""KerasCV's heads of segmentation on a plain Vision Transformer. Needs keras-cv, so it is imported only
when a head is made."""

from __future__ import annotations

import keras

from keras_splitmask.backend.keras_private import layers_of
from keras_splitmask.transfer.kerascv_backbone import ViTBackbone, check_channels_last, keras_cv


def deeplab(pyramid: keras.layers.Layer, classes: int, width: int, drop: float) -> keras.Model:
    """DeepLabV3+ (Chen et al., 2018): a model from pixels (B, H, W, C) float32 in 0..1 to logits (B, H, W, classes)
    float32.

    KerasCV enlarges its coarsest map 8 times and puts it beside its finest, so that the sides must be multiples of 32.

    Args:
        pyramid: a `Pyramid` of the levels "P2" and "P5".
        classes: number of classes.
        width: channels of the pooled maps; KerasCV's own is 256.
        drop: dropout rate of the pooled map; 0 in KerasCV.
    """
    image_shape = pyramid.encoder.image_shape
    if any(side % 32 for side in image_shape[:2]):
        raise ValueError(
            f"Expected sides that are multiples of 32 for DeepLabV3+, received image_shape={image_shape}; resize, or"
            " take another head."
        )
    check_channels_last()
    # KerasCV's own rates; only width and dropout are chosen here.
    pooling = keras_cv.layers.SpatialPyramidPooling([6, 12, 18], width, dropout=drop)
    return _without_softmax(
        keras_cv.models.DeepLabV3Plus(ViTBackbone(pyramid), classes, spatial_pyramid_pooling=pooling)
    )


def segformer(pyramid: keras.layers.Layer, classes: int, width: int, drop: float) -> keras.Model:
    """SegFormer (Xie et al., 2021): a model from pixels (B, H, W, C) float32 in 0..1 to logits (B, H, W, classes).

    Args:
        pyramid: a `Pyramid`.
        classes: number of classes.
        width: channels of every map in it; KerasCV's own is 256.
        drop: dropout rate before the classifier; 0.1 in KerasCV.
    """
    check_channels_last()
    backbone = ViTBackbone(pyramid)
    # KerasCV names a layer after the width of each level, which are all the same here: `The name "linear_32" is used 4
    # times`.
    backbone.embedding_dims = tuple(backbone.pyramid_level_inputs)
    model = keras_cv.models.SegFormer(backbone, classes, width)
    # The constructor takes no rate of dropout, so that of its layer is changed.
    next(layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)).rate = drop
    return _without_softmax(model)


def _without_softmax(model):
    """Make the model return logits: probabilities near 0 would lose precision in the loss."""
    answering = [layer for layer in layers_of(model) if getattr(layer, "activation", None) is keras.activations.softmax]
    # Exactly one: another version of KerasCV with more of them fails here.
    (layer,) = answering
    layer.activation = keras.activations.linear
    return model


HEADS = {"deeplab": deeplab, "segformer": segformer}
