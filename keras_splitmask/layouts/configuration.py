"""What is written beside the weights: config.json and preprocessor_config.json, read and written."""

import json
import re

import numpy as np

from keras_splitmask.layouts.names import CLASSES, CONFIG, HARMLESS, MODEL_TYPES, PREPROCESSOR, STATED
from keras_splitmask.patches import pixel_statistics

TIMM_EPSILON = 1e-6  # in the norms of timm's Vision Transformers


def read_stated(file):
    """What the files beside a safetensors file state of the model in it.

    Returns:
        A dictionary with those of these keys that are stated: "width", "depth", "heads", "channels", "epsilon"; "image_size" and
        "patch_size" (height, width); "pixels" (mean, deviation), each (C,) or (), that pixels in 0..1 are normalised by.

    Raises:
        ValueError: if they cannot be read, or state what our encoder does not do.
    """
    config, processor = _json(file.with_name(CONFIG)), _json(file.with_name(PREPROCESSOR))
    arguments, card = {**config, **config.get("model_args", {})}, config.get("pretrained_cfg", config)
    _check_function(file, config)
    stated = {STATED[name]: value for name, value in arguments.items() if name in STATED and value is not None}
    if "architecture" in config:
        stated["epsilon"] = TIMM_EPSILON
    if "input_size" in card:
        stated.setdefault("image_size", card["input_size"][1:])
    for name in {"image_size", "patch_size"} & set(stated):
        size = stated[name]
        stated[name] = (size, size) if isinstance(size, int) else tuple(size)
    _read_pixels(file, stated, {"image_mean": card.get("mean"), "image_std": card.get("std"), **processor})
    return stated


def _json(path):
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"Expected JSON in {path}, received {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected a JSON object in {path}, received a {type(content).__name__}.")
    return content


def _check_function(file, config):
    """Stop at a model whose weights would not show that it computes something else."""
    kind = config.get("model_type")
    if kind is not None and kind not in MODEL_TYPES:
        raise ValueError(f"Expected a model_type among {', '.join(sorted(MODEL_TYPES))} beside {file}, received {kind}.")
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise ValueError(f"Expected a model with hidden_act gelu, received {activation} beside {file}; the encoder has no other.")
    architecture = config.get("architecture", "vit")
    if not re.match(r"(vit|deit|deit3)(_|$)", architecture) or re.search("quickgelu|rope|relpos", architecture):
        raise ValueError(f"Expected a plain Vision Transformer of timm, such as vit_base_patch16_224, received {architecture} beside {file}.")
    if other := sorted(set(config.get("model_args", {})) - HARMLESS):
        raise ValueError(f"Expected a plain Vision Transformer of timm, received one with {', '.join(other)} beside {file}.")


def _read_pixels(file, stated, processor):
    if not processor.get("do_rescale", True) or abs(255 * processor.get("rescale_factor", 1 / 255) - 1) > 1e-4:
        raise ValueError(f"Expected a rescale_factor of 1/255 beside {file}, received another; the encoder takes pixels in 0..1.")
    if not processor.get("do_normalize", True):
        stated["pixels"] = np.float32(0), np.float32(1)
    elif processor["image_mean"] is not None and processor["image_std"] is not None:
        stated["pixels"] = tuple(np.array(processor[name], "float32") for name in ("image_mean", "image_std"))


def described(arguments, layout):
    """{file name: JSON object} that state the arguments of an encoder to the library of a layout."""
    height, width, channels = arguments["image_shape"]
    mean, std = ([float(str(value)) for value in values] for values in pixel_statistics(channels))  # 0.485, without float32's digits
    if layout == "timm":
        return {CONFIG: _for_timm(arguments, mean, std)}
    name, config = CLASSES[layout]
    config = {
        "architectures": [name],
        **config,
        "hidden_size": arguments["width"],
        "num_hidden_layers": arguments["depth"],
        "num_attention_heads": arguments["heads"],
        "intermediate_size": 4 * arguments["width"],
        "hidden_act": "gelu",
        "layer_norm_eps": arguments["epsilon"],
        "image_size": height if height == width else [height, width],
        "patch_size": arguments["patch_size"],
        "num_channels": channels,
    }
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
    return {CONFIG: config, PREPROCESSOR: processor}


def _for_timm(arguments, mean, std):
    """A configuration that `timm.create_model("local-dir:FOLDER")` reads."""
    height, width, channels = arguments["image_shape"]
    model = {
        "img_size": [height, width],
        "patch_size": arguments["patch_size"],
        "in_chans": channels,
        "embed_dim": arguments["width"],
        "depth": arguments["depth"],
        "num_heads": arguments["heads"],
    }
    card = {
        "input_size": [channels, height, width],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": mean,
        "std": std,
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    size = {"num_classes": 0, "num_features": arguments["width"], "global_pool": "token"}
    return {"architecture": "vit_base_patch16_224", **size, "model_args": model, "pretrained_cfg": card}  # of the sizes in model_args
