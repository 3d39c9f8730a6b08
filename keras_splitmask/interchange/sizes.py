"""The sizes of an encoder, from the shapes of its weights and what config.json states."""

import math

import numpy as np

from keras_splitmask.interchange.folding import BIAS, CLS, EXTRA, KERNEL, POSITIONS
from keras_splitmask.interchange.names import CONFIG

MOST_PATCHES = 2**16
SMALL = 2**26  # bytes of weights that take little time to make


def sizes_of(file, arrays, depth, stated):
    """The arguments of the encoder that follow from shapes and config.json, and its "grid".

    Positions become zeros if config.json states that there are none.
    """
    kernel = arrays.get(KERNEL)
    if kernel is None or kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3] or BIAS not in arrays:
        raise ValueError(
            f"Expected a projection (D, C, side, side) of square patches and its bias in {file}, received"
            f" {getattr(kernel, 'shape', None)}."
        )
    width, channels, patch_size, _ = kernel.shape  # (D, C, side, side)
    # config.json may be that of another model, so both must say the same.
    shapes_say = {"width": width, "depth": depth, "channels": channels, "patch_size": (patch_size, patch_size)}
    if wrong := [
        f"{name} {stated[name]} for {shapes_say[name]}"
        for name in shapes_say
        if stated.get(name, shapes_say[name]) != shapes_say[name]
    ]:
        raise ValueError(
            f"Expected a {CONFIG} of the model beside it, received in {file.with_name(CONFIG)} {', '.join(wrong)} of"
            " the weights."
        )
    if POSITIONS not in arrays and not stated.get("no_positions"):
        raise ValueError(f"Expected a table of positions in {file}, received none; is the file whole?")
    if wrong := [
        f"{name} {arrays[name].shape}" for name in (CLS, EXTRA, POSITIONS) if name in arrays and arrays[name].ndim != 3
    ]:
        raise ValueError(f"Expected tokens and positions (1, count, {width}) in {file}, received {', '.join(wrong)}.")
    extra = arrays[EXTRA].shape[1] if EXTRA in arrays else 0
    grid = _grid(file, arrays.get(POSITIONS), extra, stated.get("image_size"), patch_size)
    if math.prod(grid) > MOST_PATCHES:
        raise ValueError(f"Expected images of at most {MOST_PATCHES} patches, received {grid[0]}x{grid[1]} in {file}.")
    shapes = {CLS: (1, 1, width), EXTRA: (1, extra, width), BIAS: (width,)}
    if POSITIONS in arrays:
        shapes[POSITIONS] = (1, arrays[POSITIONS].shape[1], width)
    if wrong := [
        f"{name} {arrays[name].shape}" for name in shapes if name in arrays and arrays[name].shape != shapes[name]
    ]:
        raise ValueError(f"Expected tokens and positions of the width {width} in {file}, received {', '.join(wrong)}.")
    if POSITIONS not in arrays:
        stored = sum(array.nbytes for array in arrays.values())
        if 4 * math.prod(grid) * width > max(stored, SMALL):  # a small file must not fill the memory
            raise ValueError(
                f"Expected weights for {grid[0]}x{grid[1]} patches in {file}, received {stored} bytes; is the file"
                " whole?"
            )
        arrays[POSITIONS] = np.zeros((1, math.prod(grid), width), "float32")
    shape = (grid[0] * patch_size, grid[1] * patch_size, channels)
    return {
        "image_shape": shape,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "extra_tokens": extra,
        "grid": grid,
    }


def _grid(file, positions, extra, image_size, patch_size):
    """Return (rows, columns) of the patches of a position table (1, P, D), which may include cls and extra tokens."""
    count = 0 if positions is None else positions.shape[1]
    others = {0, 1, 1 + extra}  # possible numbers of rows that are not patches
    if image_size:
        grid = tuple(side // patch_size for side in image_size)
        if positions is not None and count - math.prod(grid) not in others:
            raise ValueError(
                f"Expected positions of {grid[0]}x{grid[1]} patches in {file}, as {CONFIG} beside it states, received"
                f" {count}."
            )
        return grid
    patches = [count - other for other in sorted(others, reverse=True) if count > other]
    square = next((math.isqrt(number) for number in patches if math.isqrt(number) ** 2 == number), 0)
    if not square:
        raise ValueError(
            f"Expected positions of a square grid in {file}, received {count}; state image_size in a {CONFIG}"
            " beside it."
        )
    return square, square
