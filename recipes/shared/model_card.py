"""The README.md of an exported folder: what the model is, what it learnt from, its results, and how to load it."""

import pathlib

from recipes.shared import earlier, runtimes

KINDS = {
    "Classifier": "A classifier of {classes} classes",
    "Segmenter": "A segmenter of {classes} classes",
    "RetinaNet": "A detector of objects of {classes} classes (RetinaNet)",
    "MaskRCNN": "A detector of objects of {classes} classes, with their masks (Mask R-CNN)",
    "Encoder": "An encoder, which turns images into features",
}
SETTINGS = ("method", "preset", "steps", "epochs", "batch_size", "learning_rate", "augmentation", "labelled", "seed")
OUTPUTS = {
    "Classifier": "`scores` (B, {classes}) float32, probabilities",
    "Segmenter": "`labels` (B, {height}, {width}) int32, the class of every pixel",
    "RetinaNet": "`boxes` (B, K, 4) float32, [top, left, bottom, right] in pixels; `scores` (B, K) float32; and"
    " `labels` (B, K) int32, -1 where there are no more objects",
    "Encoder": "`pooled` (B, {features}) float32, the mean of the patches; `cls` (B, {features}) float32; and"
    " `feature_map` (B, {rows}, {columns}, {features}) float32",
}
OUTPUTS["MaskRCNN"] = OUTPUTS["RetinaNet"] + "; and `masks` (B, K, 28, 28) float32, probabilities inside each box"
# How to answer `images` with the first of the outputs. The shape is that of the images.
CODE = {
    "saved_model": """import numpy as np
import tensorflow as tf

program = tf.saved_model.load(".")
images = np.zeros({shape}, "uint8")
print(program.serve(images)["{name}"].shape)""",
    "onnx": """import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros({shape}, "uint8")
print(session.run(["{name}"], {{"images": images}})[0].shape)""",
    "litert": """import numpy as np
from ai_edge_litert.interpreter import Interpreter

run = Interpreter("model.tflite").get_signature_runner()
images = np.zeros({shape}, "uint8")
print(run(images=images)["{name}"].shape)""",
    "torch": """import torch

program = torch.export.load("model.pt2").module()
images = torch.zeros({shape}, dtype=torch.uint8)
print(program(images)["{name}"].shape)""",
    "timm": """import timm

model = timm.create_model("local-dir:.", pretrained=True)
print(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])""",
}
# Of the channels that a file has as a picture: the mode of Pillow.
MODES = {1: "L", 3: "RGB"}
TIMM_CLASSIFIER = """import timm
from PIL import Image

model = timm.create_model("local-dir:.", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = Image.new("{mode}", ({width}, {height}))  # or Image.open("photo.jpg").convert("{mode}")
scores = model(prepare(image)[None]).softmax(-1)[0]
print(model.pretrained_cfg["label_names"][scores.argmax()], scores.max().item())"""
LIBRARY = """from transformers import {name}

model = {name}.from_pretrained(".")
print(model.config.image_size, model.config.patch_size)"""
CODE |= {
    layout: LIBRARY.replace("{name}", name)
    for layout, name in (("vit", "ViTModel"), ("deit", "DeiTModel"), ("beit", "BeitModel"), ("mae", "ViTMAEModel"))
}


def text_of(model, layout, run):
    """Write the card of a model that is exported in a layout, in Markdown.

    Args:
        model: what is exported.
        layout: name of the layout.
        run: path of the run that it comes from.
    """
    kind = type(model).__name__
    encoder = getattr(model, "encoder", model)
    height, width, channels = encoder.image_shape
    classes = getattr(model, "classes", 0)
    facts = {"classes": classes, "height": height, "width": width, "features": encoder.width}
    facts |= dict(zip(("rows", "columns"), encoder.grid, strict=True))
    size = (
        f"Vision Transformer, {encoder.depth} blocks of width {encoder.width}, patches of {encoder.patch_size} pixels,"
        f" {model.count_params():,} weights in all."
    )
    parts = [f"# {KINDS[kind].format(**facts)}", f"{size} Made with keras_splitmask."]
    parts += [f"## {title}\n\n{text}" for title, text in _sections(run)]
    if layout in runtimes.RUNTIMES:
        parts.append(
            f"## Input and output\n\n`images` (B, {height}, {width}, {channels}) uint8, for any B. Resize yours to"
            f" {height} x {width} pixels first; the rest of the preprocessing is inside.\n\nIt returns"
            f" {OUTPUTS[kind].format(**facts)}."
        )
    first = OUTPUTS[kind].split("`")[1]
    predicts = layout == "timm" and kind == "Classifier" and channels in MODES
    code = (TIMM_CLASSIFIER if predicts else CODE[layout]).format(
        shape=(1, height, width, channels), name=first, mode=MODES.get(channels), height=height, width=width
    )
    parts.append(f"## Load it\n\nIn this folder:\n\n```python\n{code}\n```")
    if predicts:
        parts.append('With transformers: `pipeline("image-classification", model=".")`.')
    if names := getattr(model, "class_names", None):
        parts.append("## Classes\n\n" + "\n".join(f"{i}. {name}" for i, name in enumerate(names)))
    return "\n\n".join(parts) + "\n"


def _sections(run):
    """What the files of a run say: pairs of title and text."""
    dataset = earlier.flag_of_run(run, "dataset")
    images = earlier.result_of_run(run, "train_images")
    if dataset:
        count = f", {images:,} training images" if isinstance(images, int) else ""
        yield "Data", f"{pathlib.PurePath(dataset.partition(':')[2] or dataset).name}{count}"
    settings = [f"`--{name}={value}`" for name in SETTINGS if (value := earlier.flag_of_run(run, name))]
    if settings:
        yield "Settings", ", ".join(settings)
    results = earlier.results_of_run(run)
    if results:
        yield "Results", "\n".join(f"- {name.replace('_', ' ')}: {value:.1%}" for name, value in results.items())
