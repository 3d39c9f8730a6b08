import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

import keras_splitmask as ks
from tests.class_folders import FOLDERS, noise, splits_of
from tests.running import FROM_SCRATCH


def from_run(pretrained, arrays, *more):
    """The flags to fine-tune the encoder of a run on an .npz file."""
    return f"--init_from={pretrained}", f"--dataset=npz:{arrays}", *more


@pytest.mark.backend
def test_from_a_run_of_arrays(here, pretrained, arrays, tmp_path, lines):
    workdir = tmp_path / "tuned"
    given = from_run(pretrained, arrays, "--batch_size=4", "--steps=5", "--log_every=2", "--mixup=0.8", "--cutmix=1")
    end = here("finetune", *given, f"--workdir={workdir}")
    assert end.status == 0 and not end.err
    assert f"24 labelled images of 2 classes, 24 to evaluate on, encoder from {pretrained}, 5 steps" in end.out
    result = json.loads((workdir / "result.json").read_text())
    assert result["steps"] == 5 and f"test top-1 {result['test_top1']:.2%}" in end.out
    assert [line["step"] for line in lines(workdir / "metrics.jsonl")] == [0, 2, 4, 5]
    assert set(lines(workdir / "metrics.jsonl")[-1]) == {
        "step",
        "epoch",
        "loss",
        "train_accuracy",
        "test_accuracy",
        "gradient_norm",
        "learning_rate",
        "images_per_second",
        "seconds",
        "data_wait_fraction",
    }

    model = ks.interchange.load_model(workdir)
    with np.load(arrays) as content:
        right = model.predict(content["test_images"], verbose=0).argmax(axis=1) == content["test_labels"]
    assert right.mean() == result["test_top1"]


def test_frozen_leaves_the_encoder_as_it_was_and_mixed_precision_runs(here, pretrained, arrays, tmp_path):
    given = from_run(pretrained, arrays, "--batch_size=4", "--steps=2", "--frozen", "--precision=bfloat16")
    end = here("finetune", *given, f"--workdir={tmp_path / 'tuned'}")
    assert end.status == 0 and "(frozen)" in end.out
    old, new = (ks.interchange.load_encoder(run) for run in (pretrained, tmp_path / "tuned"))
    assert all(np.array_equal(a, b) for a, b in zip(old.get_weights(), new.get_weights(), strict=True))
    # The precision is that of this run, whatever the encoder was trained in.
    assert (old.dtype_policy.name, new.dtype_policy.name) == ("float32", "mixed_bfloat16")


