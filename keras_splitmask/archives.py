"""What a .keras file may hold: a model of this library, and nothing that Keras would build, run or unpack beyond it."""

import json
import math
import zipfile

import keras

MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
TEXT = 1_000_000  # bytes of JSON; 3,000 are usual
BLOCKS = 1000


def check_archive(file):
    """Looks at a .keras file before Keras does.

    Its members must be those that Keras writes, not compressed, so that they are no larger than the file. Its configuration must
    name classes of this library alone, and describe no more weights than the file has room for.

    Raises:
        ValueError: saying what else there is.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if {m.filename for m in members} != MEMBERS or len(members) != len(MEMBERS):
            raise ValueError(f"it holds {', '.join(sorted(m.filename for m in members)[:6]) or 'nothing'}.")
        if any(m.compress_type != zipfile.ZIP_STORED or m.file_size > m.compress_size for m in members):
            raise ValueError("it is compressed, as this library's files are not.")
        size = {m.filename: m.file_size for m in members}
        if max(size["metadata.json"], size["config.json"]) > TEXT:
            raise ValueError(f"its configuration is longer than {TEXT} bytes.")
        config = json.loads(archive.read("config.json"))
    if "class_name" not in config:
        raise ValueError("it holds no model.")
    for node in _objects({**config, "compile_config": None}):  # how it was compiled is not read
        own = node.get("registered_name") or ""
        known = own.startswith("keras_splitmask>") and keras.saving.get_registered_object(own) is not None
        if not known and (node.get("module"), node["class_name"], own) != ("keras", "DTypePolicy", ""):
            raise ValueError(f"it holds a {node['class_name']} of {node.get('module')}, which is not of this library.")
        if 4 * _fewest_weights(node["config"]) > size["model.weights.h5"]:
            raise ValueError(f"it describes a {node['class_name']} of more weights than it holds.")


def _objects(node):
    """All dictionaries of a configuration that stand for an object, outermost first."""
    if isinstance(node, dict):
        if "class_name" in node:
            yield node
        node = list(node.values())
    for inner in node if isinstance(node, list) else ():
        yield from _objects(inner)


def _fewest_weights(config):
    """How many numbers an object of this configuration has at the least."""
    encoder = config.get("encoder")
    inherited = encoder["config"] if isinstance(encoder, dict) else {}
    number = {"width": inherited.get("width", 0), **{name: abs(value) for name, value in config.items() if isinstance(value, (int, float))}}
    depth = number.get("depth", 0) + number.get("decoder_depth", 0)
    if depth > BLOCKS:
        raise ValueError(f"it describes {depth} blocks.")
    patch, width, shape = number.get("patch_size", 1), number["width"], config.get("image_shape", [0, 0, 0])
    positions, channels = math.prod(shape[:2]) // patch**2, shape[2]
    count = 12 * depth * width**2 + positions * width + patch**2 * channels * width + number.get("classes", 0) * width
    return count + number.get("vocabulary", 0) * max(1, patch // 2) ** 2 * channels
