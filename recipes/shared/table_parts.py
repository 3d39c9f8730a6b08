"""The parts of `tables`: rows, columns, and what reads the result of a cell."""

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Row:
    """One pre-training: arguments of pretrain.py, where {data} stands for the column's data, and the paper's numbers,
    which are None for an empty cell."""

    name: str
    pretrain: tuple
    paper: tuple


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

    def cells(self):
        """List row, column and the paper's number of each cell that is not empty, row by row."""
        return [
            (row, column, paper)
            for row in self.rows
            for column, paper in zip(self.columns, row.paper, strict=True)
            if paper is not None
        ]


def top1(folder):
    """Read the accuracy in percent of finetune.py on its evaluation split."""
    result = json.loads((folder / "result.json").read_text())
    return 100 * next(value for name, value in result.items() if name.endswith("_top1"))


def best_linear(folder):
    """Read the accuracy in percent of probe.py's linear classifier at the best block, as BEiT's probe reports it."""
    result = json.loads((folder / "probe.json").read_text())
    return 100 * max(value for name, value in result.items() if name.startswith("linear_accuracy"))


def linear(folder):
    """Read the accuracy in percent of probe.py's linear classifier at the block that held-out training images chose."""
    return 100 * json.loads((folder / "probe.json").read_text())["linear_accuracy"]


def neighbours(folder):
    """Read the accuracy in percent of probe.py's nearest neighbours."""
    return 100 * json.loads((folder / "probe.json").read_text())["knn_accuracy"]


def hours(folder):
    """Read the hours that a finished run of pretrain.py took."""
    (folder / "model.keras").stat()
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["seconds"] / 3600


def minutes(folder):
    return 60 * hours(folder)


def flags(name):
    return f"--flagfile=recipes/flags/{name}.flags"
