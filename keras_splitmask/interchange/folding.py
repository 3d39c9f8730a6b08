"""Fold parameters that our encoder does not have into its weights. Each function keeps the output of the model.

Each takes the arrays of an encoder by name and changes them, and notes in `folded` which are no longer those of the
file, and why.
"""

import numpy as np

from keras_splitmask.patches import pixel_statistics

CLS, EXTRA, POSITIONS = "cls_token", "extra_tokens", "patch_embedding/positions"
KERNEL, BIAS = "patch_embedding/project/kernel", "patch_embedding/project/bias"
PARTS = ("query", "key", "value")


def fill_biases(arrays, depth, folded):
    """Biases that no block has are 0: those of query, key and value, or as in BEiT of keys alone, which a softmax would
    not notice."""
    layers = {part: [f"block_{i + 1}/attention/{part}" for i in range(depth)] for part in (*PARTS, "qkv")}
    without = {part for part, names in layers.items() if not any(f"{name}/bias" in arrays for name in names)}
    if len(without & {"query", "value"}) == 1:
        return  # a file that is not whole
    for name in [name for part in without for name in layers[part] if f"{name}/kernel" in arrays]:
        arrays[f"{name}/bias"] = np.zeros(arrays[f"{name}/kernel"].shape[-1:], "float32")
        folded[name.rsplit("/", 1)[0] + "/qkv/bias"] = "0 where the file has none"


def fuse(arrays, depth):
    """Join query, key and value into one kernel and bias, unless one is missing or has another shape."""
    for i in range(depth):
        for kind in ("kernel", "bias"):
            names = [f"block_{i + 1}/attention/{part}/{kind}" for part in PARTS]
            if len({arrays[name].shape if name in arrays else None for name in names} - {None}) == 1 and set(
                names
            ) <= set(arrays):
                # In the order of PARTS, in which `Attention` takes its qkv apart.
                arrays[f"block_{i + 1}/attention/qkv/{kind}"] = np.concatenate(
                    [arrays.pop(name) for name in names], axis=-1
                )


def fold_scales(arrays, depth, folded):
    """Multiply the last layer of a residual branch by its layer scale (Touvron et al., 2021b)."""
    for i in range(depth):
        for scale, layer in (("attention/scale", "attention/project"), ("scale", "contract")):
            scale, layer = f"block_{i + 1}/{scale}", f"block_{i + 1}/{layer}"
            names = [f"{layer}/kernel", f"{layer}/bias"]
            if scale in arrays and all(
                name in arrays and arrays[name].shape[-1:] == arrays[scale].shape for name in names
            ):
                # s (W x + b) = (s W) x + s b, of each output.
                factor = arrays.pop(scale)
                for name in names:
                    arrays[name] = arrays[name] * factor
                    folded[name] = "times the scale of its branch"


def fold_positions(arrays, count, folded):
    """A table (1, P, D) whose rows above the last `count` belong to cls and to the extra tokens, to one (count, D)."""
    table = arrays.pop(POSITIONS)[0]
    rows, arrays[POSITIONS] = np.split(table, [len(table) - count])  # (P - count, D), (count, D)
    for name, position in ((CLS, rows[:1]), (EXTRA, rows[1:])):
        if position.any():
            arrays[name] = arrays[name] + position
            folded[name] = "with its position"


def fold_pixels(arrays, pixels, folded):
    """The projection (D, C, side, side) of patches normalised by `pixels` (mean, deviation), to one (P, D) of ours."""
    kernel = arrays[KERNEL].transpose(2, 3, 1, 0)  # (side, side, C, D)
    ours_mean, ours_std = pixel_statistics(kernel.shape[2])
    mean, std = (np.broadcast_to(value, ours_mean.shape) for value in pixels)
    if (mean == ours_mean).all() and (std == ours_std).all():
        arrays[KERNEL] = np.ascontiguousarray(kernel).reshape(-1, kernel.shape[-1])
        return
    # In float64, a pixel of theirs is ours * ours_std / std + (ours_mean - mean) / std.
    mean, std, ours_mean, ours_std = (value.astype("float64") for value in (mean, std, ours_mean, ours_std))
    arrays[BIAS] = (arrays[BIAS] + np.einsum("rscd,c->d", kernel, (ours_mean - mean) / std)).astype("float32")
    # (side, side, C, D) times (C, 1), then a row for each number of a patch: (P, D).
    arrays[KERNEL] = (kernel * (ours_std / std)[:, None]).reshape(-1, kernel.shape[-1]).astype("float32")
    folded[KERNEL] = folded[BIAS] = "for pixels normalised our way"
