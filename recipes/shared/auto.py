"""The `auto` values of pretrain.py's flags: what the images and the machine suggest, and why.

`plan` is a pure function of the facts and of the flags that were given. `TABLE` holds its numbers. The paper's values
are in flags/paper.
"""

import dataclasses
import math

from recipes.shared import memory

# By kind of machine. The sizes of a CPU let a run of some thousand steps end within an hour or two.
TABLE = {
    #                    CPU, accelerator
    "longest_side": (112, 224),  # pixels
    "patches_per_side": (8, 14),
    "batch_size": (64, 256),
    "steps": (3_000, 20_000),  # at least
    "epochs": (0, 100),  # at least
}
ENCODER = {"few cores": "vit_micro", "many cores": "vit_tiny", "accelerator": "vit_small"}
MANY_CORES = 16
SMALLEST_PATCH = 4  # pixels; a smaller one has too few values for a word
MANY_IMAGES = 100_000  # from here on the paper's vocabulary and DINO's prototypes
WORDS = (512, 8192)
PATCHES_PER_WORD = 8  # at least, in all images together
PROTOTYPES = (4096, 65536)
FEW_IMAGES = 10_000  # below, the paper keeps 0.25 of 196 patches
SHARE_OF_MEMORY = 0.8  # the rest is for what else the machine does


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the defaults depend on.

    Attributes:
        images: number of images.
        height, width: typical size of an image in pixels: of arrays the size of all, of files the median short side.
        channels: C of the images.
        backend: name of the Keras backend.
        accelerator: whether the run computes on a GPU or TPU.
        cores: number of CPU cores.
        memory: bytes at hand for training: of the accelerator, or of the machine.
        replicas: number of devices that share a batch.
        half_precision: whether activations take two bytes.
    """

    images: int
    height: int
    width: int
    channels: int
    backend: str
    accelerator: bool
    cores: int
    memory: float
    replicas: int = 1
    half_precision: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """The values of flags by name, the reason of each that was chosen here, and the bytes that training will take."""

    values: dict
    reasons: dict
    memory: float


def plan(facts, given):
    """Choose a value for each flag in `given` that is None.

    Args:
        facts: `Facts`.
        given: {name: value} of the flags that the method reads, with `method`; None stands for auto. image_size is
            (height, width) or None.

    Returns:
        `Plan`. It may need more memory than there is; see `fits`.
    """
    values, reasons = dict(given), {}

    def choose(name, value, reason):
        if name in given and given[name] is None:
            values[name], reasons[name] = value, reason

    device = int(facts.accelerator)
    of_device = "for a GPU or TPU" if facts.accelerator else f"for {facts.cores} CPU core{'s' * (facts.cores > 1)}"
    kind = "accelerator" if facts.accelerator else "many cores" if facts.cores >= MANY_CORES else "few cores"
    choose("size", ENCODER[kind], of_device)
    _choose_image(facts, values, choose, device)
    height, width = values["image_size"]
    patches = (height // values["patch_size"]) * (width // values["patch_size"])
    few, many = f"for fewer than {MANY_IMAGES:,} images", f"for {MANY_IMAGES:,} images or more"
    some = facts.images >= MANY_IMAGES
    choose("tokenizer", "kmeans", "uses its words most evenly")
    choose(
        "vocabulary", min(WORDS[some], _power_of_two(facts.images * patches / PATCHES_PER_WORD)), many if some else few
    )
    choose("prototypes", PROTOTYPES[some], many if some else few)
    scarce = facts.images < FEW_IMAGES and patches >= 14 * 14
    choose(
        "keep",
        0.25 if scarce else 0.5,
        f"the paper's for fewer than {FEW_IMAGES:,} images" if scarce else "the paper's",
    )
    tiny = min(facts.height, facts.width) < 32
    choose(
        "augmentation", "flip" if tiny else "crop_flip", "crops of tiny images show little" if tiny else "the paper's"
    )
    largest = TABLE["batch_size"][device] * max(1, facts.replicas)
    batch = max(facts.replicas, min(largest, _power_of_two(facts.images) // facts.replicas * facts.replicas))
    choose("batch_size", batch, of_device if batch == largest else f"for {facts.images} images")
    _choose_steps(facts, values, choose, device, of_device)
    slow = values.get("steps", 0) >= 100_000 and values["batch_size"] <= 256
    choose("teacher_momentum", 0.9995 if slow else 0.996, "for long runs with small batches" if slow else "DINO's")
    parts = values.get("accumulate")
    if parts is None:
        parts = _parts(facts, values)
        choose("accumulate", parts, "to fit into memory" if parts > 1 else "the batch fits into memory")
    return Plan(values, reasons, needed(facts, {**values, "accumulate": parts}))


def needed(facts, values):
    """Estimate the bytes that training with these values takes, of one device."""
    share = math.ceil(values["batch_size"] / (facts.replicas * (values.get("accumulate") or 1)))
    return memory.of_training(facts, values, share)


def fits(facts, made):
    return made.memory <= SHARE_OF_MEMORY * facts.memory


def smaller(facts, made):
    """List flags, as {name: value}, with which a run fits into memory that does not; empty if none was found."""
    batch = made.values["batch_size"]
    for size in (made.values["size"], "vit_small", "vit_tiny", "vit_micro"):
        for part in range(int(math.log2(max(1, batch // facts.replicas))) + 1):
            tried = {**made.values, "size": size, "accumulate": 2**part}
            if batch % (facts.replicas * 2**part) == 0 and needed(facts, tried) <= SHARE_OF_MEMORY * facts.memory:
                return {name: tried[name] for name in ("size", "accumulate") if tried[name] != made.values.get(name)}
    return {}


def _choose_image(facts, values, choose, device):
    """The image size, and the patch size that divides it into about as many patches as the machine has time for."""
    longest, per_side = TABLE["longest_side"][device], TABLE["patches_per_side"][device]
    height, width = values["image_size"] or (facts.height, facts.width)
    shrunk = values["image_size"] is None and max(height, width) > longest
    if shrunk:
        height, width = (max(1, round(side * longest / max(height, width))) for side in (height, width))
    if values["patch_size"] is None:
        choose("patch_size", _patch(height, width, per_side), f"about {per_side} x {per_side} patches")
    patch = values["patch_size"]
    if values["image_size"] is None:
        whole = tuple(max(patch, side // patch * patch) for side in (height, width))
        own = whole == (facts.height, facts.width)
        choose(
            "image_size",
            whole,
            "the size of the images" if own else "what the machine has time for" if shrunk else "whole patches",
        )


def _patch(height, width, per_side):
    """The side of a patch: about as many as asked for, even where possible, a divisor of both sides if one is near."""
    wanted = max(SMALLEST_PATCH, math.sqrt(height * width) / per_side)
    common = math.gcd(height, width)
    near = [side for side in range(1, common + 1) if common % side == 0 and wanted / 1.5 <= side <= wanted * 1.5]
    if near:
        return min(near, key=lambda side: (side < SMALLEST_PATCH, side % 2, abs(math.log(side / wanted))))
    return min(height, width, max(SMALLEST_PATCH, 2 * round(wanted / 2)))


def _choose_steps(facts, values, choose, device, of_device):
    if values.get("epochs") is not None:
        return
    least, epochs = TABLE["steps"][device], TABLE["epochs"][device]
    by_epochs = round(epochs * facts.images / values["batch_size"])
    choose(
        "steps",
        max(least, by_epochs),
        f"{epochs} epochs" if by_epochs > least else f"the fewest that teach enough, {of_device}",
    )


def _parts(facts, values):
    """The smallest number of micro-batches, a power of two, with which a batch fits into memory; or the largest."""
    parts, share = 1, values["batch_size"] // facts.replicas
    while share % (2 * parts) == 0 and needed(facts, {**values, "accumulate": parts}) > SHARE_OF_MEMORY * facts.memory:
        parts *= 2
    return parts


def _power_of_two(number):
    """The largest power of two up to a number, and at least 1."""
    return 2 ** int(math.log2(max(1, number)))
