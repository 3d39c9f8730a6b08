"""Draw what a model inpaints: the original, what it sees, what it predicts, and the true words."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend.typing import Array, Float, Int, Shaped, UInt8
from keras_splitmask.evaluation.sheets import thumbnail
from keras_splitmask.patches import to_images, to_patches, to_pixels
from keras_splitmask.split import Split

COLUMNS = ("original", "part A", "part B", "from A", "from B", "true words")
MASKED_COLUMNS = ("original", "masked", "predicted")
OVER_TIME = {"original": "original", "part A": "seen", "masked": "seen", "true words": "true_words"}  # names of strips
PREDICTED = ("from A", "predicted")  # columns that change while a model learns
SIDE, GAP = 112, 4  # pixels of an image of a strip, and between two


def has_picture(model: keras.Model) -> bool:
    """Return whether a model can be drawn: a `SplitMask` with a tokenizer, or a model with a method `paint`."""
    return hasattr(model, "paint") or getattr(model, "inpaint_weight", 0) > 0


def inpainting_panels(
    model: keras.Model, images: Shaped[Array, "B H W C"], order: Int[Array, "B N"] | None = None
) -> Float[Array, "B 6 H W C"]:
    """Draw what a SplitMask model sees and predicts, as six panels for each image.

    Args:
        model: a `SplitMask` whose `inpaint_weight` is not 0.
        images: (B, H, W, C).
        order: (B, N) int32, the order of the patches; by default the model's split draws one.

    Returns:
        (B, 6, H, W, C) float32 in 0..1, in the order of `COLUMNS`. In a prediction, seen patches are pixels and unseen
        ones words.
    """
    encoder, tokenizer, split = model.encoder, model.tokenizer, model.split
    order = split(images) if order is None else order  # (B, N)
    unseen = split.unseen(order)  # (2B, N - n)
    _, hidden = model.branches(images, order)
    logits = model.decoder.words(hidden)  # (2B, N - n, V)
    unseen, words = ops.convert_to_numpy(unseen), ops.convert_to_numpy(ops.argmax(logits, axis=-1))
    ids = np.zeros((len(unseen), split.count), "int32")
    # By index: a product with a matrix of zeros and ones would round the numbers of words on accelerators.
    np.put_along_axis(ids, unseen, words, axis=1)  # (2B, N), 0 where the patch was seen
    hidden_mask = np.zeros((*ids.shape, 1), bool)
    np.put_along_axis(hidden_mask, unseen[..., None], True, axis=1)  # (2B, N, 1)

    pixels = to_patches(to_pixels(images), encoder.patch_size)  # (B, N, P)
    pixels = ops.repeat(pixels, 2, axis=0)  # (2B, N, P), rows in pairs as the branches are
    drawn = to_patches(tokenizer.draw(ids), encoder.patch_size)  # (2B, N, P)
    seen = ops.where(hidden_mask, 0.5, pixels)  # unseen patches in mid-grey
    filled = ops.where(hidden_mask, drawn, pixels)  # (2B, N, P)

    def pictures(patches):
        return ops.convert_to_numpy(to_images(patches, encoder.image_shape, encoder.patch_size))

    seen, filled = pictures(seen), pictures(filled)
    original = ops.convert_to_numpy(to_pixels(images))
    true = ops.convert_to_numpy(tokenizer.draw(tokenizer(images)))
    return np.stack([original, seen[0::2], seen[1::2], filled[0::2], filled[1::2], true], axis=1)


def masked_panels(
    model: keras.Model, images: Shaped[Array, "B H W C"], order: Int[Array, "B N"] | None = None
) -> Float[Array, "B 3 H W C"]:
    """Draw what a `BEiT` or an `MAE` model sees and predicts, as three panels for each image.

    Args:
        model: a model with `split`, `masked_count` and `paint`.
        images: (B, H, W, C).
        order: (B, N) int32, the order of the patches; by default the model's split draws one.

    Returns:
        (B, 3, H, W, C) float32 in 0..1, in the order of `MASKED_COLUMNS`. In a prediction, seen patches are pixels.
    """
    encoder = model.encoder
    order = model.split(images) if order is None else order  # (B, N)
    masked = ops.convert_to_numpy(order)[:, : model.masked_count, None]  # (B, m, 1)
    mask = np.zeros((*order.shape, 1), bool)
    np.put_along_axis(mask, masked, True, axis=1)  # (B, N, 1)
    pixels, painted = (
        to_patches(to_pixels(x), encoder.patch_size) for x in (images, model.paint(images, order))
    )  # (B, N, P)
    columns = (pixels, ops.where(mask, 0.5, pixels), ops.where(mask, painted, pixels))
    return np.stack(
        [ops.convert_to_numpy(to_images(x, encoder.image_shape, encoder.patch_size)) for x in columns], axis=1
    )


def sheet(
    rows: Float[Array, "B K H W C"], titles: Sequence[str], tile: int = 112, gap: int = 4
) -> UInt8[Array, "height width 3"]:
    """Lay images (B, K, H, W, C) in 0..1 out as a picture of B rows and K titled columns: (height, width, 3) uint8.

    Of images with more than three channels the first three are shown, of two the first.
    """
    from PIL import Image, ImageDraw

    count, columns, height, width, channels = rows.shape
    # A whole factor, so that every pixel stays a square.
    scale = max(1, round(tile / max(height, width)))
    cell = (height * scale, width * scale)
    header = 16
    picture = np.full((header + count * (cell[0] + gap), columns * (cell[1] + gap) - gap, 3), 255, "uint8")
    shown = np.round(np.clip(rows[..., :3] if channels >= 3 else rows[..., :1], 0, 1) * 255).astype("uint8")
    for i in range(count):
        for j in range(columns):
            top, left = header + i * (cell[0] + gap), j * (cell[1] + gap)
            picture[top : top + cell[0], left : left + cell[1]] = (
                shown[i, j].repeat(scale, axis=0).repeat(scale, axis=1)
            )
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for j, title in enumerate(titles):
        draw.text((j * (cell[1] + gap) + 2, 2), title, fill=(0, 0, 0))
    return np.asarray(image)


def save_inpainting(path: str | os.PathLike, model: keras.Model, images: Shaped[Array, "B H W C"]) -> None:
    """Draw `inpainting_panels` or `masked_panels`, as the model needs it, of images (B, H, W, C) into a PNG file."""
    from PIL import Image

    Image.fromarray(sheet(*_panels(model, images))).save(path)


def inpainting_strips(
    model: keras.Model, images: Shaped[Array, "B H W C"]
) -> tuple[dict[str, UInt8[Array, "height width 3"]], UInt8[Array, "height width 3"]]:
    """Draw strips, each of the same images one below another, to compare what a model predicts as it learns.

    The patches that are seen are the same at each call, and no random number of the model is used, so that a run is the
    same with and without these pictures.

    Args:
        model: a model that `has_picture`.
        images: (B, H, W, C).

    Returns:
        A dictionary of the strips that do not change, "original", "seen" and, of a model with part A and part B,
        "true_words"; and the strip that the model predicts of what is not seen. Each is (height, width, 3) uint8.
    """
    config = {**model.split.get_config(), "seed": 0}
    rows, titles = _panels(model, images, Split.from_config(config)(images))
    strips = {title: _strip(column) for title, column in zip(titles, rows.swapaxes(0, 1), strict=True)}
    (predicted,) = (strips[title] for title in PREDICTED if title in strips)
    return {name: strips[title] for title, name in OVER_TIME.items() if title in strips}, predicted


def _panels(model, images, order=None):
    """The panels (B, K, H, W, C) that the model needs, and their titles."""
    if hasattr(model, "paint"):
        return masked_panels(model, images, order), MASKED_COLUMNS
    return inpainting_panels(model, images, order), COLUMNS


def _strip(images):
    """Images (B, H, W, C) in 0..1 one below another, each with its longer side at `SIDE` pixels."""
    shown = [np.asarray(thumbnail(image, SIDE)) for image in np.round(np.clip(images, 0, 1) * 255).astype("uint8")]
    gap = np.full((GAP, *shown[0].shape[1:]), 255, "uint8")
    return np.concatenate([part for image in shown for part in (image, gap)][:-1])
