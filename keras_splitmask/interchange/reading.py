"""From a file of another library to the arguments and the weights of our encoder.

What the other model does and our encoder has no weight for is folded into the weights that it has, where that is the
same function: the position of cls, the scale of a branch, the pixels' mean and deviation, biases that are not there.
What would be another function is refused.
"""

import dataclasses
import math
import pathlib
import re

import numpy as np

from keras_splitmask.backend.optional import optional
from keras_splitmask.interchange.configuration import TIMM_EPSILON, read_stated
from keras_splitmask.interchange.folding import (
    BIAS,
    CLS,
    EXTRA,
    KERNEL,
    POSITIONS,
    fill_biases,
    fold_pixels,
    fold_positions,
    fold_scales,
    fuse,
)
from keras_splitmask.interchange.names import CONFIG, DROPPED, HEADS, PREPROCESSOR, TABLES, TIMM, WEIGHTS, names_of
from keras_splitmask.patches import pixel_statistics, sine_cosine_positions

HUGGING_FACE_EPSILON = 1e-12  # of the models whose classes read these names
WEIGHTS_OF_BLOCK = 8  # at the least: without any bias there are eight
MOST_PATCHES = 2**16


@dataclasses.dataclass(frozen=True)
class ImportedEncoder:
    """What a file holds, in our words.

    `arguments` of an `Encoder`; `arrays`, its weights by name, float32; `folded`, which of them are not as in the file,
    and why; `dropped`, which of the file's are no part of an encoder, and why; `notes`, what was assumed, and how an
    answer differs.
    """

    arguments: dict
    arrays: dict
    folded: dict
    dropped: dict
    notes: list