def test_by_the_command(command, pretrained, arrays, tmp_path):
    given = from_run(pretrained, arrays, "--labelled=8", "--batch_size=4", "--steps=2", "--drop_path=0")
    end = command("finetune", *given, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and not end.err
    assert (
        "8 labelled images of 2 classes, 24 to evaluate on" in end.out
        and "step 2/2" in end.out
        and "test top-1" in end.out
    )


def test_with_the_papers_augmentation(here, tmp_path, lines):
    given = (*FROM_SCRATCH, "--steps=3", "--log_every=1", "--seed=2", "--save_every=3")
    more = ("--rand_augment=9", "--random_erasing=0.25", "--repeats=3", "--mixup=0.8", "--cutmix=1")
    runs = {
        name: here("finetune", *given, *flags, f"--workdir={tmp_path / name}")
        for name, flags in (("plain", ()), ("more", more), ("again", more))
    }
    assert all(end.status == 0 for end in runs.values()), runs
    losses = {name: [line.get("loss") for line in lines(tmp_path / name / "metrics.jsonl")] for name in runs}
    assert losses["more"] == losses["again"] != losses["plain"]
    saved = [path.name for path in (tmp_path / "more" / "checkpoints").iterdir()]
    assert saved == ["step-0000000003.checkpoint"]  # --save_every
    assert len((tmp_path / "more" / "subset.txt").read_text().splitlines()) == 20


def test_at_another_image_size(here, pretrained, tmp_path):
    given = (
        f"--init_from={pretrained}",
        "--dataset=sample",
        "--labelled=20",
        "--batch_size=10",
        "--steps=1",
        f"--workdir={tmp_path / 'run'}",
    )
    end = here("finetune", *given, "--image_size=32", "--channels=1")
    assert end.status == 0, end.err
    assert "3x5 to 2x2 patches" in end.out and "5 to 1 channels" in end.out and "test top-1" in end.out


def test_from_scratch(here, tmp_path, lines):
    end = here("finetune", *FROM_SCRATCH, "--steps=2", "--log_every=1", f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and not end.err
    assert "20 labelled images of 10 classes, 2000 to evaluate on, encoder from scratch, 2 steps" in end.out
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoints",
        "data.json",
        "metrics.jsonl",
        "model.keras",
        "pictures",
        "report.html",
        "result.json",
        "run.files",
        "run.flags",
        "subset.txt",
    ]
    assert len(lines(tmp_path / "run" / "metrics.jsonl")) == 3


def test_a_run_that_diverges_stops_and_saves_no_model(here, tmp_path):
    given = (
        *FROM_SCRATCH,
        f"--workdir={tmp_path / 'run'}",
        "--steps=22",
        "--log_every=22",
        "--learning_rate=1e30",
        "--warmup=0",
    )
    end = here("finetune", *given)
    assert end.status == 2 and "Expected a finite loss and gradient, received none from step 2 on" in end.err
    assert end.err.endswith("Start again in another --workdir with a lower --learning_rate or a longer --warmup.\n")
    names = (tmp_path / "run" / "subset.txt").read_text().split()
    cause, images = re.search(r"^step 2 skipped: (.+) is not finite; its images: (.+)$", end.out, re.MULTILINE).groups()
    assert "/" in cause and len(images.split(", ")) == 4 and set(images.split(", ")) <= set(names)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "data.json",
        "metrics.jsonl",
        "run.files",
        "run.flags",
        "subset.txt",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=sample", "--size=vit_micro", "--patch_size=5", "--image_size=28"], "patch_size=5"),
        ([*FROM_SCRATCH, "--init_from={run}"], "already sets the size; leave --size out."),
        (["--dataset=sample", "--init_from={run}", "--patch_size=5"], "patch_size=5"),
        (["--dataset=sample", "--init_from={run}"], "Expected an image of 5 channels, received 1"),
        (
            ["--dataset=sample", "--init_from={tmp}/garbage.keras"],
            "garbage.keras is not a model that keras_splitmask can read",
        ),
        (
            ["--dataset=npz:{tmp}/plain.npz", "--init_from={run}"],
            (
                "Expected labels in the train split of npz:{tmp}/plain.npz, received none: there is no array of labels;"
                " add one"
            ),
        ),
        (
            [*FROM_SCRATCH, "--labelled=5"],
            "--labelled=5: Expected at least one image for each of the 10 classes, received 5; choose 10 or more.",
        ),
        (
            [*FROM_SCRATCH, "--split=0.5"],
            "that is not divided, received sample, which has the split test; leave --split",
        ),
        ([*FROM_SCRATCH, "--split=1.5"], "Expected --split above 0 and below 1, received 1.5."),
        ([*FROM_SCRATCH, "--split=half"], "Expected --split as a fraction (0.2) or a CSV file, received 'half'."),
        ([*FROM_SCRATCH, "--class_weight=even"], "--class_weight=even"),
        ([*FROM_SCRATCH, "--layer_decay=2"], "--layer_decay=2"),
        ([*FROM_SCRATCH, "--drop_path=1"], "Expected a drop path rate in [0, 1), received rate=1.0"),
    ],
)
def test_bad_input_ends_in_one_line(refused, pretrained, tmp_path, flags, message):
    (tmp_path / "garbage.keras").write_bytes(b"")
    images = np.zeros((4, 48, 80, 5), "uint8")
    np.savez(tmp_path / "plain.npz", train_images=images, test_images=images)
    flags = [flag.format(run=pretrained, tmp=tmp_path) for flag in flags]
    assert message.format(tmp=tmp_path) in refused("finetune", f"--workdir={tmp_path / 'run'}", *flags)


def photos(root, *folders, count=4):
    """Images of 8x8 in these folders under `root`, each of its own colour."""
    for i, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for j in range(count):
            Image.new("RGB", (8, 8), (60 * (i % 4), 50 * j, 20 * i)).save(root / folder / f"{j}.png")
    return f"--dataset=folder:{root}"


