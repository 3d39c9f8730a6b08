"""Where images come from: the embedded sample, a folder, an array file or tensorflow-datasets, all behind `Source`."""

import functools
import io
import os
from pathlib import Path

import numpy as np

from keras_splitmask.data.decoding import check_pixels, fit_channels, image_channels, read_image, to_uint8
from keras_splitmask.data.optional import optional

SAMPLE = Path(__file__).parent / "sample" / "fashion_mnist.npz"
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What a split may be called in a folder, an array file or a tfds data set.
SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}


def open_source(dataset, split="train", data_dir=None, channels=None):
    """Opens a set of images by its name; images are read when they are asked for.

    * `sample`: 10,000 train and 2,000 test images of Fashion-MNIST, 28x28 grey.
    * `folder:PATH`: the images under PATH, or under PATH/SPLIT if PATH has subfolders called train, val or test. They have labels,
      namely the names of their directories, if all lie exactly one directory deep and there are two directories or more.
    * `npz:PATH`: arrays `train_images` and `train_labels` (likewise val, test), as MedMNIST has them, or `x_train` and `y_train`,
      as Keras has them, or `images` and `labels`, which are the train split. Labels may be absent, and so may `classes`, the names.
    * `npy:PATH`: one array of images, the train split.
    * `tfds:NAME`: a data set of tensorflow-datasets that has a feature called "image", and labels if it has one called "label".

    Arrays are (B, H, W) or (B, H, W, C); uint8, uint16, or float in 0..1.

    Args:
        dataset: one of the above.
        split: "train", "val" or "test". A data set that is not divided is its own train split.
        data_dir: where tensorflow-datasets keeps its files; the other kinds do not use it.
        channels: the wanted number of channels; 1 and 3 convert between grey and RGB. By default that of the images; a folder of
            which some images are grey and some in colour is in colour.

    Returns:
        A `Source`.

    Raises:
        ValueError: if there is nothing of that name, or it does not hold images of one of these forms.
    """
    kind, _, place = dataset.partition(":")
    if kind not in KINDS or bool(place) == (kind == "sample"):
        raise ValueError(f"Expected a dataset sample, folder:PATH, npz:PATH, npy:PATH or tfds:NAME, received {dataset!r}.")
    if split not in SPLITS:
        raise ValueError(f"Expected split to be one of {', '.join(SPLITS)}, received {split!r}.")
    if channels is not None and channels < 1:
        raise ValueError(f"Expected channels to be at least 1, received channels={channels}.")
    return KINDS[kind](place, split, data_dir, channels)


class Source:
    """Images in a fixed order. A kind of source says how many there are, and how to read the pixels and the label of one.

    Attributes:
        channels: C of every image.
        labels: the class of each image (B,) int32, or None.
        classes: the names of the classes, or None.
    """

    channels = labels = classes = None

    def __len__(self):
        raise NotImplementedError

    def name(self, i):
        """What image `i` is called: a path relative to the folder, or train[12]."""
        raise NotImplementedError

    def _read(self, i):
        """Pixels (H, W, C) of image `i`, of any dtype that `to_uint8` takes."""
        raise NotImplementedError

    def image(self, i):
        """Image `i` (H, W, C) uint8."""
        return fit_channels(to_uint8(self._read(i), self.name(i)), self.channels, self.name(i))

    def label(self, i):
        """The class of image `i`, or None."""
        return None if self.labels is None else int(self.labels[i])

    @functools.cached_property
    def image_shape(self):
        """(height, width, channels) of the first image; the others may have other sides."""
        return self.image(0).shape


