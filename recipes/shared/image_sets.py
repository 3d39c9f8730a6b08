"""The data sets that the flags of a recipe name: opening them, and reading their labels and images."""

import os

from absl import flags

from recipes.shared import commandline, flag_names, value_range, workdir

FLAGS = flags.FLAGS
NAMED = 5  # largest number of classes in a message


def open_images(run, channels, amount=None):
    """Open the training images of --dataset, or the subset `amount` of them, see `data.subset_of`.

    A run that resumes reuses its earlier scan of the folder.
    """
    from keras_splitmask import data

    source = data.open_source(
        FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        channels=channels,
        record=run.home / workdir.DATA if run.has(workdir.DATA) else None,
        max_bad_fraction=FLAGS.max_bad_fraction,
        report=say,
        frozen=run.resumed,
        value_range=value_range.given(),
    )
    say(f"{FLAGS.dataset}: {source.summary()}")
    return subset_of(source, amount, "subset") if amount else source


def subset_of(source, amount, flag):
    """Choose the subset of a source that a flag asks for, see `data.subset_of`."""
    from keras_splitmask import data

    try:
        return data.subset_of(source, amount, FLAGS.seed)
    except ValueError as error:
        raise commandline.BadInput(f"--{flag}={amount}: {error}") from error


def packed(source, image_shape):
    """Return the same images from the folder --cache, decoded and resized once, if the flag is given."""
    from keras_splitmask import data

    short_side = round(min(image_shape[:2]) * 8 / 7)  # 256 for 224
    return data.cached(source, short_side, FLAGS.cache, say, max(1, FLAGS.workers)) if FLAGS.cache else source


def say(line):
    """Print a line of the library, with its arguments as flags."""
    print(flag_names.with_flags(line), flush=True)


def open_split(dataset, split, channels):
    """Open a split of a data set, for evaluation."""
    from keras_splitmask import data

    return data.open_source(
        dataset,
        split,
        FLAGS.data_dir,
        channels,
        max_bad_fraction=FLAGS.max_bad_fraction,
        report=say,
        value_range=value_range.given(),
    )


def number_as(train, source, dataset, split):
    """Number the classes of a source as in `train`. A class that `train` does not have is refused."""
    import numpy as np

    where = f"the {split} split of {dataset}"
    names = train.classes or [str(label) for label in range(train.class_count)]
    if train.classes or source.classes:
        source.number_by(names, where)
    source.check_labelled(where)
    if (unknown := np.setdiff1d(source.labels, train.labels)).size:
        classes = ", ".join(names[label] if label < len(names) else str(label) for label in unknown[:NAMED])
        raise commandline.BadInput(
            f"Expected only classes of the train split in {where}, received {len(unknown)} others ({classes}). Remove"
            " their images, or add the classes to train."
        )
    say_absent(train, source, split)


def say_absent(train, source, split):
    """Print the classes of `train` that have no image in a source."""
    import numpy as np

    from keras_splitmask.data.counting import counted

    names = train.classes or [str(label) for label in range(train.class_count)]
    if (absent := np.setdiff1d(train.labels, source.labels)).size:
        named = ", ".join(names[label] for label in absent[:NAMED])
        say(f"{split} has no image of {counted(len(absent), 'class')} ({named})")


def read(source, split, shape, limit=None, ratio=1.0):
    """Read the images and labels of a split, at most `limit`. Unreadable images are skipped, up to
    --max_bad_fraction."""
    from keras_splitmask import data

    images, labels = data.read_all(source, shape, limit, ratio)
    wanted = min(limit or len(source), len(source))
    if lost := wanted - len(images):
        if lost > FLAGS.max_bad_fraction * wanted:
            first = next(iter(source.broken.values()))
            raise commandline.BadInput(
                f"Expected at most {FLAGS.max_bad_fraction:.0%} of the {split} images to be unreadable, received {lost}"
                f" of {wanted}; {first}"
            )
        say(f"{split}: skipped {lost} of {wanted} images, which cannot be read")
    return images, labels


def read_probe(shape):
    """Read --probe, which must not be the training images. Returns its source, and its images and labels; both are
    None without the flag."""
    from keras_splitmask import data

    if not FLAGS.probe:
        return None, None
    refused = []
    # Of a set that is divided, its training images come last: the encoder may be learning from them.
    for split in ("test", "val", "train"):
        try:
            source = open_split(FLAGS.probe, split, shape[-1])
            source.check_labelled(f"the {split} split of {FLAGS.probe}")
            break
        except (data.NoSuchSplit, data.NoLabels) as error:
            refused.append(error)
    else:
        raise next((error for error in refused if isinstance(error, data.NoLabels)), refused[-1])
    same = [os.path.realpath(os.path.expanduser(name.partition(":")[2])) for name in (FLAGS.probe, FLAGS.dataset)]
    if split == "train" and same[0] == same[1]:
        raise commandline.BadInput(
            f"Expected --probe to differ from the training images, received {FLAGS.probe} for both."
        )
    say(f"probe, {split}: {source.summary()}")
    return source, read(source, "probe", shape, FLAGS.probe_limit)


def save_record(train, judged=None, split="judged", val=None):
    """Write data.json: what the images to train and to evaluate on contain, and which were skipped or broke, and
    why."""
    splits = {"train": train, "val": val, "judged" if split == "train" else split: judged}
    train.save_record(splits={name: source.description() for name, source in splits.items() if source is not None})


def image_size():
    """Parse --image_size, such as 32 or 48x80, to (height, width); None without the flag."""
    text = FLAGS.image_size
    sides = text.lower().split("x") if text else []
    if any(not side.isdigit() or not int(side) for side in sides) or len(sides) > 2:
        raise commandline.BadInput(f"Expected --image_size as 32 or 48x80 (height x width), received {text!r}.")
    return (int(sides[0]), int(sides[-1])) if sides else None


def image_shape(source):
    """Return (height, width, channels) of the encoder's input: --image_size, and the channels of a source."""
    return *image_size(), source.image_shape[-1]
