"""Images with annotations of their pixels: a source on top of a source of images."""

import collections
import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

from keras_splitmask.data.folders import FolderSource
from keras_splitmask.data.scan import NAMED, THREADS, printable
from keras_splitmask.data.sources import Source
from keras_splitmask.data.turning import orientation, upright


class AnnotatedSource(Source):
    """The images of another source, each of which must have the size that its annotation is for.

    Args:
        pictures: a `Source` of the images.
        classes: their names.
        left_out: name: reason, of what cannot be used besides what `pictures` leaves out.
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
        """(height, width) of the image that annotation `i` is for."""
        raise NotImplementedError

    def keeps_depth(self, i):
        return self.pictures.keeps_depth(i)

    def read_pixels(self, i, plan=None):
        """See `Source`. An image that was turned or resized after it was annotated cannot be read."""
        found = []

        def noted(height, width):
            found.append((height, width))
            return plan(height, width) if plan else ((0, 0, height, width), (height, width))

        pixels = self.pictures.read_pixels(i, noted)
        check_size(self.size(i), found[0], self.name(i))
        return pixels

    def each(self, read, limit=None):
        """`read(i)` of each image for which it can be done, or of the first of them, one after the other.

        One that cannot be read, or whose annotation cannot, is reported once and noted in `broken`.
        """
        for i in range(min(limit or len(self), len(self))):
            try:
                answer = read(i)
            except ValueError as error:
                self.note_broken(i, str(error), "It is left out of the measures.")
                continue
            yield answer

    def summary(self):
        """How many images of how many classes there are, and what was left out and why, in a line."""
        return f"{len(self)} images, {len(self.classes)} classes{told(self.left_out)}"


def check_size(annotated, size, name):
    """Raises ValueError unless an image has the (height, width) that its annotation is for."""
    if tuple(annotated) != tuple(size):
        raise ValueError(
            f"Expected an image of {annotated[0]}x{annotated[1]} pixels, as it was annotated, received"
            f" {size[0]}x{size[1]} in {name}; annotate it again."
        )


def check_classes(classes, expected, place):
    """Raises ValueError if other classes than the data set's are expected: names, or those of a source."""
    expected = getattr(expected, "classes", expected)
    if expected is not None and list(expected) != classes:
        missing, others = (
            [name for name in one if name not in other] for one, other in ((expected, classes), (classes, expected))
        )
        lists = [f"{what}: {_first(names)}" for what, names in (("missing", missing), ("others", others)) if names] or [
            "in another order"
        ]
        raise ValueError(
            f"Expected the {len(expected)} classes that are learnt, received {len(classes)} in {place};"
            f" {'; '.join(lists)}; make them alike."
        )


def check_left_out(bad, total, left_out, place, max_bad_fraction):
    """Raises ValueError if none of `total` annotated images is left, or more than that share of them is `bad`: a
    number."""
    if bad < total and bad <= max_bad_fraction * total:
        return
    share = (
        f"at most {max_bad_fraction:.0%} of the annotated images in {place} to be unusable, received {bad} of {total}"
    )
    none = f"annotated images in {place}, received none that can be used"
    raise ValueError(
        f"Expected {share if 0 < bad < total else none}{told(left_out)}; correct the"
        f" files{', or raise max_bad_fraction' * (bad < total)}."
    )


def told(left_out):
    """What was left out, as the end of a line: for each reason how many, and the names of the first."""
    names = collections.defaultdict(list)
    for name, reason in left_out.items():
        names[reason].append(name)
    reasons = [f"{len(of_reason)} for {reason} ({_first(of_reason)})" for reason, of_reason in names.items()]
    return f"; left out: {'; '.join(reasons)}" if reasons else ""


def _first(names):
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*map(str, names[:NAMED]), *more])


def annotated_images(found, sizes, channels, report):
    """The images of a folder that are annotated.

    Args:
        found: a `Scan` of the folder.
        sizes: relative path: (height, width), of the images that are annotated.
        channels: see `FolderSource`.
        report: told of each image that turns out to be broken.

    Returns:
        A `FolderSource` in the order of `sizes`; {path: EXIF orientation} of the images that are annotated as they are
        stored, but are turned when they are read, where sizes that turning keeps are taken as those that it does not;
        name: reason, of the images that are annotated but not there or of another size; and the same of those that are
        not annotated. The first is None if no image is left.
    """
    left_out = {printable(path): found.left_out.get(path, "no such file") for path in sizes if path not in found.images}
    others = {printable(path): "no annotation" for path in found.images if path not in sizes}
    there = [path for path in sizes if path in found.images]
    with ThreadPoolExecutor(THREADS) as pool:
        turns = pool.map(orientation, (os.path.join(found.root, path) for path in there))
    images, turned, unclear, frames = {}, {}, {}, set()
    for path, turn in zip(there, turns, strict=True):
        stored, size = found.images[path][:2], tuple(sizes[path])
        if turn != 1 and size == stored == upright(stored, turn):
            images[path], unclear[path] = found.images[path], turn
        elif size == upright(stored, turn):
            frames.add(turn)
            images[path] = found.images[path]
        elif size == stored:
            images[path], turned[path] = found.images[path], turn
        elif size == stored[::-1]:
            left_out[printable(path)] = "height and width exchanged in its annotation"
        else:
            left_out[printable(path)] = "another size than was annotated"
    if turned and frames <= {1}:  # where the size tells, annotations are of the stored frame
        turned.update(unclear)
    elif unclear and report:
        report(
            f"{len(unclear)} images are square or keep their sides when they are turned as their EXIF tags say; "
            "their annotations are taken for those of the upright image."
        )
    images = {path: images[path] for path in there if path in images}
    pictures = FolderSource(dataclasses.replace(found, images=images), channels) if images else None
    if report and pictures:
        pictures.report = report
    return pictures, turned, left_out, others
