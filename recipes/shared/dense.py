"""Flags, encoder, optimizer and training of detect.py and segment.py, with evaluation during the run."""

import math

from absl import flags

from recipes.shared import (
    auto,
    commandline,
    common_flags,
    encoders,
    fitting,
    image_sets,
    settings,
    trouble,
    value_range,
)

# These change the result.

# Encoder.
common_flags.encoder()
flags.DEFINE_integer(
    "patch_size", None, lower_bound=1, help="Side of a patch in pixels, a power of two. Default: that of --init_from."
)
flags.DEFINE_string(
    "image_size",
    None,
    "Size in pixels of what the model sees at once: 512, or 384x512 (height x width). Raise it for small"
    " objects. Default: that of --init_from.",
)
flags.DEFINE_integer(
    "channels",
    None,
    lower_bound=1,
    help="Convert images to 1 (grey) or 3 (colour) channels. Default: as --init_from has, else 3.",
)
flags.DEFINE_enum(
    "neck",
    "blocks",
    ["blocks", "simple"],
    "Feature levels: blocks takes them from four blocks (XCiT, BEiT), simple all from the last block (ViTDet).",
)
flags.DEFINE_enum(
    "positions",
    None,
    ["learned", "sine_cosine"],
    "Position embeddings: learned, or fixed sines and cosines. Default: those of --init_from, resampled to"
    " --image_size; from scratch sine_cosine for detect, learned for segment.",
)
common_flags.drop_path()

# Optimization.
flags.DEFINE_integer("batch_size", 16, lower_bound=1, help="Images per step.")
flags.DEFINE_float("epochs", 36, lower_bound=0, help="Passes over the data. Small data sets need hundreds.")
flags.DEFINE_integer("steps", None, lower_bound=1, help="Optimizer steps. Default: as --epochs says.")
flags.DEFINE_float("learning_rate", 5e-4, lower_bound=0, help="Peak learning rate; 1e-4 for the paper's detectors.")
flags.DEFINE_float("min_learning_rate", 0.0, "Final learning rate.")
flags.DEFINE_enum(
    "schedule",
    "cosine",
    ["cosine", "linear", "steps"],
    "How the learning rate falls. steps divides it by ten after 27/36 of the run, and again after 33/36.",
)
common_flags.warmup_and_weight_decay(0.03)
flags.DEFINE_float("clip_norm", 3.0, lower_bound=0, help="Clip gradients to this norm. 0 disables clipping.")
common_flags.layer_decay()
flags.DEFINE_list(
    "scale",
    None,
    "Smallest and largest factor of random resizing, such as 0.5,1.5. At 1 the image just fits into"
    " --image_size. Default: 0.5,1.5 for detection, 0.5,2.0 for segmentation.",
)
common_flags.fraction(
    "colour_jitter", 0.0, "Strength of random changes of brightness, contrast and saturation. 0 for none."
)
flags.DEFINE_integer(
    "accumulate",
    1,
    lower_bound=1,
    help="Gradient accumulation: split each batch into this many micro-batches to save memory.",
)
common_flags.seed_and_jit()

# These do not change the trained weights.
flags.DEFINE_string("data_dir", None, "Folder where tfds stores its data.")
flags.DEFINE_enum(
    "judge", None, ["val", "test", "train"], "Split to evaluate on. Default: val, or test if val is missing."
)
flags.DEFINE_integer(
    "judge_every",
    None,
    lower_bound=1,
    help="Steps between evaluations during training, a multiple of --log_every. Default: about a fifth of the run.",
)
flags.DEFINE_integer(
    "judge_limit",
    None,
    lower_bound=1,
    help="Evaluate on this many images during training; at the end all are used. Default: all.",
)
flags.DEFINE_integer("pictures", 6, lower_bound=0, help="Images in the picture at the end. 0 for no picture.")
common_flags.log_every()
common_flags.save_every()
common_flags.fraction(
    "max_bad_fraction",
    0.5,
    "Largest fraction of a split's annotated images that may be unusable. Each one is listed in data.json.",
)
flags.DEFINE_integer("workers", 2, "Threads that read images. Raise it if the log says that training waits for data.")
FLAGS = flags.FLAGS
VAL_FRACTION = 0.2  # of a data set that is not divided
FREE = {"judge", "judge_every", "judge_limit"}  # a run may resume with other values of these
AUTO = ("log_every",)  # a run that resumes takes it from its run.flags


def open_sets(open_set):
    """Open the split to train on and the split to evaluate on.

    `open_set` is `data.open_detection` or `data.open_segmentation`.
    """
    from keras_splitmask import data

    options = {
        "data_dir": FLAGS.data_dir,
        "report": image_sets.say,
        "max_bad_fraction": FLAGS.max_bad_fraction,
    }
    options["value_range"] = value_range.given()
    # A set that is not divided: with --judge=train, all of it is trained on.
    options["val_fraction"] = None if FLAGS.judge == "train" else VAL_FRACTION
    channels = FLAGS.channels or 3
    source = open_set(FLAGS.dataset, "train", channels=channels, **options)
    image_sets.say(f"{FLAGS.dataset}: {source.summary()}")
    splits = [FLAGS.judge] if FLAGS.judge else ["val", "test"]
    for split in splits:
        try:
            judged = open_set(FLAGS.dataset, split, channels=channels, classes=source, **options)
            break
        except data.NoSuchSplit:
            if split == splits[-1]:
                raise
    image_sets.say(f"{split}: {judged.summary()}")
    return source, judged


