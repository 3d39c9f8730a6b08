"""Choose the part of an image that a batch shows, and map boxes, masks and label maps accordingly."""

import dataclasses

import numpy as np

from keras_splitmask.data.resizing import resize


@dataclasses.dataclass(frozen=True)
class Frame:
    """A part of an image, resized, perhaps mirrored, and shown at the top left of what the batch has room for; the rest
    is padding.

    Attributes:
        box: (top, left, height, width) of the part, in pixels of the image.
        size: (rows, columns) that it is resized to.
        mirrored: whether left and right change places.
    """

    box: tuple
    size: tuple
    mirrored: bool = False

    def show(self, part, image_shape):
        """The part (h, w, C) uint8 of an image, which may be read at another resolution, as the batch shows it:
        `image_shape` uint8."""
        # Compiled steps need one shape, so images are padded. The paper's detectors resize them to sides of their own.
        shown = np.zeros(image_shape, "uint8")
        shown[: self.size[0], : self.size[1]] = self._turned(resize(part, self.size))
        return shown

    def show_labels(self, labels, room, padding):
        """A label map (H, W) as the batch shows it, by nearest neighbour: (*room, ) of the same type."""
        top, left, height, width = self.box
        # What lies under the centre of each new pixel, (i + 1/2) length / n, in integers.
        rows, columns = (
            (np.arange(n) * 2 + 1) * length // (2 * n) for n, length in zip(self.size, (height, width), strict=True)
        )
        shown = np.full(room, padding, labels.dtype)
        shown[: self.size[0], : self.size[1]] = self._turned(labels[np.ix_(top + rows, left + columns)])
        return shown

    def visible(self, boxes):
        """Cut boxes (n, 4), in pixels of the image, to the part. Boxes outside of it lose all rows or columns."""
        top, left, height, width = self.box
        return np.clip(boxes, (top, left, top, left), (top + height, left + width) * 2)

    def place(self, visible):
        """Boxes (n, 4) inside the part, from pixels of the image to those of the batch."""
        top, left, height, width = self.box
        rows, columns = self.size
        # By the rounded sizes, not by the factor: so much were the pixels resized.
        placed = (visible - np.array((top, left, top, left))) * (
            np.array((rows, columns) * 2) / np.array((height, width) * 2)
        )
        if self.mirrored:
            # The left of a mirrored box was its right.
            placed[:, [1, 3]] = columns - placed[:, [3, 1]]
        return placed

    def _turned(self, pixels):
        return pixels[:, ::-1] if self.mirrored else pixels


def fitting(height, width, room):
    """The largest factor by which an image may be resized so that there is room for it (rows, columns)."""
    return min(room[0] / height, room[1] / width)  # above 1 for an image smaller than the room


def whole(height, width, room):
    """The `Frame` of a whole image, as large as there is room for."""
    # In integers, so that programs round alike: the nearest to height * room[1] / width, unless the height decides.
    rows = min(room[0], max(1, (2 * height * room[1] + width) // (2 * width)))
    columns = min(room[1], max(1, (2 * width * room[0] + height) // (2 * height)))
    return Frame((0, 0, height, width), (rows, columns))


def stretched(height, width, room):
    """The `Frame` of a whole image that fills the room (rows, columns), whatever its shape."""
    return Frame((0, 0, height, width), tuple(room))


def drawn(height, width, room, rng, scale):
    """A random `Frame`: the image resized by the factor of `fitting` times one from `scale`, any part of what is too
    large, half mirrored."""
    factor = fitting(height, width, room) * rng.uniform(*scale)
    (top, height, rows), (left, width, columns) = (
        _span(side, end, factor, rng) for side, end in zip((height, width), room, strict=True)
    )
    return Frame((top, left, height, width), (rows, columns), bool(rng.random() < 0.5))


def _span(side, end, factor, rng):
    """Along one axis of an image: where the part begins, how long it is, and how long it is shown."""
    # What fills the room at this factor, or the whole side if that is shorter.
    length = min(side, max(1, round(end / factor)))
    shown = end if length < side else min(end, max(1, round(side * factor)))
    return int(rng.integers(side - length + 1)), length, shown


def letterbox(image, image_shape):
    """A whole image as large as there is room for, at the top left, zero elsewhere.

    Args:
        image: (h, w, C) uint8.
        image_shape: (H, W, C).

    Returns:
        (H, W, C) uint8, and the factors (2,) that its height and width were resized by, which differ by what whole
        pixels need; see `evaluation.to_original`.
    """
    frame = whole(*image.shape[:2], image_shape[:2])
    return frame.show(image, image_shape), np.array(frame.size) / image.shape[:2]
