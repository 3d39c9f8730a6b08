"""What a data set says about the images of a split. Every format becomes entries in COCO's form."""

import dataclasses
import hashlib
import json
import os
import time

from keras_splitmask.data.reasons import reason_of
from keras_splitmask.data.scan import INTERVAL, Scan, printable
from keras_splitmask.data.turning import orientation, upright


@dataclasses.dataclass
class Listing:
    """The annotated images of a split.

    Attributes:
        place: path of the file or folder of annotations, for errors.
        found: `Scan` of the folder of images.
        images, annotations, categories: lists of dictionaries in COCO's form, as the files have them.
        digest: checksum of the annotations.
        names: for each annotation what to call it, or None for COCO's own files.
        unread: {name: reason} of files of annotations that cannot be used. Each counts as an unusable image.
        unannotated: relative paths of the images whose annotations are in `unread`.
        left_out: {name: reason} of single annotations that cannot be used.
        complete: whether an image without an entry should be mentioned; not if other splits share its folder.
        divided: whether the data set is divided into splits.
        boxes: how the format writes a box, for errors.
        ignored: what the format calls an object with "iscrowd".
        note: what a user should know about these annotations, or empty.
        from_zero: for `voc` whether its coordinates are counted from 0.
    """

    place: os.PathLike
    found: Scan
    images: list
    annotations: list
    categories: list
    digest: str = ""
    names: list | None = None
    unread: dict = dataclasses.field(default_factory=dict)
    unannotated: set = dataclasses.field(default_factory=set)
    left_out: dict = dataclasses.field(default_factory=dict)
    complete: bool = True
    divided: bool = True
    boxes: str = "[left, top, width, height] in pixels"
    ignored: str = "crowd"
    note: str = ""
    from_zero: bool | None = None

    def __post_init__(self):
        if not self.digest:
            entries = [self.images, self.annotations, self.categories]
            self.digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()

    @property
    def of_coco(self):
        """Whether the annotations are those of one of COCO's files."""
        return self.names is None


def upright_size(found, path):
    """The (height, width) of an image of a `Scan` as it is shown; (0, 0) if it is missing or unreadable."""
    if path not in found.images:
        return 0, 0
    return upright(found.images[path][:2], orientation(os.path.join(found.root, path)))


def restricted(found, wanted):
    """Return a `Scan` without the files that the function `wanted(relative path)` refuses."""
    images, left_out = (
        {path: fact for path, fact in facts.items() if wanted(path)} for facts in (found.images, found.left_out)
    )
    return dataclasses.replace(found, images=images, left_out=left_out)


def read_content(path, limit):
    """Read a file of annotations, of at most `limit` bytes. ValueError gives the reason if it cannot be read."""
    try:
        if not os.path.isfile(path):  # opening a FIFO would wait forever
            raise ValueError("no such file")
        if (size := os.path.getsize(path)) > limit:
            raise ValueError(f"{size / 1e6:.0f} MB, more than the {limit / 1e6:.0f} of a file of annotations")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(reason_of(error)) from error


def with_progress(items, place, report):
    """Yield the items, and report every few seconds how many files of annotations were read."""
    started = said = time.monotonic()
    for i, item in enumerate(items):
        yield item
        if report and time.monotonic() - said > INTERVAL:
            said = time.monotonic()
            report(f"reading {printable(str(place))}: {i + 1} of {len(items)} files, {said - started:.0f} s")