def test_val_judges_where_there_is_no_test(here, tmp_path):
    given = photos(tmp_path / "set", "train/a", "train/b", "val/a", "val/b")
    end = here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and not end.err
    assert (
        "evaluated on val, since test is missing: 8 images of 8x8" in end.out
        and "8 labelled images of 2 classes, 8 to evaluate on" in end.out
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["classes"] == ["a", "b"] and set(result["recall"]) == {"a", "b"} and result["val_images"] == 8
    assert f"val top-1 {result['val_top1']:.2%}, balanced accuracy {result['balanced_accuracy']:.2%}" in end.out
    assert "'a', one of the commonest classes in training and in val, gives 50.00%" in end.out
    assert result["commonest_class_top1"] == 0.5
    names = {"results": "result.json", "model": "model.keras", "report": "report.html"}
    shown = [f"{title:<10}{tmp_path / 'run' / name}\n" for title, name in names.items()]
    assert "".join(shown) in end.out and f"picture   {tmp_path / 'run' / 'pictures' / 'confusion.png'}\n" in end.out
    assert list(json.loads((tmp_path / "run" / "data.json").read_text())["splits"]) == ["train", "val"]


def test_judge_chooses_and_a_test_split_without_labels_does_not_judge(here, refused, tmp_path):
    given = photos(tmp_path / "set", "train/a", "train/b", "val/a", "val/b", "test")  # as of a competition
    (tmp_path / "set" / "val" / "b" / "3.png").unlink()
    end = here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'run'}")
    assert (
        end.status == 0
        and "evaluated on val, since test has no labels: 7 images" in end.out
        and "7 to evaluate on" in end.out
    )
    end = here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'other'}", "--judge=train")
    assert "8 to evaluate on" in end.out and "train_top1" in (tmp_path / "other" / "result.json").read_text()
    line = refused("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'no'}", "--judge=test")
    assert "Expected labels in the test split of" in line and "the images do not lie in folders of classes" in line
    line = refused(
        "finetune", photos(tmp_path / "flat", "a", "b"), *FOLDERS, "--judge=val", f"--workdir={tmp_path / 'no'}"
    )
    assert "Expected a folder val in" in line and "received one that is not divided into splits" in line


def test_files_left_out_of_any_split_are_counted_and_recorded(here, refused, tmp_path):
    given = photos(tmp_path / "set", "train/a", "train/b", "test/a", "test/b", count=6)
    for name in ("train/a/0.png", "test/a/1.png", "test/b/2.png"):
        (tmp_path / "set" / name).write_text("no image")
    broken = tmp_path / "set" / "test" / "a" / "5.png"  # its header is whole
    at = broken.read_bytes().index(b"IDAT") + 6
    broken.write_bytes(broken.read_bytes()[:at] + bytes(4) + broken.read_bytes()[at + 4 :])
    line = refused("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'no'}")
    assert "Expected at most 10% of the files in" in line and "received 2 of 12 (a/1.png: not an image" in line
    end = here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'run'}", "--max_bad_fraction=0.2")
    assert end.status == 0 and not end.err
    assert (
        "evaluated on test: 10 images of 8x8; 2 left out (a/1.png: not an image of a known format; b/2.png" in end.out
    )
    assert "without   2 files of test, such as a/1.png (not an image of a known format)" in end.out
    assert (
        "received a/5.png" in end.out
        and "It is skipped." in end.out
        and "test: skipped 1 of 10 images, which cannot be read" in end.out
        and "9 to evaluate on" in end.out
    )
    splits = json.loads((tmp_path / "run" / "data.json").read_text())["splits"]
    assert {name: sorted(split["left_out"]) for name, split in splits.items()} == {
        "train": ["a/0.png"],
        "test": ["a/1.png", "b/2.png"],
    }
    assert list(splits["test"]["broken"]) == ["a/5.png"]
    broken.with_name("4.png").write_bytes(broken.read_bytes())
    line = refused("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'no'}", "--max_bad_fraction=0.18")
    assert (
        "Expected at most 18% of the test images to be unreadable, received 2 of 10; Expected" in line
        and "received a/" in line
    )


