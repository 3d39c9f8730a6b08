import json
import os
import pathlib
import re

import keras
import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import free_memory
from recipes.shared import memory


@pytest.mark.backend
def test_every_block_is_judged(here, pretrained, arrays, tmp_path):
    given = (f"--init_from={pretrained}", f"--dataset=npz:{arrays}", "--epochs=3", "--neighbours=3,7", "--features=cls")
    end = here("probe", *given, f"--workdir={tmp_path / 'probe'}")
    assert end.status == 0 and not end.err
    result = json.loads((tmp_path / "probe" / "probe.json").read_text())
    assert result.pop("judged_by") == "test" and set(result) == {
        "knn_accuracy",
        "knn_accuracy_7",
        "linear_accuracy_block_1",
        "linear_accuracy_block_2",
        "linear_accuracy",
        "best_block",
    }
    best = result.pop("best_block")
    assert result["linear_accuracy"] == result[f"linear_accuracy_block_{best}"]
    assert f"linear     {result['linear_accuracy']:.2%}, of block {best}, which is best on held-out" in end.out
    assert all(0 <= value <= 1 for value in result.values())
    assert (
        "24 labelled images, 24 to evaluate on" in end.out
        and f"block 2    {result['linear_accuracy_block_2']:.2%}" in end.out
    )
    again = (f"--flagfile={tmp_path / 'probe' / 'run.flags'}", "--random")
    assert "holds a run with other values of --random" in here("probe", *again).err
    assert here("probe", *again, "--overwrite").status == 0
    assert "--random\n" in (tmp_path / "probe" / "run.flags").read_text()


def test_limits_and_a_file_without_a_workdir(here, pretrained, arrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    end = here(
        "probe",
        f"--init_from={pretrained / 'model.keras'}",
        f"--dataset=npz:{arrays}",
        "--train_limit=9",
        "--test_limit=4",
        "--epochs=1",
    )
    assert end.status == 0 and "9 labelled images, 4 to evaluate on" in end.out
    assert not list(tmp_path.iterdir())


def test_random_weights_are_called_so(here, pretrained, arrays):
    given = (f"--init_from={pretrained}", f"--dataset=npz:{arrays}", "--train_limit=9", "--test_limit=4", "--epochs=1")
    said = "random    all weights are replaced by random ones, by --seed=3\n"
    assert said in here("probe", *given, "--random", "--seed=3").out and said not in here("probe", *given).out


def test_by_the_command(command, pretrained, arrays):
    end = command("probe", f"--init_from={pretrained}", f"--dataset=npz:{arrays}", "--epochs=1", "--precision=bfloat16")
    assert end.status == 0 and not end.err and "\nblock 2 " in end.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=sample"], "Expected --init_from: Run folder, .keras file"),
        (["--init_from={run}"], "Expected --dataset: Labelled set"),
        (["--init_from={tmp}/nowhere", "--dataset=sample"], "there is no file"),
        (["--init_from={run}", "--dataset=sample"], "Expected an image of 5 channels, received 1"),
        (["--init_from={run}", "--dataset=npz:{tmp}/plain.npz"], "Expected labels in the train split of npz:"),
        (
            ["--init_from={run}", "--dataset=npz:{tmp}/train.npz"],
            "Expected at least two different images of one class, to divide 4 images into two parts, received fewer",
        ),
        (
            ["--init_from={run}", "--dataset=npz:{tmp}/train.npz", "--neighbours=0"],
            "Expected --neighbours as numbers from 1 on, such as 10,20, received '0'",
        ),
        (
            ["--init_from={run}", "--dataset=npz:{tmp}/one.npz"],
            "Expected labels of at least two classes, received 0 for all of 4 images",
        ),
    ],
)
def test_bad_input_ends_in_one_line(refused, pretrained, tmp_path, flags, message):
    images = np.zeros((4, 48, 80, 5), "uint8")
    np.savez(tmp_path / "plain.npz", train_images=images, test_images=images)
    np.savez(tmp_path / "one.npz", x_train=images, y_train=[0] * 4, x_test=images, y_test=[0] * 4)
    np.savez(tmp_path / "train.npz", images=images, labels=[0, 1, 0, 1])
    assert message in refused("probe", *(flag.format(run=pretrained, tmp=tmp_path) for flag in flags))


