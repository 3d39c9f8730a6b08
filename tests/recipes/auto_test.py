"""The values that pretrain.py and finetune.py choose: of the pure functions, and on the way from a folder to a run."""

import dataclasses
import itertools
import os
import re

import numpy as np
import pytest
from PIL import Image

import keras_splitmask as ks
from keras_splitmask.data import free_memory
from keras_splitmask.data.counting import counted
from recipes.shared import auto, children, commandline, memory, settings, time_limit
from tests.running import run_here

GB = 1e9
LAPTOP = auto.Facts(1562, 100, 100, 3, "tensorflow", accelerator=False, cores=2, memory=20 * GB)
GPU = auto.Facts(1_281_167, 400, 400, 3, "jax", accelerator=True, cores=16, memory=75 * GB)
NAMES = ("image_size", "patch_size", "size", "tokenizer", "vocabulary", "keep", "augmentation", "batch_size", "steps")
OF_PRESET = ("preset", "views", "split", "decoder_depth", "predicted", "projector", "temperature")
SPLITMASK = {"method": "splitmask", "accumulate": None, **dict.fromkeys((*NAMES, *OF_PRESET))}


def chosen(facts, **given):
    return auto.plan(facts, {**SPLITMASK, **given}).values


@pytest.mark.parametrize(
    "facts, expected",
    [
        (LAPTOP, ((100, 100), 10, "vit_micro", "kmeans", 512, 0.25, "crop_colour", 64, 8000)),
        (GPU, ((224, 224), 16, "vit_small", "kmeans", 8192, 0.5, "crop_flip", 256, 500_456)),
        (
            dataclasses.replace(LAPTOP, images=50, height=28, width=28),
            ((28, 28), 4, "vit_micro", "kmeans", 256, 0.25, "dino", 32, 8000),
        ),
        (
            dataclasses.replace(LAPTOP, images=20_000, height=3000, width=3000),
            ((112, 112), 14, "vit_micro", "kmeans", 512, 0.25, "crop_colour", 64, 8000),
        ),
        (
            dataclasses.replace(LAPTOP, height=48, width=80),
            ((48, 80), 8, "vit_micro", "kmeans", 512, 0.25, "dino", 64, 8000),
        ),
        (
            dataclasses.replace(LAPTOP, cores=64),
            ((100, 100), 10, "vit_tiny", "kmeans", 512, 0.25, "crop_colour", 64, 8000),
        ),
        (
            dataclasses.replace(GPU, images=8000, replicas=4),
            ((224, 224), 16, "vit_small", "kmeans", 512, 0.25, "crop_flip", 1024, 20_000),
        ),
    ],
)
def test_the_values_follow_from_the_images_and_the_machine(facts, expected):
    values = chosen(facts)
    assert tuple(values[name] for name in NAMES) == expected


def test_a_preset_gives_the_flags_that_are_not_given():
    small, paper = (chosen(LAPTOP, preset=name, decoder_depth=3) for name in ("small", "paper"))
    assert [small[name] for name in OF_PRESET] == ["small", "2", "random", 3, 0.25, 256, 0.1]
    assert [paper[name] for name in OF_PRESET] == ["paper", "1", "block", 3, 1.0, 0, 0.2]
    assert (paper["keep"], paper["augmentation"]) == (0.5, "crop_flip")
    assert chosen(LAPTOP)["preset"] == "small" and chosen(GPU)["preset"] == "paper"
    # A quarter of nine patches would be two.
    assert chosen(LAPTOP, image_size=(30, 30), patch_size=10)["keep"] == 0.5
    of_beit = auto.plan(LAPTOP, {"method": "beit", **dict.fromkeys((*NAMES, "split"))}).values
    assert of_beit["split"] == "block" and "views" not in of_beit


def test_a_flag_that_was_given_wins_and_has_no_reason():
    given = {
        "image_size": (64, 64),
        "patch_size": 16,
        "size": "vit_base",
        "batch_size": 8,
        "vocabulary": 99,
        "keep": 0.3,
    }
    made = auto.plan(LAPTOP, {**SPLITMASK, **given})
    assert {name: made.values[name] for name in given} == given
    assert not set(given) & set(made.reasons)
    assert "steps" not in auto.plan(LAPTOP, {"method": "splitmask", "epochs": 5.0, **dict.fromkeys(NAMES[:-1])}).reasons


