"""Images to predict: a folder, files or arrays, in any order and without labels."""

import collections.abc
import os
from pathlib import Path

from keras_splitmask.data.arrays import ArraySource, read_array
from keras_splitmask.data.counting import counted
from keras_splitmask.data.folders import FolderSource
from keras_splitmask.data.given import is_picture, read_picture, to_array
from keras_splitmask.data.ranges import report_range
from keras_splitmask.data.scan import printable, scan, scan_files
from keras_splitmask.data.sources import Source, part_of
from keras_splitmask.data.subset import Subset
from keras_splitmask.data.values import check_range
from keras_splitmask.data.walking import walk

ARRAYS = (".npy", ".npz")
LIST = ".txt"


class ImageList(Source):
    """Images of different sizes: a list of arrays (H, W) or (H, W, C), tensors and Pillow's images.

    Args:
        images: the images.
        channels: C of every image.
    """

    def __init__(self, images, channels):
        super().__init__()
        self.images = [_image(image, f"images[{i}]", channels) for i, image in enumerate(images)]
        self.channels = channels

    def __len__(self):
        return len(self.images)

    def name(self, i):
        return f"images[{i}]"

    def read_pixels(self, i, plan=None):
        image = self.images[i]
        if is_picture(image):
            with self._lock:  # two threads must not load one file of Pillow
                image = read_picture(image, self.name(i))
        return part_of(image, plan)


def _image(image, name, channels):
    """An image as an array (H, W, C), or Pillow's image as it is."""
    if is_picture(image):
        return image
    array = to_array(image, name)
    array = array if array.ndim == 3 else array[..., None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"Expected images (H, W) or (H, W, C), received shape {array.shape} for {name}; reshape it.")
    if array.shape[0] in (1, 3, channels) and array.shape[-1] not in (1, 3, channels):
        raise ValueError(
            f"Expected images (H, W, C), received {array.shape} for {name}, which seems to be (C, H, W); transpose it"
            " by (1, 2, 0)."
        )
    return array


def open_images(images, channels, value_range=None, array=None, report=None):
    """Open images without labels; files are read when they are needed.

    Args:
        images: one of these, or a list of paths or of images:

            * a folder: all images below it, named by their paths relative to it. Runs and their results are skipped.
            * an image file, named as given.
            * a .txt file that lists one path per line, relative to the current folder or to the list.
            * an .npy or .npz file of one image or of images (B, H, W) or (B, H, W, C).
            * an array or a tensor of one image (H, W) or (H, W, C), or of images (B, H, W) or (B, H, W, C).
            * an image of Pillow, converted and turned upright as its file would be.

            A file that is found in several folders or lists comes once; a list of files only keeps those that repeat.
        channels: C of the model; grey and RGB are converted. Other files are left out.
        value_range: see `opening.open_source`.
        array: name of the array in an .npz file, such as "test_images".
        report: a function that receives lines about the progress of looking at the files, and about values that fill a
            small part of their range, see `ranges.report_range`.

    Returns:
        A `Source`. Its `left_out` names the files that cannot be read, with the reason.

    Raises:
        ValueError: if there is no such file or folder, or no image can be read.
        TypeError: if `images` is none of these.
    """
    value_range = check_range(value_range)
    source = _opened(images, channels, value_range, array, report)
    source.value_range = value_range
    if report:
        source.report = report
        report_range(source, "the images")
    return source


def _opened(images, channels, value_range, array, report):
    if isinstance(images, (str, os.PathLike)) or is_picture(images):
        images = [images]
    # `__array__`: the tensors of other libraries.
    if hasattr(images, "__array__"):
        array = _batch(to_array(images, "images"), channels, "the array")
        return ArraySource(array, None, None, channels, "the array", "images", value_range)
    if not isinstance(images, collections.abc.Iterable):
        raise TypeError(f"Expected paths, arrays or Pillow images, received {type(images).__name__}; pass some.")
    images = list(images)
    if not images:
        raise ValueError("Expected images, received an empty list; add some.")
    are_paths = [isinstance(image, (str, os.PathLike)) for image in images]
    if not any(are_paths):
        return ImageList(images, channels)
    if not all(are_paths):
        other = images[are_paths.index(False)]
        raise TypeError(
            f"Expected a list of paths only or of images only, received paths and {type(other).__name__}; split them."
        )
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
        array = _batch(content, channels, paths[0])
        return ArraySource(array, None, None, channels, paths[0], name, value_range)
    files = _all_files(paths)
    source = _files(scan_files(files, report, value_range), channels, ", ".join(map(printable, paths[:3])))
    if set(files) != set(paths) or len(files) == len(paths):
        return source
    places = {path: index for index, path in enumerate(source.paths)}
    return Subset(source, [places[path] for path in paths if path in places])


def _batch(array, channels, place):
    """One image (H, W) or (H, W, C) as a batch of one; other arrays unchanged."""
    # Three axes are one image (H, W, C) if the last can be channels; otherwise the first counts images.
    fitting = {channels, 1, 3} if channels in (1, 3) else {channels}
    if array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in fitting):
        return array[None]
    if channels == 3 and array.ndim == 3 and array.shape[0] == 3:
        raise ValueError(
            f"Expected an image (H, W, C) or images (B, H, W), received {array.shape} in {place}, which seems to be one"
            " image (C, H, W); transpose it by (1, 2, 0), or give three grey images an axis: images[..., None]."
        )
    return array


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
        # Some editors begin a text with a mark of its order of bytes, which utf-8-sig leaves out.
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()]
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
            f"Expected readable images of {channels} channels in {printable(place)}, received none of"
            f" {counted(count, 'file')} ({why}); choose others."
        )
    return source
