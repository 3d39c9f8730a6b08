"""The input of one step of training or evaluation."""

from __future__ import annotations

import typing

from keras_splitmask.backend.typing import Array


class Batch(typing.NamedTuple):
    """A batch of images, with what belongs to them.

    Attributes:
        images: (B, H, W, C) uint8, uint16 or float in 0..1; or what else the model is fitted to, such as a dictionary
            of crops.
        labels: whatever the model learns from, such as classes (B,) int32; None without.
        weights: (B,) float, the weight of each image in the loss; None without.
    """

    images: Array
    labels: Array = None
    weights: Array = None