@pytest.mark.parametrize("seed", ["-1", "2147483648", "18446744073709551616", "half"])
def test_a_seed_that_no_generator_takes(refused, tmp_path, seed):
    for recipe in ("finetune", "probe", "pretrain"):
        assert "--seed" in refused(recipe, f"--workdir={tmp_path / 'run'}", f"--seed={seed}")


def test_names_as_labels_of_arrays(here, refused, tmp_path, rng):
    images = rng.integers(0, 256, (8, 8, 8, 3), "uint8")
    names = np.array(["dog", "cat", "ant", "cat"] * 2)
    np.savez(tmp_path / "named.npz", x_train=images, y_train=names, x_test=images, y_test=names)
    end = here("finetune", f"--dataset=npz:{tmp_path / 'named.npz'}", *FOLDERS, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and "8 labelled images of 3 classes, 8 to evaluate on" in end.out
    for train, test, message in (
        (names, names[::-1] + np.array(["", "s"] * 4), "received 2 others (ants, dogs)"),
        ([0, 1, 2, 1] * 2, [0, 1, 2, 3] * 2, "received 1 others (3)"),
        ([0, 2, 2, 0] * 2, [0, 1, 2, 0] * 2, "received 1 others (1)"),
        (names, [0, 1, 0, 1] * 2, "received images of 0, 1; rename"),
    ):
        np.savez(tmp_path / "named.npz", x_train=images, y_train=train, x_test=images, y_test=test)
        line = refused("finetune", f"--dataset=npz:{tmp_path / 'named.npz'}", *FOLDERS, f"--workdir={tmp_path / 'no'}")
        assert message in line, line


def test_a_folder_that_is_not_divided_is_divided(here, tmp_path, rng):
    given = noise(tmp_path / "set", rng, a=20, b=10, rare=1)
    (tmp_path / "set" / "b" / "copy.png").write_bytes((tmp_path / "set" / "a" / "3.png").read_bytes())
    end = here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'run'}", "--seed=3")
    assert end.status == 0 and not end.err
    assert "is not divided: 20% of each class is drawn to evaluate on, by --seed=3 (train 26, test 6)" in end.out
    assert "1 image is a copy of another" in end.out and "test has no image of 1 class (rare)" in end.out
    assert "26 labelled images of 3 classes, 6 to evaluate on" in end.out
    division = splits_of(tmp_path / "run" / "split.csv")
    assert {split: len(names) for split, names in division.items()} == {"train": 26, "test": 6}
    assert any({"a/3.png", "b/copy.png"} <= names for names in division.values())
    assert "split.csv" in (tmp_path / "run" / "run.files").read_text().splitlines()
    assert set(json.loads((tmp_path / "run" / "data.json").read_text())["splits"]) == {"train", "test"}

    listed = f"--split={tmp_path / 'run' / 'split.csv'}"  # the same again, with another seed
    end = here("finetune", given, *FOLDERS, listed, "--seed=4", f"--workdir={tmp_path / 'listed'}")
    assert end.status == 0 and "split.csv lists: train 26, test 6" in end.out
    assert splits_of(tmp_path / "listed" / "split.csv") == division

    end = here("finetune", given, *FOLDERS, "--split=0.5", "--labelled=9", f"--workdir={tmp_path / 'half'}")
    assert end.status == 0 and "9 labelled images of 3 classes, 15 to evaluate on" in end.out
    assert len((tmp_path / "half" / "subset.txt").read_text().splitlines()) == 9
    end = here("finetune", given, *FOLDERS, "--judge=train", f"--workdir={tmp_path / 'all'}")
    assert end.status == 0 and "32 labelled images of 3 classes, 32 to evaluate on" in end.out
    assert not (tmp_path / "all" / "split.csv").exists()


