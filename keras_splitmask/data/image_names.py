"""Find the image files that annotations name, though programs write the names in their own ways."""

import collections
import os
import re
import urllib.parse

UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file


def paths_of(names, there):
    """Find the files of images: {name: relative path}.

    Some programs write names with folders from elsewhere, such as C:\\photos\\a.jpg or images/a.jpg. Then the longest
    end of the name counts that exists and belongs to no other image. Label Studio also writes addresses
    (/data/local-files/?d=photos/a%20b.jpg), and 8 digits before the name of an uploaded file (images/3f2a9c11-a.jpg).

    Args:
        names: the names that the annotations have.
        there: relative paths of the files.
    """
    paths, owners = {}, collections.Counter()
    for name in names:
        ends = _ends(name)
        paths[name] = next((end for end in ends if end in there), ends[0])
        owners[paths[name]] += 1
    return {name: path if owners[path] == 1 else os.path.normpath(name) for name, path in paths.items()}


def _ends(name):
    """The relative paths that a name may mean, the likeliest first."""
    ends = _ends_of(name)
    if "%" in name or "?d=" in name:
        ends += _ends_of(urllib.parse.unquote(name.rpartition("?d=")[2]))
    return ends + [end for end in map(without_upload, ends) if end not in ends]


def _ends_of(name):
    parts = re.split(r"[/\\]", name)
    return [os.path.normpath(name), *("/".join(parts[i:]) for i in range(len(parts)))]


def without_upload(path):
    """A relative path without the digits that Label Studio puts before the name of an uploaded file."""
    folder, name = os.path.split(path)
    return os.path.join(folder, UPLOADED.sub("", name, count=1) if UPLOADED.match(name) else name)


def before_upload(names):
    """Return {name: name without the digits of Label Studio}, where no two names become the same."""
    plain = {name: without_upload(name) for name in names}
    counts = collections.Counter(plain.values())
    return {name: own for name, own in plain.items() if own != name and counts[own] == 1}
