import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import NoSuchSplit, open_detection

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}]
OBJECT = {"image_id": 1, "category_id": 7, "bbox": [10, 5, 20, 30]}


def picture(path, size=(60, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)


def entry(number, name, size=(60, 40)):
    return {"id": number, "file_name": name, "width": size[0], "height": size[1]}


def write(root, annotations=(OBJECT,), names=("a.png", "b.png"), split="train", **changes):
    """A data set of images (40, 60), numbered from 1, as its path is given to `open_detection`."""
    for name in names:
        picture(root / split / "images" / name)
    images = [entry(i, name) for i, name in enumerate(names, 1)]
    file = {"images": images, "annotations": list(annotations), "categories": CATEGORIES, **changes}
    (root / split / "instances.json").write_text(json.dumps(file))
    return f"coco:{root}"


def test_objects(tmp_path):
    outline = [[10, 5, 30, 5, 30, 35]]
    crowd = {"image_id": 1, "category_id": 2, "bbox": [0.5, 1, 2, 3], "iscrowd": 1, "segmentation": outline, "area": 5}
    source = open_detection(write(tmp_path, [OBJECT, crowd]), "train")
    objects = source.objects(0)
    assert objects.boxes.tolist() == [[5, 10, 35, 30], [1, 0.5, 4, 2.5]] and objects.boxes.dtype == np.float32
    assert objects.labels.tolist() == [1, 0] and source.classes == ["cat", "dog"] and source.category_ids == [2, 7]
    assert objects.crowd.tolist() == [False, True] and objects.segmentations == [None, outline]
    assert source.objects(1).boxes.shape == (0, 4) and source.labels is None
    assert source.image(0).shape == (40, 60, 3) and source.size(0) == (40, 60) and source.image_id(1) == 2 and source.name(1) == "b.png"
    assert source.summary() == "2 images, 1 of them without objects; 2 objects of 2 classes, 0 of them cut at the border"


def test_cocos_own_layout(tmp_path):
    for year in ("2014", "2017"):
        picture(tmp_path / f"val{year}" / "000001.jpg")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        file = {"images": [entry(1, "000001.jpg")], "annotations": [OBJECT] * int(year), "categories": CATEGORIES}
        (tmp_path / "annotations" / f"instances_val{year}.json").write_text(json.dumps(file))
    assert len(open_detection(f"coco:{tmp_path}", "val").annotations(0)) == 2017  # the later year
    with pytest.raises(NoSuchSplit, match="Expected split to be one of val, which are in .*, received 'train'"):
        open_detection(f"coco:{tmp_path}", "train")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 9}, "an unknown image"),
        ({"image_id": None}, "an unknown image"),
        ({"image_id": [1]}, "an unknown image"),
        ({"category_id": 1}, "an unknown category"),
        ({"bbox": None}, "a box that is not four finite numbers"),
        ({"bbox": [1, 2, 3]}, "a box that is not four finite numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "a box that is not four finite numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "a box that is not four finite numbers"),
        ({"bbox": [1, 2, 0, 4]}, "an empty box"),
        ({"bbox": [9, 9, -3, -3]}, "an empty box"),
        ({"bbox": [60, 2, 3, 4]}, "a box outside its image"),
        ({"bbox": [5, -9, 3, 9]}, "a box outside its image"),
        ({"bbox": [30, 2, 1e-9, 4]}, "a box outside its image"),
        ({"segmentation": {"size": [60, 40], "counts": [2400]}}, "a segmentation of another size than its image"),
    ],
)
def test_what_is_wrong_with_an_annotation(tmp_path, change, reason):
    source = open_detection(write(tmp_path, [OBJECT, {**OBJECT, **change}]), "train")
    name = "annotations[1]" + (" of a.png" if "image_id" not in change else "")
    assert source.left_out == {name: reason} and len(source.annotations(0)) == 1
    assert source.summary().endswith(f"; left out: 1 for {reason} ({name})")


