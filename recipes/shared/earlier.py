"""What an earlier run says about itself: its flags and its results."""

import json
import pathlib


def flag_of_run(path, name):
    """Read a flag's value from the run.flags of a run's folder, or of the folder of a file; "" if there is none."""
    try:
        lines = (_folder(path) / "run.flags").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.partition("=")[2] for line in lines if line.startswith(f"--{name}=")), "")
    except OSError:
        return ""


def result_of_run(path, name):
    """Read a value from the result.json of a run's folder, or of the folder of a file; None if there is none."""
    try:
        return json.loads((_folder(path) / "result.json").read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError, AttributeError):
        return None


def _folder(path):
    path = pathlib.Path(path).expanduser()
    return path if path.is_dir() else path.parent
