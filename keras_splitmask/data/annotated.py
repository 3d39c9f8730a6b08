"""Images with annotations of their pixels: a source that wraps a source of images."""

import collections
import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

from keras_splitmask.data.counting import counted
from keras_splitmask.data.folders import FolderSource
from keras_splitmask.data.scan import NAMED, THREADS, printable
from keras_splitmask.data.sources import Source, check_split
from keras_splitmask.data.turning import orientation, upright
from keras_splitmask.data.values import WrongSize


class AnnotatedSource(Source):
    """The images of another source; each must have the size that its annotation states.

    Args:
        pictures: a `Source` of the images.
        classes: names of the classes.
        left_out: {name: reason} of what cannot be used, besides what `pictures` leaves out.
    """

    def __init__(self, pictures, classes, left_out):
        super().__init__()
        self.pictures = pictures
        self.report = pictures.report
        self.channels = pictures.channels
        self.classes = classes
        self.left_out = {**pictures.left_out, **left_out}

    def __len__(self):
        return len(self.pictures)

    def name(self, i):
        return self.pictures.name(i)

    def size(self, i):
        """Return (height, width) of the image that annotation `i` is for."""
        raise NotImplementedError

    def keeps_depth(self, i):
        return self.pictures.keeps_depth(i)

    def by_depth(self):
        return self.pictures.by_depth()

    def read_pixels(self, i, plan=None):
        """See `Source`. An image that was turned or resized after it was annotated raises ValueError."""

        # Called with the size in the file, before any pixel is decoded.
        def checked(height, width):
            check_size(self.size(i), (height, width), self.name(i))
            return plan(height, width) if plan else ((0, 0, height, width), (height, width))

        return self.pictures.read_pixels(i, checked)

    def each(self, read, limit=None):
        """Yield `read(i)` for each image, or for the first `limit` images.

        An image or annotation that cannot be read is skipped, reported once and noted in `broken`.
        """
        for i in range(min(limit or len(self), len(self))):
            try:
                sample = read(i)
            except ValueError as error:
                # Not replaced by another image, as in training: that one would count twice.
                self.note_broken(i, str(error), "It is left out of the metrics.")
                continue
            yield sample

    def summary(self):
        """The number of images and classes, and what was left out and why, in a line."""
        return f"{counted(len(self), 'image')}, {counted(len(self.classes), 'class')}{left_out_text(self.left_out)}"


def kind_and_place(dataset, split, forms):
    """Divide the name of an annotated data set, such as coco:PATH, at the colon, and check it and the split.

    Args:
        dataset: the name.
        split: must be "train", "val" or "test".
        forms: {kind: what stands behind the colon}, for the error.
    """
    kind, _, place = dataset.partition(":")
    if kind not in forms or not place:
        names = " or ".join(":".join(form) for form in forms.items())
        raise ValueError(f"Expected a dataset {names}, received {dataset!r}.")
    check_split(split)
    return kind, place


def check_size(annotated, size, name):
    """Raise WrongSize unless an image has the (height, width) that its annotation states."""
    if tuple(annotated) != tuple(size):
        raise WrongSize(
            f"Expected an image of {annotated[0]}x{annotated[1]} pixels, as it was annotated, received"
            f" {size[0]}x{size[1]} in {name}; annotate it again."
        )


def check_classes(classes, expected, place):
    """Raise ValueError unless the data set has the expected classes: names, or those of a source."""
    expected = getattr(expected, "classes", expected)
    # In another order, each number would be another class.
    if expected is not None and list(expected) != classes:
        missing, others = (
            [name for name in one if name not in other] for one, other in ((expected, classes), (classes, expected))
        )
        lists = [f"{what}: {_first(names)}" for what, names in (("missing", missing), ("others", others)) if names] or [
            "in another order"
        ]
        raise ValueError(
            f"Expected the {counted(len(expected), 'class')} of training, received {len(classes)} in {place};"
            f" {'; '.join(lists)}; use the same classes in both."
        )


def check_left_out(bad, total, left_out, place, max_bad_fraction):
    """Raise ValueError if none of `total` annotated images is usable, or more than `max_bad_fraction` are `bad`."""
    if bad < total and bad <= max_bad_fraction * total:
        return
    expected = (
        f"at most {max_bad_fraction:.0%} of the annotated images in {place} to be unusable, received {bad} of {total}"
    )
    none = f"annotated images in {place}, received none that can be used"
    raise ValueError(
        f"Expected {expected if 0 < bad < total else none}{left_out_text(left_out)}; correct the"
        f" files{', or raise max_bad_fraction' * (bad < total)}."
    )


def left_out_text(left_out):
    """The end of a line about what was left out: for each reason the count and the first names."""
    names = collections.defaultdict(list)
    for name, reason in left_out.items():
        names[reason].append(name)
    reasons = [f"{len(of_reason)} for {reason} ({_first(of_reason)})" for reason, of_reason in names.items()]
    return f"; left out: {'; '.join(reasons)}" if reasons else ""


def _first(names):
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*map(str, names[:NAMED]), *more])


def annotated_images(found, sizes, channels, report):
    """Select the images of a folder that are annotated.

    Args:
        found: a `Scan` of the folder.
        sizes: {relative path: (height, width)} of the annotated images.
        channels: see `FolderSource`.
        report: a function that receives a line about each image that turns out to be broken.

    Returns:
        1. a `FolderSource` in the order of `sizes`, or None if no image is left;
        2. {path: EXIF orientation} of the images that were annotated as stored, but are turned when they are read. A
           square image does not show it, so those follow the others;
        3. {name: reason} of the images that are annotated but are missing or have another size;
        4. {name: reason} of the images that are not annotated.
    """
    left_out = {printable(path): found.left_out.get(path, "no such file") for path in sizes if path not in found.images}
    others = {printable(path): "no annotation" for path in found.images if path not in sizes}
    there = [path for path in sizes if path in found.images]
    with ThreadPoolExecutor(THREADS) as pool:
        turns = pool.map(orientation, (os.path.join(found.root, path) for path in there))
    images, turned, unclear, frames = {}, {}, {}, set()
    for path, turn in zip(there, turns, strict=True):
        stored, size = found.images[path][:2], tuple(sizes[path])
        # The size of a square does not tell whether it was annotated as stored or upright.
        if turn != 1 and size == stored == upright(stored, turn):
            images[path], unclear[path] = found.images[path], turn
        elif size == upright(stored, turn):
            frames.add(turn)
            images[path] = found.images[path]
        elif size == stored:
            images[path], turned[path] = found.images[path], turn
        # Neither frame has this size, so it is no EXIF tag that was overlooked.
        elif size == stored[::-1]:
            left_out[printable(path)] = "height and width exchanged in its annotation"
        else:
            left_out[printable(path)] = "another size than was annotated"
    if turned and frames <= {1}:  # where the size tells, annotations are of the stored frame
        turned.update(unclear)
    elif unclear and report:
        report(
            "Square images, or images that keep their sides when they are turned as their EXIF tags say:"
            f" {len(unclear)}; their annotations are taken for those of the upright image."
        )
    images = {path: images[path] for path in there if path in images}
    pictures = FolderSource(dataclasses.replace(found, images=images), channels) if images else None
    if report and pictures:
        pictures.report = report
    return pictures, turned, left_out, others