def build_encoder(positions):
    """Build the encoder of the flags, and print what is new or resized. `positions` are those from scratch, unless the
    flag names others."""
    encoder = encoders.load_encoder(**({"positions": FLAGS.positions} if FLAGS.positions else {}))
    if encoder is None:
        commandline.require("image_size")
        shape = (*image_sets.image_size(), FLAGS.channels or 3)
        encoder = encoders.fresh_encoder(shape, positions=FLAGS.positions or positions)
    if FLAGS.channels is None and encoder.image_shape[-1] != 3:
        FLAGS.channels = encoder.image_shape[-1]
    return encoder


def check_memory(encoder, devices, run, images):
    """Print the memory that training on a number of images takes, and refuse what does not fit, with flags that do."""
    if run.resumed:  # it did fit
        return
    values = {name: FLAGS[name].value for name in ("batch_size", "accumulate", "head", "head_width")}
    values |= {"method": "labels", "image_size": encoder.image_shape[:2], "patch_size": encoder.patch_size}
    if FLAGS.init_from:
        values["encoder"] = (encoder.width, encoder.depth, encoder.heads)
        values["relative_positions"] = encoder.relative_positions
    else:
        values["size"] = FLAGS.size
    facts = settings.facts_for(images, encoder.image_shape, devices)
    settings.check_memory(facts, auto.Plan(values, {}, auto.needed(facts, values)))


def scale(default):
    """Return the smallest and the largest factor of --scale."""
    try:
        low, high = map(float, FLAGS.scale or default)
    except ValueError:
        raise commandline.BadInput(
            f"Expected --scale as two numbers, such as 0.5,1.5, received {','.join(FLAGS.scale)}."
        ) from None
    return low, high


def colours():
    """Make the augmentation of --colour_jitter, or None."""
    from keras_splitmask.augment import Augment

    strength = FLAGS.colour_jitter
    return Augment(jitter=(strength, strength, strength, 0.0), seed=FLAGS.seed) if strength else None


def compile_model(model, steps):
    options = {"clip_norm": FLAGS.clip_norm or None, "schedule": FLAGS.schedule}
    optimizer = fitting.adamw(steps, model.encoder.depth, **options)
    model.compile(optimizer, jit_compile=fitting.jit())


def predict(model, images):
    """Predict for any number of images, in batches of one size. Returns an array or a dictionary of arrays."""
    import keras
    import numpy as np

    missing = -len(images) % FLAGS.batch_size
    padded = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
    outputs = model.predict(padded, batch_size=FLAGS.batch_size, verbose=0)
    return keras.tree.map_structure(lambda x: x[: len(images)], outputs)


def count_steps(source):
    return FLAGS.steps or max(1, math.ceil(FLAGS.epochs * len(source) / FLAGS.batch_size))


def largest_divisor(number, most):
    """Return the largest divisor of a number that is at most `most`."""
    return next(divisor for divisor in range(most, 0, -1) if number % divisor == 0)


def train(devices, run, model, source, judged, batches, judge, finish):
    """Train the model on `batches(start)` of a source, evaluating it on `judged` during and after training.

    `judge(model, judged, limit)` returns a dictionary of metrics for the log. `finish(model, judged, run, values)`
    takes the metrics over all images, and returns those for result.json.
    """
    from keras_splitmask.data.counting import counted

    steps = count_steps(source)
    # Measures are taken where a line is logged.
    if FLAGS.judge_every and not FLAGS.log_every:
        FLAGS.log_every = largest_divisor(FLAGS.judge_every, fitting.interval(steps))
    FLAGS.log_every = fitting.interval(steps)
    every = FLAGS.judge_every or max(1, steps // 5 // FLAGS.log_every) * FLAGS.log_every
    compile_model(model, steps)
    weights = (
        f"{model.count_params() / 1e6:.1f} M weights, encoder"
        f" {'from ' + FLAGS.init_from if FLAGS.init_from else 'from scratch'}"
    )
    classes = counted(len(source.classes), "class")
    print(f"{counted(len(source), 'image')} of {classes}, {weights}, {counted(steps, 'step')}", flush=True)
    checkpoints = run.checkpoints(model, every=FLAGS.save_every, devices=devices, advice=trouble.advice())
    run.start(source)
    image_sets.save_record(source, judged)
    measures = [
        lambda step: judge(model, judged, FLAGS.judge_limit) if step and step < steps and step % every == 0 else {}
    ]
    log = trouble.log(run, model, source, batches, steps, checkpoints, measures)
    fitting.fit(model, batches, steps, log, checkpoints)
    with checkpoints.finishing():
        values = finish(model, judged, run, judge(model, judged))
        image_sets.save_record(source, judged)  # again, with files that broke during the run
        run.write_json("result.json", {**values, "steps": steps, "seed": FLAGS.seed, "classes": source.classes})
        run.write_report()
        run.save_model(model)
        run.show_files()
