"""Pre-train a Vision Transformer on your own images, and use it.

    splitmask pretrain --flagfile=quickstart
    splitmask pretrain --dataset=folder:photos --workdir=runs/photos

`splitmask NAME` is the same program as `python recipes/NAME.py`.
"""

import difflib
import importlib.metadata
import importlib.util
import pathlib
import re
import runpy
import sys

from recipes.shared import screen

FOLDER = pathlib.Path(__file__).resolve().parent
PROGRAMS = {
    "pretrain": "Pre-train a Vision Transformer on your own images.",
    "finetune": "Train a classifier on labelled images, from a pre-trained encoder or from scratch.",
    "predict": "Classify, detect or segment new images with a trained model.",
    "embed": "Compute features of images, and find near-duplicates, odd ones and similar ones.",
    "probe": "Evaluate a frozen encoder by nearest neighbours and linear classifiers.",
    "detect": "Train a detector of boxes and masks.",
    "segment": "Train a segmenter, which classifies every pixel.",
    "export": "Export a model for use without this library.",
    "report": "Compare the curves and results of runs on one page.",
    "reproduce": "Compare methods on your own images, or reproduce the paper's tables.",
}


def programs():
    """Return the names of the programs and a sentence about each, as a dictionary."""
    return {name: sentence for name, sentence in PROGRAMS.items() if (FOLDER / f"{name}.py").is_file()}


def text_of_help():
    """Return the list of the programs."""
    start = screen.program()
    lines = [__doc__.split("\n")[0], "", f"Usage: {start} PROGRAM --flag=value ...", ""]
    lines += [f"  {name:<10} {text}" for name, text in programs().items()]
    lines += ["", f"{start} PROGRAM --help explains a program; {start} --version prints the versions."]
    return "\n".join(lines)


def text_of_versions():
    """Return the versions of this library and of the packages that compute, in one line."""
    package = importlib.util.find_spec("keras_splitmask").origin  # not imported, for that imports Keras
    own = re.search(r'^__version__ = "(.+)"$', pathlib.Path(package).read_text(), re.MULTILINE)[1]
    found = [f"keras-splitmask {own}", f"Python {sys.version.split()[0]}"]
    for name in ("keras", "tensorflow", "jax", "torch"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            pass
    return ", ".join(found)


def start(name, arguments):
    """Run a program in this process."""
    sys.argv = [str(FOLDER / f"{name}.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def main():
    """Run the program that the first argument names, or list the programs.

    Raises:
        SystemExit: with status 2 if there is no such program, and with the program's own status.
    """
    screen.start_by(sys.argv[0])
    name, arguments = (sys.argv[1] if sys.argv[1:] else "--help"), sys.argv[2:]
    if name in programs():
        start(name, arguments)
        return
    with screen.kept_open():
        if name in ("--help", "-h", "-help", "--helpfull", "help"):
            print(text_of_help())
        elif name in ("--version", "-version", "version"):
            print(text_of_versions())
        else:
            near = difflib.get_close_matches(name, programs(), 1, 0.5)
            advice = f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(programs())}."
            print(f"{screen.name()}: Unknown program {name!r}. {advice}", file=sys.stderr)
            raise SystemExit(2)


if __name__ == "__main__":
    main()
