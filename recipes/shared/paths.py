"""Flags that hold paths: `~` is expanded, and two spellings of one path are equal."""

import os

from absl import flags

FLAGS = flags.FLAGS
PATHS = (
    "cache",
    "dalle_weights",
    "data_dir",
    "groups",
    "images",
    "init_from",
    "json",
    "labelled",
    "output",
    "split",
    "subset",
)
PATHS += ("runs", "workdir")
DATASETS = ("bccd", "camvid", "cifar10", "dataset", "groceries", "imagenette", "mnist", "probe")  # as KIND:PATH
OR_OTHER = ("labelled", "split", "subset")  # flags that hold a path, or a number or a name
KINDS = ("coco", "folder", "masks", "npy", "npz", "voc", "yolo")  # other kinds are followed by a name


def expand():
    """Expand `~` and `~user` in the flags that hold paths.

    Raises:
        flags.IllegalFlagValueError: if there is no such user.
    """
    for name in (*PATHS, *DATASETS):
        if name in FLAGS and (value := FLAGS[name].value):
            FLAGS[name].value = (
                [_expanded(name, text) for text in value] if isinstance(value, list) else _expanded(name, value)
            )


def _expanded(name, text):
    kind, path = _parts(name, text)
    path = os.path.expanduser(path)
    if path.startswith("~"):
        user = path.split("/")[0]
        raise flags.IllegalFlagValueError(
            f"Unknown user {user} in --{name}={text}; write ./{user} for a file of that name."
        )
    return kind + path


def _parts(name, text):
    """Split a flag's value into the kind of data set with its colon, or "", and the path; "" for what is no path."""
    kind, colon, path = text.partition(":")
    if name == "init_from" and kind == "hf":
        return text, ""
    return (kind + colon, path) if name in DATASETS and kind in KINDS else ("", text)


def paths_of(name):
    """List the real paths in the value of a flag."""
    value = FLAGS[name].value if name in FLAGS else None
    texts = value if isinstance(value, list) else [value] if value else []
    parts = [_parts(name, text) for text in texts]
    return [os.path.realpath(path) for kind, path in parts if path and (name in PATHS or kind)]


def begun_in(folder, name, value):
    """Let the relative paths in the value of a flag begin in a folder. Other values stay, such as --subset=10%."""
    if name not in (*PATHS, *DATASETS) or (name in OR_OTHER and not os.path.isfile(os.path.join(folder, value))):
        return value
    return ",".join(_begun_in(folder, name, text) for text in _listed(name, value))


def _begun_in(folder, name, text):
    kind, path = _parts(name, text)
    if (name in DATASETS and not kind) or not path or path.startswith("~"):
        return text
    return kind + os.path.normpath(os.path.join(folder, path))


def _listed(name, value):
    return value.split(",") if name == "dalle_weights" else [value]


def same(name, before, now, folder, moved):
    """Return whether two values of a flag mean the same.

    Relative paths in `before` start in `folder`. `moved` holds the run's folder then and now.
    """
    if name == "cache":  # packed images do not depend on the folder
        return bool(before) == bool(now)
    if name not in (*PATHS, *DATASETS) or before is None or now is None:
        return before == now
    old, new = (_real_paths(name, text, start) for text, start in ((before, folder), (now, os.curdir)))
    if old == new or any(os.path.exists(path) for _, path in old):
        return old == new
    return before == now or _seen_from(moved[0], old) == _seen_from(
        moved[1], new
    )  # the data moved together with the run


def _seen_from(home, paths):
    return [(kind, path and os.path.relpath(path, os.path.realpath(home))) for kind, path in paths]


def _real_paths(name, text, folder):
    parts = [_parts(name, part) for part in _listed(name, text)]
    return [(kind, path and os.path.realpath(os.path.join(folder, os.path.expanduser(path)))) for kind, path in parts]
