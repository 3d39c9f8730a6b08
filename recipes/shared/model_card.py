"""The README.md of an exported folder: what the model is, what it learnt from, its results, and how to load it."""

import pathlib
import re

from recipes.shared import card_code, earlier, runtimes

KINDS = {
    "Classifier": "A classifier of {classes} classes",
    "Segmenter": "A segmenter of {classes} classes",
    "RetinaNet": "A detector of objects of {classes} classes (RetinaNet)",
    "MaskRCNN": "A detector of objects of {classes} classes, with their masks (Mask R-CNN)",
    "Encoder": "An encoder, which turns images into features",
}
SETTINGS = ("method", "preset", "head", "frozen", "steps", "epochs", "batch_size", "learning_rate", "augmentation")
SETTINGS += ("labelled", "seed", "inference")
NUMBERS = ("category_ids", "class_numbers")  # of the classes in the data set, in result.json
RESULTS = {  # names in result.json, and what they are
    r"(train|val|test|judged)_top1": "top-1 accuracy on {split}",
    "balanced_accuracy": "balanced accuracy",
    "ap": "average precision of boxes",
    "ap50": "average precision of boxes at an overlap of 0.5",
    "mask_ap": "average precision of masks",
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
}
OUTPUTS = {
    "Classifier": "`scores` (B, {classes}) float32, probabilities",
    "Segmenter": "`labels` (B, {sides}) int32, the class of every pixel",
    "RetinaNet": "`boxes` (B, {count}, 4) float32, [top, left, bottom, right] in pixels of {images}; `scores`"
    " (B, {count}) float32; and `labels` (B, {count}) int32, -1 where there is no object",
    "Encoder": "`pooled` (B, {features}) float32, the mean of the patches; `cls` (B, {features}) float32; and"
    " `feature_map` (B, {rows}, {columns}, {features}) float32",
}
OWN_SIZE = (
    "`images` (B, {height}, {width}, {channels}) uint8, for any B. First bring yours to {height} x {width} pixels; the"
    " rest of the preprocessing is inside."
)
ANY_SIZE = (
    "`images` (B, height, width, {channels}) uint8, for any B and of any size, the same for all images of a call. All"
    " preprocessing is inside, also the resizing to {height} x {width} pixels."
)
CUT = (
    "cut the largest part with that ratio of sides from the centre of an image{crop}, and resize it with a bicubic,"
    " antialiased filter"
)
PREPARED = {  # how `splitmask predict` and `splitmask embed` prepare an image
    "Classifier": CUT,
    "Encoder": CUT,
    "Segmenter": "resize an image as a whole, with a bicubic, antialiased filter",
    "RetinaNet": "scale an image by one factor so that it fits, with a bicubic, antialiased filter; put it into the top"
    " left corner; and fill the rest with 0",
}
SLIDES = (
    " The results above are those of `--inference=slide`, which moves a window over an image and averages; a program"
    " does not."
)
PREPARED["MaskRCNN"] = PREPARED["RetinaNet"]
OUTPUTS["MaskRCNN"] = OUTPUTS["RetinaNet"] + "; and `masks` (B, {count}, 28, 28) float32, probabilities inside each box"


