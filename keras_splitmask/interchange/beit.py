"""What a BEiT has beside, or instead of, the weights of a plain Vision Transformer.

That are relative positions, no biases of keys, and no norm after the blocks if it pools by the mean.
"""

import math

import numpy as np

from keras_splitmask.interchange.folding import KERNEL, POSITIONS
from keras_splitmask.interchange.names import CONFIG

SHARED = "relative_positions"
NORM = ("norm/gamma", "norm/beta")


def complete(file, arrays, depth, stated, folded, averaged):
    """Change the arrays of a BEiT into those of an encoder; those of another model stay as they are.

    Args:
        file: path of the file, for errors.
        arrays: {name: array} of the encoder by our names.
        depth: number of blocks.
        stated: what `configuration.read_stated` read beside the file; here it learns what only the arrays show.
        folded: {name: how} of arrays that differ from the file.
        averaged: whether the model has no norm between its last block and its pooling.

    Returns:
        Whether the encoder has relative positions, and notes on how its output differs.

    Raises:
        ValueError: if config.json and the weights do not agree on relative positions.
    """
    _share(arrays, depth, folded)
    tables = [f"block_{i + 1}/attention/relative_positions" for i in range(depth)]
    relative = any(name in arrays for name in (SHARED, *tables))
    if stated.get("relative_positions", relative) != relative:
        expected, received = ("tables", "none") if stated["relative_positions"] else ("no tables", "some")
        raise ValueError(
            f"Expected {expected} of relative positions in {file}, as {CONFIG} beside it states, received {received};"
            " is the file whole?"
        )
    if relative and POSITIONS not in arrays and "no_positions" not in stated:
        stated["no_positions"] = True  # the tables take their place
        if side := _side(arrays.get(tables[0]), arrays.get(KERNEL)):
            stated.setdefault("image_size", (side, side))
    if getattr(arrays.get(tables[0]), "ndim", 0) == 2:
        stated.setdefault("heads", arrays[tables[0]].shape[1])
    for i in range(depth):
        _join_biases(arrays, f"block_{i + 1}/attention")
    if not averaged:
        return relative, []
    if stated.get("no_norm") and not any(name in arrays for name in NORM) and "block_1/norm_mlp/gamma" in arrays:
        for name, value in zip(NORM, (1, 0), strict=True):
            arrays[name] = np.full_like(arrays["block_1/norm_mlp/gamma"], value)
            folded[name] = f"{value}, since the model has none"
        return relative, [
            "tokens are normalised, where this model has no norm after its blocks; the blocks are the same"
        ]
    return relative, [
        "pooled is the mean of normalised tokens, where this model normalises the mean; the blocks are the same"
    ]


def _share(arrays, depth, folded):
    """A table of relative positions for all blocks, to one in each block. A model with both adds them."""
    names = [f"block_{i + 1}/attention/relative_positions" for i in range(depth)]
    # Tables of other shapes are left over, which is an error later.
    if SHARED in arrays and all(arrays.get(name, arrays[SHARED]).shape == arrays[SHARED].shape for name in names):
        shared = arrays.pop(SHARED)
        for name in names:
            arrays[name] = arrays[name] + shared if name in arrays else shared
            folded[name] = "with that of all blocks"


def _side(table, kernel):
    """The side in pixels of the square images that the length of a table of relative positions shows; None if none."""
    if getattr(table, "ndim", 0) == 2 and getattr(kernel, "ndim", 0) == 4:
        return (math.isqrt(max(len(table) - 3, 0)) + 1) // 2 * kernel.shape[2]
    return None


def _join_biases(arrays, name):
    """Join the biases of query and value to one of qkv. That of the key, which a softmax would not notice, is 0."""
    query, value = f"{name}/query/bias", f"{name}/value/bias"
    if f"{name}/qkv/kernel" in arrays and {query, value} <= set(arrays):
        query, value = arrays.pop(query), arrays.pop(value)
        arrays[f"{name}/qkv/bias"] = np.concatenate([query, np.zeros_like(query), value], axis=-1)
