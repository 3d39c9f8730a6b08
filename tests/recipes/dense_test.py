"""detect.py and segment.py from a pre-trained run to an exported model, on drawn scenes."""

import json
import math
import re
import shutil

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.data import free_memory

pytest.importorskip("PIL.Image")
pytest.importorskip("pycocotools", reason="average precision is counted by pycocotools, which is not installed")

from PIL import Image  # noqa: E402

SHAPE = (64, 96, 3)
SMALL = (
    "--size=vit_micro",
    "--patch_size=16",
    "--image_size=64x96",
    "--batch_size=2",
    "--steps=3",
    "--log_every=1",
    "--judge_every=2",
)


def scene(rng):
    """An image with a red box in it, its [left, top, width, height] and its label map."""
    image = rng.integers(0, 60, SHAPE, "uint8")
    height, width = rng.integers(14, 32, 2)
    top, left = rng.integers(0, SHAPE[0] - height), rng.integers(0, SHAPE[1] - width)
    labels = np.zeros(SHAPE[:2], "uint8")
    labels[top : top + height, left : left + width] = 1
    image[labels > 0] = (250, 30, 30)
    return image, [int(x) for x in (left, top, width, height)], labels


def spoil(folder):
    """Adds to a split of boxes what cannot be used, and returns the reasons as data.json is to tell them."""
    content = json.loads((folder / "instances.json").read_text())
    own = {**content["annotations"][0], "image_id": 0}
    bad = [
        {"bbox": [0, 0, 0, 9]},
        {"bbox": [9, 9, -3, 4]},
        {"bbox": [97, 2, 3, 4]},
        {"category_id": 8},
        {"segmentation": {"size": [1, 2], "counts": [2]}},
    ]
    content["annotations"] += [{**own, **change} for change in bad]
    content["images"] += [
        {"id": 90, "file_name": "gone.png", "height": 64, "width": 96},
        {"id": 91, "file_name": "none.png", "height": 64, "width": 96},
    ]
    Image.new("RGB", (96, 64)).save(folder / "images" / "none.png")  # without objects
    (folder / "instances.json").write_text(json.dumps(content))
    reasons = ["an empty box"] * 2 + ["a box outside its image", "an unknown category"]
    reasons = {
        "gone.png": "no such file",
        **{f"annotations[{i}] of 0.png": reason for i, reason in enumerate(reasons, 6)},
    }
    return reasons | {
        "the outline of annotations[10] of 0.png": "a segmentation of another size than its image; its box is kept"
    }