def text_of(model, layout, run, quantize="none", ratio=1.0, resize=False):
    """Write the card of a model that is exported in a layout, in Markdown.

    Args:
        model: what is exported.
        layout: name of the layout.
        run: path of the run that it comes from.
        quantize: the numbers of the program, see export.py.
        ratio: fraction of an image's side to keep, from the centre.
        resize: whether the program takes images of any size.
    """
    kind = type(model).__name__
    encoder = getattr(model, "encoder", model)
    height, width, channels = encoder.image_shape
    facts = {"classes": getattr(model, "classes", 0), "count": getattr(model, "max_detections", 0)}
    facts |= {"height": height, "width": width, "features": encoder.width}
    facts |= dict(zip(("rows", "columns"), encoder.grid, strict=True))
    facts["sides"] = "height, width" if resize else f"{height}, {width}"
    facts["images"] = "the given images" if resize else "the resized images"
    facts["crop"] = "" if ratio == 1 else f", then {ratio:.1%} of its sides"
    numbers = "" if quantize == "none" else f", as {quantize}"
    parts = [f"# {KINDS[kind].format(**facts)}"]
    parts.append(
        f"Vision Transformer, depth {encoder.depth}, width {encoder.width}, patches of {encoder.patch_size} pixels,"
        f" {model.count_params():,} weights in all{numbers}. Made with keras_splitmask."
    )
    if pathlib.Path(run).is_dir() or pathlib.Path(run).name == "model.keras":  # others may lie beside another's run
        parts += [f"## {title}\n\n{text}" for title, text in _sections(run, kind, quantize)]
    if layout in runtimes.RUNTIMES:
        limits = getattr(model, "value_range", None)
        slides = kind == "Segmenter" and earlier.flag_of_run(run, "inference") == "slide"
        recipe = "embed" if kind == "Encoder" else "predict --inference=whole" if slides else "predict"
        parts.append(
            f"## Input and output\n\n{(ANY_SIZE if resize else OWN_SIZE).format(channels=channels, **facts)} `splitmask"
            f" {recipe}` does it so: {PREPARED[kind].format(**facts)}."
            + (SLIDES if slides else "")
            + (f" Stored values from {limits[0]:g} to {limits[1]:g} become 0 to 255." if limits else "")
            + (" LiteRT also takes grey images, and repeats them." if layout == "litert" else "")
            + f"\n\nIt returns {OUTPUTS[kind].format(**facts)}."
        )
    named = bool(getattr(model, "class_names", None))
    code = card_code.code_of(kind, layout, (height, width, channels), ratio, resize, named)
    parts.append(f"## Load it\n\n```\n{card_code.install(layout)}\n```\n\nIn this folder:\n\n```python\n{code}\n```")
    if layout == "timm" and kind == "Classifier" and channels in card_code.MODES:
        parts.append('With transformers: `pipeline("image-classification", model=".")`.')
    if names := getattr(model, "class_names", None):
        parts.append("## Classes\n\n" + "\n".join(_lines_of_classes(names, run)))
    return "\n\n".join(parts) + "\n"


def _lines_of_classes(names, run):
    """A line for each class: its position, its name, and its number in the data set if that is another."""
    numbers = next(filter(None, (earlier.class_numbers(run, which, len(names)) for which in NUMBERS)), None)
    for i, name in enumerate(names):
        yield f"{i}. `{_shown(name)}`" + (
            f", number {numbers[i]} in the data set" if numbers and numbers[i] != i else ""
        )


def _shown(name):
    """A name between backticks, without what would end them or control a terminal."""
    return "".join(c if c.isprintable() and c != "`" else f"\\x{ord(c):02x}" for c in name)


def _sections(run, kind, quantize):
    """What the files of a run say: pairs of title and text."""
    if data := _data(run):
        images = earlier.result_of_run(run, "train_images")
        yield "Data", data + (f", {images:,} training images" if isinstance(images, int) else "")
    if settings := _settings(run):
        yield "Settings", settings
    if before := earlier.flag_of_run(run, "init_from"):
        settings = _settings(before)
        yield "The encoder it began with", f"{_data(before)}: {settings}" if settings else f"`{_shown(before)}`"
    results = (
        f"- {text.format(split=name.removesuffix('_top1'))}: {value:.1%}"
        for pattern, text in RESULTS.items()
        for name, value in earlier.results_of_run(run).items()
        if re.fullmatch(pattern, name)
    )
    if kind != "Encoder" and (lines := "\n".join(results)):
        note = "" if quantize == "none" else f"\n\nMeasured in float32, before {quantize}."
        yield "Results", lines + note


def _data(run):
    dataset = earlier.flag_of_run(run, "dataset")
    return dataset and (pathlib.PurePath(dataset.partition(":")[2] or dataset).name or "images")


def _settings(run):
    values = {name: earlier.flag_of_run(run, name) for name in SETTINGS}
    if values["steps"]:
        values["epochs"] = ""
    return ", ".join(f"`--{name}={value}`" for name, value in values.items() if value)
