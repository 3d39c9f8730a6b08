"""Images with a label map each: folders of images and PNG files, and scene_parse150 of tensorflow-datasets."""

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from keras_splitmask.data.annotated import AnnotatedSource, annotated_images, check_classes, check_size
from keras_splitmask.data.decoding import open_picture
from keras_splitmask.data.published import open_tfds
from keras_splitmask.data.scan import THREADS, printable, scan
from keras_splitmask.data.sources import SPLITS, NoSuchSplit

IGNORE = 255
MODES = ("1", "L", "P", "I", "I;16")  # Pillow's, of images of numbers: grey of 1 to 16 bits, and palettes
FACTORS = {"L;2": 85, "L;4": 17}  # by which Pillow multiplies grey of 2 and 4 bits, to fill 8
SCENES = 150  # classes of scene_parse150, which are 1 to 150 in its files


class SegmentationSource(AnnotatedSource):
    """Images and their label maps, of which a kind of source gives the stored numbers.

    Args:
        pictures: a `Source` of the images.
        classes: their names, at most 255.
        numbers: (65536,) int16: the class of each number that may be stored, 255 to ignore it, -1 if it has no meaning.
        left_out: name: reason, of what cannot be used besides what `pictures` leaves out.
    """

    def __init__(self, pictures, classes, numbers, left_out):
        super().__init__(pictures, classes, left_out)
        self._numbers = numbers

    def _stored(self, i):
        """The content of the image file of label map `i`."""
        raise NotImplementedError

    def label_name(self, i):
        """What label map `i` is called."""
        raise NotImplementedError

    def label_map(self, i):
        """The class of each pixel of image `i`, (H, W) uint8; 255 where it is to be ignored.

        Raises:
            ValueError: with its name, if it cannot be read, is of another size than its header said or of unknown classes.
        """
        stored = read_numbers(self._stored(i), self.label_name(i))
        check_size(self.size(i), stored.shape, self.label_name(i))
        labels = self._numbers[stored]  # (H, W)
        if labels.min() < 0:
            raise ValueError(
                f"Expected a label map of numbers of the {len(self.classes)} classes, received {stored[labels < 0].max()} in "
                f"{self.label_name(i)}; correct it or the classes."
            )
        return labels.astype("uint8")


class FolderSegmentationSource(SegmentationSource):
    """Images of a folder, and label maps of another. See `open_segmentation`.

    Args:
        pictures: a `FolderSource`.
        classes, numbers, left_out: see `SegmentationSource`.
        root: path of the folder of label maps.
        paths: of the label map of each image, relative to it.
        sizes: (height, width) of each.
    """

    def __init__(self, pictures, classes, numbers, left_out, root, paths, sizes):
        super().__init__(pictures, classes, numbers, left_out)
        self.root, self.paths, self.sizes = root, paths, sizes

    def size(self, i):
        return self.sizes[i]

    def label_name(self, i):
        return printable(f"{self.root.name}/{self.paths[i]}")

    def _stored(self, i):
        try:
            return (self.root / self.paths[i]).read_bytes()
        except OSError as error:
            raise ValueError(f"Expected a label map, received {self.label_name(i)} ({error.strerror}); restore the file.") from error

    def _identity(self):
        files = [(path, os.stat(self.root / path)) for path in self.paths]
        stamps = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in files]
        return [self.pictures.fingerprint, stamps, self.classes, np.flatnonzero(self._numbers == IGNORE).tolist()]


class TfdsSegmentationSource(SegmentationSource):
    """scene_parse150 of tensorflow-datasets, whose "other", 0, is to be ignored."""

    def __init__(self, pictures):
        numbers = np.full(65536, -1, "int16")
        numbers[: SCENES + 1] = [IGNORE, *range(SCENES)]
        super().__init__(pictures, [str(k) for k in range(SCENES)], numbers, {})

    def size(self, i):
        return self.pictures.size(i, "annotation")

    def label_name(self, i):
        return f"the annotation of {self.name(i)}"

    def _stored(self, i):
        return self.pictures.record(i)["annotation"]

    def _identity(self):
        return self.pictures._identity()


def read_numbers(content, name):
    """The numbers (H, W), from 0 to 65535, that an image file stores for its pixels: grey values, or places in a palette.

    Raises:
        ValueError: with the name, if it cannot be read, or is in colour.
    """
    try:
        with open_picture(io.BytesIO(content)) as image:
            if image.format == "PNG":
                image.verify()  # the checksums, which Pillow does not look at when it decodes
        with open_picture(io.BytesIO(content)) as image:
            factor = FACTORS.get(image.tile[0][3] if image.tile else None, 1)
            if image.mode not in MODES:
                raise ValueError(_colours(image.mode))
            return np.asarray(image).astype("uint16") // factor
    except ImportError:
        raise
    except Exception as error:  # a damaged file raises whatever its decoder stumbles over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"Expected a readable label map, received {name} ({reason}); repair or remove the file.") from error


def _colours(mode):
    return f"colours ({mode}) instead of the numbers of classes"


