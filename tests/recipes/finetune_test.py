import json
import re

import numpy as np
import pytest
from PIL import Image

import keras_splitmask as ks

FROM_SCRATCH = (
    "--size=vit_micro",
    "--patch_size=4",
    "--image_size=8",
    "--dataset=sample",
    "--labelled=20",
    "--batch_size=4",
    "--crop_ratio=0.9",
)


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
        "accuracy",
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
    given = (*FROM_SCRATCH, "--steps=3", "--log_every=1", "--seed=2")
    more = ("--rand_augment=9", "--random_erasing=0.25", "--repeats=3", "--mixup=0.8", "--cutmix=1")
    runs = {
        name: here("finetune", *given, *flags, f"--workdir={tmp_path / name}")
        for name, flags in (("plain", ()), ("more", more), ("again", more))
    }
    assert all(end.status == 0 for end in runs.values()), runs
    losses = {name: [line.get("loss") for line in lines(tmp_path / name / "metrics.jsonl")] for name in runs}
    assert losses["more"] == losses["again"] != losses["plain"]
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
        (["--dataset=sample"], "Expected --size: Encoder to train from scratch"),
        (["--dataset=sample", "--size=vit_micro"], "Expected --patch_size: Side of a patch"),
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
        ([*FROM_SCRATCH, "--labelled=5"], "Expected at least one image for each of the 10 classes, received count=5"),
        (
            [*FROM_SCRATCH, "--batch_size=21"],
            "Expected a batch size from 1 to 20, the number of images, received batch_size=21",
        ),
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


FOLDERS = (
    "--size=vit_micro",
    "--patch_size=4",
    "--image_size=8",
    "--batch_size=4",
    "--steps=1",
    "--workers=1",
    "--drop_path=0",
)


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
    assert (
        set(result) == {"val_top1", "steps", "seed", "classes"}
        and result["classes"] == ["a", "b"]
        and f"val top-1 {result['val_top1']:.2%}" in end.out
    )
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
    given = photos(tmp_path / "flat", "a", "b")
    line = refused("finetune", given, *FOLDERS, f"--workdir={tmp_path / 'no'}")
    assert "Expected a split test or val of" in line and "--judge=train evaluates on the training images" in line


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
        assert "flag --seed=" in refused(recipe, f"--workdir={tmp_path / 'run'}", f"--seed={seed}")


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
