"""predict.py on small models: its results are those of the evaluation that finetune.py, detect.py and segment.py do."""

import contextlib
import csv
import io
import json
import os
import signal
import tracemalloc

import numpy as np
import pytest

import keras_splitmask as ks
from tests.running import run_here

pytest.importorskip("PIL.Image")

from PIL import Image  # noqa: E402

NAMES = ["ant", "bee", "cat"]
COLOURS = ((230, 40, 40), (40, 230, 40), (40, 40, 230))


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def predictions_of(folder):
    return json.loads((folder / "predictions.json").read_text())


def save_photos(root, rng, count, size=(20, 28)):
    """Save images of three classes, each in the colour of its class; returns {path: class}."""
    found = {}
    for i in range(count):
        label = i % 3
        shade = rng.normal(COLOURS[label], 90)  # so that some are taken for another class
        image = np.clip(rng.normal(shade, 40, (*size, 3)), 0, 255).astype("uint8")
        path = root / NAMES[label] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        found[f"{NAMES[label]}/{path.name}"] = NAMES[label]
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of labelled images, train and test, of other sizes than the model's."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(1)
    save_photos(root / "train", rng, 24)
    save_photos(root / "test", rng, 14, size=(31, 23))
    return root


@pytest.fixture(scope="module")
def tuned(photos, tmp_path_factory):
    """The run of a classifier that is right for some of the test images and wrong for others."""
    workdir = tmp_path_factory.mktemp("runs") / "tuned"
    given = ("--size=vit_micro", "--patch_size=8", "--image_size=16", f"--dataset=folder:{photos}", "--crop_ratio=0.8")
    end = run_here("finetune", *given, f"--workdir={workdir}", "--batch_size=8", "--steps=12", "--learning_rate=0.003")
    assert end.status == 0, end.err
    return workdir


@pytest.mark.backend
def test_a_folder_is_classified_as_in_the_evaluation(here, tuned, photos, tmp_path):
    output = tmp_path / "found"
    given = (f"--init_from={tuned}", f"--images={photos / 'test'}", f"--output={output}", "--batch_size=4", "--top=2")
    end = here("predict", *given, "--pictures=5")
    assert end.status == 0 and not end.err
    rows, content = rows_of(output / "predictions.csv"), predictions_of(output)
    assert list(rows[0]) == ["file", "class", "score", "class_2", "score_2"]
    assert [row["file"] for row in rows] == sorted(f"{NAMES[i % 3]}/{i:03}.png" for i in range(14))
    assert [(one["file"], one["class"], one["score"]) for one in content["images"]] == [
        (row["file"], row["class"], float(row["score"])) for row in rows
    ]
    accuracy = np.mean([row["class"] == row["file"].split("/")[0] for row in rows])
    assert accuracy == json.loads((tuned / "result.json").read_text())["test_top1"]
    assert all(float(row["score"]) >= float(row["score_2"]) > 0 for row in rows)
    assert content["classes"] == NAMES and content["left_out"] == {}
    assert "14 images, " in end.out and f"{rows[0]['file']}  {rows[0]['class']} " in end.out
    with Image.open(output / "pictures" / "predictions-1.png") as picture:
        assert picture.width > 500
    assert not list(output.rglob("*.part"))

    same = here("predict", *given)
    assert same.status == 0 and "already holds these results" in same.out


def test_a_classifier_of_timm_predicts_as_the_one_it_is(here, refused, tuned, photos, tmp_path):
    timm, given = tmp_path / "timm", (f"--images={photos / 'test'}",)
    assert here("export", f"--init_from={tuned}", "--layout=timm", f"--output={timm}").status == 0
    ends = [here("predict", f"--init_from={path}", *given) for path in (tuned, timm)]
    assert ends[0].status == ends[1].status == 0 and ends[0].out == ends[1].out
    config = json.loads((timm / "config.json").read_text())
    (timm / "config.json").write_text(json.dumps({**config, "label_names": None}))
    why = "Encoder and weights of a head, left out since its config.json has no label_names"
    assert why in refused("predict", f"--init_from={timm}", *given)


def test_the_probabilities_are_the_models(tuned, photos):
    model = ks.interchange.load_model(tuned)
    images, labels = ks.data.read_all(ks.data.open_source(f"folder:{photos}", "test"), (16, 16, 3), ratio=0.8)
    expected = model.predict(images, verbose=0)
    expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    found = ks.predict_images(model, photos / "test", batch_size=5, crop_ratio=0.8)
    np.testing.assert_allclose([one["scores"] for one in found], expected, atol=1e-5)
    assert [one["label"] for one in found] == expected.argmax(axis=1).tolist() and found.left_out == {}
    assert [one["name"].split("/")[0] for one in found] == [NAMES[label] for label in labels]