def test_groups_stay_on_one_side(here, refused, tmp_path, rng):
    given, table = noise(tmp_path / "set", rng, a=12, b=12), tmp_path / "groups.csv"
    groups = [{f"{name}/{i}.png" for i in range(start, start + 3)} for name in "ab" for start in range(0, 12, 3)]
    rows = [f"{number},{name}" for number, group in enumerate(groups) for name in sorted(group)]
    # Groups 0 and 1 share an image, and one image is not in the folder.
    table.write_text("\n".join(["group,file", *rows, "0,a/3.png", "8,a/gone.png", "8,b/0.png"]))
    groups = [groups[0] | groups[1], *groups[2:]]
    for seed in (0, 1):
        workdir = tmp_path / f"run{seed}"
        given_groups = (f"--groups={table}", "--val=0.3", f"--seed={seed}")
        end = here("finetune", given, *FOLDERS, *given_groups, f"--workdir={workdir}")
        assert end.status == 0 and not end.err
        assert f"--groups lists 24 of the images; 1 more is not in folder:{tmp_path}/set, such as a/gone" in end.out
        assert "17 images are copies of others or in their groups, and stay" in end.out
        division = splits_of(workdir / "split.csv")
        assert set(division) == {"train", "val", "test"} and sum(map(len, division.values())) == 24
        assert all(any(group <= names for names in division.values()) for group in groups), division
    assert f"--groups={table}" in (tmp_path / "run0" / "run.flags").read_text()
    line = refused("finetune", given, *FOLDERS, f"--groups={table}", "--judge=train", f"--workdir={tmp_path / 'no'}")
    assert "Expected --groups with a --dataset that is divided here, or with --val" in line
    table.write_text("group,file\n1,set/a/0.png\n1,set/a/1.png\n")
    line = refused("finetune", given, *FOLDERS, f"--groups={table}", f"--workdir={tmp_path / 'no'}")
    assert "such as a/0.png, received set/a/0.png, set/a/1.png; list the images of folder:" in line


def test_test_images_without_labels_are_no_reason_to_stop(here, tmp_path, rng):
    given = noise(tmp_path / "set", rng, train__a=10, train__b=10, test=4)  # as of a competition
    end = here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and not end.err
    assert "has a test split without labels: 20% of each class is drawn to evaluate on" in end.out
    assert "16 labelled images of 2 classes, 4 to evaluate on" in end.out


def test_the_best_on_val_is_kept_beside_the_last(here, tmp_path, rng, lines):
    given = noise(tmp_path / "set", rng, train__a=8, train__b=8, val__a=6, val__b=6, test__a=5, test__b=5)
    (tmp_path / "set" / "test" / "b" / "0.png").write_bytes((tmp_path / "set" / "train" / "b" / "0.png").read_bytes())
    options = (*FOLDERS, "--steps=20", "--log_every=2", "--batch_size=8", "--learning_rate=1e-2")
    end = here("finetune", given, *options, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and not end.err
    assert "val accuracy is measured on 12 images apart from training. test is evaluated on only at the end." in end.out
    assert "test: 1 image is a copy of a training image, so its accuracy says less" in end.out
    assert "val: " not in end.out
    curve = {line["step"]: line["val_accuracy"] for line in lines(tmp_path / "run" / "metrics.jsonl")[1:]}
    assert list(curve) == list(range(2, 21, 2))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["best_val_accuracy"] == max(curve.values()) == curve[result["best_step"]]
    assert result["best_step"] == min(step for step, value in curve.items() if value == max(curve.values()))

    def accuracy(file, split):
        source = ks.data.open_source(given.partition("=")[2], split)
        images, labels = ks.data.read_all(source, (8, 8, 3))
        return (ks.load(tmp_path / "run" / file).predict(images, verbose=0).argmax(axis=1) == labels).mean()

    assert accuracy("best.keras", "val") == pytest.approx(result["best_val_accuracy"], abs=1e-5)
    assert accuracy("best.keras", "test") == pytest.approx(result["best_test_top1"])
    assert accuracy("model.keras", "test") == pytest.approx(result["test_top1"])
    assert accuracy("model.keras", "val") == pytest.approx(curve[20], abs=1e-5)


def test_training_images_are_set_aside_on_request(here, tmp_path, rng):
    given = noise(tmp_path / "set", rng, a=20, b=9, c=4)
    end = here("finetune", given, *FOLDERS, "--val=0.1", f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and not end.err
    division = splits_of(tmp_path / "run" / "split.csv")
    assert {split: len(names) for split, names in division.items()} == {"train": 22, "val": 4, "test": 7}
    assert sum(name.startswith("c") for name in division["val"]) == 1  # as of each class with two
    assert "4 of 26 training images are set aside as val (15%, not 10%: at least one of each class with two)" in end.out
    assert "val accuracy is measured on 4 images" in end.out and (tmp_path / "run" / "best.keras").exists()
    end = here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'none'}")
    assert "test accuracy is measured on the same 7 images as the final result, which" in end.out
    assert not (tmp_path / "none" / "best.keras").exists()


@pytest.mark.backend
def test_a_run_that_was_divided_resumes_bit_for_bit(here, stop_at_step, monkeypatch, tmp_path, rng, lines):
    given = noise(tmp_path / "set", rng, a=14, b=9)
    options = (given, *FOLDERS, "--steps=8", "--log_every=2", "--val=0.3", "--labelled=14", "--class_weight=balanced")
    assert here("finetune", *options, f"--workdir={tmp_path / 'whole'}").status == 0
    with monkeypatch.context() as patch:
        stop_at_step(5, patch)
        assert here("finetune", *options, f"--workdir={tmp_path / 'run'}").status == 75
    before = (tmp_path / "run" / "split.csv").read_text()
    (tmp_path / "set" / "a" / "new.png").write_bytes((tmp_path / "set" / "b" / "0.png").read_bytes())
    end = here("finetune", *options, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and "resumed at step" in end.out, end.err
    assert (tmp_path / "run" / "split.csv").read_text() == before == (tmp_path / "whole" / "split.csv").read_text()
    assert (tmp_path / "run" / "subset.txt").read_text() == (tmp_path / "whole" / "subset.txt").read_text()
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "run")]
    assert results[0] == results[1]
    for file in ("model.keras", "best.keras"):
        weights = [ks.load(tmp_path / name / file).get_weights() for name in ("whole", "run")]
        assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    timed = {"seconds", "images_per_second", "data_wait_fraction"}
    logs = [lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "run")]
    logs = [[{name: line[name] for name in sorted(set(line) - timed)} for line in log] for log in logs]
    assert logs[0] == logs[1] and logs[0][-1]["step"] == 8


