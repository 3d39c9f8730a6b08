"""The memory that training an encoder takes, estimated from the shapes, and the memory that the machine has."""

import math
import os

# Measured as the peak of a process that trains, docs/speed.md has the table. The estimate is meant to be a little high.
START = {"torch": 0.6e9, "jax": 0.9e9, "tensorflow": 1.0e9}  # bytes: Python, the backend, and the images being read
VALUES = {"torch": 20, "jax": 38, "tensorflow": 27}  # kept for the gradient, for each token, block and unit of width
PIXELS = 9  # copies of a batch of images in float32: augmentation and patches
COPIES_OF_WEIGHTS = 5  # weights, gradient, two moments, a checkpoint being written, and what an update makes
CHUNK = 64e6  # bytes: what the words' head holds at once
# What the heads of detect.py and segment.py keep for the gradient on torch, for each pixel of a map at a stride of 4:
# numbers whatever the width, and for each unit of --head_width. Other backends keep more, as of the encoder.
HEADS = {
    "retinanet": (0, 10),
    "maskrcnn": (0, 20),
    "upernet": (0, 22),
    "deeplab": (11_000, 6),
    "segformer": (0, 14),
}
HEADS_START = {"torch": 0.7e9, "jax": 0.7e9, "tensorflow": 0.0}  # bytes: KerasCV, which imports TensorFlow
SHARE_OF_MEMORY = 0.8  # the rest is for what else the machine does
COPIES_OF_FEATURES = (4, 3)  # of the images that probe.py trains on, and of those that it evaluates on