def test_boxes_are_cut_at_the_border(tmp_path):
    boxes = [[-5, -1e300, 10, 2e300], [50, 30, 1e308, 1e308], [0, 0, 60, 40]]
    source = open_detection(write(tmp_path, [{**OBJECT, "bbox": box} for box in boxes]), "train")
    assert source.objects(0).boxes.tolist() == [[0, 0, 40, 5], [30, 50, 40, 60], [0, 0, 40, 60]]
    assert "3 objects of 2 classes, 2 of them cut at the border" in source.summary() and not source.left_out


def test_images_that_are_not_there(tmp_path):
    write(tmp_path, [{**OBJECT, "image_id": k} for k in (1, 2, 3, 4)], ["a.png", "b.png", "c.png", "d.png"])
    (tmp_path / "train" / "images" / "a.png").unlink()
    picture(tmp_path / "train" / "images" / "b.png", (80, 40))
    (tmp_path / "train" / "images" / "c.png").write_bytes(b"")
    picture(tmp_path / "train" / "images" / "e.png")
    source = open_detection(f"coco:{tmp_path}", "train")
    assert len(source) == 1 and source.name(0) == "d.png" and source.image_id(0) == 4
    reasons = {"a.png": "no such file", "b.png": "another size than was annotated", "c.png": "an empty file", "e.png": "no annotation"}
    assert source.left_out == reasons  # their annotations go with them
    assert "left out: 1 for an empty file (c.png)" in source.summary() and "1 for no such file (a.png)" in source.summary()


