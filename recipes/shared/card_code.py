"""The code in the model card of an exported folder: it answers a photo of the user."""

# What to install, beside Pillow and NumPy.
PACKAGES = {
    "saved_model": "tensorflow",
    "onnx": "onnxruntime",
    "litert": "ai-edge-litert",
    "torch": "torch",
    "timm": "timm",
    **dict.fromkeys(("vit", "deit", "beit", "mae"), "torch transformers"),
}
# Of the channels that a file has as a picture: the mode of Pillow, and how to index its pixels to get (1, H, W, C).
MODES = {1: "L", 3: "RGB"}
AXES = {1: "None, :, :, None", 3: "None"}
OPENED = """photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("{mode}")
"""
PHOTO = OPENED + "{framed}images = np.asarray(photo)[{axes}]"
ANY_ARRAY = """images = np.zeros({shape}, "uint8")  # or yours"""
# How a photo gets the sides of the model: as PREPARED of model_card.py says. All are bicubic and antialiased.
FRAMED = {
    "Classifier": "photo = ImageOps.fit(photo, ({width}, {height}){bleed})\n",
    "Segmenter": "photo = photo.resize(({width}, {height}))\n",
    "RetinaNet": """size = photo.size
photo = ImageOps.contain(photo, ({width}, {height}))
back = np.array([size[1] / photo.height, size[0] / photo.width] * 2)  # to the pixels of the photo
photo = ImageOps.pad(photo, ({width}, {height}), centering=(0, 0))
""",
}
FRAMED |= {"Encoder": FRAMED["Classifier"], "MaskRCNN": FRAMED["RetinaNet"]}
PROGRAMS = {
    "saved_model": """import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

{images}
program = tf.saved_model.load(".")
answers = {{name: value.numpy() for name, value in program.serve(images).items()}}
""",
    "onnx": """import numpy as np
import onnxruntime
from PIL import Image, ImageOps

{images}
session = onnxruntime.InferenceSession("model.onnx")
answers = dict(zip([each.name for each in session.get_outputs()], session.run(None, {{"images": images}})))
""",
    "litert": """import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

{images}
run = Interpreter("model.tflite").get_signature_runner()
answers = run(images=images)
""",
    "torch": """import numpy as np
import torch
from PIL import Image, ImageOps

{images}
program = torch.export.load("model.pt2").module()
answers = {{name: value.detach().numpy() for name, value in program(torch.tensor(images)).items()}}
""",
}
NAMES = {  # modules to import, and how to read the names of the classes from the program
    "saved_model": ("json", 'names = json.load(open("assets/classes.json", encoding="utf-8"))\n'),
    "onnx": ("json", 'names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])\n'),
    "litert": ("json zipfile", 'names = json.loads(zipfile.ZipFile("model.tflite").read("classes.json"))\n'),
    "torch": (
        "json zipfile",
        """file = zipfile.ZipFile("model.pt2")
names = json.loads(file.read(next(name for name in file.namelist() if name.endswith("classes.json"))))
""",
    ),
}
SHOWN = {
    "Classifier": """scores = answers["scores"][0]
print({name}, scores.max())  # the class and its probability""",
    "Segmenter": """labels = answers["labels"][0]  # of each pixel the class in the list below
for label in np.unique(labels):
    print({name}, (labels == label).mean())  # the fraction of its pixels""",
    "RetinaNet": """for box, score, label in zip(answers["boxes"][0], answers["scores"][0], answers["labels"][0]):
    if label >= 0 and score > 0.3:
        print({name}, score, box{back})  # class, score, and [top, left, bottom, right] in the photo""",
    "Encoder": """print(answers["pooled"].shape)""",
}
SHOWN["MaskRCNN"] = SHOWN["RetinaNet"]
LIBRARY = """import json

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import {class}

{images}
numbers = json.load(open("preprocessor_config.json"))
pixels = (images / 255 - numbers["image_mean"]) / numbers["image_std"]
model = {class}.from_pretrained(".", {options}).eval()
tokens = model(torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2)).last_hidden_state
pooled = tokens[:, {first}:].mean(1)  # and tokens[:, 0] is cls
print(pooled.shape)"""
LIBRARIES = {  # name of the class, its options, and the index of the first patch's token
    "vit": ("ViTModel", "add_pooling_layer=False", 1),
    "deit": ("DeiTModel", "add_pooling_layer=False", 2),
    "beit": ("BeitModel", "add_pooling_layer=False", 1),
    "mae": ("ViTMAEModel", "mask_ratio=0.0", 1),
}
TIMM = """import timm
from PIL import Image, ImageOps

model = timm.create_model("local-dir:.", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
{opened}"""
TIMM_SHOWN = {
    "Classifier": """scores = model(prepare(photo)[None]).softmax(-1)[0]
print(model.pretrained_cfg["label_names"][scores.argmax()], scores.max().item())""",
    "Encoder": """tokens = model.forward_features(prepare(photo)[None])
pooled = tokens[:, model.num_prefix_tokens :].mean(1)  # and tokens[:, 0] is cls
print(pooled.shape)""",
}
TIMM_WITHOUT_PHOTO = """import timm

model = timm.create_model("local-dir:.", pretrained=True)
print(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])"""


def install(layout):
    """Write the command that installs what the code imports."""
    return f"pip install {PACKAGES[layout]} numpy pillow"


def code_of(kind, layout, shape, ratio=1.0, resize=False, named=False):
    """Write code that answers a photo, or an array if files hold no such channels.

    Args:
        kind: name of the class of the model.
        layout: name of the layout.
        shape: (H, W, C) of the model's images.
        ratio: fraction of an image's side to keep.
        resize: whether the program takes images of any size.
        named: whether the program carries names of classes.
    """
    height, width, channels = shape
    mode = MODES.get(channels)
    bleed = "" if ratio == 1 else f", bleed={(1 - ratio) / 2:.4g}"
    framed = "" if resize else FRAMED[kind].format(width=width, height=height, bleed=bleed)
    images = (
        PHOTO.format(mode=mode, framed=framed, axes=AXES[channels]) if mode else ANY_ARRAY.format(shape=(1, *shape))
    )
    if layout == "timm":
        return TIMM.format(opened=OPENED.format(mode=mode)) + TIMM_SHOWN[kind] if mode else TIMM_WITHOUT_PHOTO
    if layout in LIBRARIES:
        library, options, first = LIBRARIES[layout]
        code = LIBRARY.format(**{"class": library}, images=images, options=options, first=first)
    else:
        back = " * back" if mode and not resize else ""
        modules, names = NAMES[layout] if named else ("", "")
        label = "scores.argmax()" if kind == "Classifier" else "label"
        code = PROGRAMS[layout].format(images=images) + names
        code += SHOWN[kind].format(back=back, name=f"names[{label}]" if named else label)
        code = "".join(f"import {module}\n" for module in modules.split()) + "\n" * bool(modules) + code
    return code if mode else code.replace("from PIL import Image, ImageOps\n", "")
