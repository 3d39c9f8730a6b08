"""detect, segment and predict on data sets as annotation tools export them, not divided into splits."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools", reason="average precision is counted by pycocotools, which is not installed")

SMALL = ("--size=vit_micro", "--patch_size=16", "--image_size=32x64", "--batch_size=2", "--steps=2", "--log_every=1")
DETECTOR = ("--head=maskrcnn", "--head_width=16", "--samples=8", "--proposals=12")
COLOURS = np.array([(0, 0, 0), (200, 0, 0)], "uint8")


def photo(path, rng):
    """An image of noise with a red box in it. Returns a mask of the box."""
    pixels, mask = rng.integers(0, 60, (32, 64, 3), "uint8"), np.zeros((32, 64), int)
    mask[8:24, 16:32] = 1
    pixels[mask > 0] = (250, 30, 30)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return mask


def test_detect_and_predict(here, tmp_path, rng):
    root = tmp_path / "export"
    (root / "labels").mkdir(parents=True)
    (root / "classes.txt").write_text("box\n")
    for name in "abcdefghij":
        photo(root / "images" / f"3f2a9c11-{name}.jpg", rng)
        (root / "labels" / f"3f2a9c11-{name}.txt").write_text("0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n")
    end = here("detect", *SMALL, *DETECTOR, f"--dataset=folder:{root}", f"--workdir={tmp_path / 'found'}")
    assert end.status == 0, end.err
    assert (
        "text files of YOLO; not divided into splits. The same is yolo:PATH." in end.out
        and "2 of 10 images, drawn by their names" in end.out
    )
    assert "val: 2 images, 0 of them without objects; 2 objects of 1 class" in end.out and "AP 0." in end.out
    given = (f"--init_from={tmp_path / 'found'}", f"--images={root / 'images'}", f"--output={tmp_path / 'new'}")
    end = here("predict", *given, "--pictures=2")
    assert end.status == 0, end.err
    content = {name: json.loads((tmp_path / "new" / f"{name}.json").read_text()) for name in ("images", "predictions")}
    assert [image["file_name"] for image in content["images"]["images"]] == [f"3f2a9c11-{n}.jpg" for n in "abcdefghij"]
    assert {one["category_id"] for one in content["predictions"]} <= {content["images"]["categories"][0]["id"]}
    assert all("segmentation" in one for one in content["predictions"])
    assert (tmp_path / "new" / "pictures" / "predictions-1.png").is_file()
    with open(tmp_path / "new" / "predictions.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(content["predictions"])


def test_segment_by_colours(here, tmp_path, rng):
    root = tmp_path / "export"
    (root / "SegmentationClass").mkdir(parents=True)
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nbox:200,0,0::\n")
    for name in "abcdefghij":
        mask = photo(root / "JPEGImages" / f"{name}.jpg", rng)
        Image.fromarray(COLOURS[mask]).save(root / "SegmentationClass" / f"{name}.png")
    end = here("segment", *SMALL, "--head_width=16", f"--dataset=masks:{root}", f"--workdir={tmp_path / 'maps'}")
    assert end.status == 0, end.err
    assert "8 images, 2 classes. Colours are those of labelmap.txt" in end.out and "mIoU" in end.out
    assert json.loads((tmp_path / "maps" / "result.json").read_text())["classes"] == ["background", "box"]
