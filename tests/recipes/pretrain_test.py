import json

import keras
import numpy as np
import pytest
from PIL import Image

import keras_splitmask as ks
from keras_splitmask import data
from keras_splitmask.training import checkpoints

KEYS = {
    "step",
    "epoch",
    "loss",
    "inpaint_loss",
    "match_loss",
    "inpaint_accuracy",
    "match_accuracy",
    "word_perplexity",
    "feature_std",
}
KEYS |= {"gradient_norm", "learning_rate", "images_per_second", "seconds", "data_wait_fraction"}
TIMES = {"images_per_second", "seconds", "data_wait_fraction"}
SMALL = (
    "--size=vit_micro",
    "--patch_size=4",
    "--image_size=8",
    "--vocabulary=16",
    "--batch_size=8",
    "--steps=3",
    "--log_every=2",
)


@pytest.mark.backend
def test_a_run_leaves_what_it_should(pretrained, lines):
    left = sorted(path.relative_to(pretrained).as_posix() for path in pretrained.rglob("*") if path.is_file())
    left = [name for name in left if not name.startswith("pictures/over_time/")]
    assert left[-8].startswith("checkpoints/") and left[-8].endswith("step-0000000005.checkpoint")
    pictures = "pictures/inpainting_kmeans.png"
    assert left[-7:] == f"data.json metrics.jsonl model.keras {pictures} report.html run.files run.flags".split()
    recorded = (pretrained / "run.files").read_text().splitlines()[1:]
    assert {*left} - {"run.files"} <= {*recorded}
    first, *rest = lines(pretrained / "metrics.jsonl")
    assert first == {"step": 0, "epoch": 0, "knn_accuracy": first["knn_accuracy"]}
    # Every step is made, though 5 is no multiple of 2.
    assert [(line["step"], line["epoch"]) for line in rest] == [(2, 0.333), (4, 0.667), (5, 0.833)]
    assert all(set(line) == KEYS | {"knn_accuracy"} for line in rest)
    assert f"--backend={keras.backend.backend()}\n" in (pretrained / "run.flags").read_text()

    model = ks.interchange.load_model(pretrained)
    assert model.encoder.image_shape == (48, 80, 5) and model.split.seen_count == 7 and model.tokenizer.vocabulary == 8
    with Image.open(pretrained / "pictures" / "inpainting_kmeans.png") as picture:
        assert picture.size == (6 * 84 - 4, 16 + 8 * 52)  # six columns and eight rows of 48x80, at their own size


def test_by_the_command(command, tmp_path, lines):
    end = command("pretrain", "--dataset=sample", "--decoder_depth=1", "--workdir", tmp_path / "run", *SMALL)
    assert end.status == 0 and not end.err
    assert (
        "10000 images of 8x8x1" in end.out and "step 3/3" in end.out and "images/s" in end.out and " s left" in end.out
    )
    assert [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl")] == [0, 2, 3]
    assert (tmp_path / "run" / "model.keras").exists()


@pytest.mark.backend
def test_the_flags_of_a_run_repeat_it(here, pretrained, tmp_path, lines):
    end = here("pretrain", f"--flagfile={pretrained / 'run.flags'}", f"--workdir={tmp_path / 'again'}")
    assert end.status == 0 and not end.err
    for a, b in zip(lines(pretrained / "metrics.jsonl"), lines(tmp_path / "again" / "metrics.jsonl"), strict=True):
        different = {name for name in a if a[name] != pytest.approx(b[name], rel=1e-4)}
        assert different <= TIMES
    flags, again = ((run / "run.flags").read_text() for run in (pretrained, tmp_path / "again"))
    assert again == flags.replace(str(pretrained), str(tmp_path / "again")) and "overwrite" not in flags


@pytest.mark.parametrize(
    ("flags", "absent"),
    [
        (
            [
                "--tokenizer=random_patches",
                "--split=random",
                "--keep=0.25",
                "--positions=sine_cosine",
                "--augmentation=none",
            ],
            set(),
        ),
        (["--tokenizer=kmeans", "--word_resolution=half", "--channels=3", "--augmentation=flip"], set()),
        (["--inpaint_weight=0"], {"inpaint_loss", "inpaint_accuracy", "word_perplexity"}),
        (["--match_weight=0", "--precision=bfloat16"], {"match_loss", "match_accuracy", "feature_std"}),
    ],
)
def test_every_way_to_learn_runs(here, tmp_path, lines, flags, absent):
    end = here("pretrain", "--dataset=sample", f"--workdir={tmp_path / 'run'}", *SMALL, *flags)
    assert end.status == 0 and not end.err
    assert set(lines(tmp_path / "run" / "metrics.jsonl")[-1]) == KEYS - absent
    tokenizer = dict(flag[2:].split("=") for flag in flags).get("tokenizer", "kmeans")
    assert [path.name for path in tmp_path.glob("run/pictures/*.png")] == (
        [] if "inpaint_loss" in absent else [f"inpainting_{tokenizer}.png"]
    )


def save_photographs(folder, rng, count=6):
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), "uint8")).save(folder / label / f"{i}.jpg")