SIDES = (1, 3, 17, 28, 97, 100, 224, 3000)


@pytest.mark.parametrize("machine", [LAPTOP, GPU, dataclasses.replace(GPU, replicas=6, half_precision=True)])
def test_all_kinds_of_images_get_values_that_work(machine):
    for images, height, width, channels in itertools.product((1, 2, 50, 1500, 10**6), SIDES, SIDES, (1, 3, 12)):
        facts = dataclasses.replace(machine, images=images, height=height, width=width, channels=channels)
        made = auto.plan(facts, SPLITMASK)
        (rows, columns), patch = made.values["image_size"], made.values["patch_size"]
        note = facts, made.values
        assert rows % patch == columns % patch == 0 < rows * columns, note
        assert rows <= max(height, patch) and columns <= max(width, patch), note
        assert 1 <= (rows // patch) * (columns // patch) <= 30**2, note
        batch, parts = made.values["batch_size"], made.values["accumulate"]
        assert batch <= max(images, facts.replicas) and batch % (facts.replicas * parts) == 0, note
        assert 2 <= made.values["vocabulary"] <= max(2, images * (rows // patch) * (columns // patch)), note
        assert auto.fits(facts, made), note


def test_a_batch_is_divided_until_it_fits():
    small = dataclasses.replace(LAPTOP, memory=4 * GB)
    given = {"size": "vit_small", "batch_size": 256, "image_size": (224, 224), "patch_size": 16}
    parts = [
        auto.plan(dataclasses.replace(small, memory=m * GB), {**SPLITMASK, **given}).values["accumulate"]
        for m in (64, 16, 4)
    ]
    assert parts[0] < parts[1] < parts[2] <= 256, parts


def test_what_does_not_fit_is_made_to_fit_by_the_flags_that_are_named():
    facts = dataclasses.replace(LAPTOP, memory=3 * GB)
    made = auto.plan(facts, {**SPLITMASK, "size": "vit_large", "batch_size": 64, "accumulate": 1})
    assert not auto.fits(facts, made)
    changes = auto.smaller(facts, made)
    assert changes and auto.fits(facts, auto.plan(facts, {**made.values, **changes}))


# Backend, encoder, pixels, patch, batch, words, micro-batches; MB at the peak of a process that trains.
MEASURED = [
    ("torch", "vit_micro", 28, 4, 16, 512, 1, 607),
    ("torch", "vit_micro", 28, 4, 256, 512, 1, 1719),
    ("torch", "vit_micro", 96, 12, 64, 512, 1, 967),
    ("torch", "vit_micro", 96, 12, 256, 8192, 1, 2586),
    ("torch", "vit_tiny", 112, 14, 64, 512, 1, 1745),
    ("torch", "vit_small", 112, 14, 64, 512, 1, 3014),
    ("torch", "vit_small", 224, 16, 16, 8192, 1, 2615),
    ("torch", "vit_small", 224, 16, 64, 8192, 4, 3095),
    ("tensorflow", "vit_micro", 96, 12, 64, 512, 1, 1492),
    ("tensorflow", "vit_tiny", 112, 14, 64, 512, 1, 2598),
    ("tensorflow", "vit_micro", 28, 4, 16, 512, 1, 1064),
    ("jax", "vit_micro", 96, 12, 64, 512, 1, 1594),
    ("jax", "vit_tiny", 112, 14, 64, 512, 1, 2878),
    ("jax", "vit_micro", 28, 4, 16, 512, 1, 1074),
]


@pytest.mark.parametrize("row", MEASURED)
def test_the_estimate_is_near_what_was_measured(row):
    backend, size, side, patch, batch, words, parts, peak = row
    facts = dataclasses.replace(LAPTOP, backend=backend)
    values = {
        **SPLITMASK,
        "size": size,
        "image_size": (side, side),
        "patch_size": patch,
        "vocabulary": words,
        "keep": 0.5,
    }
    estimate = memory.of_training(facts, values, batch // parts) / 1e6
    assert 0.95 * peak < estimate < 1.3 * peak, (row, estimate)


# Backend, encoder, pixels, patch, batch, head, width of the head; MB at the peak of a program.
MEASURED_WITH_LABELS = [
    ("torch", "vit_tiny", 96, 8, 64, None, None, 2510),
    ("torch", "vit_tiny", 96, 8, 128, None, None, 4480),
    ("torch", "vit_small", 112, 16, 64, None, None, 2180),
    ("tensorflow", "vit_tiny", 96, 8, 64, None, None, 3380),
    ("jax", "vit_tiny", 96, 8, 64, None, None, 4400),
    ("torch", "vit_tiny", 256, 16, 8, "upernet", 128, 1750),
    ("torch", "vit_tiny", 256, 16, 8, "upernet", 256, 2040),
    ("torch", "vit_tiny", 256, 16, 16, "segformer", 128, 2900),
    ("torch", "vit_tiny", 256, 16, 8, "segformer", 256, 2420),
    ("torch", "vit_tiny", 256, 16, 16, "deeplab", 128, 5790),
    ("torch", "vit_tiny", 256, 16, 8, "deeplab", 256, 3590),
    ("torch", "vit_tiny", 256, 16, 16, "retinanet", 128, 2850),
    ("torch", "vit_tiny", 256, 16, 8, "retinanet", 256, 2280),
    ("torch", "vit_tiny", 256, 16, 8, "maskrcnn", 128, 2100),
    ("torch", "vit_tiny", 256, 16, 16, "maskrcnn", 128, 3040),
    ("tensorflow", "vit_tiny", 256, 16, 8, "upernet", 128, 2210),
    ("tensorflow", "vit_tiny", 256, 16, 8, "retinanet", 128, 1990),
    ("jax", "vit_tiny", 256, 16, 8, "upernet", 128, 3040),
]


@pytest.mark.parametrize("row", MEASURED_WITH_LABELS)
def test_the_estimate_with_labels_is_near_what_was_measured(row):
    backend, size, side, patch, batch, head, width, peak = row
    values = {"method": "labels", "size": size, "image_size": (side, side), "patch_size": patch}
    values |= {"head": head, "head_width": width}
    estimate = memory.of_training(dataclasses.replace(LAPTOP, backend=backend), values, batch) / 1e6
    assert 0.95 * peak < estimate < 1.4 * peak, (row, estimate)


@pytest.mark.parametrize(
    "text, seconds", [("2h", 7200), ("90min", 5400), ("1h30m", 5400), ("1.5 h", 5400), ("45s", 45), ("1d", 86400)]
)
def test_a_time_is_read(text, seconds):
    assert time_limit.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2x", "2h 3", "-1h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(commandline.BadInput, match="Expected --time as 2h, 90min or 1h30min"):
        time_limit.seconds_of(text)


@pytest.fixture
def photos(tmp_path):
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (30 + i, 40, 3), "uint8")).save(folder / f"{i}.png")
    return folder


def flags_of(workdir):
    return dict(line[2:].partition("=")[::2] for line in (workdir / "run.flags").read_text().splitlines()[1:])


@pytest.mark.backend
def test_the_plain_command_chooses_and_resumes_what_it_chose(photos, tmp_path, monkeypatch):
    given = (f"--dataset=folder:{photos}", f"--workdir={tmp_path / 'run'}")
    end = run_here("pretrain", *given, "--steps=2")
    assert not end.status, end.err
    image = "--image_size=32 (the size of the images), --patch_size=4 (about 8 x 8 patches)"
    assert f"chosen    {image}\n" in end.out and "GB at hand" in end.out
    of_preset = "--views=2 --keep=0.25 --split=random --augmentation=dino (of --preset=small)"
    assert f"chosen    --preset=small (for CPUs), {of_preset}\n" in end.out
    assert "--learning_rate=0.001 (of --preset=small, for small batches)\n" in end.out
    lines = [line for line in end.out.splitlines() if line.startswith(("chosen", "memory"))]
    assert len(lines) <= 8 and all(len(line) <= 160 for line in lines), lines
    titles = re.findall(r"^(warning|measured|next) +(.*)", end.out, re.M)  # what is doubted comes first
    assert [title for title, _ in titles] == ["warning", "measured", "next"]
    assert titles[0][1].startswith("Too few steps: 2.") and titles[1][1].endswith("on 2,640 photographs of groceries.")
    assert "--duplicates" not in end.out  # of features that are no good
    expected = {"image_size": "32", "patch_size": "4", "size": "vit_micro", "batch_size": "4", "accumulate": "1"}
    expected |= {"vocabulary": "32", "tokenizer": "kmeans", "augmentation": "dino", "steps": "2"}
    expected |= {"log_every": "1", "preset": "small", "views": "2", "keep": "0.25", "temperature": "0.1"}
    found = flags_of(tmp_path / "run")
    assert {name: found[name] for name in expected} == expected

    (tmp_path / "run" / "model.keras").unlink()  # as if it had been killed at the end
    Image.fromarray(np.zeros((300, 300, 3), "uint8")).save(photos / "later.png")  # which would change the choice
    monkeypatch.setenv(children.WATCHED, "1")  # as if reproduce.py had started it
    monkeypatch.setattr(os, "kill", lambda *arguments: None)  # which follows the end of stdin
    again = run_here("pretrain", *given, "--steps=2")
    assert not again.status and "resumed at step 2" in again.out and "chosen" not in again.out, again.err + again.out
    assert "measured" not in again.out and "next" not in again.out
    assert flags_of(tmp_path / "run") == found


def test_a_dry_run_says_what_it_takes_and_leaves_nothing(photos, tmp_path):
    end = run_here("pretrain", f"--dataset=folder:{photos}", f"--workdir={tmp_path / 'run'}", "--dry_run")
    assert not end.status, end.err
    assert re.search(r"^time      .+ for 8000 steps of \S+ s$", end.out, re.M), end.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("height, width", [(1, 1), (3, 5)])
def test_images_of_a_single_patch_are_refused_with_a_size_that_works(tmp_path, height, width):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(np.full((height, width), 100 * i, "uint8")).save(folder / f"{i}.png")
    given = ("pretrain", f"--dataset=folder:{folder}", f"--workdir={tmp_path / 'run'}", "--steps=1")
    end = run_here(*given)
    assert end.status and f"{height}x{width} pixels" in end.err and not (tmp_path / "run").exists(), end.err
    (advice,) = re.findall(r"--image_size=\d+", end.err)
    end = run_here(*given, advice)
    assert not end.status, end.err


def test_a_run_is_held_to_a_time(photos, tmp_path):
    end = run_here("pretrain", f"--dataset=folder:{photos}", f"--workdir={tmp_path / 'run'}", "--time=1s")
    assert not end.status, end.err
    steps = flags_of(tmp_path / "run")["steps"]
    warning = f"warning   1 s is enough for {counted(int(steps), 'step')}. Fewer than 800 often teach little: allow "
    assert warning in end.out and "for 1,500, or choose smaller images" in end.out
    seconds = float(re.search(rf"^time      1 s for {steps} steps? of (\S+) s$", end.out, re.M)[1])
    assert abs(int(steps) - 0.95 / seconds) <= 1 + 0.06 * int(steps), end.out  # seconds has two figures
    refused = run_here(
        "pretrain", f"--dataset=folder:{photos}", f"--workdir={tmp_path / 'b'}", "--time=2s", "--steps=9"
    )
    assert refused.status == 2 and "Expected --time without --steps" in refused.err


def test_a_time_for_few_steps_is_named(capsys):
    for steps, said in ((799, "often teach little"), (800, "may gain less than"), (1499, "may gain less than")):
        assert settings.steps_in((steps + 0.5) / time_limit.USED, 1.0) == steps
        assert said in capsys.readouterr().out
    settings.steps_in(1501 / time_limit.USED, 1.0)
    assert not capsys.readouterr().out


def test_what_does_not_fit_into_memory_is_refused_with_the_flags_that_fit(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(free_memory, "free_memory", lambda: 1 * GB)
    given = (f"--dataset=folder:{photos}", f"--workdir={tmp_path / 'run'}", "--size=vit_large", "--image_size=224")
    end = run_here("pretrain", *given, "--steps=1")
    assert end.status == 2 and re.search(r"Add --size=vit_\w+( --accumulate=\d+)?\.", end.err), end.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "given, more",
    [
        ({"method": "mae", "mae_decoder_depth": 8, "mae_decoder_width": 512}, {"method": "mae"}),
        ({"method": "dino", "local_crops": 8}, {"method": "dino", "local_crops": 0}),
        ({"method": "splitmask", "decoder_depth": 8}, {"method": "splitmask", "decoder_depth": 2}),
    ],
)
def test_larger_decoders_and_more_crops_need_more_memory(given, more):
    values = {"size": "vit_micro", "image_size": (96, 96), "patch_size": 12, "prototypes": 64}
    large, small = (memory.of_training(LAPTOP, {**values, **one}, 64) for one in (given, more))
    assert large > 1.1 * small


def test_a_method_that_takes_no_steps_ends_at_a_dry_run_and_ignores_a_time(photos, tmp_path):
    given = (f"--dataset=folder:{photos}", f"--workdir={tmp_path / 'run'}", "--method=random", "--pictures=0")
    end = run_here("pretrain", *given, "--dry_run")
    assert not end.status and not (tmp_path / "run").exists(), end.err
    end = run_here("pretrain", *given, "--time=1h")
    assert not end.status and (tmp_path / "run" / "model.keras").exists(), end.err


def test_a_run_goes_on_without_the_encoder_that_it_started_from(photos, tmp_path):
    given = (f"--dataset=folder:{photos}", "--log_every=1", "--pictures=0")
    assert not run_here("pretrain", *given, f"--workdir={tmp_path / 'first'}", "--steps=1", "--size=vit_tiny").status
    given = (*given, f"--workdir={tmp_path / 'run'}", "--steps=2", f"--init_from={tmp_path / 'first'}")
    assert not run_here("pretrain", *given).status
    assert flags_of(tmp_path / "run")["size"] == "vit_tiny"  # as the encoder is
    (tmp_path / "run" / "model.keras").unlink()
    (tmp_path / "first" / "model.keras").unlink()
    end = run_here("pretrain", *given)
    assert not end.status and "resumed at step 2" in end.out, end.err


LABELLED = {"batch_size": None, "steps": None, "frozen": False, "evaluated": 0}
SCRATCH = {**LABELLED, **dict.fromkeys(("size", "image_size", "patch_size"))}
TUNED = {**LABELLED, "encoder": (384, 12, 6), "image_size": (224, 224), "patch_size": 16}


@pytest.mark.parametrize(
    "images, machine, expected",
    [
        (8, LAPTOP, (8, 500)),  # no batch is larger than the set
        (50, LAPTOP, (16, 500)),
        (400, LAPTOP, (32, 1250)),  # 100 epochs
        (1500, LAPTOP, (64, 2344)),
        (20_000, LAPTOP, (64, 3000)),  # ten epochs are what two cores have time for
        (1500, GPU, (128, 1172)),
        (100_000, GPU, (128, 20_000)),
        (100_000, dataclasses.replace(GPU, replicas=4), (512, 19_531)),
        (50, dataclasses.replace(GPU, replicas=4), (48, 500)),
    ],
)
def test_batches_and_steps_on_labels_follow_from_the_number_of_images(images, machine, expected):
    facts = dataclasses.replace(machine, images=images)
    for given in (SCRATCH, TUNED):
        made = auto.plan_labelled(facts, given)
        assert (made.values["batch_size"], made.values["steps"]) == expected
        assert auto.fits(facts, made)
    assert "size" not in made.values and made.values["image_size"] == (224, 224)


def test_an_encoder_from_scratch_is_that_of_pretrain():
    for facts in (LAPTOP, GPU, dataclasses.replace(LAPTOP, height=48, width=80, cores=64)):
        made = auto.plan_labelled(facts, SCRATCH)
        names = ("size", "image_size", "patch_size")
        assert [made.values[name] for name in names] == [chosen(facts)[name] for name in names]
        assert set(made.reasons) == {*names, "batch_size", "steps"}
    typed = {"size": "vit_base", "image_size": (64, 64), "patch_size": 16, "batch_size": 7, "steps": 9}
    made = auto.plan_labelled(LAPTOP, {**SCRATCH, **typed})
    assert {name: made.values[name] for name in typed} == typed and not made.reasons
    epochs = {name: value for name, value in SCRATCH.items() if name != "steps"}
    assert "steps" not in auto.plan_labelled(LAPTOP, epochs).values


def test_a_batch_of_labelled_images_is_halved_until_it_fits():
    facts = dataclasses.replace(LAPTOP, memory=5 * GB)
    made = auto.plan_labelled(facts, TUNED)
    assert auto.fits(facts, made) and made.values["batch_size"] < 64
    assert made.reasons["batch_size"] == "to fit into memory"
    typed = auto.plan_labelled(facts, {**TUNED, "batch_size": 64})
    assert not auto.fits(facts, typed) and auto.smaller(facts, typed) == {"batch_size": made.values["batch_size"]}
    assert auto.plan_labelled(facts, {**TUNED, "batch_size": 64, "frozen": True}).memory < typed.memory / 3
    large = {**SCRATCH, "size": "vit_large", "batch_size": 64}
    changes = auto.smaller(facts, auto.plan_labelled(facts, large))
    assert changes and set(changes) <= {"size", "batch_size"}
    assert auto.fits(facts, auto.plan_labelled(facts, {**large, **changes}))
    few, many = (auto.plan_labelled(facts, {**TUNED, "batch_size": 8, "evaluated": n}).memory for n in (0, 10_000))
    assert many - few == 10_000 * 224 * 224 * 3  # they are kept in memory


def test_a_probe_that_does_not_fit_is_limited_to_what_does():
    encoder, shape = (384, 12, 6), (224, 224, 3)
    for at_hand, counts in itertools.product((3 * GB, 8 * GB, 16 * GB), ((50_000, 10_000), (1000, 60_000), (90, 10))):
        needed, each = memory.of_probe("torch", encoder, shape, counts)
        limits = memory.fewer(at_hand, needed, counts, each)
        assert bool(limits) == (needed > 0.8 * at_hand)
        fitting = [limits.get(name, count) for name, count in zip(("train_limit", "test_limit"), counts, strict=True)]
        room = 0.8 * at_hand - memory.of_probe("torch", encoder, shape, fitting)[0]
        assert room >= 0 and all(1 <= a <= b for a, b in zip(fitting, counts, strict=True))
        assert not limits or room < sum(each)  # and no fewer than need be


@pytest.mark.parametrize(
    "given",
    [
        {"method": "splitmask", "projector": 10**9},
        {"method": "splitmask", "decoder_depth": 100_000},
        {"method": "splitmask", "vocabulary": 10**9},
        {"method": "mae", "mae_decoder_width": 32 * 10**5},
        {"method": "mae", "mae_decoder_depth": 100_000},
        {"method": "dino", "prototypes": 10**9},
        {"method": "dino", "local_crops": 100_000},
    ],
)
def test_what_is_far_too_large_is_named_with_a_value_that_fits(given):
    (name,) = set(given) - {"method"}
    others = {"size": "vit_micro", "image_size": (32, 32), "patch_size": 4, "batch_size": 64, "accumulate": 1}
    made = auto.plan(LAPTOP, {**others, **given, "steps": 9})
    assert not auto.fits(LAPTOP, made)
    changes = auto.smaller(LAPTOP, made)
    assert changes[name] < given[name] and auto.fits(LAPTOP, auto.plan(LAPTOP, {**made.values, **changes}))


@pytest.mark.parametrize(
    "build, given",
    [
        (lambda e: ks.SplitMask(e, match_weight=1, inpaint_weight=0, projector=4096), {"projector": 4096}),
        (lambda e: ks.SplitMask(e, inpaint_weight=0, decoder_depth=6), {"decoder_depth": 6}),
        (lambda e: ks.baselines.MAE(e, decoder_depth=6, decoder_width=256), {"mae_decoder_depth": 6}),
        (lambda e: ks.baselines.DINO(e, 10, 4096), {"prototypes": 4096}),
    ],
)
def test_the_estimate_holds_the_weights_of_every_part(build, given):
    """At a batch of no image: what is left is the weights, and what a process starts with."""
    method = {"mae_decoder_depth": "mae", "prototypes": "dino"}.get(*given, "splitmask")
    values = {
        "method": method,
        "size": "vit_micro",
        "image_size": (96, 96),
        "patch_size": 4,
        "mae_decoder_width": 256,
    }
    facts = dataclasses.replace(LAPTOP, channels=3)
    estimate = memory.of_training(facts, {**values, **given}, 0) - memory.START[facts.backend]
    model = build(ks.Encoder.from_size("vit_micro", (96, 96, 3), 4))
    copies = 4 * memory.COPIES_OF_WEIGHTS
    assert 0.98 * copies * model.count_params() < estimate < copies * (model.count_params() + 6 * 12 * 128**2)
