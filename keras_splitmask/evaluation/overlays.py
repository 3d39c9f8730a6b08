"""Draw detections and label maps beside the truth, in colours that also colour-blind people can distinguish."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_splitmask.backend.optional import optional
from keras_splitmask.backend.typing import Array, UInt8
from keras_splitmask.evaluation.detection import decode_mask, paste_mask

# In pixels: the longer side of a picture, the gap between two, the margin around all, and the height of letters.
PANEL, GAP, MARGIN, TEXT = 480, 8, 14, 13
GREY = (128, 128, 128)  # for pixels that the truth ignores
# Okabe and Ito's colours ("Color Universal Design", 2008) but black: sky blue, vermilion, green, yellow, blue, reddish
# purple, orange.
FIRST = ((86, 180, 233), (213, 94, 0), (0, 158, 115), (240, 228, 66), (0, 114, 178), (204, 121, 167), (230, 159, 0))
# How protanopes and deuteranopes see linear RGB (Machado, Oliveira and Fernandes, 2009, severity 1).
SIGHTS = (
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
)
# Linear RGB to cones, and their cube roots to Oklab (Ottosson, 2020), where distances are about as large as they look.
CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


@functools.cache
def palette(count: int) -> UInt8[Array, "count 3"]:
    """Choose colours of classes, (count, 3) uint8, always the same.

    Each new colour is as far as possible from all before and from grey, black and white. The distance is the smallest
    over normal vision, protanopes and deuteranopes.
    """
    candidates = np.stack(np.meshgrid(*[np.linspace(0, 255, 16)] * 3), axis=-1).reshape(-1, 3)
    lightness = _seen(candidates)[0, :, 0]
    candidates = candidates[(lightness > 0.42) & (lightness < 0.95)]  # neither dark nor pale
    seen = _seen(candidates)  # (sights, candidates, 3)
    nearest = np.full(len(candidates), np.inf)
    colours = [*np.array(FIRST[:count], float)]
    for taken in (*colours, np.array(GREY), np.zeros(3), np.full(3, 255)):
        nearest = np.minimum(nearest, _distance(seen, taken))
    while len(colours) < count:
        # Greedily, so the first colours are the same whatever the count.
        colours.append(candidates[nearest.argmax()])
        nearest = np.minimum(nearest, _distance(seen, colours[-1]))
    return np.reshape(colours, (-1, 3)).astype("uint8")


def _distance(seen, colour):
    """Oklab distance (n,) from `colour` to each of `seen`: the smallest over normal and colour-blind vision."""
    return np.linalg.norm(seen - _seen(colour[None]), axis=-1).min(axis=0)


def _seen(colours):
    """Convert colours (n, 3) in 0..255 to Oklab (sights, n, 3), as normal and colour-blind vision see them."""
    shares = colours / 255
    # sRGB to linear light; colour blindness and Oklab are defined on that.
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    sights = np.clip(np.einsum("sij,nj->sni", np.array(SIGHTS), linear), 0, 1)  # (sights, n, 3)
    return np.cbrt(sights @ np.array(CONES).T) @ np.array(OKLAB).T


def save_detections(
    path: str | os.PathLike,
    images: Iterable,
    truths: Iterable[dict],
    predictions: Iterable[dict],
    classes: Sequence[str],
    limit: int = 6,
    least_score: float = 0.3,
) -> None:
    """Draw the objects of a few images into a PNG file: the true ones on the left, the predicted ones on the right.

    Args:
        images: (height, width, C) uint8 each; the first `limit` are drawn.
        truths: for each image a dictionary of "boxes" (n, 4), "labels" (n,), -1 where there is nothing, and maybe
            "masks": (n, S, S) inside the boxes, or n COCO RLEs of the image.
        predictions: the same and "scores" (n,); objects below `least_score` are not drawn.
        classes: names of the classes.
    """
    rows = [
        (draw_objects(image, truth, classes, 0), draw_objects(image, prediction, classes, least_score))
        for image, truth, prediction in itertools.islice(zip(images, truths, predictions, strict=True), limit)
    ]
    _sheet(rows, ("truth", f"predicted with a score of {least_score:g} or more")).save(path)


def save_label_maps(
    path: str | os.PathLike,
    images: Iterable,
    truths: Iterable,
    predictions: Iterable,
    classes: Sequence[str],
    limit: int = 6,
) -> None:
    """Draw a few images, their true and their predicted label maps side by side into a PNG file.

    A legend names the classes that occur.

    Args:
        images: (height, width, C) uint8 each; the first `limit` are drawn.
        truths, predictions: (height, width) int each; numbers of no class are drawn grey.
        classes: names of the classes.
    """
    shown = list(itertools.islice(zip(images, truths, predictions, strict=True), limit))
    rows = [
        (draw_plain(image), *(draw_classes(image, labels, len(classes)) for labels in maps)) for image, *maps in shown
    ]
    found = np.unique(np.concatenate([np.ravel(labels) for _, *maps in shown for labels in maps]))
    colours = palette(len(classes)).tolist()
    legend = [(name, colour) for i, (name, colour) in enumerate(zip(classes, colours, strict=True)) if i in found]
    legend += [("ignored", GREY)] * bool((found >= len(classes)).any())
    _sheet(rows, ("image", "truth", "predicted"), legend).save(path)


def draw_plain(image: UInt8[Array, "height width C"]) -> Any:
    """Convert an image (height, width, C) to a picture whose longer side is `PANEL`.

    It shows the first three channels, or the first of two.
    """
    Image = optional("PIL.Image", "data")
    image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1)
    height, width = (max(1, round(side * PANEL / max(image.shape[:2]))) for side in image.shape[:2])
    return Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BICUBIC)


def draw_classes(image: UInt8[Array, "height width C"], labels: npt.ArrayLike, count: int) -> Any:
    """Draw the colours of a label map (height, width) over the image in grey."""
    Image, ImageOps = optional("PIL.Image", "data"), optional("PIL.ImageOps", "data")
    photograph = ImageOps.autocontrast(draw_plain(image).convert("L"), cutoff=1).convert("RGB")
    labels = np.asarray(labels)
    # All numbers of no class, such as 255, become the index of the last colour, grey.
    labels = np.where((labels >= 0) & (labels < count), labels, count)
    colours = np.concatenate([palette(count), np.array([GREY], "uint8")])[labels]
    # The nearest pixel: between two classes there is no third.
    return Image.blend(photograph, Image.fromarray(colours).resize(photograph.size, Image.Resampling.NEAREST), 0.65)


def draw_objects(
    image: UInt8[Array, "height width C"], objects: Mapping[str, Any], classes: Sequence[str], least_score: float
) -> Any:
    """Draw boxes, names, scores and masks over an image, the smallest objects in front."""
    Image, ImageDraw = optional("PIL.Image", "data"), optional("PIL.ImageDraw", "data")
    picture = draw_plain(image)
    masks: Any = objects.get("masks")
    scores: Any = objects.get("scores")
    width, height = picture.size
    scale = np.array([height / image.shape[0], width / image.shape[1]] * 2)  # rows, columns, rows, columns
    boxes, labels = np.asarray(objects["boxes"], float).reshape(-1, 4) * scale, np.asarray(objects["labels"])
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    drawn = [i for i in order if labels[i] >= 0 and (scores is None or scores[i] >= least_score)]
    colours = [tuple(colour) for colour in palette(len(classes)).tolist()]
    for i in drawn if masks is not None else ():
        if isinstance(masks[i], dict):
            mask = Image.fromarray(decode_mask(masks[i])).resize(picture.size, Image.Resampling.NEAREST)
        else:
            mask = Image.fromarray(paste_mask(masks[i], boxes[i], height, width))
        picture.paste(Image.blend(picture, Image.new("RGB", picture.size, colours[labels[i]]), 0.45), mask=mask)
    draw = ImageDraw.Draw(picture)
    tags: list[tuple[int, int, int]] = []
    corners = boxes.round().astype(int).tolist()
    for i in drawn:
        top, left, bottom, right = corners[i]
        # Pillow refuses a rectangle whose right side is left of the other.
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colours[labels[i]], width=2)
    # Names after all boxes, so that no box crosses one.
    for i in drawn:
        score = "" if scores is None else f" {scores[i]:.2f}"
        _write_tag(picture, tags, corners[i], classes[labels[i]] + score, colours[labels[i]])
    return picture


def _write_tag(picture, tags, box, text, colour):
    """Write a name at a corner of a box, inside the picture.

    If possible it covers none of the earlier `tags`, (top, left, width) each. Its own is appended to them.
    """
    font, draw = font_of_pictures(), optional("PIL.ImageDraw", "data").Draw(picture)
    text = " ".join(text.split())  # a font refuses line breaks
    top, left, bottom, right = box
    wide, high = math.ceil(font.getlength(text)) + 6, TEXT + 4
    # Best above the box on the left, where it hides nothing of the object.
    corners = itertools.product((top - high, top, bottom - high, bottom), (left, right - wide))
    corners = [(max(0, min(y, picture.height - high)), max(0, min(x, picture.width - wide))) for y, x in corners]

    def covers(y, x):
        return any(
            abs(y - tag_y) < high and x < tag_x + tag_wide and tag_x < x + wide for tag_y, tag_x, tag_wide in tags
        )

    y, x = next((corner for corner in corners if not covers(*corner)), corners[0])
    tags.append((y, x, wide))
    draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=colour)
    dark = np.dot(colour, (0.299, 0.587, 0.114)) < 130  # brightness by ITU-R BT.601
    draw.text((x + 3, y + high // 2), text, fill="white" if dark else "black", font=font, anchor="lm")


@functools.cache
def font_of_pictures() -> Any:
    """The font of pictures: DejaVu Sans, which comes with matplotlib, or Pillow's own, which has little but ASCII."""
    fonts, found = optional("PIL.ImageFont", "data"), importlib.util.find_spec("matplotlib")
    for folder in (found and found.submodule_search_locations) or ():
        with contextlib.suppress(OSError):
            # One point less is as wide as Pillow's.
            return fonts.truetype(os.path.join(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf"), TEXT - 1)
    return fonts.load_default(TEXT)


def _sheet(rows, titles, legend=()):
    """Lay pictures out in rows, with titles above and a legend of (name, colour) below."""
    Image, ImageDraw = optional("PIL.Image", "data"), optional("PIL.ImageDraw", "data")
    font, line = font_of_pictures(), TEXT + 10
    width = 2 * MARGIN + len(titles) * (PANEL + GAP) - GAP
    places, x, y = [], MARGIN, MARGIN + line + sum(max(picture.height for picture in row) + GAP for row in rows)
    for name, _ in legend:
        wide = TEXT + 6 + math.ceil(font.getlength(name)) + 18
        if x + wide > width - MARGIN:
            x, y = MARGIN, y + line
        places.append((x, y))
        x += wide
    sheet = Image.new("RGB", (width, y + (line if legend else 0) + MARGIN - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((MARGIN + column * (PANEL + GAP), MARGIN), title, fill="black", font=font)
    top = MARGIN + line
    for row in rows:
        for column, picture in enumerate(row):
            sheet.paste(picture, (MARGIN + column * (PANEL + GAP), top))
        top += max(picture.height for picture in row) + GAP
    for (name, colour), (x, y) in zip(legend, places, strict=True):
        draw.rectangle((x, y + 2, x + TEXT, y + 2 + TEXT), fill=tuple(colour))
        draw.text((x + TEXT + 6, y + 2 + TEXT / 2), name, fill="black", font=font, anchor="lm")
    return sheet
