"""Methods compared on one's own images: the runs of `reproduce.py --dataset=...`, and their results."""

import json
import pathlib

from absl import flags

from recipes.shared import cells, commandline, earlier, methods, own_images_flags, shares, time_limit
from recipes.shared.own_images_flags import FROZEN_IMAGES, METHODS, OF_SCRATCH, OWN, SAME, SCRATCH, name_of, words_of

RESULTS = "comparison"  # name of the files of the table, without their endings
DIVISION, TRAIN = "split.csv", "train.txt"
TEST_FRACTION = 0.2  # of each class, of images that are not divided
FEW_MINUTES = 10  # of pre-training: as many were enough for CIFAR-10 and too few for groceries in docs/results.md
AUTOMATIC = "splitmask"  # the method whose preset depends on the machine
DIVISION_SEED = 0  # for all seeds, so that all runs are evaluated on the same images
FLAGS = flags.FLAGS
flags.adopt_module_key_flags(own_images_flags)


def home():
    return pathlib.Path(FLAGS.workdir)


def settings():
    """Return the flags that all results in a --workdir share, for JSON. Methods and seeds may be added later, and
    --frozen_features, too."""
    names = (*(name for name in OWN if name != "methods"), "precision")
    return {name: FLAGS[name].value for name in names if FLAGS[name].value not in (None, "", False)}


def recorded():
    """Return the settings with the preset of the runs of splitmask, for JSON."""
    chosen = preset() if AUTOMATIC in FLAGS.methods else None
    return {**settings(), **({"preset": chosen} if chosen else {})}


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
    chosen = before.pop("preset", None)
    if AUTOMATIC in FLAGS.methods:
        preset(chosen)
    # Probes can be added, and then belong to all runs.
    FLAGS.frozen_features = now["frozen_features"] = now.get("frozen_features") or before.get("frozen_features", False)
    before["frozen_features"] = now["frozen_features"]
    if other := [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]:
        raise commandline.BadInput(
            f"Expected a new --workdir, received {FLAGS.workdir}, which holds a comparison with other values of"
            f" {', '.join(f'--{name}' for name in other)}; choose another folder."
        )


def warn_of_little():
    """Say so before the runs if pre-training has too few minutes or steps to teach much."""
    from keras_splitmask.evaluation.verdict import FEW_STEPS

    pretrained = [method for method in FLAGS.methods if method != SCRATCH]
    if FLAGS.time and any(times(method)[0] < 60 * FEW_MINUTES for method in pretrained):
        print(
            f"warning   --time={FLAGS.time} leaves less than {FEW_MINUTES} min for pre-training. Even {FEW_MINUTES} min"
            " gained on one data set and lost on another (docs/results.md): allow more.",
            flush=True,
        )
    elif FLAGS.steps and FLAGS.steps < FEW_STEPS and pretrained:
        print(
            f"warning   Fewer than {FEW_STEPS} steps of pre-training often teach little: allow more than"
            f" --steps={FLAGS.steps}.",
            flush=True,
        )


def preset(recorded=None):
    """Return the --preset of the runs of splitmask, which the first chose by its machine; None before it.

    Args:
        recorded: the preset of their results.

    Raises:
        BadInput: if they have different ones.
    """
    begun = [path.parent for path in home().glob(f"pretrain_{AUTOMATIC}_seed=*/run.flags")]
    # Runs that began before there were presets have the paper's.
    found = {earlier.flag_of_run(folder, "preset") or "paper" for folder in begun} | {recorded} - {None}
    if len(found) > 1:
        raise commandline.BadInput(
            f"Expected one --preset in all runs of {AUTOMATIC}, received {' and '.join(sorted(found))} in"
            f" {FLAGS.workdir}; choose another folder, and name them by --methods=splitmask-small,splitmask-paper."
        )
    return next(iter(found), None)


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
    before = (_encoder(), *((_pretrain(method, seed),) if method != SCRATCH else ()))
    ends = (_finetune(method, seed), *((_probe(method, seed),) if FLAGS.frozen_features else ()))
    return cells.Cell(f"{method}, seed {seed}", (*before, *ends), lambda: all(run.finished() for run in ends))


def _encoder():
    """A run without steps, in which pretrain chooses what all methods share."""

    def arguments():
        given = [f"--{name}={FLAGS[name].value}" for name in SAME if FLAGS[name].value is not None]
        own = [f"--dataset={FLAGS.dataset}", "--method=random", "--pictures=0"]
        return [*own, *given, *_of_division("subset"), *_more("random")]

    return cells.Command(
        home() / "encoder",
        "pretrain",
        arguments,
        "encoder, image size, patch size and batch size of all methods, chosen without training",
    )


def _pretrain(method, seed):
    folder = home() / f"pretrain_{method}_seed={seed}"

    def arguments():
        budget = f"--steps={FLAGS.steps}" if FLAGS.steps else f"--time={times(method)[0]:.1f}s"
        own = [f"--dataset={FLAGS.dataset}", *METHODS[method], budget, f"--seed={seed}"]
        if method == AUTOMATIC and not (folder / "run.flags").exists() and (chosen := preset()):
            own.append(f"--preset={chosen}")  # as the first seed has
        return [*own, *_chosen(SAME), *_of_division("subset"), *_more(METHODS[method][0].removeprefix("--method="))]

    return cells.Command(folder, "pretrain", arguments)


def _finetune(method, seed):
    folder, before = home() / f"finetune_{method}_seed={seed}", home() / f"pretrain_{method}_seed={seed}"

    def arguments():
        start = _chosen(OF_SCRATCH) if method == SCRATCH else [f"--init_from={before}"]
        labelled = [f"--labelled={FLAGS.labelled}"] if FLAGS.labelled else []
        budget = [f"--time={times(method, seconds(before))[1]:.1f}s"] if FLAGS.time else []
        own = [*start, f"--dataset={FLAGS.dataset}", *labelled, *budget, f"--seed={seed}"]
        return [*own, *_of_division("split"), *words_of("finetune_flags")]

    return cells.Command(folder, "finetune", arguments)


def _probe(method, seed):
    """Evaluate the frozen encoder: the pre-trained one, or for scratch one with random weights by the seed."""
    before = home() / f"pretrain_{method}_seed={seed}"

    def arguments():
        encoder = [f"--init_from={home() / 'encoder'}", "--random"] if method == SCRATCH else [f"--init_from={before}"]
        own = [*encoder, f"--dataset={FLAGS.dataset}", f"--seed={seed}", *_of_division("split")]
        return [*own, f"--train_limit={FROZEN_IMAGES}", f"--test_limit={FROZEN_IMAGES}"]

    return cells.Command(home() / f"probe_{method}_seed={seed}", "probe", arguments, leaves="probe.json")


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
    return [word for word in words_of("pretrain_flags") if name_of(word) not in unread]


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
        **_frozen(method, seed),
    }


def _frozen(method, seed):
    """The accuracies of the frozen encoder; none if it was not evaluated."""
    try:
        found = json.loads((home() / f"probe_{method}_seed={seed}" / "probe.json").read_text(encoding="utf-8"))
    except OSError:
        return {}
    # Earlier versions of probe.py chose no block.
    names = {"knn": "knn_accuracy", "linear": "linear_accuracy"}
    return {short: found[name] for short, name in names.items() if name in found}
