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
    outline = [[0.5, 1, 2.5, 1, 2.5, 4]]
    crowd = {"image_id": 1, "category_id": 2, "bbox": [0.5, 1, 2, 3], "iscrowd": 1, "segmentation": outline, "area": 5}
    source = open_detection(write(tmp_path, [OBJECT, crowd]), "train")
    objects = source.objects(0)
    assert objects.boxes.tolist() == [[5, 10, 35, 30], [1, 0.5, 4, 2.5]] and objects.boxes.dtype == np.float32
    assert objects.labels.tolist() == [1, 0] and source.classes == ["cat", "dog"] and source.category_ids == [2, 7]
    assert objects.crowd.tolist() == [False, True] and objects.segmentations == [None, outline]
    assert source.objects(1).boxes.shape == (0, 4) and source.labels is None
    assert (
        source.image(0).shape == (40, 60, 3)
        and source.size(0) == (40, 60)
        and source.image_id(1) == 2
        and source.name(1) == "b.png"
    )
    assert (
        source.summary()
        == "2 images, 1 of them without objects; 2 objects of 2 classes, 0 of them cut at the border; 1 crowd, ignored"
    )


def test_names_of_images_may_begin_with_folders_that_lie_elsewhere(tmp_path):
    names = [
        "C:\\photos\\a.png",
        "images/b.png",
        "/data/sub/c.png",
        "../images/d.png",
        "x/e.png",
        "y/e.png",
        "f.png",
        "./g.png",
    ]
    for name in ("a.png", "b.png", "sub/c.png", "d.png", "e.png", "f.png", "g.png"):
        picture(tmp_path / "train" / "images" / name)
    place = write(tmp_path, names=(), images=[entry(i, name) for i, name in enumerate(names, 1)])
    source = open_detection(place, "train", max_bad_fraction=0.5)
    found = {source.name(i): source.image_id(i) for i in range(len(source))}
    assert found == {"a.png": 1, "b.png": 2, "sub/c.png": 3, "d.png": 4, "f.png": 7, "g.png": 8}
    reasons = {"x/e.png": "no such file", "y/e.png": "no such file", "e.png": "no annotation"}
    assert source.left_out == reasons  # which of the two images it is nobody can know


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
        ({"bbox": {"x": 1}}, "a box that is not four finite numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "a box that is not four finite numbers"),
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
    with pytest.raises(
        ValueError,
        match="Expected at most 50% .* unusable, received 3 of 4; left out: 1 for no such file .*, or raise max_bad",
    ):
        open_detection(f"coco:{tmp_path}", "train")
    source = open_detection(f"coco:{tmp_path}", "train", max_bad_fraction=0.8)
    assert len(source) == 1 and source.name(0) == "d.png" and source.image_id(0) == 4
    reasons = {
        "a.png": "no such file",
        "b.png": "another size than was annotated",
        "c.png": "an empty file",
        "e.png": "no annotation",
    }
    assert source.left_out == reasons  # their annotations go with them
    assert (
        "left out: 1 for an empty file (c.png)" in source.summary() and "1 for no such file (a.png)" in source.summary()
    )


@pytest.mark.parametrize(
    "outline",
    [
        [[10, 5, 30, 5, 30, 35]],
        [10, 5, 30, 5, 30, 35],
        [[10, 5], [30, 5], [30, 35]],
        [[[10, 5], [30, 5], [30, 35]]],
        [None, [10, 5, 30, 5, 30, 35]],
    ],
)
def test_outlines_of_other_forms(tmp_path, outline):
    source = open_detection(write(tmp_path, [{**OBJECT, "segmentation": outline}]), "train")
    assert source.objects(0).segmentations == [[[10, 5, 30, 5, 30, 35]]] and not source.left_out


@pytest.mark.parametrize(
    ("outline", "reason"),
    [
        ([[]], None),
        ([], None),
        ([[10, 5, 30, 35]], "a segmentation without a polygon"),
        ("polygon", "a segmentation without a polygon"),
        ([[0.1, 0.1, 0.5, 0.1, 0.5, 0.9]], "an outline outside its box"),  # of parts of the image, for instance
        ({"size": [60, 40], "counts": [2400]}, "a segmentation of another size than its image"),
        ({"size": [40, 60], "counts": "o" * 10**6}, "run lengths that do not fill the image"),
        ([[10, 5, 30, 5, 30, 35]] * 100_000, "an outline of more than 100,000 corners"),
    ],
)
def test_a_box_is_kept_whatever_its_outline(tmp_path, outline, reason):
    given = [{**OBJECT, "segmentation": [[10, 5, 30, 5, 30, 35]]}, {**OBJECT, "segmentation": outline}]
    source = open_detection(write(tmp_path, given), "train")
    assert source.objects(0).boxes.tolist() == [[5, 10, 35, 30]] * 2 and source.objects(0).segmentations[1] is None
    assert (source.outlined, source.unoutlined) == (1, 1)
    assert source.left_out == (
        {"the outline of annotations[1] of a.png": f"{reason}; its box is kept"} if reason else {}
    )


def test_an_image_that_is_listed_twice_has_the_objects_of_both(tmp_path):
    second, third = entry(8, "./a.png"), entry(9, "b.png", (30, 20))
    objects = [
        OBJECT,
        {**OBJECT, "image_id": 8, "category_id": 2},
        {**OBJECT, "image_id": 9},
        {**OBJECT, "image_id": "2"},
    ]
    source = open_detection(
        write(tmp_path, objects, images=[entry(1, "a.png"), entry(2, "b.png"), second, third]), "train"
    )
    assert [source.objects(i).labels.tolist() for i in range(2)] == [[1, 0], [1]]
    assert source.left_out == {"the image of id 9": "another size than b.png has under id 2"}
    assert "1 ids are of images listed before, to which their objects are added" in source.summary()
    assert (
        {a["image_id"] for a in source.truth()["annotations"]}
        == {1, 2}
        == {image["id"] for image in source.truth()["images"]}
    )


def test_a_crowd_is_one_by_its_number(tmp_path):
    given = [{**OBJECT, "iscrowd": value} for value in (0, "0", None, 1, "1", True)]
    assert open_detection(write(tmp_path, given), "train").objects(0).crowd.tolist() == [False] * 3 + [True] * 3


def test_categories_of_one_name_are_one_class(tmp_path):
    categories = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}, {"id": "9", "name": "cat"}]
    objects = [OBJECT, {**OBJECT, "category_id": 9}, {**OBJECT, "category_id": "2"}, {**OBJECT, "category_id": 7.0}]
    source = open_detection(write(tmp_path, objects, categories=categories), "train")
    assert (
        source.classes == ["cat", "dog"] and source.objects(0).labels.tolist() == [1, 0, 0, 1] and not source.left_out
    )
    assert [a["category_id"] for a in source.truth()["annotations"]] == [7, 2, 2, 7] and source.truth()[
        "categories"
    ] == CATEGORIES[::-1]
    assert "categories of one name are one class (cat)" in source.summary()


