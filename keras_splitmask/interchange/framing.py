"""Resize images inside a program, as `predict` and `embed` do before the model, and label maps after it.

By operations that each format of a program has. The filter is that of `data.resizing`: rows first, then columns, each
rounded to whole numbers. Resizing is a product with a matrix of the filter's weights, which depend on the sides of the
images. Of what `data.resizing` computes, single numbers differ by 1, where rounding decides.
"""

from keras import ops

from keras_splitmask.backend.layers import reshape


def centre_resized(images, size, ratio):
    """Cut the centre of images and resize it.

    The part is that of `data.center_box`.

    Args:
        images: (B, H, W, C) uint8, of any sides.
        size: (rows, columns) to resize to.
        ratio: see `data.center_box`.

    Returns:
        (B, rows, columns, C) uint8.
    """
    lines = _lines(images)
    scale = ops.minimum(*(side / new for (_, side), new in zip(lines, size, strict=True))) * ratio
    matrices = []
    for (places, side), new in zip(lines, size, strict=True):
        length = _whole(new * scale)
        matrices.append(_filter(places, ops.floor((side - length) / 2), length, new))
    return _resized(images, *matrices)


def stretched(images, size):
    """Resize whole images, whatever their proportions: (B, H, W, C) uint8 to (B, rows, columns, C) uint8."""
    return _resized(
        images, *(_filter(places, 0, side, new) for (places, side), new in zip(_lines(images), size, strict=True))
    )


def letterboxed(images, size):
    """Resize whole images by one factor to fit, at the top left, with zeros elsewhere, as `data.letterbox` does.

    Args:
        images: (B, H, W, C) uint8, of any sides.
        size: (rows, columns) that there is room for.

    Returns:
        (B, rows, columns, C) uint8, and the factors (2,) of the height and the width.
    """
    down, across = ops.shape(images)[1:3]
    shown = _fitted(down, across, size[1], size[0]), _fitted(across, down, size[0], size[1])
    matrices, factors = [], []
    for (places, side), new, end in zip(_lines(images), size, shown, strict=True):
        matrices.append(_filter(places, 0, side, new, end))
        factors.append(end / side)
    return _resized(images, *matrices), ops.stack(factors)


def spread(logits, images):
    """Resize logits (B, rows, columns, classes) bilinearly to the sides of images (B, H, W, C): (B, H, W, classes)."""
    _, rows, columns, classes = logits.shape
    down, across = (_between(*line, old) for line, old in zip(_lines(images), (rows, columns), strict=True))
    count, height = ops.shape(images)[:2]
    logits = ops.matmul(down, reshape(logits, (-1, rows, columns * classes)))
    return ops.matmul(across, reshape(logits, (count, height, columns, classes)))


def _lines(images):
    """The places of the pixels along the height and along the width, (side,) each, and the sides, all float32."""
    lines = [ops.arange(side, dtype="float32") for side in ops.shape(images)[1:3]]
    return [(places, places[-1] + 1) for places in lines]


def _resized(images, rows, columns):
    """Products of images (B, H, W, C) uint8 with (new, H) and (new, W) weights: (B, new, new, C) uint8."""
    count, _, width, channels = ops.shape(images)
    shown = reshape(ops.cast(images, "float32"), (count, -1, width * channels))
    shown = reshape(_rounded(ops.matmul(rows, shown)), (count, rows.shape[0], width, channels))
    return ops.cast(_rounded(ops.matmul(columns, shown)), "uint8")


def _filter(places, start, length, new, shown=None):
    """The weights of a side's pixels in each of `new` pixels: (new, pixels), of the bicubic, antialiased filter.

    The part from `start`, of `length` pixels, becomes the first `shown` pixels, by default all. The others get 0.
    """
    numbers = ops.arange(new, dtype="float32")
    step = length / (new if shown is None else shown)
    centres = start + (numbers + 0.5) * step
    # Where the image shrinks, the filter grows by as much: this is the antialiasing.
    weights = _bicubic((places + 0.5 - centres[:, None]) / ops.maximum(step, 1.0))
    inside = ops.logical_and(places >= start, places < start + length)
    weights = ops.where(inside, weights, 0.0)
    sums = ops.sum(weights, axis=1, keepdims=True)
    return weights / sums if shown is None else ops.where(numbers[:, None] < shown, weights / sums, 0.0)


def _between(places, side, old):
    """The weights of `old` pixels of a line in each of those at `places`, between whose centres they lie:
    (pixels, old), as in `evaluation.segmentation.best_class`."""
    centres = ops.clip((places + 0.5) * (old / side) - 0.5, 0, old - 1)
    return ops.maximum(1 - ops.abs(centres[:, None] - ops.arange(old, dtype="float32")), 0)


def _fitted(side, other, room, limit):
    """As in `data.framing.whole`: a side resized by the factor that brings the other one to `room`, or to `limit`."""
    return ops.clip(ops.cast((2 * side * room + other) // (2 * other), "float32"), 1, limit)


def _whole(length):
    """As `data.resizing.whole_pixels`."""
    return ops.maximum(ops.floor(length + 0.501), 1.0)


def _bicubic(distance):
    """The weight of a pixel at a distance in pixels, of Catmull and Rom's spline."""
    x = ops.abs(distance)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    return ops.where(x < 1, near, ops.where(x < 2, far, 0.0))


def _rounded(pixels):
    return ops.clip(ops.floor(pixels + 0.5), 0, 255)