def test_an_image_that_was_turned_is_replaced(tmp_path):
    write(tmp_path, [OBJECT])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "train" / "images" / "a.png", exif=exif)
    source = open_detection(f"coco:{tmp_path}", "train")
    assert source.readable(0, source.image)[1] == 1
    assert "Expected an image of 40x60 pixels, as it was annotated, received 60x40 in a.png" in source.broken["a.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": []}, "received no annotations; correct the file"),
        ({"categories": None}, "received no categories"),
        ({"annotations": [{**OBJECT, "bbox": [0] * 4}] * 5}, r"received none that can be used: .*5 for an empty box \(annotations\[0\]"),
        ({"categories": CATEGORIES * 2}, "Expected one category of each id, received two of id 7"),
        ({"categories": [{"id": "x"}]}, "Expected each category with an integer id and name, received .*'x'"),
        ({"images": [entry(1, "a.png"), entry(1, "b.png")]}, "Expected one image of each id, received two of id 1"),
        ({"images": [{"id": 1, "file_name": "a.png"}]}, "Expected each image with an integer id and file_name, height, width, received"),
        ({"images": [entry(1, "gone.png")]}, r"Expected the 1 annotated images .*1 for no such file \(gone.png\).*correct the folder"),
    ],
)
def test_files_that_are_of_no_use(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        open_detection(write(tmp_path, **changes), "train")


def test_other_files_and_names(tmp_path):
    dataset = write(tmp_path)
    for content in ("{", "[1, 2]", "[" * 100_000):
        (tmp_path / "train" / "instances.json").write_text(content)
        with pytest.raises(ValueError, match="Expected (a JSON file|COCO's lists of images, annotations, categories)"):
            open_detection(dataset, "train")
    write(tmp_path)
    with pytest.raises(ValueError, match="Expected the 1 classes sheep, received 2 in coco:.*: cat, dog"):
        open_detection(dataset, "train", classes=["sheep"])
    assert open_detection(dataset, "train", classes=("cat", "dog")).classes == ["cat", "dog"]
    with pytest.raises(ValueError, match="Expected annotations/instances_val2017.json with .* received neither"):
        open_detection(f"coco:{tmp_path / 'train'}", "val")
    with pytest.raises(ValueError, match="Expected a dataset coco:PATH or tfds:NAME, received 'folder:x'"):
        open_detection("folder:x", "train")
    with pytest.raises(ValueError, match="Expected split to be one of train, val, test, received 'dev'"):
        open_detection(dataset, "dev")


def test_the_fingerprint_is_of_images_and_annotations(tmp_path):
    before = open_detection(write(tmp_path), "train").fingerprint
    assert open_detection(f"coco:{tmp_path}", "train").fingerprint == before
    write(tmp_path, [{**OBJECT, "category_id": 2}])
    assert open_detection(f"coco:{tmp_path}", "train").fingerprint != before


def test_pycocotools_takes_the_truth(tmp_path):
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    outline = [[10, 5, 30, 5, 30, 35]]
    runs = {"size": [40, 60], "counts": [100, 50, 2250]}
    second = {**OBJECT, "image_id": 2, "id": 0, "segmentation": runs, "bbox": [2, 0, 2, 40]}
    annotations = [{**OBJECT, "id": 0, "segmentation": outline}, second]
    truth = open_detection(write(tmp_path, annotations), "train").truth()
    assert [annotation["id"] for annotation in truth["annotations"]] == [1, 2]
    assert truth["images"][1] == entry(2, "b.png") and truth["categories"] == CATEGORIES[::-1]
    index = coco.COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        index.dataset = truth
        index.createIndex()
        for kind in ("bbox", "segm"):
            found = [{"score": 1.0, **annotation, "segmentation": index.annToRLE(annotation)} for annotation in truth["annotations"]]
            evaluation = cocoeval.COCOeval(index, index.loadRes(found), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[0] == pytest.approx(1)


def test_tensorflow_datasets(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    content = io.BytesIO()
    Image.new("RGB", (60, 40)).save(content, "PNG")
    corners = np.array([[0.25, 0.5, 0.75, 1.0], [0, 0, 1.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1]], "float32")
    objects = {"bbox": corners, "label": np.array([3, 79, 0, 80]), "is_crowd": np.array([False, True, False, False])}
    records = [{"image": content.getvalue(), "objects": objects}] * 2
    with tfds.testing.mock_data(as_data_source_fn=lambda builder, split, **options: records):
        said = []
        source = open_detection("tfds:coco/2017", "val", data_dir=tmp_path, report=said.append)
        with pytest.raises(ValueError, match="Expected a feature objects of bbox and label, received image, label in tfds:mnist"):
            open_detection("tfds:mnist", "train", data_dir=tmp_path)
    found = source.objects(1)
    assert found.boxes.tolist() == [[10, 30, 30, 60], [0, 0, 40, 30]]
    assert found.labels.tolist() == [3, 79] and found.crowd.tolist() == [False, True]
    assert found.segmentations == [None, None] and len(source.classes) == 80 and source.image_id(1) == 1
    assert source.left_out == {"objects[2] of val[1]": "an empty box", "objects[3] of val[1]": "an unknown category"}
    source.objects(1)
    assert said == [
        f"Expected objects that can be used, received {reason} ({name}). It is left out." for name, reason in source.left_out.items()
    ]
    truth = source.truth()
    assert truth["images"][1] == {"id": 1, "file_name": "val[1]", "height": 40, "width": 60} and len(truth["annotations"]) == 4


def test_a_data_set_written_by_tensorflow_datasets(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Boxed(tfds.core.GeneratorBasedBuilder):
        __module__ = "boxed"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            objects = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=["cat", "dog"])}
            features = {"image": tfds.features.Image(shape=(None, None, 3)), "objects": tfds.features.Sequence(objects)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for n in range(3):
                box = tfds.features.BBox(ymin=0.25, xmin=0.5, ymax=0.75, xmax=1.0)
                yield n, {"image": np.full((40, 60, 3), 10 * n, "uint8"), "objects": [{"bbox": box, "label": "dog"}] * n}

    for form in ("array_record", "tfrecord"):
        Boxed(data_dir=tmp_path / form, file_format=form).download_and_prepare()
        source = open_detection("tfds:boxed", "train", data_dir=tmp_path / form)
        assert source.classes == ["cat", "dog"] and source.size(0) == (40, 60)
        for i in range(3):
            count = int(source.image(i)[0, 0, 0]) // 10
            assert source.objects(i).boxes.tolist() == [[10, 30, 30, 60]] * count and source.objects(i).labels.tolist() == [1] * count
