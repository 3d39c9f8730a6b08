"""The flags of `reproduce.py --dataset=...`, which compares methods on one's own images."""

import shlex

from absl import flags

from recipes.shared import commandline, methods, presets, time_limit

SCRATCH = "scratch"
# Methods by the name of --methods, as flags of pretrain.py; None for scratch.
METHODS = {SCRATCH: None}
METHODS |= {name: (f"--method={name}",) for name, method in methods.METHODS.items() if method.trains}
METHODS |= {f"splitmask-{name}": ("--method=splitmask", f"--preset={name}") for name in presets.PRESETS}
FROZEN_IMAGES = 5000  # to train on, and to evaluate on, with --frozen_features
SAME = ("size", "patch_size", "image_size", "batch_size")  # flags of pretrain.py with one value for all methods
OF_SCRATCH = ("size", "patch_size", "image_size", "channels", "value_range")  # what finetune.py needs without a run

flags.DEFINE_string(
    "dataset",
    None,
    "Compare methods on these images: sample, folder:PATH, npz:PATH or tfds:NAME, with labels. Images that are not"
    " divided are divided once: a fifth of each class is kept from all runs, to evaluate on.",
)
flags.DEFINE_list(
    "methods",
    ["scratch", "splitmask", "mae", "beit", "dino"],
    "Methods to compare: scratch (no pre-training), splitmask, splitmask-small and splitmask-paper (its presets), beit,"
    " mae, deit or dino. All have the same encoder, image size, patch size and batch size.",
)
flags.DEFINE_integer(
    "steps",
    None,
    lower_bound=1,
    help="Equal steps: each method is pre-trained for this many, and then all are fine-tuned alike, for as many steps"
    " as finetune chooses. Methods differ in the time of a step; scratch takes least.",
)
flags.DEFINE_string(
    "time",
    None,
    "Equal minutes: the time, such as 30min, that each method has for pre-training and fine-tuning together. scratch"
    " has all of it for fine-tuning. Counted are training steps, with reading and augmenting images, checkpoints and"
    " the evaluations of the log. Not counted: starting, scanning files, fitting visual words, timing steps, and what"
    " comes after the last step.",
)
flags.DEFINE_float(
    "pretrain_fraction",
    0.75,
    lower_bound=0.05,
    upper_bound=0.95,
    help="Fraction of --time for pre-training. Fine-tuning gets the time that its steps really left.",
)
flags.DEFINE_string(
    "labelled",
    None,
    "Fine-tune on a subset: a number (1000) or a fraction (1%) of the images, drawn by the seed, the same for all"
    " methods. Pre-training uses all images without labels. Default: all images.",
)
flags.DEFINE_bool(
    "frozen_features",
    False,
    f"Also evaluate the frozen encoders, by nearest neighbours and by a linear classifier on their best block, with up"
    f" to {FROZEN_IMAGES:,} labelled images; for scratch, an encoder with random weights."
    " --time does not count it. It can be added to a finished comparison.",
)
flags.DEFINE_string("size", None, "Encoder of all methods, such as vit_micro. Default: auto, as pretrain chooses.")
flags.DEFINE_integer("patch_size", None, lower_bound=1, help="Side of a patch in pixels. Default: auto.")
flags.DEFINE_string("image_size", None, "Image size in pixels: 224, or 48x80 (height x width). Default: auto.")
flags.DEFINE_integer("batch_size", None, lower_bound=1, help="Images per step of pre-training. Default: auto.")
flags.DEFINE_string(
    "pretrain_flags",
    "",
    "More flags of pretrain, in quotes, such as '--augmentation=flip --mask_ratio=0.6'. A method gets those that it"
    " reads.",
)
flags.DEFINE_string("finetune_flags", "", "More flags of finetune, in quotes, such as '--epochs=30'.")
FLAGS = flags.FLAGS

OWN = (
    *("dataset", "methods", "steps", "time", "pretrain_fraction", "labelled", "frozen_features"),
    *(*SAME, "pretrain_flags", "finetune_flags"),
)
# Flags of the runs that this program sets.
SET = {
    "pretrain_flags": {
        *SAME,
        *("method", "preset", "seed", "steps", "epochs", "time", "subset", "init_from", "positions"),
    },
    "finetune_flags": {*OF_SCRATCH, "seed", "time", "labelled", "split", "judge", "init_from"} - {"value_range"},
}
OF_ALL_RUNS = {"dataset", "workdir", "overwrite", "dry_run", "backend", "precision", "data_dir"}


def check_flags():
    """Stop if the flags contradict each other.

    Raises:
        BadInput: in one line.
    """
    if wrong := sorted(set(FLAGS.methods) - set(METHODS)):
        raise commandline.BadInput(f"Expected --methods among {', '.join(METHODS)}, received {', '.join(wrong)}.")
    if not FLAGS.methods or len(set(FLAGS.methods)) < len(FLAGS.methods):
        raise commandline.BadInput(f"Expected --methods once each, received {','.join(FLAGS.methods)!r}.")
    if bool(FLAGS.steps) == bool(FLAGS.time):
        received = "both" if FLAGS.time else "neither"
        raise commandline.BadInput(f"Expected --time (equal minutes) or --steps (equal steps), received {received}.")
    if FLAGS.time and time_limit.seconds_of(FLAGS.time) <= 0:
        raise commandline.BadInput(f"Expected --time above 0, received {FLAGS.time}.")
    if FLAGS.steps and FLAGS["pretrain_fraction"].present:
        raise commandline.BadInput("--pretrain_fraction does not go with --steps; leave one out.")
    if FLAGS.labelled and "deit" in FLAGS.methods:
        raise commandline.BadInput(
            "Expected no deit in --methods with --labelled, since deit learns from the labels of all images; leave one"
            " out."
        )
    for flag, names in SET.items():
        words = words_of(flag)
        if unclear := [word for word in words if not word.startswith("--")]:
            raise commandline.BadInput(f"Expected --{flag} as '--name=value --name=value', received {unclear[0]!r}.")
        steps = {"steps", "epochs"} if FLAGS.time else set()
        if wrong := [name for name in map(name_of, words) if name in names | OF_ALL_RUNS | steps]:
            raise commandline.BadInput(f"Expected --{flag} without --{wrong[0]}, which reproduce sets for its runs.")


def words_of(flag):
    try:
        return shlex.split(FLAGS[flag].value)
    except ValueError as error:
        raise commandline.BadInput(f"Expected --{flag} as flags in quotes, received {FLAGS[flag].value!r}.") from error


def name_of(word):
    name = word.removeprefix("--").partition("=")[0]
    return name.removeprefix("no") if "=" not in word and name not in FLAGS else name
