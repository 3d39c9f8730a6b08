"""Read label maps that hold a colour for each class, by a table of the colours."""

import csv
import dataclasses
import io
import itertools
import re

import numpy as np

from keras_splitmask.data.class_numbers import IGNORE, Numbering
from keras_splitmask.data.listing import read_content
from keras_splitmask.data.scan import printable
from keras_splitmask.data.stored_numbers import LARGEST, PART

FILES = (
    "class_dict.csv",
    "class_dict_seg.csv",
    "labelmap.txt",
    "colours.csv",
    "colors.csv",
    "label_colors.txt",
)  # the first one counts
FORMS = "name,r,g,b in each line, such as road,128,64,128"
MAX_BYTES = 1_000_000
MOST_ROWS = 1000  # 255 classes, and colours that are ignored
NUMBER = re.compile(r"[0-9]{1,3}")
VOID = ("void", "ignore", "ignored", "unlabeled", "unlabelled")  # names of what is no class
COMMAS = re.compile(r"\s*,\s*")


@dataclasses.dataclass(frozen=True)
class Colours:
    """The colours of label maps. The number of a colour is its row in the table.

    Attributes:
        path: path of the table.
        names: a name for each row.
        colours: (red, green, blue) for each row.
    """

    path: object
    names: list
    colours: list

    @property
    def classes(self):
        """The names of the classes; a class may have several colours."""
        return list(dict.fromkeys(name for name in self.names if name.lower() not in VOID))

    def numbering(self):
        """The `Numbering` of the rows: classes in order, without those that are called void or the like."""
        meaning, classes = np.full(LARGEST + 1, -1, "int16"), self.classes
        for row, name in enumerate(self.names):
            meaning[row] = classes.index(name) if name in classes else IGNORE
        void = [name for name in dict.fromkeys(self.names) if name not in classes]
        note = f"Colours are those of {self.path.name}" + (f"; {', '.join(void)} ignored" if void else "")
        return Numbering(classes, meaning, f"{note}.", path=self.path, colours=self)

    def numbers(self, pixels):
        """The numbers (H, W) uint16 of pixels (H, W, 3) uint8.

        Raises:
            ValueError: with the reason, if a colour is not in the table.
        """
        known = np.array([_packed(np.array(colour)) for colour in self.colours])
        order = np.argsort(known, kind="stable")
        rows = np.empty(pixels.shape[:2], "uint16")
        step = max(1, PART // pixels.shape[1])
        for start in range(0, len(pixels), step):
            packed = _packed(pixels[start : start + step])
            found = order[np.minimum(np.searchsorted(known, packed, sorter=order), len(known) - 1)]
            if (wrong := known[found] != packed).any():
                # One is named, the same for all label maps that have it, so that these are counted together.
                value = int(packed[wrong].min())
                raise ValueError(f"the colour {value >> 16},{value >> 8 & 255},{value & 255}, not in {self.path.name}")
            rows[start : start + step] = found
        return rows


def _packed(colours):
    """One number of colours (..., 3)."""
    red, green, blue = np.moveaxis(colours.astype("int32"), -1, 0)
    return red << 16 | green << 8 | blue


def find(root):
    """The path of the table of colours of a data set, or None."""
    return next((root / name for name in FILES if (root / name).is_file()), None)


def read(path):
    """Read a table of colours: class_dict.csv and the like, CVAT's labelmap.txt, or CamVid's label_colors.txt.

    Raises:
        ValueError: if the file has another form.
    """
    try:
        text = read_content(path, MAX_BYTES).decode("utf-8-sig")
    except ValueError as error:
        raise ValueError(f"Expected {FORMS} in {path}, received no text ({error}); save it as UTF-8.") from error
    parse = {"labelmap.txt": _cvat, "label_colors.txt": _camvid}.get(path.name, _csv)
    try:
        rows = list(itertools.islice((row for row in parse(text) if row), MOST_ROWS + 1))
    except csv.Error as error:
        raise ValueError(f"Expected {FORMS} in {path}, received a line that is none ({error}); correct it.") from error
    if len(rows) > MOST_ROWS:
        raise ValueError(f"Expected the colours of 2 to {IGNORE} classes in {path}, received more than {MOST_ROWS}.")
    names, colours = [], []
    for k, (name, values) in enumerate(rows):
        if k == 0 and parse is _csv and not any(NUMBER.fullmatch(value.strip()) for value in values):
            continue  # the names of the columns
        numbers = [int(value) for value in values if NUMBER.fullmatch(value.strip()) and int(value) < 256]
        if not name or len(numbers) != 3 or len(values) != 3:
            raise ValueError(
                f"Expected {FORMS} in {path}, received {printable(name)[:40]} with {','.join(values)[:60]}; r, g and b"
                " are from 0 to 255."
            )
        if tuple(numbers) in colours:
            other = names[colours.index(tuple(numbers))]
            raise ValueError(f"Expected a colour for each class in {path}, received one for {other} and {name}.")
        names.append(name)
        colours.append(tuple(numbers))
    table = Colours(path, names, colours)
    if not 2 <= len(table.classes) <= IGNORE:
        raise ValueError(
            f"Expected the colours of 2 to {IGNORE} classes in {path}, received {len(table.classes)}; correct it."
        )
    return table


def _csv(text):
    """Lines name,r,g,b; also with semicolons."""
    separator = ";" if text.partition("\n")[0].count(";") >= 3 else ","
    for row in csv.reader(io.StringIO(text), delimiter=separator):
        if any(cell.strip() for cell in row):
            yield row[0].strip(), row[1:4]


def _cvat(text):
    """Lines label:r,g,b:parts:actions, and comments."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            # A name may have a colon; the colour is the last part but two.
            name, _, rest = line.strip().rpartition(":")[0].rpartition(":")[0].rpartition(":")
            yield name.strip(), COMMAS.split(rest.strip())


def _camvid(text):
    """Lines of red, green, blue and a name."""
    for line in text.splitlines():
        if line.strip():
            words = line.split()
            yield " ".join(words[3:]), words[:3]
