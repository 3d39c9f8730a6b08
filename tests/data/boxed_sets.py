"""Small data sets of images with boxes in the formats that people have."""

import json

import numpy as np
from PIL import Image

CLASSES = ["dog", "cat"]
SIZE = (64, 32)  # width and height of each image
BOXES = {  # name of an image: class and COCO's box of each object
    "a": [("dog", [8, 4, 16, 20]), ("cat", [0, 0, 64, 32])],
    "b": [("cat", [10.5, 2, 20, 11.5])],
    "c": [],
}


def picture(path, size=SIZE, turn=None):
    """An image of noise, stored with this width and height, and with an EXIF orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), "uint8")
    Image.fromarray(pixels).save(path, exif=exif)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)


def coco(names=BOXES, prefix="", size=SIZE):
    """The text of one of COCO's files."""
    images = [
        {"id": i, "file_name": f"{prefix}{name}.jpg", "width": size[0], "height": size[1]}
        for i, name in enumerate(names)
    ]
    objects = [
        {"id": i, "image_id": i, "category_id": CLASSES.index(label), "bbox": box}
        for i, name in enumerate(names)
        for label, box in BOXES[name]
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES)]
    return json.dumps({"images": images, "annotations": objects, "categories": categories})


def xml_object(label, box, extra="", from_zero=False):
    left, top, width, height = box
    first = 0 if from_zero else 1
    corners = {"xmin": left + first, "ymin": top + first, "xmax": left + width, "ymax": top + height}
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
    return f"<object><name>{label}</name>{extra}<bndbox>{inside}</bndbox></object>"


def xml(name, objects=None, size=SIZE, from_zero=False):
    """The text of a file of Pascal VOC."""
    objects = BOXES[name] if objects is None else objects
    parts = "".join(xml_object(label, box, from_zero=from_zero) for label, box in objects)
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{name}.jpg</filename>{sides}{parts}</annotation>"


def txt(name, objects=None):
    """The text of a file of YOLO."""
    width, height = SIZE
    lines = [
        f"{CLASSES.index(label)} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}\n"
        for label, (x, y, w, h) in (BOXES[name] if objects is None else objects)
    ]
    return "".join(lines)


def voc_set(root, splits=("train", "val")):
    """Pascal VOC: lists of names for the splits, or none of them."""
    for name in BOXES:
        picture(root / "JPEGImages" / f"{name}.jpg")
        write(root / "Annotations" / f"{name}.xml", xml(name))
    for split in splits:
        write(root / "ImageSets" / "Main" / f"{split}.txt", "a\nb\nc\n")
    return f"voc:{root}"


def yolo_set(root, splits=("train", "val")):
    """Ultralytics: folders of the splits, and data.yaml."""
    for split in splits:
        for name in BOXES:
            picture(root / "images" / split / f"{name}.jpg")
            if BOXES[name]:  # an image without objects has no file
                write(root / "labels" / split / f"{name}.txt", txt(name))
    places = "".join(f"{split}: images/{split}\n" for split in splits)
    write(root / "data.yaml", f"path: ../datasets/pets  # elsewhere\n{places}\nnames:\n  0: dog\n  1: cat\n")
    return f"yolo:{root}"


def coco_set(root, splits=("train", "val")):
    """COCO."""
    for split in splits:
        for name in BOXES:
            picture(root / split / "images" / f"{name}.jpg")
        write(root / split / "instances.json", coco())
    return f"coco:{root}"


def objects_of(source):
    """{name of an image: class and [top, left, bottom, right] of each object}."""
    found = {}
    for i in range(len(source)):
        objects = source.objects(i)
        found[source.name(i)] = [
            (source.classes[label], box) for label, box in zip(objects.labels, objects.boxes.tolist(), strict=True)
        ]
    return found


def expected(prefix=""):
    """What `objects_of` is for these data sets."""
    return {
        f"{prefix}{name}.jpg": [(label, [y, x, y + h, x + w]) for label, (x, y, w, h) in objects]
        for name, objects in BOXES.items()
    }
