import dataclasses
import itertools
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from keras_splitmask.data import (
    detection_batches,
    letterbox,
    open_detection,
    open_segmentation,
    scenes,
    segmentation_batches,
)
from keras_splitmask.data.arrays import ArraySource
from keras_splitmask.data.coco import Objects
from keras_splitmask.data.framing import Frame
from keras_splitmask.data.scenes import targets_in

SHAPE = (48, 64, 3)
COLOURS = np.array([(250, 60, 60), (60, 60, 250)])  # of the objects of both classes, on grey 130; padding is 0


def take(batches, count):
    return list(itertools.islice(batches, count))


def same(one, other):
    """Whether two batches are the same to the bit."""
    flat = [
        [images, *(targets.values() if isinstance(targets, dict) else [targets])] for images, targets in (one, other)
    ]
    return all(np.array_equal(a, b) for a, b in zip(*flat, strict=True))


def ellipses(root, count=6, size=(90, 70), form="png"):
    """Images of ellipses that do not touch, of one class in the upper half and of the other in the lower, by polygon
    and by run lengths."""
    rng, annotations = np.random.default_rng(0), []
    (root / "train" / "images").mkdir(parents=True)
    unit = size[1] // 10
    for i in range(count):
        image, cells = Image.new("RGB", size, (130, 130, 130)), rng.permutation(6)[:3]
        for cell in cells:
            left, top = (
                (cell // 2) * 3 * unit + unit / 2 + rng.uniform(0, unit / 3),
                (cell % 2) * 5 * unit + rng.uniform(0, unit),
            )
            width, height, label = rng.uniform(1.3, 1.8) * unit, rng.uniform(2, 4) * unit, int(cell % 2)
            angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
            corners = np.stack([left + width * (1 + np.cos(angles)) / 2, top + height * (1 + np.sin(angles)) / 2], 1)
            mask = Image.new("1", size)
            for canvas, colour in ((image, tuple(COLOURS[label])), (mask, 1)):
                ImageDraw.Draw(canvas).ellipse((left, top, left + width - 1, top + height - 1), colour)
            outline = [corners.ravel().tolist()] if cell % 3 else run_lengths(np.asarray(mask))
            box = [left, top, width, height]
            annotations.append({"image_id": i, "category_id": label, "bbox": box, "segmentation": outline})
        image.save(root / "train" / "images" / f"{i}.{form}", quality=95)
    images = [{"id": i, "file_name": f"{i}.{form}", "width": size[0], "height": size[1]} for i in range(count)]
    file = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 0, "name": "red"}, {"id": 1, "name": "blue"}],
    }
    (root / "train" / "instances.json").write_text(json.dumps(file))
    return open_detection(f"coco:{root}", "train")


def run_lengths(mask):
    """COCO's run lengths of a mask (H, W)."""
    flat = np.concatenate([[0], mask.T.ravel(), [0]])
    ends = np.flatnonzero(np.diff(flat))
    return {"size": list(mask.shape), "counts": np.diff([0, *ends, mask.size]).tolist()}  # the last may be 0


def coloured(image, label):
    """Where an image (H, W, 3) has the colour of a class."""
    return np.abs(image.astype(int) - COLOURS[label]).sum(-1) < 150


