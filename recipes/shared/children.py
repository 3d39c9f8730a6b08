"""A recipe that another recipe runs: the process that it is ends, orderly, when the other one does, whatever ended
that."""

import os
import signal
import subprocess
import threading

WATCHED = "KERAS_SPLITMASK_WATCH_STDIN"  # set where stdin is a pipe that closes when the parent ends


def run(command):
    """Run a recipe and return its exit status. If this process is asked to stop, the recipe is, and ends first."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, WATCHED: "1"})
    try:
        return child.wait()
    except BaseException:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    finally:
        child.stdin.close()


def end_with_parent():
    """In a recipe that `run` started: stop as by SIGTERM as soon as the parent has ended, by SIGKILL too."""
    if os.environ.pop(WATCHED, None):
        threading.Thread(target=_watch, daemon=True).start()


def _watch():
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
