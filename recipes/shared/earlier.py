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


def crop_ratio(path, model):
    """The fraction of an image's side that a model was evaluated on; None if it knows none.

    Classifiers of earlier versions do not hold it: only the flags of their run say it.
    """
    return float(flag_of_run(path, "crop_ratio") or 0) or getattr(model, "crop_ratio", None)


def doubts(path):
    """List what the metrics of a pre-training run say against its features: too few steps, or a collapse."""
    from keras_splitmask.evaluation import metrics, verdict

    try:
        lines = metrics.read_metrics(_folder(path) / "metrics.jsonl")
    except OSError:
        return []
    found = (rule(lines, {}, {}) for rule in (verdict.few_steps, verdict.collapsed))
    return [text for _, text in filter(None, found)]


def _folder(path):
    path = pathlib.Path(path).expanduser()
    return path if path.is_dir() else path.parent
