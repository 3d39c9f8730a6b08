"""What detect.py and segment.py share: flags, the encoder, the optimizer, and a run that is judged while it goes on."""

import math

from absl import flags

from recipes.shared import commandline, encoders, fitting, image_sets, trouble, value_range

# These change the result.
flags.DEFINE_string(
    "init_from",
    None,
    "Run folder, .keras file, or .safetensors file or folder of Hugging Face or timm, of a pre-trained encoder; left"
    " out, from scratch.",
)
flags.DEFINE_string("size", None, "Encoder when from scratch: vit_micro, vit_tiny, vit_small, vit_base or vit_large.")
flags.DEFINE_integer(
    "patch_size", None, lower_bound=1, help="Side of a patch in pixels, a power of two; left out, that of --init_from."
)
flags.DEFINE_string(
    "image_size",
    None,
    "Pixels, as 512 or 384x512 (height x width), of what the model sees at once; left out, those of --init_from. Small"
    " objects want more.",
)
flags.DEFINE_integer(
    "channels",
    None,
    lower_bound=1,
    help="Convert images to 1 (grey) or 3 (colour) channels; left out, those of --init_from, or 3.",
)
flags.DEFINE_enum(
    "neck", "blocks", ["blocks", "simple"], "Levels from four blocks (XCiT, BEiT), or all from the last (ViTDet)."
)
flags.DEFINE_float("drop_path", 0.1, "Stochastic depth of the last block.")
flags.DEFINE_integer("batch_size", 16, lower_bound=1, help="Images per step.")
flags.DEFINE_float("epochs", 36, lower_bound=0, help="Times that each image is seen. Small sets want hundreds.")
flags.DEFINE_integer("steps", None, lower_bound=1, help="Optimizer steps, in place of --epochs.")
flags.DEFINE_float("learning_rate", 5e-4, lower_bound=0, help="Peak; 1e-4 in the paper's detectors.")
flags.DEFINE_float("min_learning_rate", 0.0, "At the end.")
flags.DEFINE_enum(
    "schedule",
    "cosine",
    ["cosine", "linear", "steps"],
    "How the learning rate falls; steps is a tenth from 27/36 of the run on, a hundredth from 33/36.",
)
flags.DEFINE_float(
    "warmup", 0.03, lower_bound=0, upper_bound=1, help="Share of the steps in which the learning rate rises."
)
flags.DEFINE_float("weight_decay", 0.05, "Not applied to biases, norms, positions and cls.")
flags.DEFINE_float("clip_norm", 3.0, lower_bound=0, help="Largest gradient norm; 0 for any.")
flags.DEFINE_float(
    "layer_decay",
    0.75,
    lower_bound=0,
    upper_bound=1,
    help="Learning rate of a block as a share of the next block's; 1 for none. Used from --init_from only.",
)
flags.DEFINE_list(
    "scale", None, "Smallest and largest factor of the random resizing, relative to an image that fits, as 0.5,1.5."
)
flags.DEFINE_integer(
    "accumulate", 1, lower_bound=1, help="Take each batch in so many parts, one after the other, in the memory of one."
)
flags.DEFINE_integer("seed", 0, lower_bound=0, upper_bound=2**31 - 1, help="Seed of all random numbers.")
flags.DEFINE_bool(
    "jit",
    None,
    "Compile the step with XLA on the TensorFlow backend, which changes random numbers; left out, on accelerators"
    " alone.",
)

# These do not.
flags.DEFINE_string("data_dir", None, "Where tfds keeps its data.")
flags.DEFINE_enum(
    "judge", None, ["val", "test", "train"], "Split to judge by; left out, val, or test if there is none."
)
flags.DEFINE_integer(
    "judge_every",
    None,
    lower_bound=1,
    help="Steps between judgements, a multiple of --log_every; left out, about a fifth of the run.",
)
flags.DEFINE_integer(
    "judge_limit", None, lower_bound=1, help="Judge by so many images while the run goes on; at its end by all."
)
flags.DEFINE_integer("pictures", 6, lower_bound=0, help="Images in the picture at the end.")
flags.DEFINE_integer("log_every", 50, lower_bound=1, help="Steps between lines of the log.")
flags.DEFINE_float(
    "max_bad_fraction",
    0.5,
    lower_bound=0,
    upper_bound=1,
    help="Share of a split's annotated images that may be unusable; each is listed in data.json.",
)
flags.DEFINE_integer("workers", 2, "Threads that read images.")
FLAGS = flags.FLAGS
FREE = {"judge", "judge_every", "judge_limit"}  # a run may resume with other values of these