def of_training(facts, values, share):
    """Estimate the bytes that a training step on `share` images takes on one device.

    Args:
        facts: see `auto.Facts`.
        values: {name: value} of the flags: method, size, image_size, patch_size, and those of the method. In place of
            size, encoder may hold its (width, depth, heads), and relative_positions whether it has them. evaluated is
            the number of images that are kept in memory. head and head_width are those of detect.py and segment.py.
        share: images that are computed at a time.
    """
    from keras_splitmask.baselines import dino
    from keras_splitmask.encoder import SIZES

    width, depth, heads = values.get("encoder") or SIZES.get(values.get("size"), SIZES["vit_base"])
    (height, width_of_image), patch = values["image_size"], values["patch_size"]
    patches = max(1, (height // patch) * (width_of_image // patch))
    words = values.get("vocabulary") or 0
    each = 2 if facts.half_precision else 4
    small = math.prod(side // patch for side in dino.local_size(values["image_size"], patch))
    passes = _passes(values, patches, small, width, depth)
    kept = sum(
        count * blocks * (VALUES[facts.backend] * tokens * size + 2 * heads * tokens**2) * each
        for count, tokens, blocks, size in passes
    )
    pixels = height * width_of_image * facts.channels
    if values["method"] == "dino":
        shown = 2 * pixels + (values.get("local_crops") or 0) * small * patch**2 * facts.channels
    else:
        shown = pixels * int(values.get("views") or 1)
    kept += 4 * shown * PIXELS
    if head := values.get("head"):
        fixed, per_unit = HEADS[head]
        cells = math.ceil(height / 4) * math.ceil(width_of_image / 4)
        numbers = (fixed + per_unit * values["head_width"]) * cells
        kept += each * numbers * VALUES[facts.backend] / VALUES["torch"]
    # A block has 12 D^2 weights, 4 in its attention and 8 in its MLP.
    weights = 12 * depth * width**2 + width * (words + patch**2 * facts.channels + patches)
    weights += _of_decoder(values, patches, patch**2 * facts.channels, width, depth)
    if values["method"] == "dino":
        head = dino.HIDDEN * (width + dino.HIDDEN + dino.BOTTLENECK) + dino.BOTTLENECK * (values.get("prototypes") or 0)
        weights = 2 * (weights + head)
        kept += (2 + (values.get("local_crops") or 0)) * (values.get("prototypes") or 0) * 4 * 4
    constant = 4 * weights * COPIES_OF_WEIGHTS + (CHUNK if words else 0)
    if values.get("relative_positions"):  # the biases of the attention and their gradients, once for all images
        constant += 3 * 4 * depth * heads * (1 + patches) ** 2
    if not facts.accelerator:
        constant += START[facts.backend] + pixels * values.get("evaluated", 0)
        constant += HEADS_START[facts.backend] if values.get("head") else 0
    return constant + share * kept


def _of_decoder(values, patches, patch_values, width, depth):
    """Count the weights beside the encoder: of the decoder, at least two blocks of its width, and the projector."""
    from keras_splitmask import projector

    if values["method"] == "mae":
        blocks, narrow = _mae_decoder(values, depth, width)
        return 12 * blocks * narrow**2 + narrow * (width + patches + patch_values)
    blocks = max(2, values.get("decoder_depth") or 0)
    return 12 * blocks * width**2 + width * patches + (values.get("projector") or 0) * (width + projector.OUTPUTS)


def _mae_decoder(values, depth, width):
    """MAE's decoder: (blocks, width)."""
    from keras_splitmask.baselines import mae

    blocks, narrow = mae.decoder_size(depth, width)
    return values.get("mae_decoder_depth") or blocks, values.get("mae_decoder_width") or narrow


def _passes(values, patches, small, width, depth):
    """List what goes through the encoder and the decoder for one image: [(count, tokens, blocks, width)].

    `patches` and `small` are the patches of an image and of DINO's small crops.
    """
    method = values["method"]
    if method == "splitmask":
        seen = math.floor(patches * (values.get("keep") or 0.5))
        predicted = math.ceil((patches - seen) * (values.get("predicted") or 1))
        decoder = 2 if values.get("decoder_depth") is None else values["decoder_depth"]
        return [(2, 1 + seen, depth, width), (2, 1 + seen + predicted, decoder, width)]
    if method == "mae":
        seen = 1 + round(patches * (1 - (values.get("mask_ratio") or 0.75)))
        blocks, narrow = _mae_decoder(values, depth, width)
        return [(1, seen, depth, width), (1, 1 + patches, blocks, narrow)]
    if method == "dino":  # the teacher keeps nothing for a gradient
        return [(2, 1 + patches, depth, width), (values.get("local_crops") or 0, 1 + small, depth, width)]
    # A frozen encoder keeps nothing for a gradient, but computes one block after the other.
    return [(1, 1 + patches, 1 if values.get("frozen") else depth, width)]


def of_probe(backend, encoder, image_shape, counts):
    """Estimate the bytes of the machine's memory that probe.py takes, with the features of all blocks.

    Args:
        backend: name of the Keras backend.
        encoder: its (width, depth, heads).
        image_shape: (height, width, channels).
        counts: numbers of images to train on and to evaluate on.

    Returns:
        The bytes for all images together, and those for one image to train on and one to evaluate on.
    """
    width, depth, _ = encoder
    each = [math.prod(image_shape) + copies * 8 * depth * width for copies in COPIES_OF_FEATURES]
    constant = START[backend] + 2 * 4 * 12 * depth * width**2
    return constant + sum(count * size for count, size in zip(counts, each, strict=True)), each


def fewer(at_hand, needed_bytes, counts, each):
    """List flags of probe.py, as {name: value}, with which it fits into memory; empty if it does.

    Args:
        at_hand: bytes of memory.
        needed_bytes, each: what `of_probe` returns.
        counts: numbers of images to train on and to evaluate on.
    """
    room = SHARE_OF_MEMORY * at_hand
    if needed_bytes <= room:
        return {}
    sizes = [count * size for count, size in zip(counts, each, strict=True)]
    room = max(0, room - (needed_bytes - sum(sizes)))  # for images
    evaluated = min(counts[1], int(max(room / 2, room - sizes[0]) / each[1]))
    trained = min(counts[0], int((room - evaluated * each[1]) / each[0]))
    limits = {"train_limit": trained, "test_limit": evaluated}
    return {name: max(1, limit) for (name, limit), count in zip(limits.items(), counts, strict=True) if limit < count}


def at_hand():
    """Bytes of the machine's memory that this process has or can get."""
    from keras_splitmask.data.free_memory import free_memory

    try:
        with open("/proc/self/statm") as file:
            own = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        own = 0
    return free_memory() + own
