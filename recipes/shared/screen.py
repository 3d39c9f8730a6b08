"""Printing that cannot end a run: a closed pipe or a full disk behind stdout or stderr is only reported. Also the names
of the programs, as this user calls them."""

import contextlib
import errno
import os
import pathlib
import shlex
import shutil
import sys

RECIPES = pathlib.Path(__file__).resolve().parents[1]
_script = None  # path of the command `splitmask`, if it started this program


def start_by(script):
    """Remember that the command `splitmask` at this path starts the program."""
    global _script
    _script = script


def name():
    """Return the name of this program for its messages: "splitmask pretrain" or "pretrain.py"."""
    own = pathlib.Path(sys.argv[0])
    if not _script:
        return own.name
    command = pathlib.Path(_script).name
    return f"{command} {own.stem}" if own.parent == RECIPES and own.name != command else command


def program(recipe=""):
    """Write how to start another recipe, in the way in which the user started this program: "splitmask predict" or
    "python recipes/predict.py". Without a recipe: "splitmask", where that started the program.

    The text runs in this folder, even if it needs a path that the user typed, such as ".venv/bin/splitmask predict".
    """
    if not _script:
        return f"{_python()} {_typed(pathlib.Path(sys.argv[0]).with_name(f'{recipe}.py'))}"
    start = f"{_python()} {_typed(_script)}" if _script.endswith(".py") else _short(_script)
    return f"{start} {recipe}".rstrip()


def arguments_of(recipe):
    """Return the arguments that start another recipe in a process of its own, in the same way."""
    start = [_script, recipe] if _script else [str(RECIPES / f"{recipe}.py")]
    return [sys.executable, *start]


def _python():
    return _short(sys.orig_argv[0] or "python")


def _short(path):
    """Return a program's name if the shell finds the program by it, otherwise its path."""
    found = shutil.which(os.path.basename(path))
    return os.path.basename(path) if found and os.path.abspath(found) == os.path.abspath(path) else _typed(path)


def _typed(path):
    """Return a path as one types it here: relative if it lies below the current folder, quoted if it needs it."""
    if os.path.basename(path) == str(path):
        return shlex.quote(str(path))
    near = os.path.relpath(path)
    return shlex.quote(str(path) if near.startswith("..") else near)


class Patient:
    """A text stream whose write errors do not raise; the first error is reported on the stream `other`, if any."""

    def __init__(self, name, stream):
        self.name = name
        self.stream = stream
        self.other = None
        self.error = None  # the first error

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        self._try(self.stream.write, text)
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        self._try(self.stream.flush)

    def close(self):
        """Keep the stream open; absl closes the stderr that it finds when Python exits."""
        self.flush()

    def _try(self, call, *arguments):
        try:
            call(*arguments)
        except UnicodeEncodeError as error:
            call(*(text.encode(error.encoding, "backslashreplace").decode(error.encoding) for text in arguments))
        except RuntimeError:  # a signal handler prints while the same stream is being written
            pass
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._report(error)

    def _report(self, error):
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EBADF):
            _discard(self.stream)
        if not self.error:
            self.error = error
            if self.other:
                reason = getattr(error, "strerror", None) or error
                print(f"{self.name} cannot be written ({reason}); the run goes on.", file=self.other, flush=True)


def check_result():
    """Stop if stdout, which got the only copy of a result, could not be written. A closed pipe is not an error, since
    its reader wanted no more.

    Raises:
        OSError: the first error.
    """
    sys.stdout.flush()
    error = sys.stdout.error if isinstance(sys.stdout, Patient) else None
    if isinstance(error, OSError) and error.errno != errno.EPIPE:
        raise OSError(error.errno, error.strerror, "stdout")


def _discard(stream):
    """Redirect a stream to /dev/null."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def kept_open(report=True):
    """Make stdout and stderr safe to write inside the block, and to flush when Python exits.

    With `report` an error of one is reported on the other.
    """
    for descriptor in range(3):  # or the next opened file gets this number, and receives the prints
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    streams = [
        Patient(name, stream or open(os.devnull, "w"))
        for name, stream in zip(("stdout", "stderr"), before, strict=True)
    ]
    if report:
        streams[0].other, streams[1].other = streams[1], streams[0]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before
        for stream in before:
            try:
                stream and stream.flush()
            except (OSError, ValueError):
                _discard(stream)


def in_words(seconds):
    """A time such as 45 s, 1 min 50 s, 12 min or 1 h 20 min, to two figures or more."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 600:
        minutes, tens = divmod(round(seconds / 10), 6)
        return f"{minutes} min {tens}0 s" if tens else f"{minutes} min"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
