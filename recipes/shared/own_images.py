"""Methods compared on one's own images: the flags and the runs of `reproduce.py --dataset=...`."""

import json
import pathlib
import shlex

from absl import flags

from recipes.shared import cells, commandline, earlier, methods, shares, time_limit

SCRATCH = "scratch"
METHODS = (SCRATCH, *(name for name, method in methods.METHODS.items() if method.trains))
RESULTS = "comparison"  # name of the files of the table, without their endings
DIVISION, TRAIN = "split.csv", "train.txt"
TEST_FRACTION = 0.2  # of each class, of images that are not divided
DIVISION_SEED = 0  # for all seeds, so that all runs are evaluated on the same images
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
    "Methods to compare: scratch (no pre-training), splitmask, beit, mae, deit or dino. All have the same encoder,"
    " image size, patch size and batch size.",
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
    *("dataset", "methods", "steps", "time", "pretrain_fraction", "labelled"),
    *(*SAME, "pretrain_flags", "finetune_flags"),
)
# Flags of the runs that this program sets.
SET = {
    "pretrain_flags": {*SAME, "method", "seed", "steps", "epochs", "time", "subset", "init_from", "positions"},
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
        words = _words(flag)
        if unclear := [word for word in words if not word.startswith("--")]:
            raise commandline.BadInput(f"Expected --{flag} as '--name=value --name=value', received {unclear[0]!r}.")
        steps = {"steps", "epochs"} if FLAGS.time else set()
        if wrong := [name for name in map(_name, words) if name in names | OF_ALL_RUNS | steps]:
            raise commandline.BadInput(f"Expected --{flag} without --{wrong[0]}, which reproduce sets for its runs.")


def _words(flag):
    try:
        return shlex.split(FLAGS[flag].value)
    except ValueError as error:
        raise commandline.BadInput(f"Expected --{flag} as flags in quotes, received {FLAGS[flag].value!r}.") from error


def _name(word):
    name = word.removeprefix("--").partition("=")[0]
    return name.removeprefix("no") if "=" not in word and name not in FLAGS else name


def home():
    return pathlib.Path(FLAGS.workdir)


def settings():
    """Return the flags that all results in a --workdir share, for JSON. Methods and seeds may be added later."""
    names = (*(name for name in OWN if name != "methods"), "precision")
    return {name: FLAGS[name].value for name in names if FLAGS[name].value not in (None, "")}


def settings_before():
    """Return the settings of the results in --workdir; None if there are none."""
    try:
        return json.loads((home() / f"{RESULTS}.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_settings():
    """Stop if --workdir holds results of other settings."""
    before, now = settings_before(), settings()
    if before is None:
        return
    if other := [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]:
        raise commandline.BadInput(
            f"Expected a new --workdir, received {FLAGS.workdir}, which holds a comparison with other values of"
            f" {', '.join(f'--{name}' for name in other)}; choose another folder."
        )


def divide(run):
    """Divide images that are not divided, and write the division for all runs: split.csv, and the names to learn from.

    Args:
        run: the `workdir.Run` of --workdir.
    """
    from keras_splitmask import data

    def opened(split):
        source = data.open_source(FLAGS.dataset, split, FLAGS.data_dir, report=lambda line: print(line, flush=True))
        source.check_labelled(f"the {split} split of {FLAGS.dataset}")
        return source

    train = opened("train")
    for split in ("test", "val"):
        try:
            opened(split)
            return
        except (data.NoSuchSplit, data.NoLabels):
            pass
    rest, drawn = data.divided(train, TEST_FRACTION, DIVISION_SEED, first=data.copies(train))
    run.write_text(TRAIN, "".join(f"{rest.name(i)}\n" for i in range(len(rest))))
    run.write_text(DIVISION, data.write_division({"train": rest, "test": drawn}))
    rule = shares.difference(len(drawn), len(train), TEST_FRACTION) or f"{TEST_FRACTION:.0%} of each class"
    print(
        f"{FLAGS.dataset} is not divided: {len(drawn)} of {len(train)} images, {rule}, are kept from all runs, to"
        f" evaluate on ({run.folder / DIVISION})",
        flush=True,
    )


def cell(method, seed):
    """Return the `Cell` of a method for a seed: the choice of the encoder, which all share, and its runs."""
    runs = (_finetune(method, seed),)
    if method != SCRATCH:
        runs = (_pretrain(method, seed), *runs)
    return cells.Cell(f"{method}, seed {seed}", (_encoder(), *runs), runs[-1].finished)


def _encoder():
    """A run without steps, in which pretrain chooses what all methods share."""

    def arguments():
        given = [f"--{name}={FLAGS[name].value}" for name in SAME if FLAGS[name].value is not None]
        own = [f"--dataset={FLAGS.dataset}", "--method=random", "--pictures=0"]
        return [*own, *given, *_of_division("subset"), *_more("random")]

    return cells.Command(home() / "encoder", "pretrain", arguments, "what all methods share")


def _pretrain(method, seed):
    folder = home() / f"pretrain_{method}_seed={seed}"

    def arguments():
        budget = f"--steps={FLAGS.steps}" if FLAGS.steps else f"--time={times(method)[0]:.1f}s"
        own = [f"--dataset={FLAGS.dataset}", f"--method={method}", budget, f"--seed={seed}"]
        return [*own, *_chosen(SAME), *_of_division("subset"), *_more(method)]

    return cells.Command(folder, "pretrain", arguments)


def _finetune(method, seed):
    folder, before = home() / f"finetune_{method}_seed={seed}", home() / f"pretrain_{method}_seed={seed}"

    def arguments():
        start = _chosen(OF_SCRATCH) if method == SCRATCH else [f"--init_from={before}"]
        labelled = [f"--labelled={FLAGS.labelled}"] if FLAGS.labelled else []
        budget = [f"--time={times(method, seconds(before))[1]:.1f}s"] if FLAGS.time else []
        own = [*start, f"--dataset={FLAGS.dataset}", *labelled, *budget, f"--seed={seed}"]
        return [*own, *_of_division("split"), *_words("finetune_flags")]

    return cells.Command(folder, "finetune", arguments)


def times(method, spent=None):
    """Return the seconds of --time for pre-training and for fine-tuning; see `time_limit.divided`."""
    fraction = 0 if method == SCRATCH else FLAGS.pretrain_fraction
    return time_limit.divided(time_limit.seconds_of(FLAGS.time), fraction, spent)


def seconds(folder):
    """Read the seconds that the steps of a finished run took; None if it is not finished."""
    return float(_last_line(folder).get("seconds", 0)) if (folder / "model.keras").exists() else None


def _last_line(folder):
    try:
        return json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}


def _chosen(names):
    """The flags with which the run `encoder` ended; none before it."""
    values = {name: earlier.flag_of_run(home() / "encoder", name) for name in names}
    return [f"--{name}={value}" for name, value in values.items() if value]


def _of_division(flag):
    """The flag that gives a run its part of images that `divide` divided."""
    path = home() / {"subset": TRAIN, "split": DIVISION}[flag]
    return [f"--{flag}={path}"] if path.exists() else []


def _more(method):
    """The words of --pretrain_flags that a method reads."""
    of_some = frozenset().union(*(other.flags for other in methods.METHODS.values()))
    unread = of_some - methods.METHODS[method].flags
    return [word for word in _words("pretrain_flags") if _name(word) not in unread]


def result(method, seed):
    """Read the numbers of a method for a seed from its finished runs; None if there are none.

    Returns:
        {name: value}, for JSON: accuracies as fractions, steps and seconds of each run.
    """
    folder, before = home() / f"finetune_{method}_seed={seed}", home() / f"pretrain_{method}_seed={seed}"
    if not (folder / "model.keras").exists():
        return None
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    split = next(name for name in found if name.endswith("_top1")).removesuffix("_top1")
    return {
        "method": method,
        "seed": seed,
        "top1": found[f"{split}_top1"],
        "balanced_accuracy": found["balanced_accuracy"],
        "commonest_class_top1": found[f"commonest_{split}_class_top1"],
        "commonest_class": found[f"commonest_{split}_class"],
        "split": split,
        "images": found[f"{split}_images"],
        "labelled_images": found["train_images"],
        "pretrain_steps": 0 if method == SCRATCH else _last_line(before)["step"],
        "finetune_steps": found["steps"],
        "pretrain_seconds": 0.0 if method == SCRATCH else seconds(before),
        "finetune_seconds": seconds(folder),
        "folder": str(folder),
    }