def test_features_and_the_head_give_the_scores_of_predict(here, tuned, photos, tmp_path):
    """embed.py prepares images as the classifier was evaluated, with its --crop_ratio."""
    model, output = ks.interchange.load_model(tuned), tmp_path / "features.npz"
    expected = ks.predict_images(model, photos / "test")
    given = (f"--init_from={tuned}", f"--images={photos / 'test'}")
    assert here("embed", *given, f"--output={output}").status == 0
    assert here("embed", *given, f"--output={tmp_path / 'whole.npz'}", "--crop_ratio=1").status == 0
    with np.load(output) as content, np.load(tmp_path / "whole.npz") as whole:
        names, pooled = content["names"].tolist(), content["pooled"]
        assert np.abs(pooled - whole["pooled"]).max() > 1e-3
    kernel, bias = model.head.get_weights()
    scores = np.exp(pooled @ kernel + bias)
    scores /= scores.sum(axis=1, keepdims=True)
    assert names == [one["name"] for one in expected]
    np.testing.assert_allclose(scores, [one["scores"] for one in expected], atol=1e-5)
    np.testing.assert_allclose(ks.embed_images(model, photos / "test")[1]["pooled"], pooled, atol=1e-5)

    assert here("predict", *given, f"--output={tmp_path / 'found'}", "--top=3").status == 0
    rows = rows_of(tmp_path / "found" / "predictions.csv")
    assert [row["class"] for row in rows] == [NAMES[label] for label in scores.argmax(axis=1)]
    np.testing.assert_allclose([float(row["score"]) for row in rows], scores.max(axis=1), atol=1e-4)


def test_files_lists_and_arrays_give_the_same(here, tuned, photos, tmp_path):
    paths = sorted(str(path) for path in (photos / "test").rglob("*.png"))[:5]
    (tmp_path / "list.txt").write_text("\n".join(paths[2:]) + "\n")
    images = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.save(tmp_path / "five.npy", images)
    np.savez(tmp_path / "two.npz", first=images, second=images[:2])
    forms = {
        "files": [f"--images={path}" for path in paths[:2]] + [f"--images={tmp_path / 'list.txt'}"],
        "npy": [f"--images={tmp_path / 'five.npy'}"],
        "npz": [f"--images=npz:{tmp_path / 'two.npz'}", "--array=first"],
    }
    found = {}
    for name, given in forms.items():
        end = here("predict", f"--init_from={tuned}", *given, f"--output={tmp_path / name}")
        assert end.status == 0 and not end.err
        found[name] = predictions_of(tmp_path / name)["images"]
    assert [one["file"] for one in found["files"]] == paths
    assert [one["file"] for one in found["npy"]] == [f"images[{i}]" for i in range(5)]
    assert [one["file"] for one in found["npz"]] == [f"first[{i}]" for i in range(5)]
    scores = [[one["score"] for one in of_form] for of_form in found.values()]
    assert scores[0] == scores[1] == scores[2]
    end = here("predict", f"--init_from={tuned}", f"--images={paths[0]}", "--top=3")
    first = found["files"][0]
    assert f"{paths[0]}  {first['class']} {first['score']:.1%}, " in end.out and end.out.count("%") == 3
    np.save(tmp_path / "one.npy", images[0])
    assert here("predict", f"--init_from={tuned}", f"--images={tmp_path / 'one.npy'}").out.count("%") == 1


def test_what_cannot_be_read_is_listed(here, tuned, photos, tmp_path):
    folder = tmp_path / "mixed"
    for i, path in enumerate(sorted((photos / "test").rglob("*.png"))[:6]):
        Image.open(path).save(folder.joinpath(f"{i}.png") if folder.exists() or not folder.mkdir() else "")
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    np.save(folder / "deep.npy", np.zeros((20, 20, 5), "uint8"))
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[:60] + bytes(b ^ 255 for b in whole[60:90]) + whole[90:])  # a good header
    end = here("predict", f"--init_from={tuned}", f"--images={folder}", f"--output={tmp_path / 'out'}")
    assert end.status == 0 and not end.err and "4 images left out, such as " in end.out
    rows = rows_of(tmp_path / "out" / "left_out.csv")
    assert sorted(row["file"] for row in rows) == ["3.png", "deep.npy", "empty.png", "text.jpg"]
    assert {row["file"]: row["reason"] for row in rows}["deep.npy"] == "5 channels, not 3"
    assert [row["file"] for row in rows_of(tmp_path / "out" / "predictions.csv")] == [
        "0.png",
        "1.png",
        "2.png",
        "4.png",
        "5.png",
    ]
    assert set(predictions_of(tmp_path / "out")["left_out"]) == {row["file"] for row in rows}


