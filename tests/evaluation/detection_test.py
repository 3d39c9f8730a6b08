import copy
import json

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_splitmask.evaluation import average_precision, decode_mask, encode_mask, paste_mask, to_original

# In the order of pycocotools' stats.
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100")
SIDES = {"height": 160, "width": 200}


def truth_of(*boxes, **more):
    """One image with objects (top, left, bottom, right) of one class."""
    boxes = [[left, top, right - left, bottom - top] for top, left, bottom, right in boxes]
    annotations = [{"id": i, "image_id": 5, "category_id": 2, "bbox": box, **more} for i, box in enumerate(boxes)]
    return {"images": [{"id": 5, **SIDES}], "categories": [{"id": 2, "name": "cell"}], "annotations": annotations}


def predicted(*boxes, image_id=5):
    """Boxes of that class, by falling score."""
    scores = np.linspace(0.9, 0.5, len(boxes))
    boxes = np.array(boxes, "float32").reshape(-1, 4)
    return [{"image_id": image_id, "boxes": boxes, "scores": scores, "labels": np.zeros(len(boxes), int)}]


def test_one_right_box_is_1():
    box = (10, 20, 50, 60)  # 40 x 40: medium
    answer = average_precision(truth_of(box), predicted(box))
    assert answer.pop("per_class") == {"cell": pytest.approx({"ap": 1, "ap50": 1})}
    assert answer == pytest.approx({"ap": 1, "ap50": 1, "ap75": 1, "ap_medium": 1, "ar_1": 1, "ar_10": 1, "ar_100": 1})


def test_recall_is_that_of_the_best_detections():
    boxes = [(0, 40 * i, 39, 40 * i + 39) for i in range(4)]
    answer = average_precision(truth_of(*boxes), predicted(*boxes))
    assert [answer[f"ar_{most}"] for most in (1, 10, 100)] == pytest.approx([1 / 4, 1, 1])


def test_an_overlap_counts_where_it_is_enough():
    answer = average_precision(
        truth_of((0, 0, 100, 100)), predicted((0, 0, 62, 100))
    )  # IoU 0.62: enough for 0.5, 0.55 and 0.6
    assert answer["ap"] == pytest.approx(3 / 10) and answer["ap50"] == pytest.approx(1) and answer["ap75"] == 0


def test_a_better_scored_wrong_box_halves_the_precision():
    answer = average_precision(
        truth_of((0, 0, 40, 40), (60, 60, 100, 100)), predicted((0, 80, 40, 120), (0, 0, 40, 40))
    )
    assert answer["ap"] == pytest.approx(
        51 / 101 / 2
    )  # of the recalls 0, 0.01 .. 1 those up to 0.5, at a precision of 1/2


def test_a_box_counts_once_and_upright_boxes_are_not_lying_ones():
    box = (10, 20, 100, 60)
    doubled = average_precision(truth_of(box, (110, 20, 150, 60)), predicted(box, box, (110, 20, 150, 60)))
    assert doubled["ap"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)
    assert average_precision(truth_of(box), predicted((20, 10, 60, 100)))["ap"] == 0


def test_no_prediction_scores_0_and_no_truth_is_skipped():
    truth = truth_of((0, 0, 40, 40))
    names = ("ap", "ap50", "ap75", "ap_medium", "ar_1", "ar_10", "ar_100")
    nothing = {**dict.fromkeys(names, 0.0), "per_class": {"cell": {"ap": 0.0, "ap50": 0.0}}}
    assert average_precision(truth, []) == average_precision(truth, predicted()) == nothing
    assert average_precision(truth_of(), predicted((0, 0, 40, 40))) == {"per_class": {}}


def test_labels_count_the_categories_by_id():
    truth = truth_of((0, 0, 40, 40))
    truth["categories"] = [{"id": 9, "name": "nine"}, {"id": 2, "name": "two"}, {"id": 4, "name": "four"}]
    (prediction,) = predicted((0, 0, 40, 40))
    assert average_precision(truth, [prediction])["per_class"] == {"two": pytest.approx({"ap": 1, "ap50": 1})}
    assert average_precision(truth, [{**prediction, "labels": [1]}])["ap"] == 0


