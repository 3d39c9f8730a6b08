import json
import shutil

import pytest

from keras_splitmask.data import NoSuchSplit, open_detection
from tests.data import boxed_sets
from tests.data.boxed_sets import coco, coco_set, expected, objects_of, picture, txt, voc_set, write, xml, yolo_set

SETS = {"coco": coco_set, "voc": voc_set, "yolo": yolo_set}


@pytest.mark.parametrize("kind", SETS)
def test_the_same_set_has_the_same_boxes_in_every_format(tmp_path, kind):
    dataset, lines = SETS[kind](tmp_path), []
    train = open_detection(dataset, "train")
    assert objects_of(train) == expected() and not train.left_out
    assert objects_of(open_detection(dataset, "val", classes=train)) == expected()
    found = open_detection(f"folder:{tmp_path}", "train", report=lines.append)
    assert objects_of(found) == expected() and found.fingerprint == train.fingerprint
    assert f"{tmp_path}: " in lines[0] and f"splits train, val. The same is {kind}:PATH." in lines[0]
    with pytest.raises(NoSuchSplit, match="Expected split to be one of train, val, which are in .*, received 'test'"):
        open_detection(dataset, "test")


def test_a_folder_of_no_format_or_of_several(tmp_path):
    picture(tmp_path / "photos" / "a.jpg")
    with pytest.raises(ValueError, match="Expected images with boxes in .*photos, .* received none of them; correct"):
        open_detection(f"folder:{tmp_path / 'photos'}", "train")
    with pytest.raises(ValueError, match="Folder not found: .*none. Check the path"):
        open_detection(f"folder:{tmp_path / 'none'}", "train")
    voc_set(tmp_path / "VOCdevkit" / "VOC2012")
    with pytest.raises(ValueError, match=r"received none of them; try folder:.*VOC2012\."):
        open_detection(f"folder:{tmp_path / 'VOCdevkit'}", "train")
    yolo_set(tmp_path / "both")
    write(tmp_path / "both" / "annotations" / "instances_train.json", coco())
    with pytest.raises(
        ValueError, match="received COCO's JSON and text files of YOLO; choose one, as coco:.* or yolo:"
    ):
        open_detection(f"folder:{tmp_path / 'both'}", "train")
    assert objects_of(open_detection(f"coco:{tmp_path / 'both'}", "train")) == expected()


def cvat_coco(root):
    for name in boxed_sets.BOXES:
        picture(root / "images" / "default" / f"{name}.jpg")
    write(root / "annotations" / "instances_default.json", coco())


def label_studio_coco(root):
    for name in boxed_sets.BOXES:
        picture(root / "images" / f"3f2a9c11-{name}.jpg")
    write(root / "result.json", coco(prefix="images/3f2a9c11-"))


def label_studio_coco_of_own_files(root):
    """The export without images, beside the files that were uploaded."""
    label_studio_coco(root)
    for path in (root / "images").iterdir():
        path.rename(path.with_name(path.name.removeprefix("3f2a9c11-")))


def label_studio_coco_of_local_files(root):
    for name in boxed_sets.BOXES:
        picture(root / "images" / "my cats" / f"{name}.jpg")
    write(root / "result.json", coco(prefix="/data/local-files/?d=my%20cats/"))


def label_studio_coco_of_windows(root):
    for name in boxed_sets.BOXES:
        picture(root / "images" / f"{name}.jpg")
    write(root / "result.json", coco(prefix="images\\"))


def cvat_voc(root):
    voc_set(root, ["default"])
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:1,1,1::\n")


def label_studio_voc(root):
    for name in boxed_sets.BOXES:
        picture(root / "images" / f"3f2a9c11-{name}.jpg")
        write(root / "Annotations" / f"3f2a9c11-{name}.xml", xml(name).replace(f"{name}.jpg", f"3f2a9c11-{name}"))


def label_img(root):
    for name in boxed_sets.BOXES:
        picture(root / f"{name}.jpg")
        write(root / f"{name}.xml", xml(name).replace("<filename>", "<path>C:\\old\\x.jpg</path><filename>old-"))