def open_segmentation(dataset, split, data_dir=None, channels=3, report=None, classes=None):
    """Opens a set of images with label maps by its name; both are read when they are asked for.

    * `masks:PATH`: PATH/SPLIT/images/* with PATH/SPLIT/labels/*.png of the same names but for the extension. A label map holds the number of
      the class of each pixel, as grey value of up to 16 bits or as place in a palette. PATH/classes.json may say
      {"classes": [names], "void": 255}, where void is a number to ignore; 255 always is. Without it the classes are those given here, or
      "0" to the largest number in the label maps of the train split, which are all read to find it.
    * `tfds:scene_parse150`: ADE20k's 150 classes, "0" to "149"; what is none of them is ignored.

    Images without a label map, label maps without an image, in colour or of another size than their image are left out; `summary()`
    counts them and `left_out` names each.

    Args:
        dataset: one of the above.
        split: "train", "val" or "test".
        data_dir: where tensorflow-datasets keeps its files.
        channels: the wanted number of channels; 1 and 3 convert between grey and RGB.
        report: told of the scan's progress, and later of each image that turns out to be broken, in a line each.
        classes: names that the data set must have, such as those of the training split.

    Returns:
        A `SegmentationSource`.

    Raises:
        NoSuchSplit: if there is the data set, but not that split.
        ValueError: if there is nothing of that name, or it holds no label maps, or other classes.
    """
    kind, _, place = dataset.partition(":")
    if kind not in ("masks", "tfds") or not place:
        raise ValueError(f"Expected a dataset masks:PATH or tfds:scene_parse150, received {dataset!r}.")
    if split not in SPLITS:
        raise ValueError(f"Expected split to be one of {', '.join(SPLITS)}, received {split!r}.")
    if kind == "masks":
        source = _open_masks(Path(place).expanduser(), split, channels, report, classes)
    elif place.split(":")[0] == "scene_parse150":
        source = TfdsSegmentationSource(open_tfds(place, split, channels, data_dir))
    else:
        raise ValueError(f"Expected tfds:scene_parse150, the one that is known, received {dataset}; convert it to masks:PATH.")
    check_classes(source.classes, classes, dataset)
    if report:
        source.report = report
    return source


def _open_masks(root, split, channels, report, expected):
    folders = _folders(root)
    name = next((name for name in SPLITS[split] if name in folders), None)
    if name is None:
        raise NoSuchSplit(f"Expected split to be one of {', '.join(folders)}, which are in {root}, received {split!r}.")
    classes, numbers = _classes(root, folders, expected)
    labels = _label_files(folders[name] / "labels")  # stem: path
    with ThreadPoolExecutor(THREADS) as pool:
        headers = dict(zip(labels, pool.map(_header, (folders[name] / "labels" / path for path in labels.values())), strict=True))
    left_out = {printable(f"labels/{labels[stem]}"): header for stem, header in headers.items() if isinstance(header, str)}
    found = scan(folders[name] / "images", report=report)
    images = {path: os.path.splitext(path)[0] for path in (*found.images, *found.left_out)}  # path: stem
    left_out.update({printable(f"labels/{labels[stem]}"): "no image" for stem in sorted(headers.keys() - set(images.values()))})
    sizes = {path: headers[stem] for path, stem in images.items() if isinstance(headers.get(stem), tuple)}
    pictures, others = annotated_images(found, sizes, channels, report)
    paths = [labels[images[path]] for path in pictures.paths]
    return FolderSegmentationSource(
        pictures, classes, numbers, {**left_out, **others}, folders[name] / "labels", paths, [sizes[path] for path in pictures.paths]
    )


def _folders(root):
    """Name: path, of the splits that are there."""
    names = [name for names in SPLITS.values() for name in names]
    found = {name: root / name for name in names if (root / name / "images").is_dir() and (root / name / "labels").is_dir()}
    if not found:
        raise ValueError(f"Expected train/images and train/labels in {root}, or the same of val or test, received neither; correct the path.")
    return found


def _label_files(folder):
    """Stem: relative path, of the PNG files in a folder but for hidden ones, in order."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() == ".png" and not path.name.startswith("."))
    return {os.path.splitext(path)[0]: str(path) for path in paths}


def _header(path):
    """(height, width) of a label map, or a reason (str) to leave it out."""
    try:
        with open(path, "rb") as file, open_picture(file) as image:
            return (image.height, image.width) if image.mode in MODES else _colours(image.mode)
    except ImportError:
        raise
    except Exception:  # a damaged header raises whatever its reader stumbles over
        return "no label map that can be read"


def _classes(root, folders, expected):
    """The names of the classes, and the class of each number that may be stored: see `SegmentationSource`."""
    path, void = root / "classes.json", IGNORE
    if path.exists():
        classes, void = _written_classes(path)
    elif expected is not None:
        classes = list(expected)
    elif "train" in folders:
        classes = [str(k) for k in range(_largest(folders["train"] / "labels") + 1)]
    else:
        raise ValueError(f"Expected {path} or the labels of a train split in {root}, received neither; write down the classes.")
    if not 1 <= len(classes) <= IGNORE:
        raise ValueError(f"Expected 1 to {IGNORE} classes in {root}, received {len(classes)}; join some, or write {path} with their names.")
    numbers = np.full(65536, -1, "int16")
    numbers[: len(classes)] = np.arange(len(classes))
    numbers[[IGNORE, void]] = IGNORE
    return classes, numbers


def _written_classes(path):
    try:
        facts = json.loads(path.read_bytes())
        classes, void = [str(name) for name in facts["classes"]], facts.get("void", IGNORE)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ValueError(
            f'Expected {{"classes": [names], "void": 255}} in {path}, received other content ({error!r}); write it anew.'
        ) from error
    if not isinstance(void, int) or not len(classes) <= void < 65536:
        raise ValueError(
            f"Expected void to be a number from {len(classes)}, after the classes, to 65535, received {void} in {path}; correct it."
        )
    return classes, void


def _largest(folder):
    """The largest number in the label maps of a folder but for 255; those that cannot be read do not count."""

    def largest(path):
        try:
            numbers = read_numbers((folder / path).read_bytes(), path)
        except (ValueError, OSError):
            return -1
        return int(np.where(numbers == IGNORE, 0, numbers).max())

    with ThreadPoolExecutor(THREADS) as pool:
        return max(pool.map(largest, _label_files(folder).values()), default=-1)
