"""The `auto` values of the flags of pretrain.py and finetune.py: what the images and the machine suggest, and why.

`plan` and `plan_labelled` are pure functions of the facts and of the flags that were given. `TABLE` holds their
numbers. The paper's values are in flags/paper.
"""

import dataclasses
import math

from recipes.shared import memory, presets

# By kind of machine. The sizes of a CPU let a run of some thousand steps end within an hour or two.
TABLE = {
    #                    CPU, accelerator
    "longest_side": (112, 224),  # pixels
    "patches_per_side": (8, 14),
    "batch_size": (64, 256),
    "steps": (3_000, 20_000),  # at least
    "epochs": (0, 100),  # at least
    # Of finetune.py, from a pre-trained encoder as from scratch.
    "labelled_batch_size": (64, 128),  # at most
    "labelled_steps": (3_000, 20_000),  # at most
}
LABELLED_EPOCHS = 100
LABELLED_STEPS = 500  # at least
LABELLED_BATCH = 16  # at least, if there are as many images
BATCHES_PER_EPOCH = 8  # of finetune.py, at least, unless the batch would be smaller than that
ENCODER = {"few cores": "vit_micro", "many cores": "vit_tiny", "accelerator": "vit_small"}
MANY_CORES = 16
SMALLEST_PATCH = 4  # pixels; a smaller one has too few values for a word
MANY_IMAGES = 100_000  # from here on the paper's vocabulary and DINO's prototypes
WORDS = (512, 8192)
PATCHES_PER_WORD = 8  # at least, in all images together
PROTOTYPES = (4096, 65536)
FEW_IMAGES = 10_000  # below, the paper keeps 0.25 of 196 patches
# What a flag without a limit usually is at most, for runs that do not fit into memory.
USUAL = {"decoder_depth": 2, "projector": 256, "vocabulary": 8192, "prototypes": 65536, "local_crops": 8}
USUAL |= {"mae_decoder_depth": 8, "mae_decoder_width": 512}


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
    values, reasons, choose = _begun(given)
    device = int(facts.accelerator)
    of_device = _of_device(facts)
    choose("size", ENCODER[_kind(facts)], of_device)
    _choose_image(facts, values, choose, device)
    height, width = values["image_size"]
    patches = (height // values["patch_size"]) * (width // values["patch_size"])
    few, many = f"for fewer than {MANY_IMAGES:,} images", f"for {MANY_IMAGES:,} images or more"
    some = facts.images >= MANY_IMAGES
    choose("tokenizer", "kmeans", "uses its words most evenly")
    words = max(2, _power_of_two(facts.images * patches / PATCHES_PER_WORD))  # one word would say nothing
    of_words = f"at least {PATCHES_PER_WORD} patches for each word" if words < WORDS[some] else many if some else few
    choose("vocabulary", min(WORDS[some], words), of_words)
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
    _choose_preset(facts, values, choose, patches)
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


def _choose_preset(facts, values, choose, patches):
    """SplitMask as in the paper, or the preset for small budgets, whose values take the place of the paper's."""
    choose("preset", *(("paper", "for a GPU or TPU") if facts.accelerator else ("small", "for CPUs")))
    choose("split", "block", "BEiT's")
    if preset := values.get("preset"):
        for name, value in presets.values_of(preset, values["image_size"], patches).items():
            choose(name, value, f"of --preset={preset}")


def plan_labelled(facts, given):
    """Choose a value for each flag of finetune.py in `given` that is None.

    Args:
        facts: `Facts`. Its images are those to train on.
        given: {name: value}, where None stands for auto: batch_size; steps, unless epochs are given; and size,
            image_size and patch_size. A pre-trained encoder has no size, but encoder, its (width, depth, heads), and
            the other two are its own. frozen and evaluated are those of `memory.of_training`.

    Returns:
        `Plan`. It may need more memory than there is; see `fits`.
    """
    values, reasons, choose = _begun({"method": "finetune", **given})
    device = int(facts.accelerator)
    of_device = _of_device(facts)
    choose("size", ENCODER[_kind(facts)], of_device)
    _choose_image(facts, values, choose, device)
    _choose_labelled_batch(facts, values, choose, device, of_device)
    by_epochs = round(LABELLED_EPOCHS * facts.images / values["batch_size"])
    most = TABLE["labelled_steps"][device]
    if by_epochs > most:
        choose("steps", most, f"what the machine has time for, {of_device}")
    else:
        few = by_epochs < LABELLED_STEPS
        choose(
            "steps",
            max(LABELLED_STEPS, by_epochs),
            "the fewest that teach enough" if few else f"{LABELLED_EPOCHS} epochs",
        )
    return Plan(values, reasons, needed(facts, values))


def _begun(given):
    """Begin a plan: the values so far, their reasons, and a function that gives a value to a flag which has none."""
    values, reasons = dict(given), {}

    def choose(name, value, reason):
        if name in given and given[name] is None:
            values[name], reasons[name] = value, reason

    return values, reasons, choose


def _choose_labelled_batch(facts, values, choose, device, of_device):
    """A batch of finetune.py: several in an epoch, none larger than the set, and half as large until it fits."""
    largest = TABLE["labelled_batch_size"][device]
    batch = min(largest, max(LABELLED_BATCH, _power_of_two(facts.images / BATCHES_PER_EPOCH)))
    batch = min(batch * max(1, facts.replicas), facts.images)
    batch = max(facts.replicas, batch // facts.replicas * facts.replicas)
    reason = of_device if batch == largest * facts.replicas else f"for {facts.images} images"
    fitting = batch
    while fitting % (2 * facts.replicas) == 0 and not _fits(facts, {**values, "batch_size": fitting}):
        fitting //= 2
    choose("batch_size", fitting, reason if fitting == batch else "to fit into memory")


def needed(facts, values):
    """Estimate the bytes that training with these values takes, of one device."""
    share = math.ceil(values["batch_size"] / (facts.replicas * (values.get("accumulate") or 1)))
    return memory.of_training(facts, values, share)


def fits(facts, made):
    return made.memory <= memory.SHARE_OF_MEMORY * facts.memory


def smaller(facts, made):
    """List flags, as {name: value}, with which a run fits into memory that does not; empty if none was found.

    A batch is computed in parts, or for finetune.py, which takes no parts, it is smaller. A pre-trained encoder stays.
    If that is not enough, what has no limit is made as small as it usually is.
    """
    usual = {name: most for name, most in USUAL.items() if (made.values.get(name) or 0) > most}
    for changes in ({}, usual) if usual else ({},):
        if found := _fitting(facts, {**made.values, **changes}):
            return {name: value for name, value in found.items() if value != made.values.get(name)}
    return {}


def _fitting(facts, values):
    """Find a size of the encoder and parts of a batch that fit into memory; the values, or {} if there are none."""
    batch = values["batch_size"]
    for size in (values["size"], "vit_small", "vit_tiny", "vit_micro") if "size" in values else (None,):
        for part in range(int(math.log2(max(1, batch // facts.replicas))) + 1):
            changes = {"size": size} if size else {}
            changes |= {"accumulate": 2**part} if "accumulate" in values else {"batch_size": batch >> part}
            if batch % (facts.replicas << part) == 0 and _fits(facts, {**values, **changes}):
                return {**values, **changes}
    return {}


def _fits(facts, values):
    return needed(facts, values) <= memory.SHARE_OF_MEMORY * facts.memory


def _kind(facts):
    return "accelerator" if facts.accelerator else "many cores" if facts.cores >= MANY_CORES else "few cores"


def _of_device(facts):
    return "for a GPU or TPU" if facts.accelerator else f"for {facts.cores} CPU core{'s' * (facts.cores > 1)}"


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
    reason = f"the fewest that teach enough, {of_device}"
    preset = values.get("preset")
    if presets.STEPS.get(preset, 0) > least:
        least, reason = presets.STEPS[preset], f"of --preset={preset}"
    by_epochs = round(epochs * facts.images / values["batch_size"])
    choose("steps", max(least, by_epochs), f"{epochs} epochs" if by_epochs > least else reason)


def _parts(facts, values):
    """The smallest number of micro-batches, a power of two, with which a batch fits into memory; or the largest."""
    parts, share = 1, values["batch_size"] // facts.replicas
    while share % (2 * parts) == 0 and not _fits(facts, {**values, "accumulate": parts}):
        parts *= 2
    return parts


def _power_of_two(number):
    """The largest power of two up to a number, and at least 1."""
    return 2 ** int(math.log2(max(1, number)))
