"""Which images a recipe trains on and which it evaluates on: the splits of --dataset, or a division of it."""

import contextlib
import dataclasses
import os

from absl import flags

from recipes.shared import commandline, image_sets, shares

# These change the result.
flags.DEFINE_string(
    "split",
    None,
    "Divide a --dataset that has no split test or val: a fraction of each class to evaluate on (0.2), or a CSV file of"
    " the columns name and split, as a run's split.csv is. Copies of an image stay on one side. Default: 0.2.",
)
flags.DEFINE_string(
    "groups",
    None,
    "CSV file of the columns group and file, such as embed --duplicates writes: the images of a group stay on one side"
    " when --dataset is divided, and when --val sets images aside. Groups with an image in common are one group.",
)

# These do not change the trained weights.
flags.DEFINE_enum(
    "judge",
    None,
    ["test", "val", "train"],
    "Split to evaluate on. Default: test, or val if test is missing or has no labels.",
)
FLAGS = flags.FLAGS
FRACTION = 0.2
COMPARED = 50_000  # images at most that are compared with each other, to find copies on both sides
SPLIT_FILE, SUBSET_FILE = "split.csv", "subset.txt"


@dataclasses.dataclass
class Splits:
    """The images of a run.

    Attributes:
        train: the images to train on.
        judged: the images to evaluate on at the end.
        split: the name of their split.
        val: images that are in neither, to evaluate on during training; None if there are none.
        division: {split: source} of the images that were divided here, for split.csv; empty if none were.
        subset: the images that --labelled chose, for subset.txt; None without the flag.
    """

    train: object
    judged: object
    split: str
    val: object = None
    division: dict = dataclasses.field(default_factory=dict)
    subset: object = None

    def write(self, run):
        """Write split.csv and subset.txt, each if there is something to list."""
        from keras_splitmask import data

        if self.division:
            run.write_text(SPLIT_FILE, data.write_division(self.division))
        if self.subset:
            run.write_text(SUBSET_FILE, "".join(f"{self.subset.name(i)}\n" for i in range(len(self.subset))))

    def save_record(self):
        """Write data.json: what each split contains, and which images were skipped or broke, and why."""
        image_sets.save_record(self.train, self.judged, self.split, self.val)


def open_splits(run, train, amount=None, fraction=None, validate=False):
    """Open what to evaluate on, and divide `train` if need be.

    Args:
        run: the `workdir.Run`, which may have a split.csv from before; or None.
        train: the source of the train split, with labels.
        amount: as of --labelled, or None.
        fraction: of the training images to set apart as `val`; None for the split val of the data set.
        validate: whether to open `val`.

    Returns:
        A `Splits`.
    """
    from keras_splitmask import data

    train.check_labelled(f"the train split of {FLAGS.dataset}")
    _say_empty(train)
    own, refused = _own_splits(train, both=validate)
    path, share = _split_flag()
    before = run.home / SPLIT_FILE if run and run.resumed and run.has(SPLIT_FILE) else None
    if share and own:
        raise commandline.BadInput(
            f"Expected --split={FLAGS.split} with a --dataset that is not divided, received {FLAGS.dataset}, which has"
            f" the split {' and '.join(own)}; leave --split out."
        )
    groups = _read_groups(train, not (own or path or FLAGS.judge == "train") or fraction) if not before else []
    division = {}
    if before or path:
        division = data.read_division(train, before or path)
        image_sets.say(f"divided as {before or path} lists: {_counts(division)}")
    elif not own and FLAGS.judge != "train" and not isinstance(refused.get(FLAGS.judge), data.NoLabels):
        if run and run.resumed:
            raise commandline.BadInput("This run began with all images to train on; keep --judge=train.")
        division = _divide(train, share or FRACTION, refused, groups)
    train, own = division.get("train", train), own | {name: division[name] for name in division if name != "train"}
    judged, split = _judged(train, division, own, refused)
    val = own.get("val") if validate and split != "val" else None
    subset = None
    if amount and not before:  # which lists the subset
        subset = train = image_sets.subset_of(train, amount, "labelled")
    if fraction is not None:
        val = division.get("val") if fraction and before else None
    if fraction and not before:
        count, first = len(train), _together(train, groups)
        train, val = _drawn(train, fraction, groups, first)
        division = {**division, "val": val}
        other = shares.difference(len(val), count, fraction, _joined(first))
        image_sets.say(f"{len(val)} of {count} training images are set aside as val{f' ({other})' if other else ''}")
    if division:
        division = {**division, "train": train}
    for name, source in (("val", val), (split, judged)):
        _warn_of_copies(train, source, name)
    return Splits(train, judged, split, val, division, subset)


def _say_empty(train):
    """Print the class folders without an image to use."""
    if not (scan := getattr(train, "scan", None)):  # no folder
        return
    with contextlib.suppress(OSError), os.scandir(scan.root) as entries:
        names = {entry.name for entry in entries if entry.is_dir()}
        if empty := sorted(names - {path.split(os.sep)[0] for path in train.paths} - {*scan.not_entered}):
            have = "1 folder has" if len(empty) == 1 else f"{len(empty)} folders have"
            image_sets.say(f"{have} no image to use, so there is no such class: {', '.join(empty[: image_sets.NAMED])}")


def _own_splits(train, both):
    """Open the splits of --dataset to evaluate on. Returns {split: source}, and {split: error} of those without labels
    or images. Without `both`, the second one is opened only if the first cannot be used."""
    from keras_splitmask import data

    own, refused = {}, {}
    for split in sorted(("test", "val"), key=lambda name: name != FLAGS.judge):
        if own and not both:
            break
        try:
            source = image_sets.open_split(FLAGS.dataset, split, train.channels)
            image_sets.number_as(train, source, FLAGS.dataset, split)
            own[split] = source
        except (data.NoSuchSplit, data.NoLabels) as error:
            refused[split] = error
    return own, refused


