"""Import a file of another library: the arguments and the weights of our encoder.

Parameters that our encoder does not have (layer scale, cls position, pixel normalisation) are folded into existing
weights when the result is equivalent; otherwise loading fails.
"""

import dataclasses
import math
import pathlib
import re

import numpy as np

from keras_splitmask.interchange.beit import complete
from keras_splitmask.interchange.configuration import TIMM_EPSILON, read_stated
from keras_splitmask.interchange.folding import (
    CLS,
    POSITIONS,
    fill_biases,
    fold_pixels,
    fold_positions,
    fold_scales,
    fuse,
)
from keras_splitmask.interchange.heads import OTHER, Head, read_head
from keras_splitmask.interchange.names import (
    CONFIG,
    DROPPED,
    HEADS,
    HUGGING_FACE,
    OF_A_HEAD,
    PREPROCESSOR,
    TABLES,
    WEIGHTS,
    names_of,
)
from keras_splitmask.interchange.sizes import sizes_of
from keras_splitmask.interchange.weight_files import open_model
from keras_splitmask.patches import pixel_statistics, sine_cosine_positions

HUGGING_FACE_EPSILON = 1e-12  # default of the classes in transformers
WEIGHTS_OF_BLOCK = 8  # at least, for a block without any bias
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
TORCH_WEIGHTS = "pytorch_model.bin"  # in a folder of Hugging Face


@dataclasses.dataclass(frozen=True)
class ImportedEncoder:
    """An encoder read from a file of another library.

    Attributes:
        arguments: {name: value} for an `Encoder`.
        arrays: {name: float32 array} of its weights.
        folded: {name: how} of the arrays that differ from the file.
        dropped: {name: why} of weights in the file that are not part of an encoder.
        notes: assumptions, and differences of the output, a line each.
        head: the `Head` of a classifier, if it is equivalent to ours; else None. Its weights are among `dropped`, too.
    """

    arguments: dict
    arrays: dict
    folded: dict
    dropped: dict
    notes: list
    head: Head | None


def find(path):
    """Find the file of weights of a path: itself, or that of a folder, which may be the index of several; None if there
    is none.

    Raises:
        ValueError: if the folder holds a model in another kind of file.
    """
    path = pathlib.Path(path)
    if path.name.endswith(SUFFIXES) and path.is_file():
        return path
    names = (WEIGHTS, f"{WEIGHTS}.index.json", TORCH_WEIGHTS, f"{TORCH_WEIGHTS}.index.json")
    if found := next((path / name for name in names if (path / name).is_file()), None):
        return found
    if (path / "tf_model.h5").is_file():
        raise ValueError(
            f"Expected {WEIGHTS} in {path}, received tf_model.h5; save the model with the library that wrote it."
        )
    return None


def read(file):
    """Read a file of weights, and the config.json and preprocessor_config.json beside it.

    Returns:
        An `ImportedEncoder`. Whether its arrays fit an encoder of its arguments is not checked yet.

    Raises:
        ValueError: if the file cannot be read, is not a Vision Transformer, or is not equivalent to our encoder.
    """
    stated = read_stated(file)
    table, given = _by_table(file, open_model(file))
    # A model that pools by the mean has its norm after the pooling, by another name.
    averaged = f"{table['norm'][0]}.weight" not in given
    arrays, depth = _by_our_names(file, table, given)
    dropped = _dropped(file, given)
    folded = {} if POSITIONS in arrays else {POSITIONS: "0, since the model has none"}
    relative, differences = complete(file, arrays, depth, stated, folded, averaged)
    arguments = sizes_of(file, arrays, depth, stated) | {"relative_positions": relative}
    notes = _assumed(file, arguments, stated, HUGGING_FACE_EPSILON if table is HUGGING_FACE else TIMM_EPSILON)
    notes += differences
    # In this order: fusing q, k and v needs all three biases, and BEiT has none for k.
    fill_biases(arrays, depth, folded)
    fuse(arrays, depth)
    fold_scales(arrays, depth, folded)
    grid, width = arguments.pop("grid"), arguments["width"]
    fold_positions(arrays, math.prod(grid), folded)
    fold_pixels(arrays, stated["pixels"], folded)
    # No file states that positions were calculated, as in MAE, so compare their values.
    fixed = width % 4 == 0 and np.array_equal(arrays[POSITIONS], sine_cosine_positions(*grid, width))
    arguments["positions"] = "sine_cosine" if fixed else "learned"
    head = OTHER if averaged or arguments["extra_tokens"] else read_head(stated, given, width)
    if isinstance(head, str):
        dropped |= {name: f"{why}, left out since {head}" for name, why in dropped.items() if why == OF_A_HEAD}
        head = None
    return ImportedEncoder(arguments, arrays, folded, dropped, notes, head)


