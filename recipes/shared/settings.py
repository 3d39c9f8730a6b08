"""pretrain.py's `auto` flags: filled in from the images and the machine, said on the screen, and held to a time."""

import itertools
import math
import os

from absl import flags

from recipes.shared import auto, commandline, image_sets, memory, methods, presets, screen, time_limit

FLAGS = flags.FLAGS
# Flags whose default is auto, in the lines in which they are said. A run that resumes takes them from its run.flags.
LINES = (
    ("image_size", "patch_size"),
    ("size",),
    ("tokenizer", "vocabulary"),
    ("preset", "views", "keep", "split", "augmentation"),
    ("decoder_depth", "predicted", "projector", "temperature"),
    ("batch_size", "accumulate", "learning_rate"),
    ("steps",),
    ("prototypes", "teacher_momentum"),
)
AUTO = tuple(name for line in LINES for name in line)
OF_METHODS = ("mask_ratio", "local_crops", "mae_decoder_depth", "mae_decoder_width")


def settle_flags():
    """Complete the flags before the images are known: see `methods.settle_flags`. Check --time."""
    methods.settle_flags()
    time_limit.check()


def settle(source, devices, resumed=False):
    """Fill in the flags that are `auto`, say what was chosen, and refuse what does not fit into memory.

    Args:
        source: the images.
        devices: the `Devices` of the run.
        resumed: whether the run resumes; it did fit, and so is not refused.

    Raises:
        BadInput: if training would take more memory than there is.
    """
    if FLAGS.time and devices.hosts > 1:
        raise commandline.BadInput(
            f"Expected --time on one host, received {devices.hosts} hosts, which would time steps differently; give"
            " --steps instead."
        )
    if resumed and FLAGS.method == "splitmask":
        FLAGS.preset = FLAGS.preset or "paper"  # of a run that began before there were presets
    facts = facts_of(source, devices)
    given = {name: FLAGS[name].value for name in AUTO if name != "learning_rate" and methods.reads(name)}
    given |= {"image_size": image_sets.image_size(), "method": FLAGS.method, "epochs": FLAGS.epochs}
    given |= {name: FLAGS[name].value for name in OF_METHODS}
    if not methods.chosen().trains or FLAGS.epochs is not None or FLAGS.time:
        given.pop("steps")
    if FLAGS.init_from and methods.chosen().trains and None in (given["size"], given["patch_size"]):
        given |= _of_encoder(given)
    if FLAGS.tokenizer == "dalle":
        given["vocabulary"] = given["vocabulary"] or 8192
    made = auto.plan(facts, given)
    _check_images(facts, made)
    for name in AUTO:
        if made.values.get(name) is not None and FLAGS[name].value is None:
            FLAGS[name].value = text_of(made.values[name]) if name == "image_size" else made.values[name]
    reasons = dict(made.reasons)
    if "steps" in reasons:
        FLAGS.steps = time_limit.executions(FLAGS.steps)
    if methods.chosen().trains and FLAGS.learning_rate is None:
        FLAGS.learning_rate = methods.learning_rate()
        least = FLAGS.learning_rate == presets.LEARNING_RATES.get(FLAGS.preset)
        of_preset = f"of --preset={FLAGS.preset}, for small batches"
        reasons["learning_rate"] = of_preset if least else f"for batches of {FLAGS.batch_size}"
    say(reasons)
    if not resumed:
        check_memory(facts, made)


def facts_of(source, devices):
    """The facts that the choices depend on."""
    return facts_for(len(source), (*source.typical_size, source.image_shape[-1]), devices)


