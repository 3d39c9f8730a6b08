"""Images of an array: the embedded sample, and .npz and .npy files."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from keras_splitmask.data import arrayfile, free_memory
from keras_splitmask.data.conversion import fit_channels
from keras_splitmask.data.labels import check_labels, check_names, text
from keras_splitmask.data.sources import SPLITS, NoSuchSplit, Source, part_of
from keras_splitmask.data.values import check_layout, check_pixels

NO_IMAGES = ("labels", "classes", "names")  # ends of the names of arrays that are not images
SAMPLE = Path(__file__).parent / "sample" / "fashion_mnist.npz"


class ArraySource(Source):
    """The images of an array (B, H, W) or (B, H, W, C), with optional labels; see `labels.check_labels`."""

    unlabelled = "there is no array of labels; add one, such as train_labels, to an .npz file"

    def __init__(
        self, images, labels=None, classes=None, channels=None, place="the array", split="train", value_range=None
    ):
        super().__init__()
        self.value_range = value_range
        if images.ndim not in (3, 4) or not images.size:
            raise ValueError(
                f"Expected images (B, H, W) or (B, H, W, C), received shape {images.shape} in {place}; reshape them."
            )
        check_layout(images.shape, place)
        self.images = images if images.ndim == 4 else images[..., None]  # (B, H, W, C)
        self.split = split
        self.channels = channels or self.images.shape[-1]
        # One pixel, for the error if these channels cannot be converted.
        fit_channels(np.empty((1, 1, self.images.shape[-1]), "uint8"), self.channels, place)
        for start in range(0, len(images), 1024):  # in pieces: the file may be larger than memory
            self._check(slice(start, start + 1024), place)
        self.classes = None if classes is None else [str(name) for name in classes]
        if labels is not None:
            self.labels, self.classes = check_labels(labels, len(images), place, classes)

    def _check(self, piece, place):
        try:
            check_pixels(self.images[piece], place, self.value_range)
        except ValueError:
            for i in range(*piece.indices(len(self))):  # again one by one, to find the bad image
                check_pixels(self.images[i], f"{self.name(i)} of {place}", self.value_range)
            raise

    def __len__(self):
        return len(self.images)

    def name(self, i):
        return f"{self.split}[{i}]"

    def read_pixels(self, i, plan=None):
        return part_of(self.images[i], plan)

    def identity(self):
        # Of the values: a file of other images, of the same shape and uncompressed, has the same size.
        sums = [zlib.crc32(self.images[start : start + 1024].tobytes()) for start in range(0, len(self), 1024)]
        return [self.images.shape, str(self.images.dtype), sums]


def open_sample(split, channels=None, value_range=None):
    if split == "val":
        raise NoSuchSplit("Expected split to be train or test for the dataset sample, received 'val'.")
    return open_npz(SAMPLE, split, channels, value_range)


def open_npz(place, split, channels=None, value_range=None):
    with _load(place, np.lib.npyio.NpzFile, "npz") as file:
        keys = _keys(split)
        key = next((pair for pair in keys if pair[0] in file.files), None)
        if key is None:
            raise NoSuchSplit(
                f"Expected an array {' or '.join(['images'] * (split == 'train') + [f'{split}_images', f'x_{split}'])}"
                f" in {place}, received {', '.join(file.files) or 'no arrays'}; rename the array or choose another"
                f" split than {split}."
            )
        images, labels, classes = (_member(file, name, place) for name in (*key, "classes"))
        if classes is not None:
            classes = check_names(classes, place)
        elif labels is not None and labels.dtype.kind in "US":
            classes = _names(file, place)
    return ArraySource(images, labels, classes, channels, place, split, value_range)


def _keys(split):
    """Names of the arrays of images and of labels that a split may have."""
    keys = [(f"{name}_images", f"{name}_labels") for name in SPLITS[split]]
    keys += [(f"x_{name}", f"y_{name}") for name in SPLITS[split]]
    return keys + [("images", "labels")] * (split == "train")


def _names(file, place):
    """The sorted class names of all splits whose labels are text, so that numbers are the same in every split."""
    arrays = [_member(file, name, place) for split in SPLITS for _, name in _keys(split) if name in file.files]
    return sorted(
        set().union(*(text(labels, place).ravel().tolist() for labels in arrays if labels.dtype.kind in "US"))
    )


def open_npy(place, split, channels=None, value_range=None):
    if split != "train":
        raise NoSuchSplit(
            f"Expected split to be train, the only split of an .npy file, received {split!r}; use an .npz file."
        )
    return ArraySource(
        _load(place, np.ndarray, "npy", mmap_mode="r"), channels=channels, place=place, value_range=value_range
    )


def read_array(place, name=None):
    """Read the images of an .npy file, or one array of an .npz file.

    Args:
        place: path of the file.
        name: name of the array in an .npz file. It may be left out if the file has one array besides labels and
            classes, or one called images.

    Returns:
        The array, read-only if the file is larger than memory or an .npy file; and its name, "images" in an .npy file.

    Raises:
        ValueError: if the file cannot be read, or the array is not in it or not the only one.
    """
    if not str(place).lower().endswith(".npz"):
        return _load(place, np.ndarray, "npy", mmap_mode="r"), "images"
    with _load(place, np.lib.npyio.NpzFile, "npz") as file:
        images = [key for key in file.files if not key.startswith("y_") and not key.endswith(NO_IMAGES)]
        name = name or ("images" if "images" in images else images[0] if len(images) == 1 else None)
        if name not in file.files:
            raise ValueError(
                f"Expected the name of one array of images in {place}, received {name or 'none'}. Choose one of"
                f" {', '.join(images) or 'no arrays'}."
            )
        return _member(file, name, place), name


def _member(file, name, place):
    """Read an array of an .npz file; None if it is not there. An array too large for memory is mapped."""
    if name not in file.files:
        return None
    # NumPy calls the member of an array NAME.npy; other programs may not.
    member = file.zip.getinfo(name if name in file.zip.namelist() else f"{name}.npy")
    too_large = member.file_size > (most := free_memory.free_memory() / 2)
    if too_large and member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"Expected arrays of at most {most / 1e9:.1f} GB, half of the free memory, received {name} of"
            f" {member.file_size / 1e9:.1f} GB in {place}; save it with numpy.savez, without compression, to read it"
            " in pieces."
        )
    try:
        return arrayfile.mapped(file.zip.filename, member) if too_large else file[name]
    except Exception as error:  # damaged, of pickled objects, or larger than memory
        if _asks_for_pickle(error):
            raise ValueError(
                f"Expected an .npz file of plain arrays, received Python objects in {name} of {place}; save numbers or"
                " text."
            ) from error
        raise ValueError(
            f"Expected an .npz file of plain arrays, received {place} ({name}: {error}); write it again."
        ) from error


def _load(place, form, kind, **options):
    path = Path(os.path.expanduser(place))
    if not path.is_file():
        raise ValueError(f"File not found: {place}. Check the path after {kind}:.")
    try:
        content = np.load(path, allow_pickle=False, **options)
    except Exception as error:  # not a NumPy file, a truncated one, or one of pickled objects
        if not _begins_as_numpy(path):
            raise ValueError(f"{place} is not an .{kind} file.") from error
        reason = "it holds Python objects" if _asks_for_pickle(error) else error
        raise ValueError(
            f"Expected an .{kind} file of plain arrays, received {place} ({reason}); write it again."
        ) from error
    if not isinstance(content, form):
        other = "npy" if kind == "npz" else "npz"
        raise ValueError(f"{place} is an .{other} file, not an .{kind} file. Use {other}:{place}.")
    return content


def _begins_as_numpy(path):
    with open(path, "rb") as file:
        return file.read(len(arrayfile.NUMPY)).startswith((arrayfile.NUMPY, arrayfile.ZIP))


def _asks_for_pickle(error):
    """Return whether NumPy's error is about pickled objects. Its advice is to run them, so it must not be passed on."""
    return "pickle" in str(error)
