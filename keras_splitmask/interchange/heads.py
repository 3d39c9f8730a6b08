"""The head of a classifier in the layout of timm: a linear map of the mean of the patches' tokens, as ours is.

The classifiers of the layouts of Hugging Face are other functions: those of ViT and DeiT take the cls token, and that
of BEiT normalises the mean, where ours is the mean of normalised tokens.
"""

import dataclasses

import numpy as np
from keras import ops

KERNEL, BIAS = "head.weight", "head.bias"
OTHER = "it is another function than ours"
POOLING = {"global_pool": "avg", "fc_norm": False}


@dataclasses.dataclass(frozen=True)
class Head:
    """The head of a classifier.

    Attributes:
        kernel: (D, classes) float32.
        bias: (classes,) float32.
        class_names: their names in order.
        crop_ratio: fraction of an image's side that the classifier takes, from the centre.
    """

    kernel: np.ndarray
    bias: np.ndarray
    class_names: list
    crop_ratio: float


def head_of(classifier):
    """The `Head` of a `Classifier`. Classes without names are named by their numbers, as in predictions."""
    kernel, bias = (ops.convert_to_numpy(weight) for weight in (classifier.head.kernel, classifier.head.bias))
    names = classifier.class_names or [str(i) for i in range(classifier.classes)]
    return Head(kernel, bias, list(names), classifier.crop_ratio)


def arrays_for_timm(head):
    """The arrays of a head by the names of timm."""
    return {KERNEL: head.kernel.T, BIAS: head.bias}


def state_head(config, head):
    """Add a head to a config.json of timm, as `configuration.described` returns it for an encoder."""
    classes = len(head.bias)
    config["model_args"] |= POOLING
    config["pretrained_cfg"] |= {"num_classes": classes, "crop_pct": head.crop_ratio}
    config |= {"num_classes": classes, "global_pool": POOLING["global_pool"], "label_names": head.class_names}


def read_head(stated, arrays, width):
    """Read the head in a file: a `Head`, or else why there is none, as a text.

    Args:
        stated: what `configuration.read_stated` read beside the file.
        arrays: {name: `StoredArray`} of the file's weights that are not part of an encoder.
        width: D of the encoder.
    """
    if "pooling" not in stated:
        return "one is read only beside a config.json of timm"
    if stated["pooling"] != POOLING or set(arrays) != {KERNEL, BIAS}:
        return OTHER
    names = stated["class_names"]
    count = len(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else 0
    if count < 2 or len(set(names)) != count:
        return "its config.json has no label_names, all different"
    if arrays[KERNEL].shape != (count, width) or arrays[BIAS].shape != (count,):
        return f"its weights are not those of {count} classes, the label_names in its config.json"
    return Head(arrays[KERNEL].read().T, arrays[BIAS].read(), names, stated["crop_ratio"])