def open_sets(open_set):
    """The source to learn from and that to judge by; `open_set` is `data.open_detection` or
    `data.open_segmentation`."""
    from keras_splitmask import data

    options = {
        "data_dir": FLAGS.data_dir,
        "report": lambda line: print(line, flush=True),
        "max_bad_fraction": FLAGS.max_bad_fraction,
    }
    options["value_range"] = value_range.given()
    channels = FLAGS.channels or 3
    source = open_set(FLAGS.dataset, "train", channels=channels, **options)
    print(f"{FLAGS.dataset}: {source.summary()}", flush=True)
    splits = [FLAGS.judge] if FLAGS.judge else ["val", "test"]
    for split in splits:
        try:
            judged = open_set(FLAGS.dataset, split, channels=channels, classes=source, **options)
            break
        except data.NoSuchSplit:
            if split == splits[-1]:
                raise
    print(f"{split}: {judged.summary()}", flush=True)
    return source, judged


def build_encoder(**options):
    """The encoder by the flags; what is fresh and what resized is printed. `options` are arguments of `Encoder`."""
    encoder = encoders.load_encoder(**options)
    if encoder is None:
        commandline.require("image_size")
        encoder = encoders.fresh_encoder((*image_sets.image_size(), FLAGS.channels or 3), **options)
    if FLAGS.channels is None and encoder.image_shape[-1] != 3:
        FLAGS.channels = encoder.image_shape[-1]
    return encoder


def scale(default):
    """(smallest, largest) from --scale."""
    try:
        low, high = map(float, FLAGS.scale or default)
    except ValueError:
        raise commandline.BadInput(
            f"Expected --scale as two numbers, such as 0.5,1.5, received {','.join(FLAGS.scale)}."
        ) from None
    return low, high


def compile_model(model, steps):
    import keras_splitmask as ks

    optimizer = ks.training.adamw(
        FLAGS.learning_rate,
        steps,
        warmup=round(FLAGS.warmup * steps),
        floor=FLAGS.min_learning_rate,
        weight_decay=FLAGS.weight_decay,
        clip_norm=FLAGS.clip_norm or None,
        layer_decay=FLAGS.layer_decay if FLAGS.init_from else 1.0,
        depth=model.encoder.depth,
        schedule=FLAGS.schedule,
    )
    model.compile(optimizer, jit_compile=fitting.jit())


def predict(model, images):
    """The model's answers to any number of images, in batches of one size: a dictionary of arrays, or an array."""
    import keras
    import numpy as np

    missing = -len(images) % FLAGS.batch_size
    padded = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
    answers = model.predict(padded, batch_size=FLAGS.batch_size, verbose=0)
    return keras.tree.map_structure(lambda x: x[: len(images)], answers)


def count_steps(source):
    return FLAGS.steps or max(1, math.ceil(FLAGS.epochs * len(source) / FLAGS.batch_size))


def train(devices, run, model, source, judged, batches, judge, finish):
    """Fit the model to `batches(start)` of a source, judging it by another on the way, and finish.

    `judge(model, judged, limit)` returns a dictionary of numbers by name, for the log; `finish(model, judged, run,
    values)` is given that of all images, and returns what result.json is to have of it.
    """
    steps = count_steps(source)
    every = FLAGS.judge_every or max(1, steps // 5 // FLAGS.log_every) * FLAGS.log_every
    compile_model(model, steps)
    weights = (
        f"{model.count_params() / 1e6:.1f} M weights, encoder"
        f" {'from ' + FLAGS.init_from if FLAGS.init_from else 'from scratch'}"
    )
    print(f"{len(source)} images of {len(source.classes)} classes, {weights}, {steps} steps", flush=True)
    checkpoints = run.checkpoints(model, devices=devices, advice=trouble.advice())
    run.start(source)
    image_sets.save_record(source, judged)
    measures = [
        lambda step: judge(model, judged, FLAGS.judge_limit) if step and step < steps and step % every == 0 else {}
    ]
    log = trouble.log(run, model, source, batches, steps, checkpoints, measures)
    fitting.fit(model, batches, steps, FLAGS.log_every, log, checkpoints)
    with checkpoints.finishing():
        values = finish(model, judged, run, judge(model, judged))
        image_sets.save_record(source, judged)  # with what broke meanwhile
        run.write_json("result.json", {**values, "steps": steps, "seed": FLAGS.seed, "classes": source.classes})
        run.write_report()
        run.save_model(model)