def test_a_batch_is_no_larger_than_the_training_set(here, tmp_path, lines):
    end = here("finetune", *FROM_SCRATCH, "--batch_size=32", "--epochs=2", f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and "20 images per step, since there are only 20 to train on" in end.out
    assert "2 steps" in end.out and lines(tmp_path / "run" / "metrics.jsonl")[-1]["epoch"] == 2
    assert "--batch_size=32" in (tmp_path / "run" / "run.flags").read_text()


@pytest.mark.backend
def test_balanced_weights_count_each_class_the_same(here, tmp_path, rng, lines):
    given = noise(tmp_path / "set", rng, train__a=12, train__b=4, test__a=2, test__b=2)
    options = (*FOLDERS, "--steps=1", "--log_every=1", "--batch_size=16", "--label_smoothing=0")
    losses = []
    for more in ((), ("--class_weight=balanced",)):
        workdir = tmp_path / f"run{len(more)}"
        end = here("finetune", given, *options, *more, f"--workdir={workdir}")
        assert end.status == 0 and not end.err
        losses.append(lines(workdir / "metrics.jsonl")[-1])
    # The head starts near zero, so each image's loss is log 2; weights of 2/3 and 2 have a mean of 1 over the set.
    assert [line["loss"] for line in losses] == pytest.approx([np.log(2)] * 2, abs=1e-2)
    # Most of the gradient is of the class that is more frequent; with weights neither is.
    assert losses[1]["gradient_norm"] < 0.8 * losses[0]["gradient_norm"]


def test_the_end_names_commands_and_draws_pictures(here, tmp_path):
    pytest.importorskip("matplotlib")
    given = photos(tmp_path / "a set", "train/a", "train/b", "test/a", "test/b")
    end = here("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'a run'}")
    assert end.status == 0 and not end.err
    assert f"--init_from='{tmp_path / 'a run'}' --images=NEW_IMAGES --output=" in end.out
    export = re.search(r"export(?:.py)? (--.*)", end.out).group(1)
    pictures = sorted(path.name for path in (tmp_path / "a run" / "pictures").iterdir())
    assert "confusion.png" in pictures
    assert (tmp_path / "a run" / "report.html").read_text().count("data:image/png") >= len(pictures)
    assert shlex.split(export) == [*(f"--init_from={tmp_path / 'a run'}", f"--output={tmp_path / 'a run'}-exported")]
