"""Contact sheets: small pictures in rows, each with a few words below it."""

from __future__ import annotations

import itertools
import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_splitmask.backend.optional import optional
from keras_splitmask.backend.typing import Array, UInt8
from keras_splitmask.evaluation.overlays import GAP, MARGIN, TEXT, font_of_pictures

LINE = TEXT + 5  # pixels from one line of text to the next
WIDE = 1240  # largest width of a sheet, if a picture is not wider
INK, PALE = (20, 20, 20), (110, 110, 110)
FRAME = 4


def thumbnail(image: UInt8[Array, "H W C"], side: int = 144) -> Any:
    """Draw an image (H, W, C) uint8 with its longer side at `side` pixels. Small images keep their pixels visible.

    Of more than three channels the first three are shown, of two the first.
    """
    Image = optional("PIL.Image", "data")
    image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1)
    height, width = (max(1, round(length * side / max(image.shape[:2]))) for length in image.shape[:2])
    way = Image.Resampling.NEAREST if max(image.shape[:2]) * 2 <= side else Image.Resampling.BICUBIC
    return Image.fromarray(np.ascontiguousarray(image)).resize((width, height), way)


def side_by_side(*pictures) -> Any:
    """Join pictures of one height."""
    Image = optional("PIL.Image", "data")
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    joined, left = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white"), 0
    for picture in pictures:
        joined.paste(picture, (left, 0))
        left += picture.width + GAP
    return joined


def save_sheet(
    path: str | os.PathLike,
    rows: Sequence[Sequence[tuple[Any, Sequence[str]]]],
    title: str = "",
    legend: Sequence[tuple[str, Sequence[int]]] = (),
) -> None:
    """Write pictures in rows into a PNG file.

    Args:
        path: path of the file.
        rows: a list of rows, each a list of (picture, lines) where `picture` is Pillow's and `lines` texts. A row that
            is too wide is broken. An empty row leaves some room.
        title: a line above all.
        legend: pairs of a name and a colour (red, green, blue), below all.
    """
    Image, ImageDraw = optional("PIL.Image", "data"), optional("PIL.ImageDraw", "data")
    cells = [cell for row in rows for cell in row]
    wide = max(picture.width for picture, _ in cells)
    columns = max(1, (WIDE - 2 * MARGIN + GAP) // (wide + GAP))
    columns = min(columns, max(map(len, rows)))
    broken = [row[i : i + columns] for row in rows for i in range(0, max(1, len(row)), columns)]
    heights = [
        max(picture.height + len(lines) * LINE for picture, lines in row) + GAP if row else 2 * GAP for row in broken
    ]
    width = max(2 * MARGIN + columns * (wide + GAP) - GAP, min(WIDE, 2 * MARGIN + math.ceil(_length(title))))
    spots = _legend_spots(legend, width)
    top = MARGIN + (LINE + GAP if title else 0)
    height = top + sum(heights) + (spots[-1][1] + LINE + GAP if spots else 0) + MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), shortened(title, width - 2 * MARGIN), fill=INK, font=font_of_pictures())
    for row, tall in zip(broken, heights, strict=True):
        for i, (picture, lines) in enumerate(row):
            left = MARGIN + i * (wide + GAP)
            sheet.paste(picture, (left, top))
            for n, line in enumerate(lines):
                at = (left, top + picture.height + 2 + n * LINE)
                draw.text(at, shortened(line, wide), fill=PALE if n else INK, font=font_of_pictures())
        top += tall
    for (name, colour), (left, down) in zip(legend, spots, strict=True):
        draw.rectangle((left, top + down + 2, left + TEXT, top + down + 2 + TEXT), fill=tuple(colour))
        draw.text((left + TEXT + 6, top + down + 2), name, fill=INK, font=font_of_pictures())
    sheet.save(path, format="PNG")


def _length(text):
    return font_of_pictures().getlength(text)


def _legend_spots(legend, width):
    """Where the entries of a legend begin, (left, down) in pixels below the pictures."""
    spots, left, down = [], MARGIN, 0
    for name, _ in legend:
        long = TEXT + 6 + math.ceil(_length(name)) + 18
        if spots and left + long > width - MARGIN:
            left, down = MARGIN, down + LINE
        spots.append((left, down))
        left += long
    return spots


def shortened(text: str, room: float) -> str:
    """A text that fits into `room` pixels, without its beginning if it is too long: the end of a path says more."""
    if _length(text) <= room:
        return text
    fitting = (cut for cut in itertools.count(1) if cut >= len(text) or _length("…" + text[cut:]) <= room)
    return "…" + text[next(fitting) :]


def framed(picture: Any, colour: Sequence[int] = (213, 94, 0)) -> Any:
    """A picture with a coloured frame around it, inside of its size."""
    picture = picture.copy()
    optional("PIL.ImageDraw", "data").Draw(picture).rectangle(
        (0, 0, picture.width - 1, picture.height - 1), outline=colour, width=FRAME
    )
    return picture


def save_figure(figure: Any, file: str | os.PathLike | Any, **options) -> None:
    """Write a figure of matplotlib without its warnings about letters that its font lacks, such as Chinese ones.

    They are drawn as boxes. `options` are those of `Figure.savefig`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(file, **options)
