"""What the recipes that read images share: opening the data sets that the flags name."""

import os

from absl import flags

from recipes.shared import commandline, value_range, workdir

FLAGS = flags.FLAGS
NAMED = 5  # classes named in a message


def open_images(run, channels, amount=None):
    """The images of --dataset to learn from, or an `amount` of them, see `data.subset_of`. The run remembers a folder
    that it looked at before."""
    from keras_splitmask import data

    source = data.open_source(
        FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        channels=channels,
        record=run.home / workdir.DATA if run.has(workdir.DATA) else None,
        max_bad_fraction=FLAGS.max_bad_fraction,
        report=_say,
        frozen=run.resumed,
        value_range=value_range.given(),
    )
    _say(f"{FLAGS.dataset}: {source.summary()}")
    return data.subset_of(source, amount, FLAGS.seed) if amount else source


def packed(source, image_shape):
    """The same images, decoded and resized once and for all in the folder --cache, if that was given."""
    from keras_splitmask import data

    short_side = round(min(image_shape[:2]) * 8 / 7)  # 256 for 224
    return data.cached(source, short_side, FLAGS.cache, _say, max(1, FLAGS.workers)) if FLAGS.cache else source


def _say(line):
    print(line, flush=True)


def open_split(dataset, split, channels):
    """A split of a data set, to be judged by or compared with."""
    from keras_splitmask import data

    return data.open_source(
        dataset,
        split,
        FLAGS.data_dir,
        channels,
        max_bad_fraction=FLAGS.max_bad_fraction,
        report=_say,
        value_range=value_range.given(),
    )


def open_judged(train, channels):
    """The split of --dataset to judge by, and its name: --judge, or test, or val where there is no test or it has no
    labels.

    Its classes have the numbers that they have in the source `train`.
    """
    from keras_splitmask import data

    refused = {}
    for split in (FLAGS.judge,) if FLAGS.judge else ("test", "val"):
        try:
            source = open_split(FLAGS.dataset, split, channels)
            number_as(train, source, FLAGS.dataset, split)
        except (data.NoSuchSplit, data.NoLabels) as error:
            refused[split] = error
        else:
            reason = "".join(
                f", since {other} {'has no labels' if isinstance(error, data.NoLabels) else 'is not there'}"
                for other, error in refused.items()
            )
            _say(f"judged by {split}{reason}: {source.summary()}")
            return source, split
    unlabelled = [error for error in refused.values() if isinstance(error, data.NoLabels)]
    if unlabelled or FLAGS.judge:
        raise (unlabelled or list(refused.values()))[0]
    raise commandline.BadInput(
        f"Expected a split test or val of {FLAGS.dataset} to judge by, received neither. Move some images of each class"
        " into one, and the others into train; --judge=train judges by the training images, which says little about"
        " new ones."
    )


def number_as(train, source, dataset, split):
    """Give each label of a source the number that its class has in the source `train`; a class that is not learnt is
    refused."""
    import numpy as np

    place = f"the {split} split of {dataset}"
    names = train.classes or [str(label) for label in range(train.class_count)]
    if train.classes or source.classes:
        source.number_by(names, place)
    source.check_labelled(place)
    if (unknown := np.setdiff1d(source.labels, train.labels)).size:
        classes = ", ".join(names[label] if label < len(names) else str(label) for label in unknown[:NAMED])
        raise commandline.BadInput(
            f"Expected only classes that are learnt in {place}, received {len(unknown)} others ({classes}); remove"
            " their images."
        )
    if (absent := np.setdiff1d(train.labels, source.labels)).size:
        _say(f"{split} has no image of {len(absent)} classes ({', '.join(names[label] for label in absent[:NAMED])})")


def read(source, split, shape, limit=None, ratio=1.0):
    """The images and labels of a split, at most `limit` of them. Those that cannot be read are left out, up to
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
        _say(f"{split}: {lost} of {wanted} images are left out, since they cannot be read")
    return images, labels


def read_probe(shape):
    """The source of --probe, which must not be the training images, and its images and labels; None and None if it was
    left out."""
    from keras_splitmask import data

    if not FLAGS.probe:
        return None, None
    refused = []
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
            f"Expected --probe to be a labelled set apart from the training images, received {FLAGS.probe} for both."
        )
    _say(f"probe, {split}: {source.summary()}")
    return source, read(source, "probe", shape, FLAGS.probe_limit)


def save_record(train, judged=None, split="judged"):
    """Write into data.json what is in the images to learn from and in those to judge by, what was left out and what
    broke, and why."""
    sources = {"train": train} if judged is None else {"train": train, "judged" if split == "train" else split: judged}
    train.save_record(splits={name: source.description() for name, source in sources.items()})


def image_size():
    """(height, width) from --image_size, such as 32 or 48x80; None if it was left out."""
    text = FLAGS.image_size
    sides = text.lower().split("x") if text else []
    if any(not side.isdigit() or not int(side) for side in sides) or len(sides) > 2:
        raise commandline.BadInput(f"Expected --image_size as 32 or 48x80 (height x width), received {text!r}.")
    return (int(sides[0]), int(sides[-1])) if sides else None


def image_shape(source):
    """(height, width, channels) to work at: --image_size, or an array's own size, or 224."""
    own_size = FLAGS.dataset.split(":")[0] in ("sample", "npz", "npy")
    return *(image_size() or (source.image_shape[:2] if own_size else (224, 224))), source.image_shape[-1]