def flip_a_bit(path):
    """Damages the pixels of a PNG file, which its header does not show."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folders "boxes" and "maps" of the same six training and four validation images."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        for folder in (
            root / "boxes" / split / "images",
            *(root / "maps" / split / kind for kind in ("images", "labels")),
        ):
            folder.mkdir(parents=True)
        images, annotations = [], []
        for i in range(count):
            image, (left, top, width, height), labels = scene(rng)
            for folder in ("boxes", "maps"):
                Image.fromarray(image).save(root / folder / split / "images" / f"{i}.png")
            Image.fromarray(labels).save(root / "maps" / split / "labels" / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "height": SHAPE[0], "width": SHAPE[1]})
            outline = [left, top, left + width, top, left + width, top + height, left, top + height]
            own = {
                "id": i + 1,
                "image_id": i,
                "category_id": 7,
                "bbox": [left, top, width, height],
                "area": width * height,
                "iscrowd": 0,
            }
            annotations.append({**own, "segmentation": [outline]})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "box"}]}
        (root / "boxes" / split / "instances.json").write_text(json.dumps(content))
    (root / "maps" / "classes.json").write_text(json.dumps({"classes": ["rest", "box"], "void": 255}))
    shutil.copytree(root / "maps", root / "spoilt")
    Image.fromarray(np.full(SHAPE[:2], 9, "uint8")).save(root / "spoilt" / "train" / "labels" / "0.png")
    return root


@pytest.mark.backend
@pytest.mark.long
def test_boxes_and_masks_with_mask_rcnn(here, sets, tmp_path, lines):
    workdir = tmp_path / "found"
    given = (
        f"--dataset=coco:{sets / 'boxes'}",
        f"--workdir={workdir}",
        "--head=maskrcnn",
        "--head_width=16",
        "--anchor_scale=4",
        "--samples=8",
        "--proposals=12",
    )
    end = here("detect", *SMALL, *given)
    assert end.status == 0, end.err
    assert "val: 4 images" in end.out and "AP 0." in end.out
    result = json.loads((workdir / "result.json").read_text())
    assert result["classes"] == ["box"] and {"ap", "ap50", "mask_ap", "ap/box", "mask_ap50/box"} <= set(result)
    told = lines(workdir / "metrics.jsonl")
    assert [line["step"] for line in told] == [0, 1, 2, 3] and "ap" in told[2] and "mask_loss" in told[1]
    names = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*") if path.is_file()}
    assert {"model.keras", "report.html", "run.flags", "pictures/detections.png"} <= names
    shown = {"picture": "pictures/detections.png", "results": "result.json", "model": "model.keras"}
    for title, name in shown.items():
        assert f"\n{title:<10}{workdir / name}\n" in end.out
    share = f'<td>box</td><td><meter min="0" max="1" value="{result["ap50/box"]:.4f}">'
    assert share in (workdir / "report.html").read_text()
    flags = (workdir / "run.flags").read_text()
    assert "--head_width=16" in flags and "--image_size=64x96" in flags and "--samples=8" in flags
    again = here("detect", *SMALL, *given)
    assert again.status == 0 and "holds this run, finished" in again.out
    assert isinstance(ks.interchange.load_model(workdir), ks.transfer.MaskRCNN)


def test_unusable_annotations_are_listed_and_do_not_stop_the_run(here, sets, tmp_path, lines):
    """In the split to learn from and in that to judge by: an object without an outline, and an image that breaks after
    the scan."""
    shutil.copytree(sets / "boxes", tmp_path / "boxes")
    reasons = spoil(tmp_path / "boxes" / "train")
    val = tmp_path / "boxes" / "val"
    content = json.loads((val / "instances.json").read_text())
    del content["annotations"][0]["segmentation"]
    (val / "instances.json").write_text(json.dumps(content))
    flip_a_bit(val / "images" / "1.png")
    given = (
        f"--dataset=coco:{tmp_path / 'boxes'}",
        "--head=maskrcnn",
        "--head_width=16",
        "--samples=8",
        "--proposals=12",
    )
    end = here("detect", *SMALL, *given, f"--workdir={tmp_path / 'found'}")
    assert end.status == 0, end.err
    assert (
        "7 images, 1 of them without objects; 7 objects of 1 class" in end.out
        and "2 for an empty box (annotations[6] of 0.png, " in end.out
    )
    assert "\n1 object without an outline ignored.\n" in end.out and end.out.count("1.png (broken") == 1
    record = json.loads((tmp_path / "found" / "data.json").read_text())["splits"]
    assert (
        record["train"]["left_out"] == reasons and "1 object without an outline ignored" in record["train"]["summary"]
    )
    assert list(record["judged"]["broken"]) == ["1.png"] and {"ap", "mask_ap"} <= set(
        json.loads((tmp_path / "found" / "result.json").read_text())
    )
    assert all(math.isfinite(line["loss"]) for line in lines(tmp_path / "found" / "metrics.jsonl")[1:])


@pytest.mark.tensorflow
def test_boxes_with_kerascv_from_a_run_and_its_export(here, sets, tmp_path):
    pytest.importorskip("keras_cv", reason="RetinaNet is KerasCV's, which is not installed")
    given = (
        f"--dataset=folder:{sets / 'boxes' / 'train' / 'images'}",
        f"--workdir={tmp_path / 'run'}",
        "--size=vit_micro",
        "--vocabulary=8",
    )
    assert (
        here(
            "pretrain", *given, "--image_size=64x96", "--patch_size=16", "--batch_size=2", "--steps=1", "--pictures=0"
        ).status
        == 0
    )
    given = (
        f"--init_from={tmp_path / 'run'}",
        f"--dataset=coco:{sets / 'boxes'}",
        f"--workdir={tmp_path / 'found'}",
        "--head_width=16",
    )
    end = here("detect", *given, "--batch_size=2", "--steps=2")
    assert end.status == 0, end.err
    assert "calculated" not in end.out and "encoder from" in end.out  # learned positions are kept
    assert "--levels=P3-P7 --anchor_scale=" in end.out and "objects that no anchor overlaps by half: " in end.out
    end = here("export", f"--init_from={tmp_path / 'found'}", f"--output={tmp_path / 'saved'}")
    assert end.status == 0, end.err
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), "uint8")
    model = ks.interchange.load_model(tmp_path / "found")
    exported = tf.saved_model.load(str(tmp_path / "saved"))  # its variables live as long as it does
    expected, served = model(images), exported.serve(images)
    assert set(served) == {"boxes", "scores", "labels"}
    for name, value in served.items():
        np.testing.assert_allclose(value.numpy(), ops.convert_to_numpy(expected[name]), atol=1e-3)


@pytest.mark.backend
@pytest.mark.long
def test_label_maps_and_their_export(here, sets, tmp_path, lines):
    workdir, maps = tmp_path / "segmented", tmp_path / "maps"
    shutil.copytree(sets / "maps", maps)
    flip_a_bit(maps / "val" / "labels" / "0.png")
    Image.fromarray(np.full(SHAPE[:2], 5, "uint8")).save(maps / "val" / "labels" / "1.png")
    flip_a_bit(maps / "val" / "images" / "2.png")
    given = (*SMALL, f"--dataset=masks:{maps}", f"--workdir={workdir}", "--head_width=16", "--inference=slide")
    given += ("--save_every=3",)
    end = here("segment", *given)
    assert end.status == 0, end.err
    judged = json.loads((workdir / "data.json").read_text())["splits"]["judged"]
    assert (
        judged["left_out"]["labels/1.png"] == "the number 5, which is none of the 2 classes"
        and "labels/0.png" in judged["left_out"]
    )
    assert list(judged["broken"]) == ["2.png"] and judged["summary"] in end.out and "val: 2 images" in end.out
    result = json.loads((workdir / "result.json").read_text())
    assert result["classes"] == ["rest", "box"] and {"mean_iou", "pixel_accuracy", "iou/rest", "iou/box"} <= set(result)
    assert "mean_iou" in lines(workdir / "metrics.jsonl")[2] and (workdir / "pictures" / "label_maps.png").exists()
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["step-0000000003.checkpoint"]
    if keras.backend.backend() != "tensorflow":
        return
    end = here("export", f"--init_from={workdir}", f"--output={tmp_path / 'saved'}")
    assert end.status == 0, end.err
    import tensorflow as tf

    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), "uint8")
    expected = ops.convert_to_numpy(ks.interchange.load_model(workdir)(images)).argmax(axis=-1)
    exported = tf.saved_model.load(str(tmp_path / "saved"))  # its variables live as long as it does
    served = exported.serve(images)
    assert set(served) == {"labels"} and (served["labels"].numpy() == expected).mean() > 0.99


@pytest.mark.parametrize(("name", "dataset"), [("detect", "coco:{sets}/boxes"), ("segment", "masks:{sets}/maps")])
def test_a_skipped_step_names_its_first_bad_tensor_and_its_files(here, sets, tmp_path, name, dataset):
    given = (
        f"--dataset={dataset.format(sets=sets)}",
        "--head_width=16",
        "--learning_rate=1e30",
        "--warmup=0",
        "--pictures=0",
        "--steps=2",
    )
    end = here(name, *SMALL, *given, f"--workdir={tmp_path / 'run'}")
    assert re.findall(
        r"^step (\d) skipped: \S.* is not finite; its images: (?:\S*\d.png, \S*\d.png)$", end.out, re.MULTILINE
    ) == ["2"], end


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("detect", ["--dataset=folder:x"], "Folder not found: x. Check the path."),
        ("detect", ["--dataset=coco:{sets}/boxes", "--judge=test"], "Expected split to be one of"),
        (
            "detect",
            ["--dataset=coco:{sets}/boxes", "--samples=8"],
            "Expected --head=maskrcnn with --samples, received --head=retinanet",
        ),
        (
            "detect",
            ["--dataset=coco:{sets}/boxes", "--scale=1,2,3"],
            "Expected --scale as two numbers, such as 0.5,1.5, received 1,2,3",
        ),
        (
            "detect",
            ["--dataset=coco:{sets}/boxes", "--batch_size=7"],
            "Expected a batch size from 1 to 6, the number of images",
        ),
        ("segment", ["--dataset=masks:{sets}/boxes"], "{sets}/boxes"),
        ("segment", ["--dataset=masks:{sets}/maps", "--image_size=60x96"], "60"),
        (
            "segment",
            ["--dataset=masks:{sets}/spoilt", "--max_bad_fraction=0.1"],
            "received 1 of 6; left out: 1 for the number 9, which is none",
        ),
    ],
)
def test_bad_input_ends_in_one_line(refused, sets, tmp_path, name, flags, message):
    flags = [flag.format(sets=sets) for flag in flags]
    assert message.format(sets=sets) in refused(name, *SMALL, *flags, f"--workdir={tmp_path / 'run'}")


@pytest.mark.parametrize("name, dataset", [("detect", "coco:{sets}/boxes"), ("segment", "masks:{sets}/maps")])
def test_what_does_not_fit_into_memory_is_refused(refused, sets, tmp_path, monkeypatch, name, dataset):
    monkeypatch.setattr(free_memory, "free_memory", lambda: 16e9)  # 128 x 128 patches attend to each other
    given = (
        f"--dataset={dataset.format(sets=sets)}",
        "--image_size=2048",
        "--head_width=64",
        "--positions=sine_cosine",
    )
    line = refused(name, *SMALL, *given, f"--workdir={tmp_path / 'run'}")
    # What this process takes counts as at hand, too, and is more after other tests.
    assert "Expected training to fit into 80% of the " in line and "Add --accumulate=2." in line
    assert not (tmp_path / "run").exists()


def test_classes_that_are_not_counted_weigh_as_much_as_the_rarest(parsed):
    maps = [np.array([[0, 0, 0, 1]]), np.array([[0, 255, 255, 255]])]

    class Source:
        classes = ["rest", "box", "absent"]
        label_map = staticmethod(maps.__getitem__)

        def __len__(self):
            return len(maps)

    with parsed("segment", "--dataset=masks:x", "--workdir=y", "--class_weight=balanced") as recipe:
        weights = recipe.class_weights(Source())
        assert weights == pytest.approx([5 / 8, 5 / 2, 5 / 2])
        maps[:] = [np.full((1, 4), 255)]
        with pytest.raises(recipe.commandline.BadInput, match="Expected labelled pixels with --class_weight"):
            recipe.class_weights(Source())