class ArraySource(Source):
    """Images (B, H, W) or (B, H, W, C) of an array, with labels (B,) or (B, 1) int or without."""

    def __init__(self, images, labels=None, classes=None, channels=None, place="the array", split="train"):
        if images.ndim not in (3, 4) or not images.size:
            raise ValueError(f"Expected images (B, H, W) or (B, H, W, C), received shape {images.shape} in {place}; reshape them.")
        self.images = images if images.ndim == 4 else images[..., None]  # (B, H, W, C)
        self.split = split
        self.channels = channels or self.images.shape[-1]
        fit_channels(np.empty((1, 1, self.images.shape[-1]), "uint8"), self.channels, place)
        for start in range(0, len(images), 1024):  # a piece at a time: the file may be larger than memory
            self._check(slice(start, start + 1024), place)
        if labels is not None:
            self.labels = check_labels(labels, len(images), place)
        if classes is not None:
            self.classes = [str(name) for name in classes]

    def _check(self, piece, place):
        try:
            check_pixels(self.images[piece], place)
        except ValueError:
            for i in range(*piece.indices(len(self))):  # again one by one, to name the culprit
                check_pixels(self.images[i], f"{self.name(i)} of {place}")
            raise

    def __len__(self):
        return len(self.images)

    def name(self, i):
        return f"{self.split}[{i}]"

    def _read(self, i):
        return self.images[i]


