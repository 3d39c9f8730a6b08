"""Read and write config.json and preprocessor_config.json, which stand beside the weights."""

import re

import numpy as np

from keras_splitmask.interchange import strict_json
from keras_splitmask.interchange.heads import POOLING, state_head
from keras_splitmask.interchange.names import CLASSES, CONFIG, HARMLESS, MODEL_TYPES, PREPROCESSOR, STATED
from keras_splitmask.patches import pixel_statistics

TIMM_EPSILON = 1e-6  # in the norms of timm's Vision Transformers
LEAST_DEVIATION = 1e-6  # smallest standard deviation of pixels; weights are divided by it
MOST_PIXELS = 1000.0  # of a mean and a deviation of pixels, which are 1 at most
LARGEST = 2**20  # of widths, sides and numbers of blocks


def read_stated(file):
    """Read what the files beside a safetensors file state about its model.

    Returns:
        A dictionary with those of these keys that are stated: "width", "depth", "heads", "channels", "epsilon";
        "image_size" and "patch_size" (height, width); of BEiT "no_positions", "relative_positions" and "no_norm",
        bools; "pixels" (mean, deviation), each (C,) or (), that pixels in 0..1 are normalised by; and of timm
        "pooling", "class_names" and "crop_ratio", which a head needs.

    Raises:
        ValueError: if they cannot be read, or state what our encoder does not do.
    """
    config, processor = _json(file.with_name(CONFIG)), _json(file.with_name(PREPROCESSOR))
    options, card = (_section(file, config, name) for name in ("model_args", "pretrained_cfg"))
    _check_function(file, config, options)
    card = card or config  # older files of timm have no section of their own
    stated = {
        STATED[name]: _size(file, name, value)
        for name, value in {**config, **options}.items()
        if name in STATED and value is not None
    }
    if config.get("model_type") in ("beit", "data2vec-vision"):
        stated |= _of_beit(config)
    if "architecture" in config:
        stated["epsilon"] = TIMM_EPSILON
        stated["pooling"] = {name: options.get(name) for name in POOLING}
        stated["class_names"], stated["crop_ratio"] = config.get("label_names"), _crop_ratio(card)
    if "image_size" not in stated and isinstance(card.get("input_size"), list):
        stated["image_size"] = _size(file, "image_size", card["input_size"][1:])
    if pixels := _pixels(file, {"image_mean": card.get("mean"), "image_std": card.get("std"), **processor}):
        stated["pixels"] = pixels
    return stated


def _of_beit(config):
    """What the config.json of a BEiT states about its positions and its norm after the blocks."""
    relative = ("use_relative_position_bias", "use_shared_relative_position_bias")
    return {
        "no_positions": not config.get("use_absolute_position_embeddings"),
        "relative_positions": any(config.get(name) for name in relative),
        "no_norm": bool(config.get("use_mean_pooling", True)),
    }


def _size(file, name, value):
    """A number that config.json states, or (height, width)."""
    pair = STATED[name] in ("image_size", "patch_size")
    # One number stands for both sides.
    numbers = tuple(value) if pair and isinstance(value, list) else (value,) * (1 + pair)
    kind, most = (float, 1.0) if STATED[name] == "epsilon" else (int, LARGEST)
    if len(numbers) != 1 + pair or not all(
        isinstance(n, (int, kind)) and not isinstance(n, bool) and 0 < n <= most for n in numbers
    ):
        expected = f"{name} to be a positive {kind.__name__}{' or two' * pair} in {file.with_name(CONFIG)}"
        raise ValueError(f"Expected {expected}, received {value!r:.100}; it is at most {most}.")
    return numbers if pair else numbers[0]


def _crop_ratio(card):
    """The fraction of an image's side that timm takes; 1 if it is not stated as one."""
    value = card.get("crop_pct")
    return float(value) if type(value) in (int, float) and 0 < value <= 1 else 1.0