def test_classes_have_the_numbers_that_they_have_in_training(refused, here, tmp_path):
    colours = {"ant": (250, 0, 0), "bee": (0, 250, 0), "cat": (0, 0, 250), "cow": (9, 9, 9)}

    def save(*places):
        for place in places:
            (tmp_path / "set" / place).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (8, 8), tuple(max(0, value - i) for value in colours[place.split("/")[1]])).save(
                    tmp_path / "set" / place / f"{i}.png"
                )

    save("train/ant", "train/bee", "train/cat", "val/cat")
    small = ("--size=vit_micro", "--patch_size=4", "--image_size=8", "--batch_size=4", "--steps=1")
    assert (
        here(
            "pretrain",
            f"--dataset=folder:{tmp_path / 'set'}",
            f"--workdir={tmp_path / 'run'}",
            *small,
            "--vocabulary=8",
        ).status
        == 0
    )
    given = (f"--init_from={tmp_path / 'run'}", f"--dataset=folder:{tmp_path / 'set'}")
    end = here("probe", *given, "--neighbours=1,13", f"--workdir={tmp_path / 'probe'}", "--epochs=1")
    assert end.status == 0 and "val has no image of 2 classes (ant, bee)" in end.out, end.err
    assert "--neighbours=13 is more than the 12 training images; all vote." in end.out
    # The class cat is 2 in training; of a split that has no other it would be 0, and no image be right.
    assert json.loads((tmp_path / "probe" / "probe.json").read_text())["knn_accuracy"] == 1
    (tmp_path / "set" / "val" / "cat" / "1.png").write_text("no image")
    assert "received 1 of 4 (cat/1.png: not an image" in refused("probe", *given)
    end = here(
        "probe", *given, "--max_bad_fraction=0.3", f"--workdir={tmp_path / 'probe'}", "--epochs=1", "--overwrite"
    )
    assert end.status == 0 and "12 labelled images, 3 to evaluate on" in end.out, end.err
    assert list(json.loads((tmp_path / "probe" / "data.json").read_text())["splits"]["val"]["left_out"]) == [
        "cat/1.png"
    ]
    save("test/bee", "test/cow")
    for recipe, more in (("probe", given), ("finetune", (given[1], *small, f"--workdir={tmp_path / 'tuned'}"))):
        line = refused(recipe, *more)
        assert (
            "Expected only classes of the train split in the test split of" in line
            and "received images of cow;" in line
            and "ant" not in line
        )


def test_a_set_that_is_not_divided_is_divided(here, pretrained, tmp_path, rng):
    labels = np.arange(30) % 2
    images = rng.integers(0, 128, (30, 48, 80, 5), "uint8")
    np.savez(tmp_path / "all.npz", images=images, labels=labels)
    given = (f"--init_from={pretrained}", f"--dataset=npz:{tmp_path / 'all.npz'}", "--epochs=1")
    end = here("probe", *given, f"--workdir={tmp_path / 'probe'}")
    assert end.status == 0 and not end.err
    assert "is not divided: 20% of each class is drawn to evaluate on" in end.out
    assert "24 labelled images, 6 to evaluate on" in end.out
    listed = (tmp_path / "probe" / "split.csv").read_text().splitlines()
    assert len(listed) == 31 and sum(line.endswith(",test") for line in listed) == 6
    again = here("probe", *given, f"--split={tmp_path / 'probe' / 'split.csv'}", "--seed=5")
    assert again.status == 0 and "24 labelled images, 6 to evaluate on" in again.out
    end = here("probe", *given, "--split=0.5")
    assert "14 labelled images, 16 to evaluate on" in end.out  # 7.5 of each class are 8


def test_features_that_do_not_fit_into_memory_are_refused_with_a_limit(refused, pretrained, arrays, monkeypatch):
    given = (f"--init_from={pretrained}", f"--dataset=npz:{arrays}")
    at_hand = (memory.START[keras.backend.backend()] + 600_000) / 0.8
    page, pages = os.sysconf("SC_PAGE_SIZE"), pathlib.Path("/proc/self/statm")
    monkeypatch.setattr(free_memory, "free_memory", lambda: at_hand - page * int(pages.read_text().split()[1]))
    line = refused("probe", *given)
    found = re.search(r"Expected the features to fit into 80% of .* Add --train_limit=(\d+) --test_limit=(\d+)", line)
    assert found and all(1 <= int(number) < 24 for number in found.groups()), line
