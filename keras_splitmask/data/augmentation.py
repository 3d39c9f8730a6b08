"""Augmentation on the host, one uint8 image at a time: crops and flips; and mixtures of whole batches for fine-tuning."""

import functools
import math

import numpy as np

from keras_splitmask.data.optional import optional


def resize(image, size, box=None):
    """The part `box` of an image (H, W, C) uint8, or all of it, at `size`: (*size, C) uint8, antialiased bicubic.

    Args:
        image: any number of channels.
        size: (height, width) of the answer.
        box: (top, left, height, width) in pixels of `image`.
    """
    height, width, channels = image.shape
    top, left, box_height, box_width = box or (0, 0, height, width)
    if (box_height, box_width) == tuple(size) and isinstance(top, int) and isinstance(left, int):
        return image[top : top + box_height, left : left + box_width]
    Image = optional("PIL.Image", "data")
    planes = [image] if channels == 3 else [image[..., c] for c in range(channels)]  # Pillow knows one channel, or three
    resized = [
        # Reducing by whole factors first makes the resizing of large photographs several times cheaper.
        Image.fromarray(np.ascontiguousarray(plane)).resize(
            (size[1], size[0]), Image.Resampling.BICUBIC, (left, top, left + box_width, top + box_height), reducing_gap=3.0
        )
        for plane in planes
    ]
    return np.asarray(resized[0]) if channels == 3 else np.stack([np.asarray(plane) for plane in resized], axis=-1)


def crop_box(height, width, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """A random box (top, left, height, width) inside an image: a share of its area in `scale`, width : height in `ratio`.

    As in Inception and everything since: area uniform, the logarithm of the ratio uniform; where ten boxes do not fit, the largest
    centred one of an allowed ratio.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_height, box_width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
            return int(top), int(left), box_height, box_width
    box_height = max(1, min(height, round(width / ratio[0])))
    box_width = max(1, min(width, round(height * ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def random_resized_crop(image, size, rng, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """A random part of an image (H, W, C) uint8, resized: (*size, C) uint8. See `crop_box`."""
    return resize(image, size, crop_box(*image.shape[:2], rng, scale, ratio))


def center_crop(image, size, ratio=0.875):
    """The centred part of an image (H, W, C) uint8 that has the shape of `size`, resized: (*size, C) uint8.

    Args:
        ratio: side of that part, relative to the largest one that fits; 224 / 256 is usual for photographs. With ratio=1 an image
            that has the wanted shape is only resized.
    """
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1]) * ratio
    box_height, box_width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return resize(image, size, ((height - box_height) // 2, (width - box_width) // 2, box_height, box_width))


def flip(image, rng):
    """An image (H, W, C), or its mirror image with probability 0.5."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def _crop_flip(image, size, rng):
    return flip(random_resized_crop(image, size, rng), rng)


def _flip(image, size, rng):
    return flip(center_crop(image, size, ratio=1.0), rng)


def _none(image, size, rng):
    return center_crop(image, size, ratio=1.0)


# Functions (image, size, rng) -> image (*size, C) uint8. Fine-tuning has its flips here, since `mix` comes after them;
# pre-training flips inside the step.
PRESETS = {
    "crop_flip": _crop_flip,
    "flip": _flip,
    "none": _none,
    "crop": random_resized_crop,
    "quarter_crop": functools.partial(random_resized_crop, scale=(0.08, 0.25)),  # the paper's for ADE20k
}


def soft_labels(labels, classes, smoothing=0.1):
    """Labels (B,) int to probabilities (B, classes) float32: smoothing / classes each, and 1 - smoothing more for the label."""
    return np.eye(classes, dtype="float32")[labels] * (1 - smoothing) + np.float32(smoothing / classes)


def mix(images, labels, rng, classes, mixup=0.8, cutmix=1.0, smoothing=0.1):
    """Mixes each image of a batch with one other, and their labels in proportion, as DeiT does (Table 9).

    The other of image i is image B - 1 - i. One share is drawn for the batch, from Beta(a, a) with a = `mixup` or `cutmix`; where
    both are on, a coin decides. CutMix replaces a box, clipped at the border; the share is what is left of the image then.

    Args:
        images: (B, H, W, C) uint8.
        labels: (B,) int.
        rng: NumPy random generator.
        classes: number of classes.
        mixup, cutmix: a; 0 turns it off.
        smoothing: of the labels.

    Returns:
        Images (B, H, W, C) float32 in 0..1 and label probabilities (B, classes) float32.
    """
    images = images.astype("float32") / 255
    labels = soft_labels(labels, classes, smoothing)  # (B, classes)
    cut = cutmix > 0 and (mixup <= 0 or rng.random() < 0.5)
    if not cut and mixup <= 0:
        return images, labels
    share = rng.beta(cutmix, cutmix) if cut else rng.beta(mixup, mixup)
    if cut:
        top, bottom, left, right = cut_box(*images.shape[1:3], share, rng)
        share = 1 - (bottom - top) * (right - left) / (images.shape[1] * images.shape[2])
        mixed = images.copy()
        mixed[:, top:bottom, left:right] = images[::-1, top:bottom, left:right]
    else:
        mixed = np.float32(share) * images + np.float32(1 - share) * images[::-1]
    return mixed, np.float32(share) * labels + np.float32(1 - share) * labels[::-1]


def cut_box(height, width, share, rng):
    """A box (top, bottom, left, right), centred anywhere, clipped at the border; whole it would leave `share` of the image."""
    half_height, half_width = (round(side * math.sqrt(1 - share)) // 2 for side in (height, width))
    row, column = rng.integers(height), rng.integers(width)
    top, bottom = max(0, row - half_height), min(height, row + half_height)
    left, right = max(0, column - half_width), min(width, column + half_width)
    return int(top), int(bottom), int(left), int(right)