def _section(file, config, name):
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise ValueError(f"Expected {name} to be a JSON object in {file.with_name(CONFIG)}, received {section!r:.100}.")
    return section


def _json(path):
    try:
        content = strict_json.read(path) if path.is_file() else {}
    except (ValueError, OSError) as error:  # no JSON, or no UTF-8
        raise ValueError(f"Expected JSON in {path}, received {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected a JSON object in {path}, received a value of type {type(content).__name__}.")
    return content


def _check_function(file, config, options):
    """Raise ValueError for a model that is not equivalent to ours, if its weights do not show that."""
    # Shapes do not show an activation, a rotation or another kind of attention, so their names are refused.
    kind = config.get("model_type")
    if kind is not None and kind not in sorted(MODEL_TYPES):
        raise ValueError(
            f"Expected a model_type among {', '.join(sorted(MODEL_TYPES))} beside {file}, received {kind!r:.100}."
        )
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise ValueError(
            f"Expected a model with hidden_act gelu, received {activation!r:.100} beside {file}; the encoder has no"
            " other."
        )
    if config.get("use_swiglu_ffn"):
        raise ValueError(
            f"Expected a model without use_swiglu_ffn, received one with it beside {file}, and the encoder has no such"
            " layers; choose dinov2-small, dinov2-base or dinov2-large, which do without."
        )
    architecture = str(config.get("architecture", "vit"))
    if not re.match(r"(vit|deit|deit3|beit|beitv2)(_|$)", architecture) or re.search(
        "quickgelu|rope|relpos", architecture
    ):
        raise ValueError(
            f"Expected a plain Vision Transformer of timm, such as vit_base_patch16_224, received {architecture!r:.100}"
            f" beside {file}."
        )
    if other := sorted(set(options) - HARMLESS):
        raise ValueError(
            f"Expected a plain Vision Transformer of timm, received one with"
            f" {', '.join(map(repr, other)):.200} beside {file}; choose one without, such as vit_base_patch16_224."
        )


def _pixels(file, processor):
    """The mean and standard deviation that normalise pixels in 0..1; None if no file states them."""
    factor = processor.get("rescale_factor", 1 / 255)
    if not processor.get("do_rescale", True) or not isinstance(factor, (int, float)) or abs(255 * factor - 1) > 1e-4:
        raise ValueError(
            f"Expected a rescale_factor of 1/255 beside {file}, received another; the encoder takes pixels in 0..1."
        )
    if not processor.get("do_normalize", True):
        return np.float32(0), np.float32(1)
    stated = processor["image_mean"], processor["image_std"]
    if stated == (None, None):
        return None
    try:
        mean, std = map(np.array, stated)
        usable = (
            mean.dtype.kind in "if"
            and std.dtype.kind in "if"
            and np.abs(mean).max() <= MOST_PIXELS
            and LEAST_DEVIATION <= std.min() <= std.max() <= MOST_PIXELS
        )
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise ValueError(
            f"Expected image_mean and a positive image_std of each channel beside {file}, received {stated[0]!r:.100}"
            f" and {stated[1]!r:.100}."
        )
    return mean.astype("float32"), std.astype("float32")


def described(arguments, layout, head=None):
    """Return {file name: JSON object} that state the arguments of an encoder, and its head (timm only), to the library
    of a layout."""
    height, width, channels = arguments["image_shape"]
    mean, std = (
        [float(str(value)) for value in values] for values in pixel_statistics(channels)
    )  # 0.485, without float32's digits
    if layout == "timm":
        config = _for_timm(arguments, mean, std)
        if head:
            state_head(config, head)
        return {CONFIG: config}
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
        **({"use_relative_position_bias": True} if arguments.get("relative_positions") else {}),
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
    return {
        "architecture": "vit_base_patch16_224",
        **size,
        "model_args": model,
        "pretrained_cfg": card,
    }  # of the sizes in model_args