def extent(where):
    rows, columns = (np.flatnonzero(where.any(axis)) for axis in (1, 0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


@pytest.mark.parametrize(
    ("size", "form", "augment"), [((90, 70), "png", True), ((90, 70), "png", False), ((900, 700), "jpg", True)]
)
def test_boxes_and_masks_are_where_the_objects_are(tmp_path, size, form, augment):
    """The large photographs are decoded at a part of their resolution."""
    pytest.importorskip("pycocotools")
    source, seen, misses = ellipses(tmp_path, size=size, form=form), 0, []
    for images, targets in take(detection_batches(source, SHAPE, 3, augment=augment, mask_size=20), 16):
        assert {name: (array.shape, str(array.dtype)) for name, array in targets.items()} == {
            "boxes": ((3, 100, 4), "float32"),
            "labels": ((3, 100), "int32"),
            "ignored": ((3, 3, 4), "float32"),
            "masks": ((3, 100, 20, 20), "uint8"),
        }
        for image, boxes, labels, masks in zip(
            images, *(targets[name] for name in ("boxes", "labels", "masks")), strict=True
        ):
            assert not boxes[labels < 0].any() and not masks[labels < 0].any() and masks.max() == 1
            for box, label, mask in zip(boxes[labels >= 0], labels[labels >= 0], masks, strict=False):
                top, left, bottom, right = np.round(box).astype(int)
                around = np.zeros(SHAPE[:2], bool)
                around[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
                if (
                    top > 0 < left and bottom < 48 and right < 64
                ):  # of an ellipse that is cut, less may be left than of its box
                    misses.append(extent(coloured(image, label) & around) - box)
                rows, columns = (
                    ((np.arange(20) + 0.5) / 20 * (b - a) + a).astype(int)
                    for a, b in zip(box[:2], box[2:], strict=True)
                )
                agreement = (coloured(image, label)[np.ix_(rows, columns)] == mask).mean()
                assert agreement > (0.8 if (box[2:] - box[:2]).min() > 8 else 0.6)
                seen += 1
    assert (
        seen > 60
        and np.abs(misses).max() < 1.5
        and np.abs(np.mean(misses, axis=0)).max() < (0.5 if size[0] < 100 else 0.2)
    )  # pixels


def test_the_whole_image_without_augmentation(tmp_path):
    source = ellipses(tmp_path)
    images, targets = next(iter(detection_batches(source, SHAPE, 6, augment=False)))
    order = [next(i for i in range(6) if (letterbox(source.image(i), SHAPE)[0] == image).all()) for image in images]
    assert sorted(order) == list(range(6))
    for i, boxes, labels in zip(order, targets["boxes"], targets["labels"], strict=True):
        objects, factors = source.objects(i), letterbox(source.image(i), SHAPE)[1]
        assert labels[:3].tolist() == objects.labels.tolist() and (labels[3:] == -1).all()
        assert np.allclose(boxes[:3] / np.tile(factors, 2), objects.boxes, atol=1e-3)  # there and back


@pytest.mark.parametrize("kind", ["detection", "segmentation"])
def test_a_batch_is_a_function_of_seed_step_and_place(tmp_path, kind):
    source = ellipses(tmp_path) if kind == "detection" else labelled(tmp_path)
    batches = detection_batches if kind == "detection" else segmentation_batches
    once = take(batches(source, SHAPE, 4, seed=3), 7)
    assert not same(once[0], once[3]) and not same(
        once[0], next(iter(batches(source, SHAPE, 4, seed=4)))
    )  # both of the third epoch's images
    for options in ({"workers": 0}, {"workers": 5}, {"start": 3}, {"start": 6, "workers": 1}):
        rest = take(batches(source, SHAPE, 4, seed=3, **options), 7 - options.get("start", 0))
        assert all(same(a, b) for a, b in zip(once[options.get("start", 0) :], rest, strict=True))
    shares = [take(batches(source, SHAPE, 4, seed=3, shard=(i, 2)), 7) for i in (0, 1)]
    for whole, *halves in zip(once, *shares, strict=True):
        joined = [np.concatenate([half[0] for half in halves])]
        if kind == "detection":
            joined.append({name: np.concatenate([half[1][name] for half in halves]) for name in whole[1]})
        else:
            joined.append(np.concatenate([half[1] for half in halves]))
        assert same(whole, joined)


def with_boxes(root, boxes, size=(64, 48), **changes):
    """One grey image and its objects, [left, top, width, height] each."""
    (root / "train" / "images").mkdir(parents=True)
    Image.new("RGB", size, (130, 130, 130)).save(root / "train" / "images" / "a.png")
    annotations = [{"image_id": 0, "category_id": 0, "bbox": box, **changes} for box in boxes]
    annotations.append({"image_id": 0, "category_id": 0, "bbox": [0, 0, *size], "iscrowd": 1})
    images = [{"id": 0, "file_name": "a.png", "width": size[0], "height": size[1]}]
    file = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "x"}]}
    (root / "train" / "instances.json").write_text(json.dumps(file))
    return open_detection(f"coco:{root}", "train")


