"""Scenes of coloured rectangles and ellipses, with their boxes, masks and label maps."""

import numpy as np

from keras_splitmask.evaluation import encode_mask, paste_mask

COLOURS = ((250, 30, 30), (30, 250, 30))
SIDE = 28  # of a mask


def draw_scenes(count, image_shape=(64, 96, 3), seed=0, places=4):
    """Images (count, H, W, 3) uint8 of rectangles, class 0, and ellipses, class 1, up to three in each, and none in the
    first; and their targets."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, *image_shape), "uint8")
    found, labels = np.zeros((count, places, 4), "float32"), np.full((count, places), -1, "int32")
    masks = np.zeros((count, places, SIDE, SIDE), "uint8")
    rows, columns = np.mgrid[: image_shape[0], : image_shape[1]] + 0.5
    ellipse = sum(((x + 0.5) / (SIDE / 2) - 1) ** 2 for x in np.mgrid[:SIDE, :SIDE]) <= 1
    for i in range(1, count):
        for j in range(min(3, places)):
            height, width = rng.integers(14, 32, 2)
            top, left = rng.integers(0, image_shape[0] - height), rng.integers(0, image_shape[1] - width)
            box = ((rows >= top) & (rows < top + height)) & ((columns >= left) & (columns < left + width))
            round_ = ((rows - top - height / 2) / (height / 2)) ** 2 + (
                (columns - left - width / 2) / (width / 2)
            ) ** 2 <= 1
            images[i][round_ if j % 2 else box] = COLOURS[j % 2]
            found[i, j], labels[i, j], masks[i, j] = (
                (top, left, top + height, left + width),
                j % 2,
                ellipse if j % 2 else 1,
            )
    return images, {"boxes": found, "labels": labels, "masks": masks}


def as_coco(targets, image_shape):
    """The objects of scenes as a COCO dictionary, with their masks."""
    truth = {"categories": [{"id": i + 1, "name": str(i)} for i in range(2)], "images": [], "annotations": []}
    for i, labels in enumerate(targets["labels"]):
        truth["images"].append({"id": i, "height": image_shape[0], "width": image_shape[1]})
        for box, label, mask in zip(targets["boxes"][i], labels.tolist(), targets["masks"][i], strict=True):
            if label >= 0:
                top, left, bottom, right = box.tolist()
                own = {"image_id": i, "category_id": label + 1, "bbox": [left, top, right - left, bottom - top]}
                outline = encode_mask(paste_mask(mask, box, *image_shape[:2]))
                truth["annotations"].append({"id": len(truth["annotations"]) + 1, **own, "segmentation": outline})
    return truth


def draw_label_maps(targets, image_shape):
    """Label maps (count, H, W) int32 of scenes: 0 for the background, 1 and 2 for the classes."""
    maps = np.zeros((len(targets["labels"]), *image_shape[:2]), "int32")
    for own, *objects in zip(maps, targets["boxes"], targets["labels"], targets["masks"], strict=True):
        for box, label, mask in zip(*objects, strict=True):
            own[paste_mask(mask, box, *image_shape[:2])] = label + 1
    return maps