def find(path):
    """The safetensors file that a path names: itself, or model.safetensors in a folder; None if there is none.

    Raises:
        ValueError: if the folder holds a model in another kind of file.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    for name in ("pytorch_model.bin", "tf_model.h5", f"{WEIGHTS}.index.json"):
        if (path / name).is_file():
            raise ValueError(
                f"Expected {WEIGHTS} in {path}, received {name}; save the model as one safetensors file with the"
                " library that wrote it."
            )
    return None


def read(file):
    """What a safetensors file holds, with what config.json and preprocessor_config.json beside it state.

    Returns:
        A `ImportedEncoder`. Its arrays may yet be of other names and shapes than the weights of an encoder of its arguments.

    Raises:
        ImportError: without the package safetensors.
        ValueError: if the file cannot be read, is no Vision Transformer, or is one that our encoder cannot express.
    """
    stated = read_stated(file)
    table, given = _by_table(file, _open(file))
    averaged = f"{table['norm'][0]}.weight" not in given
    arrays, depth = _taken(file, table, given)
    dropped = _dropped(file, given)
    folded = {} if POSITIONS in arrays else {POSITIONS: "0, since the model has none"}
    arguments = _sizes(file, arrays, depth, stated)
    notes = _assumed(file, arguments, stated, TIMM_EPSILON if table is TIMM else HUGGING_FACE_EPSILON)
    if averaged:
        notes.append(
            "pooled is the mean of normalised tokens, where this model normalises the mean; the blocks are the same"
        )
    fill_biases(arrays, depth, folded)
    fuse(arrays, depth)
    fold_scales(arrays, depth, folded)
    grid, width = arguments.pop("grid"), arguments["width"]
    fold_positions(arrays, math.prod(grid), folded)
    fold_pixels(arrays, stated["pixels"], folded)
    fixed = width % 4 == 0 and np.array_equal(arrays[POSITIONS], sine_cosine_positions(*grid, width))
    arguments["positions"] = "sine_cosine" if fixed else "learned"
    return ImportedEncoder(arguments, arrays, folded, dropped, notes)


def _open(file):
    """The arrays of a safetensors file, by name."""
    try:
        return optional("safetensors.numpy", "interchange").load_file(file)
    except ImportError:
        raise
    except Exception as error:  # safetensors' own, or one for a type that NumPy does not know
        raise ValueError(f"Expected a safetensors file of floating point numbers, received {file}: {error}.") from error


def _by_table(file, given):
    """The table whose names a file uses, and its arrays without what all of the model's names begin with, such as
    "vit."."""
    for table in TABLES:
        cls_token, blocks = table[CLS][0], table["block_{}/norm_attention"]
        prefixes = [
            name.removesuffix(cls_token) for name in given if re.search(rf"(^|\.){re.escape(cls_token)}$", name)
        ]
        if len(prefixes) == 1 and any(f"{prefixes[0]}{block.format(0)}.weight" in given for block in blocks):
            arrays = {name.removeprefix(prefixes[0]): array for name, array in given.items()}
            if len(arrays) == len(given):
                return table, arrays
    raise ValueError(
        f"Expected one Vision Transformer with a cls token in {file}, by the names of Hugging Face or timm, received"
        f" {_some(sorted(given))}."
    )


def _taken(file, table, given):
    """The arrays of an encoder by our names, as in Keras; taken out of those given. And the number of its blocks."""
    blocks = table["block_{}/norm_attention"]
    depth = next(i for i in range(len(given) + 1) if not any(f"{block.format(i)}.weight" in given for block in blocks))
    arrays = {}
    for ours, alternatives in table.items():
        for i in range(depth if "{}" in ours else 1):
            pairs = [names_of(ours.format(i + 1), theirs.format(i)) for theirs in alternatives]
            for name, their_name in next((p for p in pairs if any(theirs in given for _, theirs in p)), ()):
                if their_name in given:
                    arrays[name] = _as_float32(file, their_name, given.pop(their_name))
    if len(arrays) < WEIGHTS_OF_BLOCK * depth:  # an encoder of so many blocks is not made to say what is missing
        raise ValueError(
            f"Expected the weights of {depth} blocks in {file}, received {len(arrays)} arrays; is the file whole?"
        )
    return arrays, depth


def _as_float32(file, name, array):
    if not array.size:
        raise ValueError(f"Expected numbers in {file}, received none in {name} of shape {array.shape}.")
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise ValueError(f"Expected floating point numbers in {file}, received {array.dtype} in {name}.")
    array = array.astype("float32")
    if not np.isfinite(array).all():
        raise ValueError(
            f"Expected finite numbers in {file}, received others in {name}: the model broke down in training, or the"
            " file is damaged."
        )
    return array.T if array.ndim == 2 else array  # (in, out), as Keras has it


def _dropped(file, given):
    """What is left of a file, and why it is no part of the encoder."""
    dropped, unknown = {}, []
    for name in given:
        reasons = [why for pattern, why in DROPPED if re.match(pattern, name)]
        if reasons:
            dropped[name] = reasons[0]
        else:
            unknown.append(name)
    if any("relative_position" in name or "rel_pos" in name for name in unknown):
        raise ValueError(
            f"Expected absolute positions, received {file}, a model with relative positions ({_some(unknown, 1)}),"
            " which the encoder has not."
        )
    if unknown:
        raise ValueError(
            f"Expected the weights of a plain Vision Transformer, received {file}, which has {_some(unknown)} besides."
        )
    return dropped


def _sizes(file, arrays, depth, stated):
    """The arguments of the encoder that shapes and statements give, and its "grid"; zeros for positions that it states
    not to have."""
    kernel, cls_token = arrays.get(KERNEL), arrays[CLS]
    if kernel is None or kernel.ndim != 4 or kernel.shape[2] != kernel.shape[3] or BIAS not in arrays:
        raise ValueError(
            f"Expected a projection (D, C, side, side) of square patches and its bias in {file}, received"
            f" {getattr(kernel, 'shape', None)}."
        )
    width, channels, patch_size, _ = kernel.shape
    found = {"width": width, "depth": depth, "channels": channels, "patch_size": (patch_size, patch_size)}
    if wrong := [
        f"{name} {stated[name]} for {found[name]}" for name in found if stated.get(name, found[name]) != found[name]
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
    arrays.setdefault(POSITIONS, np.zeros((1, math.prod(grid), width), "float32"))
    shapes = {
        CLS: (1, 1, width),
        EXTRA: (1, extra, width),
        POSITIONS: (1, arrays[POSITIONS].shape[1], width),
        BIAS: (width,),
    }
    if wrong := [
        f"{name} {arrays[name].shape}" for name in shapes if name in arrays and arrays[name].shape != shapes[name]
    ]:
        raise ValueError(f"Expected tokens and positions of the width {width} in {file}, received {', '.join(wrong)}.")
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
    """(rows, columns) of the patches that a table (1, P, D) has positions for; it may have some for cls and extra
    tokens, too."""
    count = 0 if positions is None else positions.shape[1]
    others = {0, 1, 1 + extra}  # rows that are not of patches
    if image_size:
        grid = tuple(side // patch_size for side in image_size)
        if positions is not None and count - math.prod(grid) not in others:
            raise ValueError(
                f"Expected positions of {grid[0]}x{grid[1]} patches in {file}, as {CONFIG} beside it states, received"
                f" {count}."
            )
        return grid
    sides = [math.isqrt(count - other) for other in sorted(others, reverse=True) if count > other]
    square = next((side for side, other in zip(sides, sorted(others, reverse=True)) if side**2 == count - other), 0)
    if not square:
        raise ValueError(
            f"Expected positions of a square grid in {file}, received {count}; state image_size in a {CONFIG}"
            " beside it."
        )
    return square, square


def _assumed(file, arguments, stated, epsilon):
    """Fill in what nothing states, and say so in a list of notes."""
    width, channels, notes = arguments["width"], arguments["image_shape"][-1], []
    if "heads" not in stated and width not in HEADS and width % 64:
        raise ValueError(
            f"Expected {CONFIG} beside the weights to state num_attention_heads, received none, and a width of {width},"
            " no multiple of 64."
        )
    if "pixels" not in stated:
        stated["pixels"] = pixel_statistics(channels)
        mean, std = (" ".join(map(str, values)) for values in stated["pixels"])
        notes.append(
            f"pixels are normalised by the mean {mean} and the deviation {std}, since no {PREPROCESSOR} states it"
        )
    if any(value.shape not in ((), (channels,)) for value in stated["pixels"]):
        sizes = " and ".join(str(value.size) for value in stated["pixels"])
        raise ValueError(
            f"Expected image_mean and image_std of {channels} channels in {file.with_name(PREPROCESSOR)}, received"
            f" {sizes}."
        )
    for name, value in (("heads", HEADS.get(width, width // 64)), ("epsilon", epsilon)):
        arguments[name] = stated.get(name, value)
        if name not in stated:
            notes.append(f"{name} {value}, since no {CONFIG} states it")
    return notes


def _some(names, count=4):
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