def test_crowds_neither_count_nor_harm():
    truth = truth_of((0, 0, 40, 40), (60, 60, 160, 200))
    truth["annotations"][1]["iscrowd"] = 1
    boxes = ((70, 70, 90, 90), (100, 100, 150, 150), (0, 0, 40, 40))
    assert average_precision(truth, predicted(*boxes))["ap"] == pytest.approx(1)


def random_case(seed, masks=False, crowds=True, most=12):
    """A truth and predictions, some of them near objects; three classes, five images, one without objects."""
    rng = np.random.default_rng(seed)

    def boxes_of(count):
        sides = np.exp(rng.uniform(np.log(6), np.log(140), (count, 2)))
        corners = rng.uniform(0, 1, (count, 2)) * (np.array([160, 200]) - sides)
        return np.concatenate([corners, corners + sides], axis=1).astype("float32").astype(float)

    def mask_of(box):
        rows, columns = np.mgrid[:160, :200] + 0.5
        centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        inside = ((rows - centre[0]) / half[0]) ** 2 + ((columns - centre[1]) / half[1]) ** 2 < 1
        encoded = coco_masks.encode(np.asfortranarray(inside, "uint8"))
        return {"size": [160, 200], "counts": encoded["counts"].decode()}

    images = [{"id": 10 + i, **SIDES} for i in range(5)]
    annotations, predictions = [], []
    for image in images:
        near = boxes_of(rng.integers(most // 2, most)) if image["id"] != 12 else boxes_of(0)
        for box in near:
            top, left, bottom, right = box.tolist()
            one = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": int(rng.choice([3, 7, 8]))}
            one |= {"bbox": [left, top, right - left, bottom - top], "iscrowd": int(crowds and rng.random() < 0.2)}
            area = (bottom - top) * (right - left)
            annotations.append(
                {**one, **({"segmentation": mask_of(box), "area": area * 0.78} if masks else {"area": area})}
            )
        boxes = np.concatenate(
            [np.repeat(near, 3, axis=0) + rng.normal(0, 2, (3 * len(near), 4)), boxes_of(rng.integers(1, 5))]
        )
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2] + 1).all(axis=1)].astype("float32").astype(float)
        one = {
            "image_id": image["id"],
            "boxes": boxes,
            "scores": rng.random(len(boxes)),
            "labels": rng.integers(0, 3, len(boxes)),
        }
        predictions.append({**one, "masks": [mask_of(box) for box in boxes]} if masks else one)
    categories = [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}, {"id": 8, "name": "c"}]
    return {"images": images, "categories": categories, "annotations": annotations}, predictions


def by_pycocotools(truth, predictions, kind, folder):
    """The figures and the AP of each class in the order of ids, by way of files as COCO's server takes them."""
    results = []
    for one in predictions:
        for i, (top, left, bottom, right) in enumerate(np.asarray(one["boxes"]).tolist()):
            result = {
                "image_id": one["image_id"],
                "category_id": (3, 7, 8)[one["labels"][i]],
                "score": float(one["scores"][i]),
            }
            where = (
                {"bbox": [left, top, right - left, bottom - top]}
                if kind == "boxes"
                else {"segmentation": one["masks"][i]}
            )
            results.append(result | where)
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    coco = COCO(folder / "truth.json")
    evaluation = COCOeval(coco, coco.loadRes(str(folder / "results.json")), {"boxes": "bbox", "masks": "segm"}[kind])
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return evaluation.stats[:9], [[p[p > -1].mean(), p[0][p[0] > -1].mean()] for p in np.moveaxis(precision, 2, 0)]