def test_a_folder_of_photographs(here, refused, rng, tmp_path, lines):
    save_photographs(tmp_path / "photos" / "train", rng)
    save_photographs(tmp_path / "photos" / "test", rng, count=5)
    (tmp_path / "photos" / "test" / "dog" / "2.jpg").write_text("no image")
    folder = f"folder:{tmp_path / 'photos'}"
    given = (f"--dataset={folder}", f"--probe={folder}", f"--workdir={tmp_path / 'run'}", *SMALL, "--image_size=8x12")
    assert "received 1 of 10 (dog/2.jpg: not an image" in refused("pretrain", *given, "--max_bad_fraction=0.09")
    end = here("pretrain", *given)
    assert end.status == 0 and not end.err
    assert "probe, test: 9 images of 20x30 to 24x30; 1 left out (dog/2.jpg: not an image" in end.out
    splits = json.loads((tmp_path / "run" / "data.json").read_text())["splits"]
    assert list(splits["probe"]["left_out"]) == ["dog/2.jpg"] and not splits["train"]["left_out"]
    assert "12 images of 8x12x3" in end.out and "knn_accuracy" in lines(tmp_path / "run" / "metrics.jsonl")[-1]
    assert len(json.loads((tmp_path / "run" / "data.json").read_text())["images"]) == 12


def test_bad_files_are_reported_and_listed_and_too_many_stop_the_run(here, refused, rng, tmp_path):
    photos = tmp_path / "photos"
    save_photographs(photos, rng)
    (photos / "cat" / "empty.jpg").write_bytes(b"")
    given = (f"--dataset=folder:{photos}", *SMALL)
    end = here("pretrain", *given, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and not end.err
    assert "12 images of 20x30 to 25x30; 1 left out (cat/empty.jpg: " in end.out
    assert list(json.loads((tmp_path / "run" / "data.json").read_text())["left_out"]) == ["cat/empty.jpg"]
    line = refused("pretrain", *given, f"--workdir={tmp_path / 'other'}", "--max_bad_fraction=0.05")
    assert "Expected at most 5% of the files" in line and "cat/empty.jpg: " in line


def test_a_file_that_breaks_during_the_run_is_named(here, rng, tmp_path):
    photos = tmp_path / "photos"
    save_photographs(photos, rng)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), "uint8")).save(photos / "dog" / "bad.png")
    content = bytearray((photos / "dog" / "bad.png").read_bytes())
    content[content.index(b"IDAT") + 4] ^= 255  # where the pixels begin; its header and its end are as they should be
    (photos / "dog" / "bad.png").write_bytes(content)
    end = here(
        "pretrain", f"--dataset=folder:{photos}", f"--workdir={tmp_path / 'run'}", *SMALL, "--steps=6", "--subset=100%"
    )
    assert end.status == 0 and not end.err
    assert end.out.count("dog/bad.png") == 1 and "Another image is shown in its place." in end.out
    assert list(json.loads((tmp_path / "run" / "data.json").read_text())["broken"]) == ["dog/bad.png"]


def test_packed_images(here, rng, tmp_path):
    save_photographs(tmp_path / "photos", rng)
    given = (f"--dataset=folder:{tmp_path / 'photos'}", f"--cache={tmp_path / 'packed'}", *SMALL)
    assert here("pretrain", *given, f"--workdir={tmp_path / 'run'}").status == 0
    first = [path.name for path in (tmp_path / "packed").iterdir()]
    assert "index.json" in first and here("pretrain", *given, f"--workdir={tmp_path / 'again'}").status == 0
    assert [path.name for path in (tmp_path / "packed").iterdir()] == first


