"""The tables of the paper and its poster: how each cell is made, at the paper's scale and at one of minutes, and what the paper has there."""

import dataclasses
import json

DIVERGED = "diverged"  # in place of a number that the paper does not have because the run diverged


@dataclasses.dataclass(frozen=True)
class Row:
    """A way to pre-train: arguments of pretrain.py, in which {data} is that of the column, and the paper's numbers, None for no cell."""

    name: str
    pretrain: tuple
    paper: tuple


@dataclasses.dataclass(frozen=True)
class Column:
    """A way to judge: a recipe and its arguments, `read`, a function of its folder that gives the number, and what was pre-trained on."""

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

    def cells(self):
        """Row, column and the paper's number of each cell that there is, row by row."""
        return [(row, column, paper) for row in self.rows for column, paper in zip(self.columns, row.paper, strict=True) if paper is not None]


def top1(folder):
    """Test accuracy in percent, of finetune.py."""
    return 100 * json.loads((folder / "result.json").read_text())["test_top1"]


def best_linear(folder):
    """Test accuracy in percent of the linear classifier at the best block, of probe.py, as BEiT's probe reports it."""
    result = json.loads((folder / "probe.json").read_text())
    return 100 * max(value for name, value in result.items() if name.startswith("linear_accuracy"))


def hours(folder):
    """Hours that pretrain.py took, of a run that is finished."""
    (folder / "model.keras").stat()
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["seconds"] / 3600


def minutes(folder):
    return 60 * hours(folder)


def flags(name):
    return f"--flagfile=recipes/flags/{name}.flags"


# Small scale: an encoder of 0.8 M weights on 28x28 grey images.

TUNED = ("fine-tuned, 1,000 labels", "finetune", (flags("small/finetune"),), top1)
WORDS = ("--tokenizer=kmeans", "--vocabulary=512")
INPAINT, MATCH = "--inpaint_weight=0", "--match_weight=0"

SMALL_ABLATION = Table(
    "Table 8 at small scale: 600 steps of 64 images of the sample",
    "split / inpaint / match",
    (
        Column(*TUNED),
        Column("linear, best block", "probe", ("--dataset=sample",), best_linear),
        Column("minutes [hours]", "pretrain", (), minutes),
    ),
    (
        Row("BEiT: no / yes / no", (flags("small/sample"), *WORDS, "--method=beit"), (82.8, 41.0, 32.5)),
        Row("yes / yes / no", (flags("small/sample"), *WORDS, MATCH), (83.3, 46.4, 31.0)),
        Row("yes / no / yes", (flags("small/sample"), *WORDS, INPAINT), (79.3, 4.0, 32.5)),
        Row("yes / yes / yes", (flags("small/sample"), *WORDS), (83.6, 46.5, 34.0)),
    ),
)

SMALL_TOKENIZERS = Table(
    "Table 2 at small scale: BEiT, 600 steps of 64 images of the sample",
    "tokenizer",
    (Column(*TUNED),),
    tuple(
        Row(name.replace("_", " "), (flags("small/sample"), "--method=beit", f"--tokenizer={name}", "--vocabulary=512"), (number,))
        for name, number in (("random_projection", 75.2), ("random_patches", 75.3), ("kmeans", 75.0))
    ),
)

SMALL_EFFICIENCY = Table(
    "Table 1 at small scale: what is pre-trained on CIFAR-10 in grey, or on the sample's own 10,000 images, fine-tuned on the sample",
    "pre-training",
    tuple(
        Column(name, *TUNED[1:], source=source)
        for name, source in (
            ("CIFAR-10, 1%", ("--dataset=tfds:cifar10", "--subset=500")),
            ("CIFAR-10, 10%", ("--dataset=tfds:cifar10", "--subset=5000")),
            ("CIFAR-10", ("--dataset=tfds:cifar10",)),
            ("the sample [COCO]", ("--dataset=sample",)),
        )
    ),
    (
        Row("Supervised", (flags("small/any"), "--method=deit"), (71.6, 75.0, 75.8, None)),
        Row("DINO", (flags("small/any"), "--method=dino"), (70.1, 73.1, 78.4, 71.9)),
        Row("BEiT", (flags("small/any"), *WORDS, "--method=beit"), (74.1, 74.5, 75.2, 74.4)),
        Row("SplitMask", (flags("small/any"), *WORDS), (74.8, 75.4, 75.4, 76.3)),
    ),
)

TABLES = {"small": {"ablation": SMALL_ABLATION, "tokenizers": SMALL_TOKENIZERS, "sample_efficiency": SMALL_EFFICIENCY}}
