"""What the recipes that read images share: opening the data sets that the flags name."""

import os
import pathlib

import commandline
from absl import flags

FLAGS = flags.FLAGS


def open_images(channels, amount=None):
    """The images of --dataset to learn from, or an `amount` of them, see `data.subset_of`. A folder that was looked at before is remembered in the workdir."""
    from keras_splitmask import data

    record = pathlib.Path(FLAGS.workdir) / "data.json"
    source = data.open_source(
        FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        channels=channels,
        record=record if record.exists() else None,
        max_bad_fraction=FLAGS.max_bad_fraction,
        report=_say,
        frozen=commandline.resumes(),
    )
    source.record = record  # from here on, since what is refused leaves nothing behind
    _say(f"{FLAGS.dataset}: {source.summary()}")
    return data.subset_of(source, amount, FLAGS.seed) if amount else source


def packed(source, image_shape):
    """The same images, decoded and resized once and for all in the folder --cache, if that was given."""
    from keras_splitmask import data

    short_side = round(min(image_shape[:2]) * 8 / 7)  # 256 for 224
    return data.cached(source, short_side, FLAGS.cache, _say, max(1, FLAGS.workers)) if FLAGS.cache else source


def _say(line):
    print(line, flush=True)


def open_labelled(dataset, split, channels, train=None):
    """A split of a labelled set, of the same classes as the source `train` if that is given."""
    from keras_splitmask import data

    source = data.open_source(dataset, split, FLAGS.data_dir, channels, report=_say)
    require_labels(source, dataset, split)
    if train and source.classes != train.classes:
        raise commandline.BadInput(f"Expected the classes {train.classes} in the {split} split of {dataset} as in its train split, received {source.classes}.")
    return source


def require_labels(source, dataset, split):
    """Stop unless the source knows its classes."""
    if source.labels is None:
        raise commandline.BadInput(f"Expected a labelled set, received {dataset}, whose {split} split has no labels; put each class into a folder of its own.")


def read_probe(shape):
    """Images and labels of --probe, which must not be the training images, or None if it was left out."""
    from keras_splitmask import data

    if not FLAGS.probe:
        return None
    for split in ("test", "val", "train"):
        try:
            source = data.open_source(FLAGS.probe, split, FLAGS.data_dir, shape[-1], report=_say)
            break
        except data.NoSuchSplit:
            if split == "train":
                raise
    same = [os.path.realpath(os.path.expanduser(name.partition(":")[2])) for name in (FLAGS.probe, FLAGS.dataset)]
    if split == "train" and same[0] == same[1]:
        raise commandline.BadInput(f"Expected --probe to be a labelled set apart from the training images, received {FLAGS.probe} for both.")
    require_labels(source, FLAGS.probe, split)
    return data.read_all(source, shape, FLAGS.probe_limit)
