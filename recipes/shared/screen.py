"""What is printed, though nobody may be able to read it: a closed pipe or a full disk does not end a run."""

import contextlib
import errno
import os
import sys


class Patient:
    """A text stream that a failure to write does not stop; the first one is reported on `other`."""

    def __init__(self, name, stream):
        self.name = name
        self.stream = stream
        self.other = None
        self.error = None  # the first one

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

    def _try(self, call, *arguments):
        try:
            call(*arguments)
        except UnicodeEncodeError as error:
            call(*(text.encode(error.encoding, "backslashreplace").decode(error.encoding) for text in arguments))
        except RuntimeError:  # a signal's handler prints while the same stream is written to
            pass
        except (OSError, ValueError) as error:  # a ValueError if it is closed
            self._report(error)

    def _report(self, error):
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EBADF):
            _discard(self.stream)
        if not self.error:
            self.error = error
            print(
                f"{self.name} cannot be written ({getattr(error, 'strerror', None) or error}); the run goes on.",
                file=self.other,
                flush=True,
            )


def check_result():
    """Stop if stdout, to which a recipe has printed what it is for, could not be written. A pipe that was closed wanted
    no more.

    Raises:
        OSError: the first error.
    """
    sys.stdout.flush()
    error = getattr(sys.stdout, "error", None)
    if isinstance(error, OSError) and error.errno != errno.EPIPE:
        raise OSError(error.errno, error.strerror, "stdout")


def _discard(stream):
    """Let all that is written to a stream vanish from here on."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def kept_open():
    """Within it, stdout and stderr can be written to whatever they are, and so can they be flushed when Python ends."""
    for descriptor in range(3):  # else the next file that is opened takes the number, and what is printed goes into it
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    streams = [
        Patient(name, stream or open(os.devnull, "w"))
        for name, stream in zip(("stdout", "stderr"), before, strict=True)
    ]
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
