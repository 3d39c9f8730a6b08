"""The runs of a table: each cell is a chain of runs in folders of their own. Finished runs are not repeated."""

import dataclasses
import pathlib
import shlex
import time
from collections.abc import Callable

from absl import flags

from recipes.shared import children, record, screen

FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Command:
    """A run of another program.

    Attributes:
        folder: path of the run's folder.
        recipe: name of the program.
        arguments: a function that returns its arguments when the run starts: they may depend on earlier runs.
        title: what is printed before it, in place of the cell's title.
        leaves: name of the file that a finished run leaves in its folder.
    """

    folder: pathlib.Path
    recipe: str
    arguments: Callable
    title: str = ""
    leaves: str = "model.keras"

    def words(self):
        """Return the arguments that start the program in a process of its own."""
        return [*screen.arguments_of(self.recipe), *self.arguments(), *shared(), f"--workdir={self.folder}"]

    def text(self):
        """Write the command as one types it."""
        words = [*self.arguments(), *shared(default=False), f"--workdir={self.folder}"]
        return f"{screen.program(self.recipe)} {shlex.join(map(str, words))}"

    def finished(self):
        return (self.folder / self.leaves).exists()


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table for one seed.

    Attributes:
        title: what is printed before its runs.
        commands: its `Command`s in order. Cells may share the first ones.
        done: a function that returns whether there is a result.
    """

    title: str
    commands: tuple
    done: Callable


def shared(default=True):
    """List the flags that all runs take over from this program; with `default` also those that nobody gave."""
    given = {name: FLAGS[name] for name in ("backend", "precision", "data_dir")}
    return [
        f"--{name}={one.value}" for name, one in given.items() if one.value is not None and (default or one.present)
    ]


def run(cells):
    """Run what is missing of the cells, and return the number of runs that failed. A cell ends at its first run that
    fails, and so do the cells that share that run."""
    failed = []
    for cell in cells:
        if cell.done():
            continue
        for command in cell.commands:
            if command.folder in failed:
                break
            if command.finished():
                continue
            print(f"\n{command.title or cell.title}: {command.recipe} in {command.folder}", flush=True)
            _wait_for(command.folder)
            status = children.run(command.words())
            if status:
                print(f"ended with status {status}", flush=True)
                failed.append(command.folder)
                break
    return len(failed)


def _wait_for(folder, seconds=60):
    """Wait until a run's folder is free: after a kill of reproduce.py, the run may still be saving its checkpoint."""
    until = time.monotonic() + seconds
    while record.is_held(folder) and time.monotonic() < until:
        time.sleep(0.1)
