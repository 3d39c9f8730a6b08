"""Augmentation on the host: crops and flips of an image, mixup and CutMix of a batch.

`keras_splitmask.augment.PRESETS` is the table of named augmentations; this module is their half on the host.
"""

import functools
import math

import numpy as np

from keras_splitmask.data.resizing import whole_pixels


def crop_box(height, width, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """Draw a random box (top, left, height, width) inside an image: random resized crop, as in Inception.

    The area is uniform in `scale` (fractions of the image's area), the logarithm of width : height uniform in `ratio`.
    If ten boxes do not fit, the box is the largest centred one of an allowed ratio.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        # On a logarithmic scale, so that 3:4 and 4:3 are equally likely.
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))  # width / height
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return int(top), int(left), box_height, box_width
    # An image longer than both ratios allow shows all of its short side.
    box_height = max(1, min(height, round(width / ratio[0])))
    box_width = max(1, min(width, round(height * ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def check_scale(scale):
    """Refuse what is no range of the fraction of an image's area, as `crop_box` takes it. Raises ValueError."""
    try:
        low, high = scale
        fits = 0 < low <= high <= 1  # NaN is not
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "Expected scale to be the smallest and the largest fraction of the image's area, above 0 and up to 1,"
            f" received {scale!r}; correct it, such as (0.2, 1.0)."
        )


def center_box(height, width, size, ratio=0.875):
    """Return the box (top, left, height, width) in the centre of an image, with the aspect ratio of `size`.

    Args:
        size: (rows, columns) to which the box will be resized.
        ratio: side of the box, relative to the largest one that fits; 224 / 256 is usual for photographs.
    """
    scale = min(height / size[0], width / size[1]) * ratio
    box_height, box_width = whole_pixels(size[0] * scale), whole_pixels(size[1] * scale)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def flip(image, rng):
    """Mirror an image (H, W, C) with probability 0.5."""
    if rng.random() >= 0.5:
        return image
    return np.take(image, np.arange(image.shape[1])[::-1], axis=1)  # twice as fast as copying image[:, ::-1]


def _random(height, width, size, rng, scale=(0.08, 1.0)):
    return crop_box(height, width, rng, scale)


def _center(height, width, size, rng):
    return center_box(height, width, size, ratio=1.0)


# name: a function (height, width, size, rng) -> the box of an image that is shown.
CROPS = {
    "none": _center,
    "crop": _random,
    "quarter_crop": functools.partial(_random, scale=(0.08, 0.25)),  # the paper's for ADE20k
}


def soft_labels(labels, classes, smoothing=0.1):
    """Smooth labels (B,) int to probabilities (B, classes) float32.

    Each class gets smoothing / classes, and the label 1 - smoothing more.
    """
    return np.eye(classes, dtype="float32")[labels] * (1 - smoothing) + np.float32(smoothing / classes)


def mix(images, labels, rng, classes, mixup=0.8, cutmix=1.0, smoothing=0.1):
    """Mix each image of a batch with one other, and their labels in proportion, as DeiT does (Table 9).

    Image i is mixed with image B - 1 - i. One fraction is drawn for the batch, from Beta(a, a) with a = `mixup` or
    `cutmix`; if both are on, a coin decides which. CutMix replaces a box, clipped at the border. The fraction is then
    what is left of the image.

    Args:
        images: (B, H, W, C) uint8.
        labels: (B,) int.
        rng: NumPy random generator.
        classes: number of classes.
        mixup, cutmix: parameter a of the Beta distribution; 0 turns it off.
        smoothing: label smoothing.

    Returns:
        Images (B, H, W, C) float32 in 0..1 and label probabilities (B, classes) float32.
    """
    images = images.astype("float32") / 255
    labels = soft_labels(labels, classes, smoothing)  # (B, classes)
    cut = cutmix > 0 and (mixup <= 0 or rng.random() < 0.5)  # as DeiT switches
    if not cut and mixup <= 0:
        return images, labels
    fraction = rng.beta(cutmix, cutmix) if cut else rng.beta(mixup, mixup)
    if cut:
        top, bottom, left, right = cut_box(*images.shape[1:3], fraction, rng)
        fraction = 1 - (bottom - top) * (right - left) / (images.shape[1] * images.shape[2])
        mixed = images.copy()
        mixed[:, top:bottom, left:right] = images[::-1, top:bottom, left:right]
    else:
        mixed = np.float32(fraction) * images + np.float32(1 - fraction) * images[::-1]
    return mixed, np.float32(fraction) * labels + np.float32(1 - fraction) * labels[::-1]


def cut_box(height, width, fraction, rng):
    """Draw a box (top, bottom, left, right), centred anywhere and clipped at the border.

    Before clipping, the box leaves `fraction` of the image.
    """
    # Square root: the box's area, not its sides, is the fraction 1 - `fraction`.
    half_height, half_width = (round(side * math.sqrt(1 - fraction)) // 2 for side in (height, width))
    row, column = rng.integers(height), rng.integers(width)
    top, bottom = max(0, row - half_height), min(height, row + half_height)
    left, right = max(0, column - half_width), min(width, column + half_width)
    return int(top), int(bottom), int(left), int(right)
