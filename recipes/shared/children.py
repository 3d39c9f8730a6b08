"""Recipes that run other recipes: a child saves and ends when its parent ends, whatever ended the parent."""

import os
import signal
import subprocess
import threading

from recipes.shared import noise

WATCHED = "KERAS_SPLITMASK_WATCH_STDIN"  # set where stdin is a pipe that closes when the parent ends
_is_child = False


def run(command):
    """Run a recipe and return its exit status. If this process is stopped, the recipe is stopped first."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=noise.direct, env={**os.environ, WATCHED: "1"})
    try:
        return child.wait()
    except BaseException:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    finally:
        child.stdin.close()


def end_with_parent():
    """Send SIGTERM to this process when its parent ends, even by SIGKILL, if `run` started it."""
    global _is_child
    # Removed, since processes that this one starts have another stdin.
    _is_child = bool(os.environ.pop(WATCHED, None))
    if _is_child:
        threading.Thread(target=_watch, daemon=True).start()


def is_child():
    """Return whether another recipe started this program."""
    return _is_child


def _watch():
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