def test_nothing_is_left_if_no_image_can_be_read(here, refused, tuned, photos, tmp_path):
    """So the same command works once the file is repaired."""
    whole, path = (photos / "test/ant/000.png").read_bytes(), tmp_path / "one.png"
    path.write_bytes(whole[:60] + bytes(b ^ 255 for b in whole[60:90]) + whole[90:])  # a good header
    given = (f"--init_from={tuned}", f"--images={path}")
    for more in ([], [f"--output={tmp_path / 'out'}"]):
        assert f"Expected readable images, received none of 1, such as {path} (Expected a" in refused(
            "predict", *given, *more
        )
        assert os.listdir(tmp_path) == ["one.png"]
    path.write_bytes(whole)
    assert here("predict", *given, f"--output={tmp_path / 'out'}").status == 0
    assert len(rows_of(tmp_path / "out" / "predictions.csv")) == 1


def test_dark_images_are_reported_as_in_training(here, tuned, tmp_path, rng):
    np.save(tmp_path / "dark.npy", rng.integers(0, 4096, (20, 20)).astype("uint16"))
    np.save(tmp_path / "bright.npy", rng.integers(0, 65536, (20, 20)).astype("uint16"))
    given, line = (f"--init_from={tuned}", f"--images={tmp_path / 'dark.npy'}"), "such as --value_range=0,4095, to use"
    assert line in here("predict", *given).out
    assert line in here("embed", *given, f"--output={tmp_path / 'f.npz'}").out
    for more in (["--value_range=0,4095"], [f"--images={tmp_path / 'bright.npy'}"]):
        images = more if more[0].startswith("--images") else [given[1], *more]
        assert "small part" not in here("predict", given[0], *images).out


@pytest.mark.parametrize(("name", "reason"), [("file/out", "Not a directory"), ("x" * 300, "File name too long")])
def test_an_output_that_cannot_be_written_to_is_refused(refused, tuned, photos, tmp_path, name, reason):
    (tmp_path / "file").write_text("")
    given = (f"--init_from={tuned}", f"--images={photos / 'test'}", f"--output={tmp_path / name}")
    assert f"({reason}); choose another." in refused("predict", *given)
    assert os.listdir(tmp_path) == ["file"]


