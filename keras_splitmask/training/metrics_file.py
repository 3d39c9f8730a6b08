"""The file metrics.jsonl: each step's line once, in order, and whole, whatever the disk does."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from typing import Any

from keras_splitmask.training import checkpoints


class MetricsFile:
    """Lines of JSON, appended one by one. Those that cannot be written are kept, and written when it is possible again.

    Args:
        path: the file.
        start: steps done before. Lines of later steps are removed, since those steps are done again.
        report: called with a line about each thing that the user should know.

    Attributes:
        past: the lines as dictionaries, those that wait included.
        waiting: number of the last lines that are not in the file yet.
    """

    def __init__(self, path, start=0, report=print):
        self.path = pathlib.Path(path)
        self.report = report
        self.past, self.size = [], 0
        self.waiting = 0
        self.failing = False
        if os.path.lexists(self.path):
            self._read(start)

    def append(self, values: dict[str, Any]) -> None:
        """Add a line, a dictionary with `step`, and write it with all that wait."""
        self.past.append(values)
        self.waiting += 1
        self.flush()

    def flush(self) -> None:
        """Try to write what waits. The first failure is reported, and its end."""
        try:
            self._write()
        except OSError as error:
            if not self.failing:
                self.report(
                    f"{self.path} cannot be written: {error.strerror or error}. Its lines are kept, and written as soon"
                    " as that is possible."
                )
            self.failing = True
        else:
            if self.failing:
                self.report(f"{self.path} could be written again; no line is missing")
            self.failing = False

    def close(self) -> None:
        """Try once more, and report how many lines are lost if that fails too."""
        if self.waiting:
            self.flush()
        if self.waiting:
            self.report(
                f"{self.path} lacks the last {self.waiting} lines, from step {self.past[-self.waiting]['step']} on,"
                " which could not be written."
            )

    def _write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # O_NONBLOCK: a pipe that nobody reads would make `open` wait for ever.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if size < self.size:  # removed or emptied since
                self.size, self.waiting = 0, len(self.past)
            # What follows the last whole line is of a write that failed, or of another program.
            if size != self.size:
                os.ftruncate(descriptor, self.size)
            while self.waiting:
                self.size += _write_line(descriptor, self.past[-self.waiting], self.size)
                self.waiting -= 1
        finally:
            os.close(descriptor)

    def _read(self, start):
        """Take over the lines up to step `start`, and cut off the others. What has foreign lines, or cannot be read, is
        moved aside."""
        try:
            if not self.path.is_file():
                raise OSError("it is not a file")
            lines = self.path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            self._move_aside(f"cannot be read: {error.strerror or error}")
            return
        last, later, foreign = -1, 0, 0
        for number, line in enumerate(lines, 1):
            values = _parse(line)
            if values is None or values["step"] <= last:
                foreign += number < len(lines) or values is not None  # a last one may be cut off by the end of a run
                continue
            last = values["step"]
            later += last > start
            if last <= start:
                self.past.append(values)
                whole = line.endswith(b"\n") and not foreign
                self.size, self.waiting = self.size + len(line) * whole, self.waiting + (not whole)
        if later and not start:
            self.report(f"{self.path}: {later} lines are removed, since the run starts again from step 0.")
        if foreign and self._move_aside("has lines that are no metrics of this run; the others are kept"):
            self.size, self.waiting = 0, len(self.past)
        elif foreign:
            self.size, self.waiting = sum(map(len, lines)), 0
        self.flush()

    def _move_aside(self, reason):
        """Rename what is there, where that is possible, and report it. Returns the new name, or None."""
        moved = checkpoints.move_aside(self.path, "damaged")
        self.report(f"{self.path} {reason}.{f' It is now called {moved}.' if moved else ''}")
        return moved


def _write_line(descriptor, values, size):
    """Append a line to a file of this size, whole or not at all. Returns the line's length."""
    line = rest = json.dumps(values).encode() + b"\n"
    try:
        # `os.write` may write less than it is given.
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
    return len(line)


def _parse(line):
    """The values of a line; None if it is cut off or has no step."""
    try:
        values = json.loads(line, parse_constant=int)  # a ValueError for NaN and Infinity, which are no JSON
    except (ValueError, RecursionError):
        return None
    # Not isinstance, since True is an int, too.
    return values if isinstance(values, dict) and type(values.get("step")) is int else None