@pytest.mark.parametrize("kind", ["boxes", "masks"])
@pytest.mark.parametrize(
    ("seed", "most"), [(0, 12), (1, 12), (2, 150)]
)  # of the last, more than 100 detections of a class
def test_random_cases_are_those_of_pycocotools(tmp_path, capsys, kind, seed, most):
    truth, predictions = random_case(seed, masks=kind == "masks", most=most)
    assert (max(np.bincount(one["labels"]).max() for one in predictions) > 100) == (most == 150)
    given = copy.deepcopy(truth)
    answer = average_precision(truth, predictions, kind)
    assert capsys.readouterr().out == "" and truth == given
    stats, of_classes = by_pycocotools(truth, predictions, kind, tmp_path)
    np.testing.assert_allclose([answer.get(name, -1) for name in NAMES], stats, atol=1e-6)
    assert 0.05 < stats[0] < 0.9
    np.testing.assert_allclose([list(answer["per_class"][name].values()) for name in "abc"], of_classes, atol=1e-6)


def overlap(a, b):
    inside = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
    return inside / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inside)


def by_numpy(truth, predictions, threshold):
    """AP at one overlap, without crowds: detections by falling score take their best free object."""
    classes = []
    for label, category in enumerate((3, 7, 8)):
        objects = {image["id"]: [] for image in truth["images"]}
        for one in truth["annotations"]:
            left, top, width, height = one["bbox"]
            if one["category_id"] == category:
                objects[one["image_id"]].append(np.array([top, left, top + height, left + width]))
        total = sum(map(len, objects.values()))
        ranked = [
            (s, p["image_id"], b)
            for p in predictions
            for s, b, k in zip(p["scores"], p["boxes"], p["labels"], strict=True)
            if k == label
        ]
        right = []
        for _, image_id, box in sorted(ranked, key=lambda entry: -entry[0]):
            overlaps = [overlap(box, other) for other in objects[image_id]]
            right.append(bool(overlaps) and max(overlaps) >= threshold)
            if right[-1]:
                del objects[image_id][int(np.argmax(overlaps))]
        found = np.cumsum(right)
        precision = found / np.arange(1, len(right) + 1)
        reached = [precision[found / total >= recall] for recall in np.linspace(0, 1, 101)]
        classes.append(np.mean([rest.max() if len(rest) else 0 for rest in reached]))
    return np.mean(classes)


@pytest.mark.parametrize("seed", [3, 4])
def test_without_crowds_a_few_lines_of_numpy_agree(seed):
    truth, predictions = random_case(seed, crowds=False)
    at = [by_numpy(truth, predictions, threshold) for threshold in np.arange(50, 100, 5) / 100]
    answer = average_precision(truth, predictions)
    np.testing.assert_allclose([answer["ap"], answer["ap50"], answer["ap75"]], [np.mean(at), at[0], at[5]], atol=1e-6)


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_what_annotations_may_lack(kind):
    truth, predictions = random_case(5, masks=kind == "masks", crowds=False)
    by_area = average_precision(truth, predictions, kind)
    for i, annotation in enumerate(truth["annotations"]):
        annotation["id"] = i  # from 0, as pycocotools does not bear
        del annotation["iscrowd"], annotation["area"]
        if kind == "masks":
            del annotation["bbox"]
    answer = average_precision(truth, predictions, kind)
    assert [answer[name] for name in NAMES[:3]] == [by_area[name] for name in NAMES[:3]]
    if kind == "boxes":
        assert answer == by_area


def test_what_is_refused():
    truth, (prediction,) = truth_of((0, 0, 40, 40)), predicted((0, 0, 40, 40))
    with pytest.raises(ValueError, match="Expected kind to be one of boxes, masks, received 'mask'"):
        average_precision(truth, [prediction], "mask")
    for predictions in ([{**prediction, "image_id": 6}], [prediction, prediction]):
        with pytest.raises(ValueError, match=r"at most once, received image_id \d once too often"):
            average_precision(truth, predictions)
    for wrong, problem in (
        ({"labels": [1]}, "a label from 0 to 0 each, received labels from 1 to 1"),
        ({"labels": [-1]}, "received labels from -1 to -1"),
        ({"scores": [np.nan]}, "received numbers that are not finite for image 5"),
        ({"scores": [0.5, 0.4]}, "received 1 boxes, 2 scores and 1 labels"),
    ):
        with pytest.raises(ValueError, match=problem):
            average_precision(truth, [prediction | wrong])
    with pytest.raises(ValueError, match="received annotation 0 of image 5, which has none; ask for kind='boxes'"):
        average_precision(truth, [prediction], "masks")
    truth = truth_of((0, 0, 40, 40), segmentation=[[0, 0, 40, 0, 40, 40, 0, 40]])
    for masks in ({}, {"masks": []}, {"masks": [encode_mask(np.ones((160, 199), bool))]}):
        with pytest.raises(ValueError, match=r"Expected a mask of \[160, 200\] for each of 1 boxes of image 5"):
            average_precision(truth, [prediction | masks], "masks")
    mask = np.zeros((160, 200), bool)
    mask[:40, :40] = True
    assert average_precision(truth, [prediction | {"masks": [encode_mask(mask)]}], "masks")["ap"] == pytest.approx(1)