def cvat_yolo(root):
    for name in boxed_sets.BOXES:
        picture(root / "obj_train_data" / f"{name}.jpg")
        write(root / "obj_train_data" / f"{name}.txt", txt(name))
    write(root / "train.txt", "".join(f"data/obj_train_data/{name}.jpg\n" for name in boxed_sets.BOXES))
    write(root / "obj.names", "dog\ncat\n")
    write(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")


def label_studio_yolo(root):
    for name in boxed_sets.BOXES:
        picture(root / "images" / f"3f2a9c11-{name}.jpg")
        write(root / "labels" / f"3f2a9c11-{name}.txt", txt(name))
    write(root / "classes.txt", "dog\ncat\n")
    write(root / "notes.json", "{}")


def label_studio_yolo_of_own_files(root):
    label_studio_yolo(root)
    for path in (root / "images").iterdir():
        path.rename(path.with_name(path.name.removeprefix("3f2a9c11-")))


def label_img_yolo(root):
    for name in boxed_sets.BOXES:
        picture(root / f"{name}.jpg")
        write(root / f"{name}.txt", txt(name))
    write(root / "classes.txt", "dog\ncat")


EXPORTS = [
    cvat_coco,
    label_studio_coco,
    label_studio_coco_of_own_files,
    label_studio_coco_of_local_files,
    label_studio_coco_of_windows,
    cvat_voc,
    label_studio_voc,
    label_img,
    cvat_yolo,
    label_studio_yolo,
    label_studio_yolo_of_own_files,
    label_img_yolo,
]


@pytest.mark.parametrize("export", EXPORTS)
def test_exports_of_annotation_tools(tmp_path, export):
    export(tmp_path)
    source = open_detection(f"folder:{tmp_path}", "train")
    found = {name[-len("a.jpg") :]: objects for name, objects in objects_of(source).items()}
    assert found == expected() and not source.left_out


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_uploads_of_one_name_are_not_mixed_up(tmp_path, form):
    """Two uploads were called a.jpg. Which of them the one that is left is, nobody can know."""
    for name in ("a", "3f2a9c11-b"):
        picture(tmp_path / "images" / f"{name}.jpg")
    for name in ("3f2a9c11-a", "5d1b8e22-a", "3f2a9c11-b"):
        file = f"Annotations/{name}.xml" if form == "voc" else f"labels/{name}.txt"
        write(tmp_path / file, xml("a").replace("a.jpg", f"{name}.jpg") if form == "voc" else txt("a"))
    write(tmp_path / "classes.txt", "dog\ncat\n")
    source = open_detection(f"{form}:{tmp_path}", "train", max_bad_fraction=0.9)
    found = objects_of(source)
    assert found.pop("a.jpg", []) == [] and found == {"3f2a9c11-b.jpg": expected()["a.jpg"]}
    assert len(source.left_out) == (3 if form == "voc" else 2)


def test_roboflow(tmp_path):
    """Its data.yaml names folders above its own; COCO's file lies among the images."""
    for name in boxed_sets.BOXES:
        for form in ("coco", "voc"):
            picture(tmp_path / form / "train" / f"{name}_jpg.rf.5d3.jpg")
        picture(tmp_path / "yolo" / "valid" / "images" / f"{name}.jpg")
        write(tmp_path / "yolo" / "valid" / "labels" / f"{name}.txt", txt(name))
        write(tmp_path / "voc" / "train" / f"{name}_jpg.rf.5d3.xml", xml(name))
    content = json.loads(coco())
    for image in content["images"]:
        image["file_name"] = image["file_name"].replace(".jpg", "_jpg.rf.5d3.jpg")
    write(tmp_path / "coco" / "train" / "_annotations.coco.json", json.dumps(content))
    write(tmp_path / "yolo" / "data.yaml", "val: ../valid/images\n\nnc: 2\nnames: ['dog', 'cat']\n")
    for form, split in (("coco", "train"), ("voc", "train"), ("yolo", "val")):
        found = objects_of(open_detection(f"folder:{tmp_path / form}", split))
        assert {name.replace("_jpg.rf.5d3", ""): objects for name, objects in found.items()} == expected()


def test_a_set_that_is_not_divided_is_divided_if_asked(tmp_path):
    for k in range(10):
        picture(tmp_path / "images" / f"{k}.jpg")
        write(tmp_path / "labels" / f"{k}.txt", "0 0.5 0.5 0.5 0.5\n")
    write(tmp_path / "classes.txt", "dog")
    dataset, lines = f"yolo:{tmp_path}", []
    assert len(open_detection(dataset, "train")) == 10
    with pytest.raises(NoSuchSplit, match="Expected a split val in .*, received a data set that is not divided"):
        open_detection(dataset, "val")
    train, val = (open_detection(dataset, split, val_fraction=0.2, report=lines.append) for split in ("train", "val"))
    names = [{source.name(i) for i in range(len(source))} for source in (train, val)]
    assert list(map(len, names)) == [8, 2] and not names[0] & names[1] and not train.left_out and not val.left_out
    assert lines[0].endswith(
        "is not divided into splits: 2 of 10 images, drawn by their names, are not trained on, but evaluated on."
    )
    shutil.copytree(tmp_path, tmp_path / "moved")
    moved = open_detection(f"yolo:{tmp_path / 'moved'}", "val", val_fraction=0.2)
    assert {moved.name(i) for i in range(len(moved))} == names[1]