def test_the_largest_are_learnt_and_the_others_ignored(tmp_path):
    """Crowds, slivers of less than 2 pixels and what is more than the largest four are neither objects nor
    background."""
    boxes = [[1, 1, 4, 4], [1, 1, 9, 9], [3, 3, 1.9, 30], [8, 8, 5, 5], [20, 10, 10, 10], [3, 3, 8, 8]]
    source, said = with_boxes(tmp_path, boxes), []
    source.report = said.append
    for _ in range(2):
        ((_, targets),) = take(detection_batches(source, SHAPE, 1, augment=False, max_objects=4), 1)
    assert targets["boxes"][0].tolist() == [[1, 1, 10, 10], [8, 8, 13, 13], [10, 20, 20, 30], [3, 3, 11, 11]]
    assert targets["labels"].tolist() == [[0, 0, 0, 0]]
    ignored = [[0, 0, 48, 64], np.float32([3, 3, 33, 4.9]).tolist(), [1, 1, 5, 5]]  # the largest first
    assert targets["ignored"][0].tolist() == [*ignored, *[[0] * 4] * 4]
    assert len(said) == 1 and said[0].startswith(
        "3 objects ignored in 1 image of more than 4, up to 7; raise max_objects"
    )
    assert said[0].rstrip(".") in source.summary() and "1 crowd, ignored" in source.summary()


def test_no_more_are_ignored_than_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "MAX_IGNORED", 3)
    source = with_boxes(tmp_path, [[0, 0, k, k] for k in range(3, 9)])
    ((_, targets),) = take(detection_batches(source, SHAPE, 1, augment=False, max_objects=2), 1)
    assert (
        targets["ignored"][0, :, 2].tolist() == [48, 6, 5]
        and "the smallest beyond 5 are taken for background" in source.summary()
    )


def test_objects_without_an_outline_are_ignored_where_masks_are_wanted(tmp_path):
    pytest.importorskip("pycocotools")
    source = with_boxes(tmp_path, [[1, 1, 9, 9], [20, 10, 10, 10]])
    content = json.loads((tmp_path / "train" / "instances.json").read_text())
    content["annotations"][1]["segmentation"] = [[20, 10, 30, 10, 30, 20, 20, 20]]
    (tmp_path / "train" / "instances.json").write_text(json.dumps(content))
    source = open_detection(f"coco:{tmp_path}", "train")
    ((_, targets),) = take(detection_batches(source, SHAPE, 1, augment=False, mask_size=4), 1)
    assert targets["labels"][0, :2].tolist() == [0, -1] and targets["masks"][0, 0].all()
    assert targets["boxes"][0, 0].tolist() == [10, 20, 20, 30] and targets["ignored"][0, 1].tolist() == [1, 1, 10, 10]
    assert "1 object without an outline ignored" in source.summary()
    ((_, targets),) = take(detection_batches(source, SHAPE, 1, augment=False), 1)
    assert targets["labels"][0, :3].tolist() == [0, 0, -1]


