"""README and the guides do as they say: every command has flags that exist, and the commands run as printed."""

import csv
import json
import os
import re
import runpy
import shutil
import statistics
import zipfile

import keras
import numpy as np
import pytest

import keras_splitmask as ks
from recipes import splitmask
from recipes.shared import flagfiles, help, measured, runtimes
from tests import pages
from tests.running import ROOT
from tests.transfer.drawn import as_coco, draw_label_maps, draw_scenes

pytest.importorskip("PIL.Image")

from PIL import Image  # noqa: E402

COMMANDS = {page.name: pages.commands_of(page) for page in pages.PAGES}
NAMES = ("cat", "dog")


def test_results_follow_from_the_logs():
    written = runpy.run_path(ROOT / "docs" / "results.py")["pages"]()
    assert {path.name for path in written} == {"results.md", "README.md"}
    for path, text in written.items():
        assert path.read_text() == text, f"{path.name}: run python docs/results.py"


def test_what_a_run_says_was_measured_is_in_the_logs():
    for one in measured.MEASURED:
        log = json.loads((ROOT / "docs" / "logs" / "results" / f"{one.log}.json").read_text())
        values = {
            method: statistics.fmean(100 * run["top1"] for run in log["runs"] if run["method"] == method)
            for method in ("scratch", f"splitmask-{one.preset}")
        }
        assert (one.scratch, one.pretrained) == pytest.approx(tuple(values.values()), abs=0.05)
        steps = [run["pretrain_steps"] for run in log["runs"] if run["method"] == f"splitmask-{one.preset}"]
        assert one.steps == round(statistics.fmean(steps))
        assert (f"{one.minutes}min", str(one.labels)) == (log["settings"]["time"], log["settings"]["labelled"])
    first, reached, advice = measured.sentences("small", 2_000, 500)
    assert (
        "groceries" in first
        and "1,027 steps" in first
        and "40.7% correctly" in reached
        and "47.4%. Both were planned for 15 min" in reached
    )
    assert "This run had only 500 steps" in advice
    first, reached, advice = measured.sentences("small", 2_000, 2_000)
    assert "groceries" in first and "2,499 steps" in first and "This run had only 2,000 steps" in advice
    first, reached, advice = measured.sentences("paper", 2_000, 3_000)
    assert "CIFAR-10" in first and "645 steps of --preset=paper" in first and "reproduce.py --dataset=" in advice
    assert "CIFAR-10" in measured.sentences("small", 40_000, 500)[0]


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def folders(tmp_path, monkeypatch, rng):
    """The folders that the pages name, in the current folder: photos, labelled, new, boxed and drawn."""

    def draw():
        return rng.integers(0, 256, (30, 40, 3), "uint8")

    for i in range(12):
        save(tmp_path / "photos" / f"album{i % 2}" / f"{i}.jpg", draw())
        save(tmp_path / "labelled" / NAMES[i % 2] / f"{i}.jpg", draw() // 2 + 127 * (i % 2))
    for i in range(3):
        save(tmp_path / "new" / f"{i}.jpg", draw())
    images, targets = draw_scenes(6)
    for split in ("train", "val"):
        truth = as_coco(targets, images.shape[1:])
        for i, (image, labels) in enumerate(zip(images, draw_label_maps(targets, images.shape[1:]), strict=True)):
            truth["images"][i]["file_name"] = f"{i}.png"
            save(tmp_path / "boxed" / split / "images" / f"{i}.png", image)
            save(tmp_path / "drawn" / split / "images" / f"{i}.png", image)
            save(tmp_path / "drawn" / split / "labels" / f"{i}.png", labels.astype("uint8"))
        (tmp_path / "boxed" / split / "instances.json").write_text(json.dumps(truth))
    monkeypatch.chdir(tmp_path)


def run_page(here, page):
    """Run the commands of a page in order with tiny settings: those whose data a user has."""
    for program, arguments in COMMANDS[page]:
        given = dict(word.lstrip("-").partition("=")[::2] for word in arguments)
        path = given.get("dataset", "").partition(":")[2]
        if program == "reproduce" or path and not os.path.exists(path):
            continue
        backend = runtimes.BACKENDS.get(given.get("layout", "saved_model")) if program == "export" else None
        if backend not in (None, keras.backend.backend()):
            continue  # another backend writes it
        if program == "export":  # which refuses a folder that another page has written
            shutil.rmtree(given["output"], ignore_errors=True)
        end = here(program, *pages.tiny(program, arguments))
        assert end.status in (0, None), f"{page}: {program} {' '.join(arguments)}\n{end.err}"


def test_the_pages_have_commands():
    assert [program for program, _ in COMMANDS["README.md"]] == [
        *("pretrain", "finetune", "predict"),
        *("pretrain", "finetune", "predict", "embed", "export", "export"),
    ]
    assert all(COMMANDS[f"{name}.md"] for name in pages.GUIDES)
    assert set(splitmask.PROGRAMS) <= {program for commands in COMMANDS.values() for program, _ in commands}


@pytest.mark.parametrize("page", [name for name, commands in COMMANDS.items() if commands])
def test_every_flag_of_every_command_exists(page, parsed):
    for program, arguments in COMMANDS[page]:
        with parsed(program, *flagfiles.expanded(arguments)) as recipe:
            given = {word.lstrip("-").partition("=")[0] for word in arguments} - {"flagfile"}
            assert all(name.removeprefix("no") in recipe.flags or name in recipe.flags for name in given)


def test_flags_in_the_text_exist():
    known = {"help", "helpfull", "version"}.union(*(names.split() for names in help.SUBJECTS.values()))
    known = {name.rpartition(".")[2] for name in known}
    for page in pages.PAGES:
        names = set(re.findall(r"`--(\w+)", page.read_text())) if page.name != "speed.md" else ()  # benchmark.py's
        assert not [name for name in names if not {name, name.removeprefix("no")} & known], page.name


@pytest.mark.endurance
def test_readme_runs_as_printed(here, folders):
    run_page(here, "README.md")
    with open("runs/predictions/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["0.jpg", "1.jpg", "2.jpg"]
    assert {row["class"] for row in rows} <= set(NAMES)
    features = np.load("runs/features.npz")
    assert len(features["names"]) == 12 and features["pooled"].shape[0] == 12
    assert {"features.duplicates.csv", "features.outliers.csv"} <= set(os.listdir("runs"))
    assert "model.safetensors" in os.listdir("runs/encoder")
    assert os.path.exists("runs/quickstart/report.html")


@pytest.mark.backend
def test_the_code_of_the_page_about_sources_trains(folders, rng):
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for i in range(12):
            archive.write(f"photos/album{i % 2}/{i}.jpg")
    names = {}
    for block in pages.code_of(ROOT / "docs" / "add_a_source.md"):
        exec(block, names)
    assert names["names"] == sorted(names["names"]) and len(names["names"]) == 12
    assert names["features"]["pooled"].shape == (12, 32) and int(names["model"].optimizer.iterations) == 10


@pytest.mark.backend
def test_the_code_of_the_page_about_code_runs(make_images, folders, monkeypatch):
    train, two_views, use = pages.code_of(ROOT / "docs" / "in_code.md")
    monkeypatch.setitem(ks.SIZES, "vit_small", (16, 1, 2))
    names = {"images": make_images(8, (32, 32, 3))}
    exec(train.replace("224, 224", "32, 32").replace("vocabulary=8192", "vocabulary=8"), names)
    assert keras.ops.shape(names["features"]["pooled"]) == (8, 16)
    exec(two_views.replace("batch_size=64", "batch_size=4").replace("1_000, epochs=10", "1, epochs=2"), names)
    assert int(names["model"].optimizer.iterations) == 2
    for run in ("photos", "tuned"):
        os.makedirs(f"runs/{run}")
    names["model"].save("runs/photos/model.keras")
    ks.transfer.Classifier(names["encoder"], 2, class_names=list(NAMES)).save("runs/tuned/model.keras")
    exec(use, names)
    assert names["result"]["class_name"] in NAMES and names["features"]["pooled"].shape == (12, 16)


@pytest.mark.endurance
@pytest.mark.parametrize("page", pages.GUIDES)
def test_every_guide_runs_as_printed(here, folders, page):
    if page == "dense":
        pytest.importorskip("keras_cv")
        pytest.importorskip("pycocotools")
    run_page(here, "README.md")
    run_page(here, f"{page}.md")