def _by_table(file, given):
    """Find the table of names that a file uses, and remove the prefix of its names, such as "vit."."""
    for table in TABLES:
        cls_token, blocks = table[CLS][0], table["block_{}/norm_attention"]
        prefixes = [
            name.removesuffix(cls_token) for name in given if re.search(rf"(^|\.){re.escape(cls_token)}$", name)
        ]
        # One cls token exactly: with two, as in a model of text and images, it is not clear which is meant. Blocks may
        # lack the prefix, as in the files of ViTMSNForImageClassification.
        if len(prefixes) == 1 and any(
            f"{p}{block.format(0)}.weight" in given for block in blocks for p in (prefixes[0], "")
        ):
            arrays = {name.removeprefix(prefixes[0]): array for name, array in given.items()}
            # Without the prefix, two names could become one.
            if len(arrays) == len(given):
                return table, arrays
    raise ValueError(
        f"Expected one Vision Transformer with a cls token in {file}, by the names of Hugging Face or timm, received"
        f" {_some(sorted(given))}."
    )


def _by_our_names(file, table, given):
    """Move the arrays of an encoder out of `given`: by our names, shaped as in Keras; and the number of blocks."""
    blocks = table["block_{}/norm_attention"]
    # Blocks are counted up to the first whose norm is missing under all of its names.
    depth = next(i for i in range(len(given) + 1) if not any(f"{block.format(i)}.weight" in given for block in blocks))
    arrays = {}
    for ours, alternatives in table.items():
        for i in range(depth if "{}" in ours else 1):
            pairs = [names_of(ours.format(i + 1), theirs.format(i)) for theirs in alternatives]
            for name, their_name in next((p for p in pairs if any(theirs in given for _, theirs in p)), ()):
                if their_name in given:
                    # Popped, so that what remains is what belongs to no encoder.
                    arrays[name] = _as_keras(name, given.pop(their_name).read())
    if len(arrays) < WEIGHTS_OF_BLOCK * depth:  # do not build all blocks only to list what is missing
        raise ValueError(
            f"Expected the weights of {depth} blocks in {file}, received {len(arrays)} arrays; is the file whole?"
        )
    return arrays, depth


def _as_keras(name, array):
    """A kernel (in, out) as Keras has it, from (out, in); other arrays as they are."""
    return array.T if array.ndim == 2 and name.endswith("/kernel") else array


def _dropped(file, given):
    """Return {name: why} of the arrays that are not part of an encoder; ValueError if one is unknown."""
    dropped, unknown = {}, []
    for name in given:
        reasons = [why for pattern, why in DROPPED if re.match(pattern, name)]
        if reasons:
            dropped[name] = reasons[0]
        else:
            unknown.append(name)
    if any("relative_position" in name or "rel_pos" in name for name in unknown):
        raise ValueError(
            f"Expected absolute positions or BEiT's, received {file}, a model with other relative positions"
            f" ({_some(unknown, 1)}); choose another, such as a BeitModel, ViTModel or Dinov2Model."
        )
    if unknown:
        raise ValueError(
            f"Expected the weights of a plain Vision Transformer, received {file}, which also has {_some(unknown)}."
        )
    return dropped


def _assumed(file, arguments, stated, epsilon):
    """Fill in what no file states, and list these assumptions."""
    width, channels, notes = arguments["width"], arguments["image_shape"][-1], []
    # Shapes do not show the number of heads, which changes every answer.
    if "heads" not in stated and width not in HEADS:
        raise ValueError(
            f"Expected {CONFIG} beside the weights to state num_attention_heads, received none, and a width of {width},"
            f' which is no published size; write {CONFIG}, such as {{"num_attention_heads": 4}}, or copy it there.'
        )
    if "pixels" not in stated:
        stated["pixels"] = pixel_statistics(channels)
        mean, std = (" ".join(map(str, values)) for values in stated["pixels"])
        notes.append(
            f"pixels are normalised with mean {mean} and standard deviation {std}, since no {PREPROCESSOR} states them"
        )
    if any(value.shape not in ((), (channels,)) for value in stated["pixels"]):
        sizes = " and ".join(str(value.size) for value in stated["pixels"])
        raise ValueError(
            f"Expected image_mean and image_std of {channels} channels in {file.with_name(PREPROCESSOR)}, received"
            f" {sizes}."
        )
    for name, value in (("heads", HEADS.get(width)), ("epsilon", epsilon)):
        arguments[name] = stated.get(name, value)
        if name not in stated:
            notes.append(f"{name} {value}, since no {CONFIG} states it")
    return notes


def _some(names, count=4):
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
