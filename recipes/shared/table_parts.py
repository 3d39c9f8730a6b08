"""The parts of `tables`: rows, columns, and what reads the result of a cell."""

import dataclasses
import json

# The data sets that flags of reproduce.py name: where they are unless the flag says otherwise, and what they are.
PLACES = {
    "cifar10": ("tfds:cifar10", "CIFAR-10 for the small tables"),
    "mnist": ("tfds:mnist", "MNIST for the small tables"),
    "groceries": ("folder:groceries", "The Grocery Store data set for the small tables"),
    "bccd": ("coco:bccd", "BCCD, photographs of blood cells, for --table=detection"),
    "camvid": ("masks:camvid", "CamVid, scenes of streets, for --table=segmentation"),
    "imagenette": ("tfds:imagenette/full-size-v2", "Imagenette for --table=imagenette"),
}
NO_NUMBER = ""  # of a cell for which nothing was published


@dataclasses.dataclass(frozen=True)
class Row:
    """One pre-training: arguments of pretrain.py, see `filled`, and the published numbers of the columns, None for an
    empty cell; () if none are published."""

    name: str
    pretrain: tuple
    paper: tuple = ()
    judge: tuple = ()  # more arguments of the evaluation


@dataclasses.dataclass(frozen=True)
class Column:
    """One evaluation: a recipe and its arguments, the data of pre-training, and `read`, which reads the result from a
    folder."""

    name: str
    recipe: str
    judge: tuple
    read: object
    data: str = ""  # for {data} in the row's arguments
    source: tuple = ()  # more arguments of pretrain.py
    digits: int = 1


@dataclasses.dataclass(frozen=True)
class Table:
    title: str
    corner: str  # what the rows are
    columns: tuple
    rows: tuple
    numbers: str = "the paper's"  # whose the numbers of the rows are

    def numbers_of(self, row):
        """List the published numbers of a row: NO_NUMBER where none is published, None for an empty cell."""
        return row.paper or (NO_NUMBER,) * len(self.columns)

    def cells(self):
        """List row, column and the published number of each cell that is not empty, row by row."""
        return [
            (row, column, number)
            for row in self.rows
            for column, number in zip(self.columns, self.numbers_of(row), strict=True)
            if number is not None
        ]


def filled(texts, column, places):
    """Fill in the words in braces of arguments: {data} is the column's, {mnist} and the like are the `places` of data
    sets, {bccd_images} and the like their training images without annotations."""
    images = {f"{name}_images": f"folder:{place.partition(':')[2]}/train/images" for name, place in places.items()}
    return [text.format(data=column.data, **places, **images) for text in texts]


def top1(folder):
    """Read the accuracy in percent of finetune.py on its evaluation split."""
    result = json.loads((folder / "result.json").read_text())
    return 100 * next(value for name, value in result.items() if name.endswith("_top1"))


def best_linear(folder):
    """Read the accuracy in percent of probe.py's linear classifier at the best block, as BEiT's probe reports it."""
    result = json.loads((folder / "probe.json").read_text())
    return 100 * max(value for name, value in result.items() if name.startswith("linear_accuracy"))


def percent(file, name):
    """Return what reads a number in percent from a file that an evaluation leaves: accuracy, AP or IoU."""
    return lambda folder: 100 * json.loads((folder / file).read_text())[name]


def hours(folder):
    """Read the hours that a finished run of pretrain.py took."""
    (folder / "model.keras").stat()
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["seconds"] / 3600


def minutes(folder):
    return 60 * hours(folder)


def flags(name):
    return f"--flagfile=recipes/flags/{name}.flags"