def test_a_stopped_run_resumes_to_equal_results(here, tuned, photos, tmp_path, monkeypatch):
    given = (f"--init_from={tuned}", f"--images={photos}", "--batch_size=4", "--top=3")
    assert here("predict", *given, f"--output={tmp_path / 'whole'}").status == 0
    run_model, calls = ks.prediction.run_model, []

    def stop(*arguments):
        calls.append(len(arguments[1]))
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return run_model(*arguments)

    resumed = tmp_path / "resumed"
    monkeypatch.setattr(ks.prediction.predicting, "run_model", stop)
    end = here("predict", *given, f"--output={resumed}")
    assert end.status == 75 and "Stopped by SIGTERM. Run the same command to resume." in end.out
    assert not (resumed / "predictions.json").exists()
    with open(resumed / "predictions.part", "ab") as file:
        file.write(b'{"batch":3,"images":[[12')  # as a killed process leaves it
    monkeypatch.setattr(ks.prediction.predicting, "run_model", run_model)
    end = here("predict", *given, f"--output={resumed}")
    assert end.status == 0 and "resumed at image 12 of 38" in end.out
    for name in ("predictions.csv", "predictions.json"):
        assert (resumed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(os.listdir(resumed)) == ["predictions.csv", "predictions.json", "run.files", "settings.json"]


def test_results_of_other_settings_are_replaced_only_if_asked(here, refused, tuned, photos, tmp_path):
    output = tmp_path / "out"
    given = (f"--init_from={tuned}", f"--images={photos / 'test'}", f"--output={output}")
    assert here("predict", *given).status == 0
    assert "which holds results with other values of top. Choose another" in refused("predict", *given, "--top=2")
    assert here("predict", *given, "--top=2", "--overwrite").status == 0
    assert "class_2" in rows_of(output / "predictions.csv")[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images={photos}"], "Expected --init_from: Run folder or .keras file of a classifier"),
        (["--init_from={run}"], "Expected --images: Folder of images"),
        (["--init_from={run}", "--images={tmp}/nowhere"], "nowhere, which does not exist. Check the path."),
        (["--init_from={run}", "--images={tmp}/bare"], "Expected images (.avif"),
        (["--init_from={run}", "--images={tmp}/five.npy"], "Expected an image of 3 channels, received 5"),
        (["--init_from={run}", "--images={tmp}/deep"], "(a.npy: 5 channels, not 3); choose others."),
        (["--init_from={run}", "--images={tmp}/text.png"], "received none of 1 file"),
        (["--init_from={run}", "--images={tmp}/two.npz"], "Choose one of a, b."),
        (["--init_from={run}", "--images={tmp}/two.npz", "--array=c"], "received c. Choose one of a, b."),
        (["--init_from={tmp}/nowhere", "--images={photos}"], "Model not found"),
        (
            ["--init_from={pretrained}", "--images={photos}"],
            "has no classes yet: it holds a model of type SplitMask. Fine-tune it first: ",
        ),
        (["--init_from={run}", "--images={photos}", "--pictures=3"], "Expected --output with --pictures"),
        (["--init_from={run}", "--images={photos}", "--inference=slide"], "Expected no inference for a Classifier"),
        (
            ["--init_from={run}", "--images={photos}", "--output={photos}/out"],
            "Expected --output outside of the images",
        ),
        (["--init_from={run}", "--images={photos}", "--output={run}"], "which holds a run; choose another folder"),
        (["--init_from={run}", "--images={photos}", "--output={tmp}/deep"], "which contains a.npy; choose another"),
        (["--init_from={run}", "--images={photos}", "--precision=bfloat16"], "leave --precision out"),
    ],
)
def test_bad_input_ends_in_one_line(refused, tuned, pretrained, photos, tmp_path, flags, message):
    for name in ("bare", "deep"):
        (tmp_path / name).mkdir()
    five = np.zeros((4, 20, 24, 5), "uint8")
    np.save(tmp_path / "five.npy", five)
    np.save(tmp_path / "deep" / "a.npy", five[0])
    np.savez(tmp_path / "two.npz", a=five, b=five)
    (tmp_path / "text.png").write_text("no image")
    places = {"run": tuned, "pretrained": pretrained, "photos": photos, "tmp": tmp_path}
    assert message in refused("predict", *(flag.format(**places) for flag in flags))


def test_memory_does_not_grow_with_the_images(tuned):
    """Only a few batches of a large array are read at a time."""
    model = ks.interchange.load_model(tuned)
    predictor = ks.prediction.predictor_for(model, batch_size=4)
    peaks = []
    for count in (40, 160):
        source = ks.data.open_images(np.zeros((count, 64, 64, 3), "uint8"), 3)
        tracemalloc.start()
        assert sum(len(found) for _, found, _ in ks.prediction.predictions(predictor, source)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 120 * 64 * 64 * 3 / 4  # a quarter of what is read more


def test_by_the_command(command, tuned, photos):
    end = command("predict", f"--init_from={tuned}", f"--images={photos / 'test'}")
    assert end.status == 0 and not end.err and end.out.count("%\n") == 14


def save_scenes(root, rng, sizes):
    """Save scenes of red boxes, with label maps whose numbers are not 0, 1, and COCO annotations of ids not from 1."""
    for split, count in (("train", 4), ("val", 3)):
        for name in ("images", "labels"):
            (root / split / name).mkdir(parents=True)
        content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "red"}, {"id": 9, "name": "blue"}]}
        for i in range(count):
            height, width = sizes[i % len(sizes)]
            image, labels = rng.integers(0, 60, (height, width, 3), "uint8"), np.full((height, width), 4, "uint8")
            top, left = rng.integers(2, height - 22), rng.integers(2, width - 22)
            image[top : top + 20, left : left + 20, 2 * (i % 2)] = 240
            labels[top : top + 20, left : left + 20] = 9
            Image.fromarray(image).save(root / split / "images" / f"{i}.png")
            Image.fromarray(labels).save(root / split / "labels" / f"{i}.png")
            content["images"].append({"id": 30 + i, "file_name": f"{i}.png", "height": height, "width": width})
            box = [int(left), int(top), 20, 20]
            corners = [[box[0], box[1], box[0] + 20, box[1], box[0] + 20, box[1] + 20, box[0], box[1] + 20]]
            own = {"bbox": box, "area": 400, "iscrowd": 0, "segmentation": corners}
            content["annotations"].append({"id": i + 1, "image_id": 30 + i, "category_id": 7 + 2 * (i % 2), **own})
        (root / split / "instances.json").write_text(json.dumps(content))
    (root / "classes.json").write_text(json.dumps({"4": "ground", "9": "box"}))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    save_scenes(root, np.random.default_rng(2), [(64, 96), (50, 70), (90, 60)])
    return root


