"""Printing that cannot end a run: a closed pipe or a full disk behind stdout or stderr is only reported."""

import contextlib
import errno
import os
import sys


class Patient:
    """A text stream whose write errors do not raise; the first error is reported on the stream `other`."""

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
            print(
                f"{self.name} cannot be written ({getattr(error, 'strerror', None) or error}); the run goes on.",
                file=self.other,
                flush=True,
            )


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
def kept_open():
    """Make stdout and stderr safe to write inside the block, and to flush when Python exits."""
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
