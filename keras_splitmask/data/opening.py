"""Open a data set by its name, such as "folder:photos"."""

import functools

from keras_splitmask.data.arrays import open_npy, open_npz, open_sample
from keras_splitmask.data.folders import open_folder
from keras_splitmask.data.published import open_tfds
from keras_splitmask.data.ranges import report_range
from keras_splitmask.data.sources import check_split
from keras_splitmask.data.values import check_range


def open_source(
    dataset,
    split="train",
    data_dir=None,
    channels=None,
    record=None,
    max_bad_fraction=0.1,
    report=None,
    frozen=False,
    classes=None,
    value_range=None,
):
    """Open a set of images by its name; images are read when they are needed.

    * `sample`: 10,000 train and 2,000 test images of Fashion-MNIST, 28x28 grey.
    * `folder:PATH`: the images under PATH, or under PATH/SPLIT if PATH has subfolders called train, val or test (in any
      case, or training, validation, valid, testing; see `split_folders`). The folders are the labels if all images lie
      exactly one folder deep and there are at least two folders. An .npy or .npz file of an array (H, W) or (H, W, C)
      is an image like any other, with any number of channels.
    * `npz:PATH`: arrays `train_images` and `train_labels` (likewise val, test), as MedMNIST has them, or `x_train` and
      `y_train`, as Keras has them, or `images` and `labels`, which are the train split. Labels may be absent, and so
      may `classes`, the names. Labels are numbers from 0 on, one-hot rows, or text, whose sorted names are then the
      classes of every split.
    * `npy:PATH`: one array of images, the train split.
    * `tfds:NAME`: a data set of tensorflow-datasets with a feature "image", and optionally a feature "label".

    Arrays of images are (B, H, W) or (B, H, W, C); uint8, uint16, or float in 0..1; with a `value_range` also integers
    of up to 32 bits and other floats.

    Args:
        dataset: one of the above.
        split: "train", "val" or "test". A data set that is not divided is its own train split.
        data_dir: folder of tensorflow-datasets; the other kinds do not use it.
        channels: the wanted number of channels; 1 and 3 convert between grey and RGB. By default that of the images,
            and colour for a folder of grey and colour images.
        value_range: (low, high), the stored values that become 0 and 255, such as (0, 4095) for 12-bit values in
            16-bit files. Values outside are clipped, which is reported. By default the range of the type. 8-bit images
            stay unchanged if `high` is above 255.
        classes: names of the classes in order, such as the `classes` of the train split. Some may have no image here.

    These are for folders only; see `scan.scan`:
        record: path of a JSON file that remembers the content of the folder, and what was left out and why.
        max_bad_fraction: largest fraction of files that may be left out, unreadable or of another depth.
        report: a function that receives lines about the progress of the scan, and later about each broken image.
        frozen: use the content of `record` without looking at the files again.

    Returns:
        A `Source`.

    Raises:
        NoSuchSplit: if the data set exists, but not the split.
        ValueError: if there is no such data set, it has no images of these forms, or an image of another class.
    """
    value_range = check_range(value_range)
    kinds = {
        "sample": lambda place, *rest: open_sample(*rest, value_range),
        "folder": functools.partial(
            open_folder,
            record=record,
            max_bad_fraction=max_bad_fraction,
            report=report,
            frozen=frozen,
            value_range=value_range,
        ),
        "npz": functools.partial(open_npz, value_range=value_range),
        "npy": functools.partial(open_npy, value_range=value_range),
        "tfds": functools.partial(open_tfds, data_dir=data_dir),
    }
    kind, _, place = dataset.partition(":")
    # The sample stands alone; every other kind has something behind its colon.
    if kind not in kinds or bool(place) == (kind == "sample"):
        raise ValueError(
            f"Expected a dataset sample, folder:PATH, npz:PATH, npy:PATH or tfds:NAME, received {dataset!r}."
        )
    check_split(split)
    if channels is not None and channels < 1:
        raise ValueError(f"Expected channels to be at least 1, received channels={channels}.")
    source = kinds[kind](place, split, channels)
    source.value_range = value_range
    if report:
        source.report = report
        report_range(source, dataset)
    if classes is not None:
        source.number_by(classes, f"the {split} split of {dataset}")
    return source