def facts_for(images, image_shape, devices):
    """The facts for a number of images of (height, width, channels)."""
    import keras

    from keras_splitmask.backend.devices import accelerator, accelerator_memory

    height, width, channels = image_shape
    found = accelerator_memory() if accelerator() else memory.at_hand()
    return auto.Facts(
        images=images,
        height=height,
        width=width,
        channels=channels,
        backend=keras.backend.backend(),
        accelerator=accelerator(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=found if devices.hosts == 1 else math.inf,  # hosts that differ in it would divide a batch differently
        replicas=devices.replicas,
        half_precision=FLAGS.precision != "float32",
    )


def say(reasons):
    """Print what was chosen, in a line for each subject. Each reason follows the flags that it is about."""
    for names in LINES:
        chosen = [name for name in names if name in reasons]
        parts = [f"{' '.join(map(_written, group))} ({why})" for why, group in itertools.groupby(chosen, reasons.get)]
        if parts:
            print(f"chosen    {', '.join(parts)}", flush=True)


def _written(name):
    """Write a flag as one types it."""
    value = FLAGS[name].value
    return f"--{name}={value:g}" if isinstance(value, float) else f"--{name}={value}"


def _check_images(facts, made):
    """Refuse one image alone, which could be compared with no other, and images so small that all of one is a single
    patch, unless --batch_size or --image_size was given."""
    if (
        facts.images < 2
        and "batch_size" in made.reasons
        and made.values["method"] == "splitmask"
        and FLAGS.match_weight
    ):
        raise commandline.BadInput("Expected at least two images, which are compared, received one; add images.")
    patch = made.values["patch_size"]
    if "image_size" in made.reasons and made.values["image_size"] == (patch, patch):
        remedy = "Enlarge them with --image_size=32." if "patch_size" in made.reasons else "Make --patch_size smaller."
        raise commandline.BadInput(
            f"Expected images of several patches, received images of {facts.height}x{facts.width} pixels, which are"
            f" one patch of {patch}x{patch} each. {remedy}"
        )


def _of_encoder(given):
    """The size and the patch size of --init_from, where they are not given."""
    import keras_splitmask as ks

    encoder = ks.interchange.load_encoder(FLAGS.init_from)
    shape = (encoder.width, encoder.depth, encoder.heads)
    size = next((name for name, known in ks.SIZES.items() if known == shape), None)
    return {"size": given["size"] or size, "patch_size": given["patch_size"] or encoder.patch_size}


def check_memory(facts, made):
    """Print the memory that a run needs, and refuse what does not fit, with flags that do.

    Raises:
        BadInput: see above.
    """
    needed, there = made.memory / 1e9, facts.memory / 1e9
    at_hand = f"of {there:.1f} GB at hand" if math.isfinite(there) else "; how much there is, the backend does not say"
    print(f"memory    about {needed:.1f} GB {at_hand}", flush=True)
    if auto.fits(facts, made):
        return
    if changes := auto.smaller(facts, made):
        remedy = f"Add {' '.join(f'--{name}={value}' for name, value in changes.items())}."
    else:
        remedy = "Make the images smaller with --image_size, or close other programs."
    raise commandline.BadInput(
        f"Expected training to fit into {memory.SHARE_OF_MEMORY:.0%} of the {there:.1f} GB of memory at hand, which"
        f" would take about {needed:.1f} GB. {remedy}"
    )


def steps_in(seconds, of_a_step):
    """The steps that fit into a time. Says so if they are too few to teach anything, or to pay."""
    from keras_splitmask.data.counting import counted
    from keras_splitmask.evaluation.verdict import FEW_STEPS, PAYING_STEPS

    steps = time_limit.steps_in(seconds, of_a_step)
    if steps < PAYING_STEPS:
        least = screen.in_words(PAYING_STEPS * of_a_step / time_limit.USED)
        few = f"Fewer than {FEW_STEPS:,} often teach little"
        if steps >= FEW_STEPS:
            few = f"Fewer than {PAYING_STEPS:,} may gain less than training on the labels for that time"
        print(
            f"warning   {screen.in_words(seconds)} is enough for {counted(steps, 'step')}. {few}: allow {least} for"
            f" {PAYING_STEPS:,}, or choose smaller images or a smaller encoder.",
            flush=True,
        )
    return steps


def text_of(size):
    """Write (height, width) as --image_size takes it."""
    height, width = size
    return str(height) if height == width else f"{height}x{width}"