def _split_flag():
    """Parse --split to (path, fraction); at least one of them is None."""
    text = FLAGS.split
    if not text or os.path.isfile(text):
        return text or None, None
    try:
        share = float(text)
    except ValueError:
        raise commandline.BadInput(f"Expected --split as a fraction (0.2) or a CSV file, received {text!r}.") from None
    if not 0 < share < 1:
        raise commandline.BadInput(f"Expected --split above 0 and below 1, received {text}.")
    return None, share


def _read_groups(train, drawn):
    """Read --groups, and print how many images it lists. `drawn` is whether images are drawn to evaluate on."""
    from keras_splitmask import data

    if not FLAGS.groups:
        return []
    if not drawn:
        raise commandline.BadInput(
            f"Expected --groups with a --dataset that is divided here, or with --val, received {FLAGS.dataset}, of"
            " which no images are drawn to evaluate on; leave --groups out."
        )
    groups, names = data.read_groups(FLAGS.groups), {train.name(i) for i in range(len(train))}
    listed = list(dict.fromkeys(name for group in groups for name in group))
    missing = [name for name in listed if name not in names]
    if listed and len(missing) == len(listed):
        raise commandline.BadInput(
            f"Expected names of images in --groups={FLAGS.groups}, such as {train.name(0)}, received"
            f" {', '.join(missing[:3])}; list the images of {FLAGS.dataset}."
        )
    if not listed:
        image_sets.say(f"--groups={FLAGS.groups} lists no images, so only copies stay together")
        return []
    are = "is" if len(missing) == 1 else "are"
    others = f"; {len(missing)} more {are} not in {FLAGS.dataset}, such as {missing[0]}" if missing else ""
    image_sets.say(f"--groups lists {len(listed) - len(missing)} of the images{others}")
    return groups


def _together(train, groups):
    """(B,) the index of the first image that each image must stay with: its copies, and those of --groups."""
    from keras_splitmask import data

    return data.joined(data.copies(train), [train.name(i) for i in range(len(train))], groups)


def _joined(first):
    """Number of images that must stay with an earlier one."""
    return sum(int(leader) != i for i, leader in enumerate(first))


def _drawn(train, share, groups, first):
    """Draw a share of each class by --seed. Returns two sources: those that were not drawn, and those that were."""
    import numpy as np

    from keras_splitmask import data

    leaders = np.unique(first)
    if groups and len(np.unique(train.labels[leaders])) == len(leaders):  # divided() would speak of images
        raise commandline.BadInput(
            f"Expected --groups={FLAGS.groups} to leave two groups in one class or more, received all images of each"
            " class in one group, which cannot be divided; list smaller groups."
        )
    return data.divided(train, share, FLAGS.seed, first=first)


def _divide(train, share, refused, groups):
    """Divide the train split by --seed. Returns {split: source}."""
    from keras_splitmask import data

    first = _together(train, groups)
    rest, drawn = _drawn(train, share, groups, first)
    division = {"train": rest, "test": drawn}
    reason = "has a test split without labels" if isinstance(refused.get("test"), data.NoLabels) else "is not divided"
    rule = f"{share:.0%} of each class is"
    if other := shares.difference(len(drawn), len(train), share, _joined(first)):
        rule = f"{len(drawn)} of {len(train)} images ({other}) are"
    image_sets.say(
        f"{FLAGS.dataset} {reason}: {rule} drawn to evaluate on, by --seed={FLAGS.seed}"
        f" ({_counts(division)}). The choice is saved in {SPLIT_FILE} of --workdir; --split chooses another."
    )
    if count := _joined(first):
        one = f"1 image is a copy of another{' or in its group' if groups else ''}, and stays on its side"
        several = f"{count} images are copies of others{' or in their groups' if groups else ''}"
        image_sets.say(one if count == 1 else f"{several}, and stay on the same side as those")
    image_sets.say_absent(train, drawn, "test")
    return division


def _warn_of_copies(train, source, split):
    """Print how many images to evaluate on are training images, too, unless it would take long to find out."""
    from keras_splitmask import data

    if source is None or split == "train" or len(train) + len(source) > COMPARED:
        return
    if count := int((data.copies(train, source)[len(train) :] < len(train)).sum()):
        them = (
            "1 image is a copy of a training image" if count == 1 else f"{count} images are copies of training images"
        )
        image_sets.say(f"{split}: {them}, so its accuracy says less about new images")


def _judged(train, division, own, refused):
    """The source to evaluate on at the end, and the name of its split."""
    from keras_splitmask import data

    if FLAGS.judge == "train":
        source, split = division.get("train"), "train"
        source = source or image_sets.open_split(FLAGS.dataset, split, train.channels)
    else:
        names = (FLAGS.judge,) if FLAGS.judge else ("test", "val")
        split = next((name for name in names if name in own), None)
        if split is None:
            raise next((error for error in refused.values() if isinstance(error, data.NoLabels)), refused[names[0]])
        source = own[split]
    skipped = refused.get("test") if split == "val" and not FLAGS.judge else None
    lack = "has no labels" if isinstance(skipped, data.NoLabels) else "is missing"
    image_sets.say(f"evaluated on {split}{f', since test {lack}' if skipped else ''}: {source.summary()}")
    return source, split


def _counts(division):
    return ", ".join(f"{split} {len(part)}" for split, part in division.items())
