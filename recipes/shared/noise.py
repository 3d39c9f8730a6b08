"""What libraries write on stderr: their notes about themselves are dropped, and every other line is passed on.

TensorFlow writes some before it reads its level of logging, even on other backends, whenever Keras first imports it.
Errors must come through even if the process dies, so a small process of its own reads the lines.
"""

import contextlib
import logging
import os
import subprocess
import sys

from recipes.shared import screen

NOISE = (  # lines that begin so are notes, or warnings that a user can neither act on nor needs to know
    r"WARNING: All log messages before absl::InitializeLog\(\)",
    r"I\d{4} \d\d:\d\d:\d\d",  # notes of absl
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: I ",  # notes of older releases of TensorFlow
    r"To enable the following instructions:",  # the second line of a note about the processor
    r"[WE].{20,120}Unable to register cu\w+ factory",
    r"[WE].{20,120}computation placer already registered",
    r"\d{4}-\d\d-\d\d .{15,120}Unable to register cu\w+ factory",
    r"[E\d].{20,120}oneDNN supports DT_\w+ only on",  # it computes in another way
    r"fully_quantize: \d|INFO: Created TensorFlow Lite",  # of LiteRT's converter
    r"W.{20,140}(Ignored \w+\.|Skipping runtime version)",
    r"[E\d].{20,140}failed call to cuInit: .*(\(303\)|NO_DEVICE)",  # no driver, or no GPU
)
LOGGED = (  # parts of messages that Python libraries log by absl
    "Failed to load jax profiler",  # grain, without JAX
    "with ops with unsaved custom gradients",  # TensorFlow, of an exported model, which is not trained
)
READER = """
import re, sys
noise = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not noise.match(line):
        try:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
        except OSError:
            pass
"""
direct = None  # descriptor of the process's own stderr while notes are dropped


@contextlib.contextmanager
def dropped():
    """Drop the notes inside the block. What Python itself writes on stderr goes there directly, as before.

    Nothing changes if `sys.stderr` is not a `screen.Patient` on descriptor 2, or if Keras is already imported.
    """
    global direct
    logging.getLogger("absl").addFilter(_is_no_note)
    reader = _start_reader()
    if not reader:
        yield
        return
    stream, direct = sys.stderr.stream, os.dup(2)
    try:
        os.dup2(reader.stdin.fileno(), 2)
        reader.stdin.close()
        options = {"encoding": stream.encoding, "errors": stream.errors, "buffering": 1, "closefd": False}
        sys.stderr.stream = open(direct, "w", **options)
        yield
    finally:
        sys.stderr.flush()
        sys.stderr.stream = stream
        os.dup2(direct, 2)
        os.close(direct)
        direct = None
        with contextlib.suppress(subprocess.TimeoutExpired):  # another process still writes to it
            reader.wait(timeout=2)


def _is_no_note(record):
    return not any(note in str(record.msg) for note in LOGGED)


def _start_reader():
    """Start the process that reads the lines; returns None where nothing is to change."""
    with contextlib.suppress(AttributeError, OSError, ValueError):  # no file, or no process
        if isinstance(sys.stderr, screen.Patient) and sys.stderr.fileno() == 2 and "keras" not in sys.modules:
            sys.stderr.flush()
            command = [sys.executable, "-ISc", READER, "|".join(NOISE)]
            # In a session of its own, so that signals from the terminal do not reach it. It ends with this process.
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, stderr=2, start_new_session=True)
    return None