def test_a_quarter_of_a_box_must_remain(tmp_path):
    """Of an image at twice the size half the rows and columns are shown, so of a box in its corner anything from
    nothing to all."""
    source = with_boxes(tmp_path, [[0, 0, 20, 20]])
    areas, slivers = [], []
    for _, targets in take(detection_batches(source, SHAPE, 1, scale=(2.0, 2.0)), 200):
        top, left, bottom, right = targets["boxes"][0, 0]
        areas.append((bottom - top) * (right - left) if targets["labels"][0, 0] == 0 else 0)
        rest = targets["ignored"][0, 1]  # after the crowd
        slivers.append(0 if areas[-1] else (rest[2] - rest[0]) * (rest[3] - rest[1]))
        assert 0 <= top <= bottom <= 48 and 0 <= left <= right <= 64
    assert 0 in areas and 1000 < max(areas) <= 1600 and 400 <= min(area for area in areas if area) < 500
    assert 0 in slivers and 300 < max(slivers) < 400  # what is left of less is ignored, unless nothing is


def test_a_cut_box_lies_around_what_is_left_of_the_outline():
    pytest.importorskip("pycocotools")
    corner = [[10.0, 10.0, 50.0, 10.0, 10.0, 50.0]]  # a triangle: x + y < 60
    boxes = np.array([[10, 10, 50, 50], [0, 0, 8, 8], [10, 10, 50, 50]], "float32")
    objects = Objects(boxes, np.arange(3), np.zeros(3, bool), [corner, [[0, 0, 8, 0, 8, 8, 0, 8]], corner])
    frame = Frame((20, 0, 40, 60), (80, 120))  # rows from 20 on, at twice the size
    targets = targets_in(objects, frame, 4, 4, 28)
    left, none, again = targets["boxes"][0], targets["labels"][2:], targets["boxes"][1]
    assert np.abs(left - [0, 20, 60, 80]).max() < 1.5 and (again == left).all() and (none == -1).all()
    assert targets["masks"][0, 0, :26].all() and targets["masks"][0, :26, 0].all()  # it fills its box again
    mirrored = targets_in(objects, dataclasses.replace(frame, mirrored=True), 4, 4, 28)
    assert np.allclose(mirrored["boxes"][0], [left[0], 120 - left[3], left[2], 120 - left[1]])
    assert targets_in(objects, frame, 4, 4, None)["boxes"][0].tolist() == [0, 20, 60, 100]  # without masks, the cut box
    # Of the triangle nothing is left in the lower right quarter of its box.
    gone = targets_in(objects, Frame((31, 31, 19, 19), (38, 38)), 4, 4, 28)
    assert (gone["labels"] == -1).all() and not gone["ignored"].any()


def test_images_without_objects_are_negatives(tmp_path):
    source = with_boxes(tmp_path, [])
    for _, targets in take(detection_batches(source, SHAPE, 1, mask_size=8), 3):
        assert (
            (targets["labels"] == -1).all() and not targets["boxes"].any() and targets["masks"].shape == (1, 100, 8, 8)
        )


def test_an_unreadable_image_is_replaced_with_its_objects(tmp_path):
    source = ellipses(tmp_path)
    (tmp_path / "train" / "images" / "2.png").write_bytes(b"gone")
    images, targets = next(iter(detection_batches(source, SHAPE, 6, augment=False)))
    assert list(source.broken) == ["2.png"] and len({image.tobytes() for image in images}) == 5
    assert len({boxes.tobytes() for boxes in targets["boxes"]}) == 5


def test_what_does_not_fit(tmp_path):
    source = with_boxes(tmp_path / "boxes", [[1, 1, 9, 9]])
    with pytest.raises(
        ValueError, match="Expected objects with a segmentation, received none that has one; leave mask_size out"
    ):
        detection_batches(source, SHAPE, 1, mask_size=28)
    with pytest.raises(ValueError, match="Expected images of 1 channels, received 3"):
        detection_batches(source, (48, 64, 1), 1)
    with pytest.raises(ValueError, match="Expected a batch size from 1 to 1, the number of images"):
        detection_batches(source, SHAPE, 2)
    with pytest.raises(
        ValueError,
        match="Expected scale to be the smallest and the largest factor, both above 0, received scale=.2, 1.;",
    ):
        detection_batches(source, SHAPE, 1, scale=(2, 1))
    with pytest.raises(
        ValueError, match="Expected max_objects and mask_size of at least 1, received max_objects=0, mask_size=None;"
    ):
        detection_batches(source, SHAPE, 1, max_objects=0)
    plain = ArraySource(np.zeros((2, 4, 4, 3), "uint8"))
    for batches, opening in ((detection_batches, "open_detection"), (segmentation_batches, "open_segmentation")):
        with pytest.raises(ValueError, match=f"Expected a source from {opening}, received ArraySource"):
            batches(plain, SHAPE, 1)