def test_an_answer_in_pixels_of_the_original():
    answer = {
        "boxes": np.array([[10, 20, 30, 40], [0, 0, 0, 0], [40, 0, 60, 100], [51, 0, 60, 10]], "float32"),
        "scores": np.array([0.9, 0, 0.8, 0.7], "float32"),
        "labels": np.array([2, -1, 0, 1], "int32"),
        "masks": np.concatenate([np.ones((1, 4, 4)), np.zeros((1, 4, 4)), np.tile([[1], [1], [0], [0]], (2, 1, 4))]),
    }
    original = to_original(answer, 0.5, 100, 160)  # was 50 x 80, in 60 x 100
    assert original["boxes"].tolist() == [[20, 40, 60, 80], [80, 0, 100, 160]] and original["boxes"].dtype == np.float32
    assert original["labels"].tolist() == [2, 0] and original["scores"].tolist() == [np.float32(0.9), np.float32(0.8)]
    stretched = to_original(answer, (0.5, 0.25), 100, 320)
    assert stretched["boxes"].tolist() == [[20, 80, 60, 160], [80, 0, 100, 320]]
    first, second = (decode_mask(mask) for mask in original["masks"])
    assert json.loads(json.dumps(original["masks"]))[0]["size"] == [100, 160]
    # The upper half of a box from 80 to 120 ends at 100, although the box was cut off there.
    assert second[80:, 20:140].all() and not second[:80].any()
    assert first[22:58, 50:70].all() and first.sum() == first[20:60, 40:80].sum() > 0.96 * 1600
    del answer["masks"]
    assert set(to_original(answer, 0.5, 100, 160)) == {"boxes", "scores", "labels"}
    answer["labels"][:] = -1
    assert to_original(answer, 0.5, 100, 160)["boxes"].shape == (0, 4)


def test_a_mask_of_a_cell_per_pixel_is_pasted_as_it_is(rng):
    mask = rng.random((5, 5))
    pasted = paste_mask(mask, (2, 3, 7, 8), 10, 9)
    assert pasted.shape == (10, 9) and pasted.dtype == bool
    assert (pasted[2:7, 3:8] == (mask >= 0.5)).all() and pasted.sum() == (mask >= 0.5).sum()


def test_masks_are_pasted_where_interpolation_by_loops_does(rng):
    for box in ((3.3, -2.6, 17.9, 8.2), (-4.0, 5.5, 30.0, 6.1), (2.2, 3.1, 2.4, 9.0), (40, 40, 50, 50)):
        mask, expected = np.pad(rng.random((6, 6)), 1), np.zeros((20, 24), bool)
        for i, j in np.ndindex(expected.shape):
            inside = box[0] <= i + 0.5 < box[2] and box[1] <= j + 0.5 < box[3]
            row, column = ((at + 0.5 - box[k]) * 6 / (box[k + 2] - box[k]) + 0.5 for k, at in enumerate((i, j)))
            if inside:
                r, c = int(row), int(column)
                upper, lower = ((1 - column + c) * mask[k, c] + (column - c) * mask[k, c + 1] for k in (r, r + 1))
                expected[i, j] = (1 - row + r) * upper + (row - r) * lower >= 0.5
        assert (paste_mask(mask[1:-1, 1:-1], box, 20, 24) == expected).all()
        assert (decode_mask(encode_mask(expected)) == expected).all()
