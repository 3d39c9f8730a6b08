"""Images to predict: a folder, files or arrays, in any order and without labels."""

import os
from pathlib import Path

import numpy as np

from keras_splitmask.data.arrays import ArraySource, read_array
from keras_splitmask.data.folders import FolderSource
from keras_splitmask.data.scan import printable, scan, scan_files
from keras_splitmask.data.sources import Source, part_of
from keras_splitmask.data.values import check_range
from keras_splitmask.data.walking import walk

ARRAYS = (".npy", ".npz")
LIST = ".txt"


class ImageList(Source):
    """Images of different sizes: a list of arrays (H, W) or (H, W, C).

    Args:
        images: the arrays.
        channels: C of every image.
    """

    def __init__(self, images, channels):
        super().__init__()
        self.images = [image if image.ndim == 3 else image[..., None] for image in map(np.asarray, images)]
        self.channels = channels
        if wrong := [image.shape for image in self.images if image.ndim != 3 or not image.size]:
            raise ValueError(f"Expected images (H, W) or (H, W, C), received shape {wrong[0]}; reshape it.")

    def __len__(self):
        return len(self.images)

    def name(self, i):
        return f"images[{i}]"

    def read_pixels(self, i, plan=None):
        return part_of(self.images[i], plan)


def open_images(images, channels, value_range=None, array=None, report=None):
    """Open images without labels; files are read when they are needed.

    Args:
        images: one of these, or a list of paths or of arrays:

            * a folder: all images below it, named by their paths relative to it. Runs and their results are skipped.
            * an image file, named as given.
            * a .txt file that lists one path per line, relative to the current folder or to the list.
            * an .npy or .npz file of one image or of images (B, H, W) or (B, H, W, C).
            * an array of one image (H, W) or (H, W, C), or of images (B, H, W) or (B, H, W, C).
        channels: C of the model; grey and RGB are converted. Other files are left out.
        value_range: see `opening.open_source`.
        array: name of the array in an .npz file, such as "test_images".
        report: a function that receives lines about the progress of looking at the files.

    Returns:
        A `Source`. Its `left_out` names the files that cannot be read, with the reason.

    Raises:
        ValueError: if there is no such file or folder, or no image can be read.
    """
    value_range = check_range(value_range)
    source = _opened(images, channels, value_range, array, report)
    source.value_range = value_range
    return source


def _opened(images, channels, value_range, array, report):
    if isinstance(images, (str, os.PathLike)):
        images = [images]
    # `__array__`: the tensors of other libraries.
    if isinstance(images, np.ndarray) or hasattr(images, "__array__"):
        return ArraySource(
            _batch(np.asarray(images), channels), None, None, channels, "the array", "images", value_range
        )
    images = list(images)
    if not images:
        raise ValueError("Expected images, received an empty list; add some.")
    if not all(isinstance(path, (str, os.PathLike)) for path in images):
        return ImageList(images, channels)
    paths = [os.path.expanduser(os.fspath(path)) for path in images]
    for path in paths:
        if not os.path.exists(path):
            what = "is a link to nowhere" if os.path.islink(path) else "does not exist"
            raise ValueError(f"File or folder not found: {printable(path)}, which {what}. Check the path.")
    if len(paths) == 1 and os.path.isdir(paths[0]):
        found = scan(paths[0], report=report, value_range=value_range)
        # What cannot be read is listed, and the other images are predicted all the same.
        found.check(max_bad_fraction=1.0)
        return _files(found, channels, paths[0])
    # By itself it may hold many images; among other paths, an array is one image.
    if len(paths) == 1 and paths[0].lower().endswith(ARRAYS):
        content, name = read_array(paths[0], array)
        return ArraySource(_batch(content, channels), None, None, channels, paths[0], name, value_range)
    return _files(scan_files(_all_files(paths), report, value_range), channels, ", ".join(map(printable, paths[:3])))


def _batch(array, channels):
    """One image (H, W) or (H, W, C) as a batch of one; other arrays unchanged."""
    # Three axes are one image (H, W, C) if the last can be channels; otherwise the first counts images.
    fitting = {channels, 1, 3} if channels in (1, 3) else {channels}
    return array[None] if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in fitting) else array


def _all_files(paths):
    """List the files of some folders, files and lists of files, each once."""
    files = []
    for path in paths:
        if os.path.isdir(path):
            files += sorted(os.path.join(path, name) for name in walk(path).paths)
        elif path.lower().endswith(LIST):
            files += _listed(Path(path))
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def _listed(file):
    try:
        # A path on Linux need not be UTF-8.
        lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    except OSError as error:
        raise ValueError(f"The list {printable(str(file))} cannot be read ({error.strerror}).") from error
    paths = [os.path.expanduser(line) for line in lines if line]
    if not paths:
        raise ValueError(f"Expected paths of images in {printable(str(file))}, one per line, received none; add some.")
    beside = [os.path.join(file.parent, path) for path in paths]
    return [
        other if not os.path.exists(path) and os.path.exists(other) else path
        for path, other in zip(paths, beside, strict=True)
    ]


def _files(found, channels, place):
    """The `FolderSource` of a scan, which must have an image that the model takes."""
    source = FolderSource(found, channels)
    if not source.paths:
        count, why = len(source.left_out), next((f"{name}: {why}" for name, why in source.left_out.items()), "no files")
        raise ValueError(
            f"Expected readable images of {channels} channels in {printable(place)}, received none of {count} files"
            f" ({why}); choose others."
        )
    return source