@pytest.mark.backend
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(here, arrays, tmp_path, lines, monkeypatch, stop_at_step):
    given = (
        f"--dataset=npz:{arrays}",
        f"--probe=npz:{arrays}",
        "--size=vit_micro",
        "--vocabulary=8",
        "--batch_size=4",
        "--steps=6",
        "--log_every=3",
    )
    assert here("pretrain", *given, f"--workdir={tmp_path / 'whole'}").status == 0
    stop_at_step(5)
    end = here("pretrain", *given, f"--workdir={tmp_path / 'run'}")
    assert end.status == 75 and "stopped by SIGTERM, saved at step 5; the same command goes on from there" in end.out
    assert not (tmp_path / "run" / "model.keras").exists()
    monkeypatch.undo()
    end = here("pretrain", *given, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and "resumed at step 5" in end.out
    told = [
        [
            {name: value for name, value in line.items() if name not in TIMES}
            for line in lines(tmp_path / run / "metrics.jsonl")
        ]
        for run in ("whole", "run")
    ]
    assert told[0] == told[1] and [line["step"] for line in told[0]] == [0, 3, 6]
    old, new = (ks.interchange.named_weights(ks.interchange.load_encoder(tmp_path / run)) for run in ("whole", "run"))
    assert all(np.array_equal(*map(keras.ops.convert_to_numpy, (old[name], new[name]))) for name in old)


OTHERS = {"tensorflow": ["torch", "jax"], "jax": ["tensorflow", "torch"], "torch": ["tensorflow", "jax"]}[
    keras.backend.backend()
]


@pytest.mark.backend
@pytest.mark.parametrize("other", [OTHERS[0], pytest.param(OTHERS[1], marks=pytest.mark.endurance)])
def test_a_run_goes_on_on_another_backend(command, tmp_path, lines, other):
    given = (
        "--dataset=sample",
        f"--workdir={tmp_path}",
        *SMALL,
        "--steps=4",
        "--save_every=2",
        "--learning_rate=0",
        "--min_learning_rate=0",
        "--pictures=0",
    )
    assert command("pretrain", *given).status == 0
    (tmp_path / "checkpoints" / "step-0000000004.checkpoint").unlink()  # as if it had been killed at step 3
    (tmp_path / "model.keras").unlink()
    _, _, before = checkpoints.load_newest(tmp_path / "checkpoints")
    end = command("pretrain", *given, f"--backend={other}")
    assert end.status == 0 and "resumed at step 2" in end.out and f", {other}\n" in end.out, end.err
    step, _, after = checkpoints.load_newest(tmp_path / "checkpoints")
    assert step == after["optimizer/iteration"] == 4 and before["optimizer/iteration"] == 2
    assert after.keys() == before.keys()
    kept = [name for name in before if not name.startswith(("optimizer/", "random/"))]
    assert all(np.array_equal(before[name], after[name]) for name in kept) and len(kept) > 50  # at a learning rate of 0
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [0, 2, 4]


def test_rewind_skips_a_stretch_of_data_for_good(here, arrays, tmp_path, monkeypatch, stop_at_step):
    starts, batches = [], data.two_view_batches
    monkeypatch.setattr(
        data, "two_view_batches", lambda *given, **more: (starts.append(more["start"]), batches(*given, **more))[1]
    )
    given = (
        f"--dataset=npz:{arrays}",
        "--size=vit_micro",
        "--vocabulary=8",
        "--batch_size=4",
        "--steps=6",
        "--log_every=2",
        f"--workdir={tmp_path / 'run'}",
    )
    for stop, more, expected in ((3, ["--pictures=0"], 0), (5, ["--rewind=1000"], 1003), (None, [], 1005)):
        with monkeypatch.context() as patch:
            if stop:
                stop_at_step(stop, patch)
            starts.clear()
            assert here("pretrain", *given, *more).status == (75 if stop else 0)
        assert starts[1] == expected, starts  # the first is for what does not fit


def test_going_on_from_an_encoder(here, pretrained, arrays, tmp_path):
    given = [
        f"--dataset=npz:{arrays}",
        f"--workdir={tmp_path / 'run'}",
        "--size=vit_micro",
        "--vocabulary=8",
        "--batch_size=4",
        "--steps=1",
    ]
    end = here(
        "pretrain", *given, f"--init_from={pretrained}", "--learning_rate=0", "--min_learning_rate=0", "--pictures=0"
    )
    assert end.status == 0 and "loaded    " in end.out
    old, new = (
        ks.interchange.named_weights(ks.interchange.load_encoder(run)) for run in (pretrained, tmp_path / "run")
    )
    assert set(old) == set(new) and all(
        np.array_equal(*map(keras.ops.convert_to_numpy, (old[name], new[name]))) for name in old
    )


def test_a_run_that_diverges_stops_and_saves_no_model(here, tmp_path, lines):
    workdir = tmp_path / "run"
    given = (
        "--dataset=sample",
        f"--workdir={workdir}",
        *SMALL,
        "--steps=40",
        "--log_every=10",
        "--learning_rate=1e30",
        "--warmup=0",
    )
    end = here("pretrain", *given)
    assert end.status == 2 and end.err.startswith(
        "pretrain.py: Expected a finite loss and gradient, received none from step 2 on;"
    )
    assert end.err.count("\n") == 1 and "the run stops at step 30" in end.err
    assert "step 2 skipped: " in end.out and " is not finite; its images: train[" in end.out
    assert sorted(path.name for path in workdir.iterdir()) == [
        "checkpoints",
        "data.json",
        "metrics.jsonl",
        "pictures",
        "run.files",
        "run.flags",
    ]
    assert [line.get("skipped_steps") for line in lines(workdir / "metrics.jsonl")] == [None, 9, 19]


def test_a_finished_run_is_not_replaced_unasked(here, refused, tmp_path, lines):
    workdir = tmp_path / "run"
    given = ("--dataset=sample", f"--workdir={workdir}", *SMALL, "--steps=1")
    assert here("pretrain", *given).status == 0
    again = here("pretrain", *given)
    assert again.status == 0 and "already holds this run, finished. Choose another --workdir" in again.out
    assert "holds a run with other values of --jit. Choose another folder" in refused("pretrain", *given, "--jit")
    other = (*given, "--seed=1", "--inpaint_weight=0")
    assert "holds a run with other values of --inpaint_weight, --seed. Choose another folder" in refused(
        "pretrain", *other
    )
    assert here("pretrain", *other, "--overwrite").status == 0
    assert [line["step"] for line in lines(workdir / "metrics.jsonl")] == [0, 1] and not list(workdir.rglob("*.png"))
    (workdir / "model.keras").unlink()  # as if it had been killed before its end
    assert here("pretrain", *other).status == 0
    assert [line["step"] for line in lines(workdir / "metrics.jsonl")] == [0, 1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--no_such_flag=1"], "Unknown command line flag 'no_such_flag'"),
        (["--batchsize=8"], "Unknown command line flag 'batchsize'. Did you mean: batch_size ?"),
        (["sample"], "Expected flags only, received 'sample'; write --name=value"),
        (
            ["--size=vit_huge"],
            "Expected a size among vit_micro, vit_tiny, vit_small, vit_base, vit_large, received 'vit_huge'",
        ),
        (["--tokenizer=dvae"], "value should be one of <random_projection|random_patches|kmeans|dalle>"),
        (["--method=simclr"], "--method=simclr: value should be one of <splitmask|beit|mae|deit|dino|random>"),
        (["--steps=many"], "Expected --steps to be a whole number, received 'many'."),
        (["--keep=half"], "Expected --keep to be a number, received 'half'."),
        (["--jit=maybe"], "Expected --jit to be true or false, received 'maybe'."),
        (["--backend=theano"], "--backend=theano: value should be one of <tensorflow|jax|torch>"),
        (["--precision=int8"], "--precision=int8: value should be one of <float32|bfloat16|float16>"),
        (["--steps=0"], "--steps=0"),
        (["--log_every=0"], "--log_every=0"),
        (["--flagfile=nowhere.flags"], "nowhere.flags"),
        (
            ["--image_size=30"],
            "received 30x30 pixels and --patch_size=4; resize the images to 32x32 or choose another patch size",
        ),
        (["--image_size=8by8"], "Expected --image_size as 32 or 48x80 (height x width), received '8by8'"),
        (
            ["--batch_size=10001"],
            "Expected a batch size from 1 to 10000, the number of images, received --batch_size=10001",
        ),
        (["--keep=0"], "0.0 is not a number in the range [0.001, 0.5]"),
        (["--keep=0.6"], "0.6 is not a number in the range [0.001, 0.5]"),
        (["--keep=nan"], "Expected --keep to be a number in the range [0.001, 0.5], received nan; choose"),
        (["--predicted=inf"], "inf is not a number in the range [0.001, 1]"),
        (["--predicted=nan"], "Expected --predicted to be a number in the range [0.001, 1], received nan; choose"),
        (
            ["--temperature=nan"],
            "Expected --temperature to be a number in the range [0.001, 100], received nan; choose",
        ),
        (["--temperature=1e-30"], "1e-30 is not a number in the range [0.001, 100]"),
        (
            ["--inpaint_weight=nan"],
            "Expected --inpaint_weight to be a number in the range [0, 1000], received nan; choose",
        ),
        (["--match_weight=inf"], "inf is not a number in the range [0, 1000]"),
        (["--drop_path=nan"], "Expected --drop_path to be a number, received nan; choose"),
        (
            ["--learning_rate=inf"],
            "Expected --learning_rate to be a non-negative number, received inf; choose",
        ),
        (["--decoder_depth=0"], "--decoder_depth=0: 0 is not an integer in the range [1, 1048576]"),
        (["--keep=0.1"], "received keep=0.1 of 4 patches; choose a smaller --patch_size, or raise keep."),
        (["--channels=4"], "Expected an image of 4 channels, received 1 in"),
        (["--inpaint_weight=0", "--match_weight=0"], "Expected a loss weight above 0"),
        (["--vocabulary=1"], "Expected a vocabulary of at least two words, received vocabulary=1"),
        (["--augmentation=spin"], "Expected augmentation to be one of"),
        (
            ["--dataset=imagenet"],
            "Expected a dataset sample, folder:PATH, npz:PATH, npy:PATH or tfds:NAME, received 'imagenet'",
        ),
        (["--dataset=folder:{}/empty"], "received a folder, which is empty; correct the path"),
        (["--dataset=npz:{}/nan.npz"], "Expected finite pixels, received NaN in train[1] of"),
        (
            ["--dataset=npz:{}/plain.npz", "--probe=npz:{}/../{}/unlabelled.npz", "--batch_size=2"],
            "Expected labels in the train split of npz:",
        ),
        (
            ["--dataset=npz:{}/own.npz", "--probe=npz:{}/../{}/own.npz", "--batch_size=2"],
            "Expected --probe to differ from the training images",
        ),
        (["--init_from={}/nowhere"], "nowhere. Expected a run folder, a .keras"),
        (["--init_from={}/garbage.keras"], "garbage.keras is not a model that keras_splitmask can read"),
        (["--workdir={}/garbage.keras"], "Expected --workdir to be a folder, received"),
    ],
)
def test_bad_input_ends_in_one_line(refused, tmp_path, flags, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage.keras").write_bytes(b"not a zip file")
    images = np.zeros((4, 8, 8), "float32")
    np.savez(tmp_path / "plain.npz", images=images)
    np.savez(tmp_path / "unlabelled.npz", images=images)
    np.savez(tmp_path / "own.npz", images=images, labels=[0, 1, 0, 1])
    images[1, 2, 3] = np.nan
    np.savez(tmp_path / "nan.npz", images=images)
    flags = [flag.replace("{}", str(tmp_path), 1).replace("{}", tmp_path.name) for flag in flags]
    given = ["--dataset=sample", f"--workdir={tmp_path / 'run'}", *SMALL, *flags]
    assert message in refused("pretrain", *given)


def test_weights_that_do_not_fit_are_named(refused, pretrained, arrays, tmp_path):
    given = [
        f"--dataset=npz:{arrays}",
        f"--workdir={tmp_path / 'run'}",
        f"--init_from={pretrained}",
        "--vocabulary=8",
        "--batch_size=4",
    ]
    line = refused("pretrain", *given, "--size=vit_tiny")
    assert "The weights do not fit: " in line and "cls_token has shape (1, 1, 16), expected (1, 1, 24)" in line


def test_going_on_at_another_image_size_and_number_of_channels(here, pretrained, tmp_path):
    given = [
        "--dataset=sample",
        f"--workdir={tmp_path / 'run'}",
        f"--init_from={pretrained}",
        "--vocabulary=8",
        "--batch_size=4",
    ]
    end = here("pretrain", *given, "--size=vit_micro", "--image_size=32", "--patch_size=8", "--steps=1", "--pictures=0")
    assert end.status == 0, end.err
    assert (
        "resized   " in end.out
        and "3x5 to 4x4 patches" in end.out
        and "5 to 1 channels" in end.out
        and "patches of 16 to 8 pixels" in end.out
    )


def test_the_flags_that_a_recipe_cannot_do_without(refused):
    assert "Expected --dataset: Images to learn from" in refused("pretrain", "--workdir=nowhere")
    assert "Expected --workdir: Folder" in refused("pretrain", "--dataset=sample")


def test_bad_input_by_the_command(command, refused, tmp_path):
    np.save(tmp_path / "nan.npy", np.full((4, 8, 8), np.nan, "float32"))
    given = [f"--dataset=npy:{tmp_path / 'nan.npy'}", f"--workdir={tmp_path / 'run'}", *SMALL]
    assert "received NaN in train[0]" in refused("pretrain", *given, runner=command)


def test_metrics_are_json_numbers(pretrained):
    for line in (pretrained / "metrics.jsonl").read_text().splitlines():
        assert all(np.isfinite(value) for value in json.loads(line).values())
