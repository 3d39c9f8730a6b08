"""Recipes that run other recipes: a child saves and ends when its parent ends, whatever ended the parent."""

import os
import signal
import subprocess
import threading

from recipes.shared import noise

WATCHED = "KERAS_SPLITMASK_WATCH_STDIN"  # set where stdin is a pipe that closes when the parent ends
_parents = []  # of this process, if `run` started it


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
    # Removed, since processes that this one starts have another stdin.
    if os.environ.pop(WATCHED, None):
        _parents.append(os.getppid())
        threading.Thread(target=_watch, daemon=True).start()


def started_by_a_recipe():
    """Return whether another recipe runs this one, and says to the user how to go on."""
    return bool(_parents)


def _watch():
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