def labelled(root, count=6, size=(70, 90), factor=1, form="png"):
    """Images of rectangles of three classes, whose grey is 60, 120 or 180, and their label maps."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / "train" / folder).mkdir(parents=True)
    for i in range(count):
        labels = np.zeros(size, "uint8")
        for k in (1, 2):
            top, left = rng.integers(5, 20, 2)
            labels[top * k : top * k + 25, left * k : left * k + 25] = k
        labels = np.repeat(np.repeat(labels, factor, 0), factor, 1)
        Image.fromarray(labels).save(root / "train" / "labels" / f"{i}.png")
        Image.fromarray(np.repeat(60 * (labels[..., None] + 1), 3, -1)).save(
            root / "train" / "images" / f"{i}.{form}", quality=95
        )
    return open_segmentation(f"masks:{root}", "train")


@pytest.mark.parametrize(
    ("factor", "form"), [(1, "png"), (10, "jpg")]
)  # the large ones are decoded at a part of their resolution
def test_label_maps_go_with_their_images(tmp_path, factor, form):
    source, shares = labelled(tmp_path, factor=factor, form=form), []
    for images, maps in take(segmentation_batches(source, SHAPE, 3), 12):
        assert (
            images.shape == (3, *SHAPE)
            and images.dtype == np.uint8
            and maps.shape == (3, 48, 64)
            and maps.dtype == np.int32
        )
        assert set(np.unique(maps)) <= {0, 1, 2, 255} and ((maps == 255) == (images[..., 0] == 0)).all()
        seen = np.round(images[..., 0] / 60.0).astype(int) - 1
        shares.append((seen == maps)[maps < 255].mean())
    assert min(shares) > 0.95 and np.mean(shares) > 0.97  # but for the edges


def test_parts_of_nearly_one_class_are_drawn_again(tmp_path):
    source, most = labelled(tmp_path), {}
    for largest in (1.0, 0.7):
        options = {"scale": (2.0, 4.0), "largest_class": largest}
        maps = np.concatenate([labels for _, labels in take(segmentation_batches(source, SHAPE, 3, **options), 30)])
        shares = [np.bincount(labels[labels < 255]).max() / (labels < 255).sum() for labels in maps]
        most[largest] = np.mean(np.array(shares) > 0.7)
    assert most[1.0] > 0.4 and most[0.7] < 0.1
    one, other = (next(iter(segmentation_batches(source, SHAPE, 3, largest_class=0.5, start=2))) for _ in range(2))
    assert same(one, other)


def test_label_maps_without_augmentation(tmp_path):
    source = labelled(tmp_path)
    images, maps = next(iter(segmentation_batches(source, (35, 45, 3), 6, augment=False)))
    halves = [source.label_map(i)[1::2, 1::2].tolist() for i in range(6)]
    assert sorted(maps.tolist()) == sorted(halves) and images.shape == (6, 35, 45, 3) and images.all()


def test_a_broken_label_map_is_replaced_with_its_image(tmp_path):
    source = labelled(tmp_path)
    Image.fromarray(np.full((70, 90), 77, "uint8")).save(tmp_path / "train" / "labels" / "4.png")
    images, maps = next(iter(segmentation_batches(source, SHAPE, 6, augment=False)))
    assert "received 77 in labels/4.png" in source.broken["4.png"] and len({image.tobytes() for image in images}) == 5
    assert maps.max() == 2
