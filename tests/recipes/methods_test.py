import json

import keras
import numpy as np
import pytest
from PIL import Image

import keras_splitmask as ks

TIMES = {"images_per_second", "seconds", "data_wait_fraction"}
KEYS = {"step", "epoch", "loss", "gradient_norm", "learning_rate", "knn_accuracy", *TIMES}
OWN = {
    "beit": {"inpaint_loss", "inpaint_accuracy", "word_perplexity"},
    "mae": set(),
    "deit": {"accuracy"},
    "dino": {"teacher_entropy", "feature_std"},
}
LONG = [
    pytest.param(*run, marks=pytest.mark.long)
    for run in (("beit", "inpainting_kmeans.png"), ("mae", "inpainting_mae.png"), ("dino", None))
]
SMALL = ("--size=vit_micro", "--patch_size=4", "--image_size=8", "--batch_size=8", "--log_every=2")


def weights(run):
    return {
        name: keras.ops.convert_to_numpy(w)
        for name, w in ks.interchange.named_weights(ks.interchange.load_encoder(run)).items()
    }


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.backend
@pytest.mark.parametrize(
    ("method", "picture"),
    [("deit", None), *LONG],
)
def test_a_run_of_a_baseline_is_stopped_resumed_and_of_use(
    here, arrays, tmp_path, lines, monkeypatch, stop_at_step, method, picture
):
    given = [
        f"--dataset=npz:{arrays}",
        f"--probe=npz:{arrays}",
        "--size=vit_micro",
        "--batch_size=4",
        "--steps=6",
        "--log_every=3",
        f"--method={method}",
    ]
    given += {
        "beit": ["--vocabulary=8"],
        "mae": ["--mae_decoder_depth=1"],
        "deit": ["--rand_augment=0"],  # which is of grey and of colour alone, and these images have five channels
        "dino": ["--prototypes=16", "--local_crops=1", "--frozen_epochs=0.5"],
    }[method]
    assert here("pretrain", *given, f"--workdir={tmp_path / 'whole'}").status == 0
    stop_at_step(5)
    assert here("pretrain", *given, f"--workdir={tmp_path / 'run'}").status == 75
    monkeypatch.undo()
    end = here("pretrain", *given, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and "resumed at step 5" in end.out, end.err
    told = [
        [
            {name: value for name, value in line.items() if name not in TIMES}
            for line in lines(tmp_path / run / "metrics.jsonl")
        ]
        for run in ("whole", "run")
    ]
    assert told[0] == told[1] and [line["step"] for line in told[0]] == [0, 3, 6]
    assert set(told[0][-1]) == KEYS - TIMES | OWN[method]
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").glob("pictures/*.png")] == ([picture] if picture else [])
    if picture:
        over_time = [sorted(tmp_path.glob(f"{run}/pictures/over_time/*")) for run in ("whole", "run")]
        assert [path.stem for path in over_time[0]] == ["original", "seen", "step-0000000003", "step-0000000006"]
        assert [path.read_bytes() for path in over_time[0]] == [path.read_bytes() for path in over_time[1]]
        with Image.open(tmp_path / "run" / "pictures" / picture) as drawn:
            assert drawn.size == (3 * 84 - 4, 16 + 8 * 52)  # three columns and eight rows of 48x80, at their own size

    tuned = here(
        "finetune",
        f"--init_from={tmp_path / 'run'}",
        f"--dataset=npz:{arrays}",
        "--batch_size=4",
        "--steps=1",
        f"--workdir={tmp_path / 'tuned'}",
    )
    assert tuned.status == 0 and json.loads((tmp_path / "tuned" / "result.json").read_text())["steps"] == 1


@pytest.mark.tensorflow
def test_random_is_where_every_method_begins(here, tmp_path, lines):
    given = (
        "--dataset=sample",
        "--probe=sample",
        "--probe_limit=40",
        *SMALL,
        "--steps=1",
        "--learning_rate=0",
        "--min_learning_rate=0",
        "--seed=3",
    )
    for method in ("random", "splitmask", "beit", "mae", "dino"):
        end = here(
            "pretrain",
            *given,
            *["--prototypes=16"] * (method == "dino"),
            f"--method={method}",
            f"--workdir={tmp_path / method}",
            "--pictures=0",
        )
        assert end.status == 0 and not end.err
        assert equal(weights(tmp_path / method), weights(tmp_path / "random"))
    left = sorted(path.name for path in (tmp_path / "random").iterdir())
    assert left == ["data.json", "metrics.jsonl", "model.keras", "report.html", "run.files", "run.flags"]
    (line,) = lines(tmp_path / "random" / "metrics.jsonl")
    assert line["step"] == 0 and line["knn_accuracy"] == lines(tmp_path / "mae" / "metrics.jsonl")[0]["knn_accuracy"]
    assert (
        "holds this run, finished"
        in here("pretrain", *given, "--method=random", f"--workdir={tmp_path / 'random'}", "--pictures=0").out
    )
    assert not equal(weights(tmp_path / "random"), weights(other_seed(here, given, tmp_path)))

    from_random = here(
        "finetune",
        f"--init_from={tmp_path / 'random'}",
        "--dataset=sample",
        "--labelled=20",
        "--batch_size=4",
        "--steps=1",
        f"--workdir={tmp_path / 'tuned'}",
    )
    assert from_random.status == 0, from_random.err
    exported = here("export", f"--init_from={tmp_path / 'mae'}", "--layout=vit", f"--output={tmp_path / 'saved'}")
    assert exported.status == 0, exported.err


def other_seed(here, given, tmp_path):
    assert here("pretrain", *given, "--seed=4", "--method=random", f"--workdir={tmp_path / 'other'}").status == 0
    return tmp_path / "other"


def test_one_method_goes_on_from_another(here, tmp_path):
    given = ("--dataset=sample", *SMALL, "--steps=1", "--pictures=0")
    assert here("pretrain", *given, "--method=mae", f"--workdir={tmp_path / 'mae'}").status == 0
    end = here(
        "pretrain",
        *given,
        "--method=beit",
        "--vocabulary=8",
        f"--init_from={tmp_path / 'mae'}",
        f"--workdir={tmp_path / 'beit'}",
    )
    assert end.status == 0 and "fresh     mask_token, words/kernel, words/bias (new)" in end.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method=mae", "--keep=0.5"], "--method=mae does not read --keep; leave it out."),
        (["--method=beit", "--match_weight", "1"], "--method=beit does not read --match_weight; leave it out."),
        (
            ["--method=mae", "--vocabulary=8", "-tokenizer=kmeans"],
            "--method=mae does not read --tokenizer, --vocabulary; leave them out.",
        ),
        (["--method=dino", "--mask_ratio=0.4"], "--method=dino does not read --mask_ratio"),
        (["--local_crops=4"], "--method=splitmask does not read --local_crops"),
        (["--mask_ratio=0.4"], "--method=splitmask does not read --mask_ratio"),
        (
            ["--method=random", "--init_from=nowhere"],
            "Expected no --init_from with --method=random, whose encoder is untrained",
        ),
        (
            ["--method=beit", "--mask_ratio=0.01"],
            "Expected a --mask_ratio in (0, 1) that masks at least one patch, received --mask_ratio=0.01 of 4",
        ),
        (
            ["--method=mae", "--mae_decoder_width=40"],
            "Expected a decoder_width that is a multiple of 32, received decoder_width=40",
        ),
        (["--method=beit", "--tokenizer=dalle"], "Expected --dalle_weights: "),
        (["--method=splitmask", "--mixup=0"], "--method=splitmask does not read --mixup"),
        (
            ["--method=deit", "--augmentation=beit"],
            "Expected augmentation to be one of none, flip, crop_flip, quarter_crop_flip, received 'beit'",
        ),
        (
            ["--subset=5%%"],
            "Expected a number of images as 500, a share of them as 1%, or a file that lists them, received '5%%'",
        ),
        (["--subset=20000"], "Expected 1 to 10000 images, all there are, received 20000."),
    ],
)
def test_flags_that_a_method_does_not_read_are_refused(refused, tmp_path, flags, message):
    assert message in refused("pretrain", "--dataset=sample", f"--workdir={tmp_path / 'run'}", *SMALL, *flags)


def test_methods_share_a_flag_file(here, tmp_path, lines):
    shared = tmp_path / "shared.flags"
    shared.write_text(
        "\n".join(("--dataset=sample", *SMALL, "--steps=1", "--pictures=0", "--vocabulary=8", "--keep=0.25"))
    )
    end = here("pretrain", f"--flagfile={shared}", "--method=mae", f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and "--method=mae ignores --keep, --vocabulary of the flag file\n" in end.out
    written = (tmp_path / "run" / "run.flags").read_text()
    assert "--method=mae\n" in written and "vocabulary" not in written and "match_weight" not in written
    again = here("pretrain", f"--flagfile={tmp_path / 'run' / 'run.flags'}", f"--workdir={tmp_path / 'again'}")
    assert again.status == 0 and "ignores" not in again.out
    assert lines(tmp_path / "again" / "metrics.jsonl")[1]["loss"] == pytest.approx(
        lines(tmp_path / "run" / "metrics.jsonl")[1]["loss"], rel=1e-4
    )


def test_the_help_names_the_methods_that_read_a_flag(python):
    script = """
import json, re, sys
from recipes import pretrain
from recipes.shared import methods
named = {name: re.search(r" \\[([\\w, ]+)\\]$", pretrain.FLAGS[name].help or "") for name in pretrain.FLAGS}
named = {name: found[1].split(", ") for name, found in named.items() if found}
read = {name: [key for key, method in methods.METHODS.items() if name in method.flags] for name in named}
print(json.dumps([named, read, sorted(set().union(*(method.flags for method in methods.METHODS.values())))]))
"""
    named, read, names = json.loads(python("-c", script))
    assert named == read and sorted(named) == names


@pytest.mark.parametrize("amount, count", [("40", 40), ("1%", 100)])
def test_a_subset_is_balanced_and_listed(here, tmp_path, amount, count):
    given = ("--dataset=sample", *SMALL, "--vocabulary=8", "--steps=1", "--pictures=0", f"--subset={amount}")
    end = here("pretrain", *given, f"--workdir={tmp_path / 'run'}")
    assert end.status == 0 and f"{count} images of 8x8x1" in end.out, end.err
    names = (tmp_path / "run" / "subset.txt").read_text().splitlines()
    assert len(set(names)) == count and all(name.startswith("train[") for name in names)
    labels = ks.data.open_source("sample").labels[[int(name[6:-1]) for name in names]]
    assert np.bincount(labels).tolist() == [count // 10] * 10
    listed = here("pretrain", *given, f"--subset={tmp_path / 'run' / 'subset.txt'}", f"--workdir={tmp_path / 'again'}")
    assert listed.status == 0
    assert (tmp_path / "again" / "subset.txt").read_text().splitlines() == names