def stored_sideways(path, turn, box):
    """Noise of (40, 60) with a white box [left, top, width, height], which its EXIF tag turns."""
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = np.random.default_rng(0).integers(0, 100, (40, 60, 3), "uint8")
    left, top, width, height = box
    pixels[top : top + height, left : left + width] = 250
    Image.fromarray(pixels).save(path, exif=exif, quality=100)


@pytest.mark.parametrize("form", ["jpg", "png"])
@pytest.mark.parametrize("turn", [5, 6, 7, 8])
def test_boxes_turn_with_their_images(tmp_path, turn, form):
    """The listed size is that of the stored frame, so the boxes are too."""
    name = f"c.{form}"
    outline = [10, 5, 30, 5, 30, 35, 10, 35]
    dataset = write(tmp_path, [{**OBJECT, "segmentation": [outline]}], images=[entry(1, name), entry(2, "b.png")])
    stored_sideways(tmp_path / "train" / "images" / name, turn, OBJECT["bbox"])
    source = open_detection(dataset, "train")
    assert (
        source.size(0) == source.image(0).shape[:2] == (60, 40)
        and "1 annotation of images turned as their EXIF tags say" in source.summary()
    )
    rows, columns = (np.flatnonzero((source.image(0)[..., 0] > 175).any(axis)) for axis in (1, 0))
    (box,), ((outline,),) = source.objects(0).boxes.tolist(), source.objects(0).segmentations
    assert box == [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
    assert [min(outline[1::2]), min(outline[0::2]), max(outline[1::2]), max(outline[0::2])] == box
    assert source.truth()["images"][0] == entry(1, name, (40, 60))
    upright = [box[1], box[0], box[3] - box[1], box[2] - box[0]]
    source = open_detection(
        write(tmp_path, [{**OBJECT, "bbox": upright}], images=[entry(1, name, (40, 60)), entry(2, "b.png")]), "train"
    )
    assert source.size(0) == (60, 40) and source.objects(0).boxes.tolist() == [box] and "turned" not in source.summary()


@pytest.mark.parametrize("turn", [2, 3, 4])
def test_boxes_turn_with_images_that_keep_their_sides(tmp_path, turn):
    """Only another image, whose sides are exchanged, shows that all are annotated as they are stored; without one it is
    said what is done."""
    dataset = write(tmp_path, [OBJECT, {**OBJECT, "image_id": 2}])
    stored_sideways(tmp_path / "train" / "images" / "a.png", turn, OBJECT["bbox"])
    said = []
    assert open_detection(dataset, "train", report=said.append).objects(0).boxes.tolist() == [[5, 10, 35, 30]]
    assert len(said) == 1 and said[0].startswith("Square images, or images that keep their sides")
    stored_sideways(tmp_path / "train" / "images" / "b.png", 6, OBJECT["bbox"])
    source = open_detection(dataset, "train", report=said.append)
    rows, columns = (np.flatnonzero((source.image(0)[..., 0] > 175).any(axis)) for axis in (1, 0))
    assert source.objects(0).boxes.tolist() == [[rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]] and len(said) == 1
    assert "2 annotations of images turned" in source.summary()


def test_classes_are_numbered_by_name_as_those_that_are_learnt(tmp_path):
    """A split has its own ids, in another order, and no category of a class that does not occur in it."""
    train = open_detection(write(tmp_path), "train")
    own = [{"id": 0, "name": "dog"}]
    judged = open_detection(
        write(tmp_path, [{**OBJECT, "category_id": 0}], split="val", categories=own), "val", classes=train
    )
    assert judged.classes == train.classes == ["cat", "dog"] and judged.objects(0).labels.tolist() == [1]
    assert [judged.category_ids[label] for label in (1, 0)] == [0, 1] and judged.truth()["categories"] == [
        {"id": 1, "name": "cat"},
        own[0],
    ]
    many = [f"class {k}" for k in range(80)]
    with pytest.raises(
        ValueError,
        match="Expected the 80 classes of training, received 2 in .*; missing: class 0, .*; others: cat, dog",
    ):
        open_detection(f"coco:{tmp_path}", "train", classes=many)


def test_a_split_in_capitals(tmp_path):
    assert open_detection(write(tmp_path, split="Train"), "train").objects(0).boxes.tolist() == [[5, 10, 35, 30]]


def test_exchanged_sizes_are_noticed_at_the_start(tmp_path):
    images = [entry(1, "a.png", (40, 60)), entry(2, "b.png"), entry(3, "c.png")]
    source = open_detection(
        write(tmp_path, [OBJECT, {**OBJECT, "image_id": 2}], ("a.png", "b.png", "c.png"), images=images), "train"
    )
    assert source.left_out == {"a.png": "height and width exchanged in its annotation"} and len(source) == 2
    images = [entry(1, "a.png", (40, 60)), entry(2, "b.png", (40, 60))]
    with pytest.raises(
        ValueError,
        match=r"received none that can be used; left out: 2 for height and width exchanged in its annotation \(a.png",
    ):
        open_detection(write(tmp_path / "all", images=images), "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": []}, "received no annotations; correct the file"),
        ({"categories": None}, "received no categories"),
        (
            {"annotations": [{**OBJECT, "bbox": [0, 0, 0, 2]}] * 5},
            r"received none that can be used: .*5 for an empty box \(annotations\[0\]",
        ),
        ({"categories": CATEGORIES * 2}, "Expected one category of each id, received two of id 7"),
        ({"categories": [{"id": "x"}]}, "Expected each category with an integer id and name, received .*'x'"),
        ({"images": [entry(1, "a.png"), entry(1, "b.png")]}, "Expected one image of each id, received two of id 1"),
        (
            {"images": [{"id": 1, "file_name": "a.png"}]},
            "Expected each image with an id, file_name, height and width, received",
        ),
        (
            {"images": [entry(1, "gone.png")]},
            r"received none that can be used; left out: 1 for no such file \(gone.png\).*correct the files\.",
        ),
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
    with pytest.raises(
        ValueError,
        match=(
            "Expected the 1 class of training, received 2 in coco:.*; missing: sheep; others: cat, dog; use the same"
        ),
    ):
        open_detection(dataset, "train", classes=["sheep"])
    assert open_detection(dataset, "train", classes=("cat", "dog")).classes == ["cat", "dog"]
    with pytest.raises(ValueError, match="Expected annotations/instances_val2017.json with .* received neither"):
        open_detection(f"coco:{tmp_path / 'train'}", "val")
    with pytest.raises(ValueError, match="Expected a dataset folder:PATH or coco:PATH .* received 'masks:x'"):
        open_detection("masks:x", "train")
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
            found = [
                {"score": 1.0, **annotation, "segmentation": index.annToRLE(annotation)}
                for annotation in truth["annotations"]
            ]
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
        with pytest.raises(
            ValueError, match="Expected a feature objects of bbox and label, received image, label in tfds:mnist"
        ):
            open_detection("tfds:mnist", "train", data_dir=tmp_path)
    found = source.objects(1)
    assert found.boxes.tolist() == [[10, 30, 30, 60], [0, 0, 40, 30]]
    assert found.labels.tolist() == [3, 79] and found.crowd.tolist() == [False, True]
    assert found.segmentations == [None, None] and len(source.classes) == 80 and source.image_id(1) == 1
    assert source.left_out == {"objects[2] of val[1]": "an empty box", "objects[3] of val[1]": "an unknown category"}
    source.objects(1)
    assert said == [
        f"Expected objects that can be used, received {reason} ({name}). It is left out."
        for name, reason in source.left_out.items()
    ]
    truth = source.truth()
    assert (
        truth["images"][1] == {"id": 1, "file_name": "val[1]", "height": 40, "width": 60}
        and len(truth["annotations"]) == 4
    )
    records[0] = {"image": content.getvalue()[:40], "objects": objects}  # breaks in the midst of a run
    source.report = said.append
    ((image, annotations),) = source.each(source.truth_of)
    assert (image["id"], len(annotations)) == (1, 2) and list(source.broken) == ["val[0]"] and "val[0]" in said[-1]
    assert [a["id"] for a in source.truth([(image, annotations)])["annotations"]] == [1, 2]


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
                yield (
                    n,
                    {
                        "image": np.full((40, 60, 3), 10 * n, "uint8"),
                        "objects": [{"bbox": box, "label": "dog"}] * n,
                    },
                )

    for form in ("array_record", "tfrecord"):
        Boxed(data_dir=tmp_path / form, file_format=form).download_and_prepare()
        source = open_detection("tfds:boxed", "train", data_dir=tmp_path / form)
        assert source.classes == ["cat", "dog"] and source.size(0) == (40, 60)
        for i in range(3):
            count = int(source.image(i)[0, 0, 0]) // 10
            assert (
                source.objects(i).boxes.tolist() == [[10, 30, 30, 60]] * count
                and source.objects(i).labels.tolist() == [1] * count
            )