DENSE = ("--size=vit_micro", "--patch_size=16", "--image_size=64x96", "--batch_size=2", "--head_width=16")


def test_objects_have_the_average_precision_of_the_evaluation(here, scenes, tmp_path):
    pytest.importorskip("pycocotools")
    run, output = tmp_path / "run", tmp_path / "out"
    given = (*DENSE, f"--dataset=coco:{scenes}", "--head=maskrcnn", "--samples=16", "--proposals=50")
    end = here("detect", *given, "--steps=30", "--learning_rate=0.003", "--judge_every=50", f"--workdir={run}")
    assert end.status == 0, end.err
    expected = json.loads((run / "result.json").read_text())
    given = (f"--init_from={run}", f"--images={scenes / 'val' / 'images'}", "--batch_size=2")
    end = here("predict", *given, f"--output={output}", "--pictures=2")
    assert end.status == 0 and not end.err and "3 images, objects with a score of 0.3 or more" in end.out

    truth, found = (
        json.loads((scenes / "val" / "instances.json").read_text()),
        json.loads((output / "images.json").read_text()),
    )
    assert found["categories"] == truth["categories"]
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    own = {image["id"]: ids[image["file_name"]] for image in found["images"]}
    results = [{**one, "image_id": own[one["image_id"]]} for one in predictions_of(output)]
    assert results and len(rows_of(output / "predictions.csv")) == len(results)
    assert coco_ap(truth, results, "bbox") == pytest.approx(expected["ap"], abs=1e-4) and expected["ap"] > 0
    assert coco_ap(truth, results, "segm") == pytest.approx(expected["mask_ap"], abs=1e-4)
    assert (output / "pictures" / "predictions-1.png").exists()


def coco_ap(truth, results, kind):
    """Average precision by pycocotools itself, from results in COCO's format."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = json.loads(json.dumps({**truth, "info": {}}))
        index.createIndex()
        count = COCOeval(index, index.loadRes(json.loads(json.dumps(results))), kind)
        count.params.maxDets = [1, 10, 100]
        count.evaluate()
        count.accumulate()
        count.summarize()
    return count.stats[0]


@pytest.mark.parametrize("inference", ["whole", "slide"])
def test_label_maps_have_the_iou_of_the_evaluation(here, scenes, tmp_path, inference):
    run, output = tmp_path / "run", tmp_path / "out"
    given = (*DENSE, f"--dataset=masks:{scenes}", f"--inference={inference}", "--steps=30", "--judge_every=50")
    end = here("segment", *given, "--learning_rate=0.003", f"--workdir={run}")
    assert end.status == 0, end.err
    expected = json.loads((run / "result.json").read_text())
    given = (f"--init_from={run}", f"--images={scenes / 'val' / 'images'}", "--batch_size=2")
    end = here("predict", *given, f"--output={output}", "--pictures=2")
    assert end.status == 0 and not end.err and "3 images, pixels: " in end.out
    matrix = ks.evaluation.ConfusionMatrix(2)
    for row in rows_of(output / "predictions.csv"):
        numbers = [
            np.asarray(Image.open(path)) for path in (scenes / "val/labels" / row["file"], output / row["label_map"])
        ]
        assert row["label_map"] == f"label_maps/{row['file']}" and set(np.unique(numbers[1])) <= {4, 9}
        matrix.add(*((of_map == 9).astype("uint8") for of_map in numbers))  # of one shape: that of the image
        assert float(row["box"]) == pytest.approx((numbers[1] == 9).mean(), abs=1e-6)
    assert matrix.mean_iou == pytest.approx(expected["mean_iou"], abs=1e-6) and expected["mean_iou"] > 0.2
    assert json.loads((output / "classes.json").read_text()) == {"4": "ground", "9": "box"}

    again = (*given, f"--output={output}", "--batch_size=3", "--overwrite")
    (output / "label_maps" / "mine.png").write_bytes(b"")
    assert here("predict", *again).status == 0
    assert sorted(path.name for path in (output / "label_maps").iterdir()) == ["0.png", "1.png", "2.png", "mine.png"]
    end = here("predict", f"--init_from={run}", f"--images={scenes / 'val' / 'images' / '1.png'}")
    assert end.status == 0 and "1.png  " in end.out