class FolderSource(Source):
    """The image files under `root`, at the relative `paths`."""

    def __init__(self, root, paths, channels=None):
        self.root = root
        self.paths = paths
        if channels not in (None, 1, 3):
            raise ValueError(f"Expected channels=1 or 3 for image files, received channels={channels}; use npz: for other depths.")
        spread = sorted({i * (len(paths) - 1) // 15 for i in range(16)})
        self.channels = channels or max(image_channels(os.path.join(root, paths[i])) for i in spread)
        self._guess = channels is None
        directories = sorted({os.path.dirname(path) for path in paths})
        if len(directories) > 1 and all(name and os.sep not in name for name in directories):
            self.classes = directories
            self.labels = np.array([directories.index(os.path.dirname(path)) for path in paths], "int32")

    def __len__(self):
        return len(self.paths)

    def name(self, i):
        return self.paths[i]

    def _read(self, i):
        pixels = read_image(os.path.join(self.root, self.paths[i]), self.name(i))
        if self._guess and pixels.shape[-1] > self.channels:
            raise ValueError(f"Expected grey images as before, received {self.name(i)} in colour; set channels to 1 or 3.")
        return pixels


class TfdsSource(Source):
    """Records of tensorflow-datasets: dicts with a still encoded "image" and perhaps a "label"."""

    def __init__(self, records, features, channels=None, split="train"):
        self.records = records
        self.split = split
        self.channels = channels or features["image"].shape[-1]
        if "label" in features:
            self.classes = getattr(features["label"], "names", None)
        self._labelled = "label" in features

    def __len__(self):
        return len(self.records)

    def name(self, i):
        return f"{self.split}[{i}]"

    @functools.cached_property
    def labels(self):
        if not self._labelled:
            return None
        return check_labels(np.array([record["label"] for record in self.records]), len(self), self.split)

    def label(self, i):
        return int(self.records[i]["label"]) if self._labelled else None

    def _read(self, i):
        return read_image(io.BytesIO(self.records[i]["image"]), self.name(i))


def check_labels(labels, count, place):
    """Labels (B,) or (B, 1) of any integer type, one for each of `count` images, to (B,) int32."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise ValueError(f"Expected a label for each of the {count} images, received labels {labels.shape} in {place}; align them.")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(f"Expected labels as integers from 0 on, received {labels.dtype} from {labels.min()} in {place}.")
    return labels.astype("int32")


def _open_sample(place, split, data_dir, channels):
    if split == "val":
        raise ValueError("Expected split to be train or test for the dataset sample, received 'val'.")
    return _open_npz(SAMPLE, split, data_dir, channels)


def _open_npz(place, split, data_dir, channels):
    with _load(place, np.lib.npyio.NpzFile, "npz") as file:
        keys = [(f"{name}_images", f"{name}_labels") for name in SPLITS[split]]
        keys += [(f"x_{name}", f"y_{name}") for name in SPLITS[split]]
        keys += [("images", "labels")] if split == "train" else []
        key = next((pair for pair in keys if pair[0] in file.files), None)
        if key is None:
            raise ValueError(
                f"Expected an array {' or '.join(sorted({pair[0] for pair in keys}))} in {place}, received "
                f"{', '.join(file.files) or 'no arrays'}; rename the array or choose another split than {split}."
            )
        images, labels, classes = (file[name] if name in file.files else None for name in (*key, "classes"))
    return ArraySource(images, labels, classes, channels, place, split)


def _open_npy(place, split, data_dir, channels):
    if split != "train":
        raise ValueError(f"Expected split to be train for an npy file, which has no other, received {split!r}; use an npz file.")
    return ArraySource(_load(place, np.ndarray, "npy", mmap_mode="r"), channels=channels, place=place)


def _load(place, form, kind, **options):
    path = Path(place).expanduser()
    if not path.is_file():
        raise ValueError(f"Expected an {kind} file, received {place}, which is not a file; correct the path.")
    try:
        content = np.load(path, allow_pickle=False, **options)
    except Exception as error:  # not a NumPy file, a truncated one, or one of pickled objects
        raise ValueError(f"Expected an {kind} file of plain arrays, received {place} ({error}); write it anew.") from error
    if not isinstance(content, form):
        raise ValueError(f"Expected an {kind} file, received {place}, which is of the other kind; say npz: or npy: as it is.")
    return content


def _open_folder(place, split, data_dir, channels):
    root = Path(place).expanduser()
    if not root.is_dir():
        raise ValueError(f"Expected a folder, received {place}, which is not one; correct the path.")
    divided = {s: root / name for s, names in SPLITS.items() for name in names if (root / name).is_dir()}
    if divided and split not in divided:
        raise ValueError(f"Expected split to be one of {', '.join(divided)}, the subfolders of {place}, received {split!r}.")
    if not divided and split != "train":
        raise ValueError(f"Expected a subfolder {split} in {place}, received a folder that is not divided; use the split train.")
    root = divided.get(split, root)
    paths, others = _image_paths(root)
    if not paths:
        raise ValueError(
            f"Expected images ({' '.join(EXTENSIONS)}) in {root}, received an empty folder"
            f"{f' but for {others} other files' if others else ''}; correct the path."
        )
    return FolderSource(str(root), paths, channels)


def _image_paths(root):
    """Relative paths of the images under `root` in order, and the number of other files. Links to directories are followed."""
    paths, others, visited = [], 0, set()
    for directory, subdirectories, names in os.walk(root, followlinks=True):
        real = os.path.realpath(directory)
        if real in visited:  # a link back to where we have been
            subdirectories.clear()
            continue
        visited.add(real)
        subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
        images = [name for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
        others += len(names) - len(images)
        paths += [os.path.relpath(os.path.join(directory, name), root) for name in images]
    return sorted(paths), others


def _open_tfds(place, split, data_dir, channels):
    tfds = optional("tensorflow_datasets", "tf")
    try:
        builder = tfds.builder(place, data_dir=data_dir)
        features = builder.info.features
        if not ("image" in features and isinstance(features["image"], tfds.features.Image)):
            raise ValueError(f"no feature \"image\" among {', '.join(features)}")
        names = list(builder.info.splits)
        name = next((name for name in SPLITS[split] if name in names), None)
        if name is None and names:
            raise ValueError(f"no split {split} among {', '.join(names)}")
        return TfdsSource(_records(tfds, place, name or split, data_dir), features, channels, split)
    except Exception as error:  # unknown names, failed downloads, missing packages: dozens of types, messages of many lines
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"Expected images of tensorflow-datasets, received tfds:{place} ({reason}); correct the name.") from error


def _records(tfds, name, split, data_dir):
    options = {"split": split, "data_dir": data_dir, "decoders": {"image": tfds.decode.SkipDecoding()}}
    try:
        return tfds.data_source(name, **options)
    except NotImplementedError:
        # The data was prepared as TFRecord, which cannot be read at random: keep its encoded images in memory.
        return list(tfds.as_numpy(tfds.load(name, **options)))


KINDS = {"sample": _open_sample, "folder": _open_folder, "npz": _open_npz, "npy": _open_npy, "tfds": _open_tfds}
