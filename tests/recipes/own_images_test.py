"""reproduce.py with --dataset: methods compared on one's own images, at equal steps or equal minutes."""

import csv
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from PIL import Image

from recipes.shared import method_results

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHOSEN = {"size": "vit_micro", "patch_size": "4", "image_size": "16", "batch_size": "4"}


@pytest.fixture
def photos(tmp_path):
    """A folder of 20 images in two classes, which is not divided."""
    rng = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / "photos" / ("bright", "dark")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 128, (16, 16, 3), "uint8") + np.uint8(127 * (i % 2 == 0))).save(path)
    return tmp_path / "photos"


def child(status):
    return types.SimpleNamespace(wait=lambda: status, stdin=io.BytesIO())


@pytest.fixture
def stand_in(monkeypatch):
    """Instead of running the commands, leaves behind what they would; returns {folder: arguments} of the commands, and
    the folders of those that fail."""
    commands, failing = {}, set()

    def run(command, **options):
        given = dict(text.removeprefix("--").partition("=")[::2] for text in command[2:])
        folder = pathlib.Path(given["workdir"])
        commands[folder.name] = given
        if folder.name in failing:
            return child(2)
        folder.mkdir(parents=True)
        if given.get("method") == "random":
            (folder / "run.flags").write_text("".join(f"--{name}={value}\n" for name, value in CHOSEN.items()))
        if given.get("method") == "splitmask":
            (folder / "run.flags").write_text(f"--preset={given.get('preset', 'small')}\n")
        if folder.name.startswith("probe"):
            (folder / "probe.json").write_text(json.dumps({"knn_accuracy": 0.3, "linear_accuracy": 0.4}))
        seed, tuned = int(given.get("seed", 0)), folder.name.startswith("finetune")
        line = {"step": 7, "seconds": 30.0 if "scratch" in folder.name else 10.0 if tuned else 38.0}
        (folder / "metrics.jsonl").write_text(f"{json.dumps({'step': 0})}\n{json.dumps(line)}\n")
        accuracy = 0.5 + 0.1 * seed + 0.2 * ("mae" in folder.name)
        result = {"test_top1": accuracy, "balanced_accuracy": 0.4, "commonest_test_class_top1": 0.25}
        result |= {"commonest_test_class": "dark", "train_images": 16, "test_images": 4, "steps": 9}
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "model.keras").touch()
        return child(0)

    monkeypatch.setattr(subprocess, "Popen", run)
    return types.SimpleNamespace(commands=commands, failing=failing)


def cells_of(text, name):
    """The cells of a row of the table that is printed."""
    return next([c.strip() for c in line.split("|")[2:-1]] for line in text.splitlines() if f"| {name} " in line)


def test_all_methods_get_the_same_encoder_images_and_minutes(here, photos, tmp_path, stand_in):
    given = (f"--dataset=folder:{photos}", "--methods=scratch,mae", "--labelled=10", f"--workdir={tmp_path / 'runs'}")
    end = here("reproduce", *given, "--time=100s", "--seeds=0,1", "--precision=bfloat16")
    assert end.status == 0, end.err
    ran = stand_in.commands
    assert list(ran) == [
        "encoder",
        *("finetune_scratch_seed=0", "pretrain_mae_seed=0", "finetune_mae_seed=0"),
        *("finetune_scratch_seed=1", "pretrain_mae_seed=1", "finetune_mae_seed=1"),
    ]
    assert all(one["precision"] == "bfloat16" and one["dataset"] == f"folder:{photos}" for one in ran.values())
    scratch, mae, tuned = (ran[f"{name}_seed=1"] for name in ("finetune_scratch", "pretrain_mae", "finetune_mae"))
    assert {name: mae[name] for name in CHOSEN} == CHOSEN
    same = {"size", "patch_size", "image_size"}
    assert {name: scratch[name] for name in same} == {name: CHOSEN[name] for name in same}
    assert tuned["init_from"].endswith("pretrain_mae_seed=1") and not same & set(tuned) and "init_from" not in scratch
    # 100 s: 75 of them for pre-training, whose steps took 38 s, which stand for 40 s.
    assert (scratch["time"], mae["time"], tuned["time"]) == ("100.0s", "75.0s", "60.0s")
    assert scratch["split"] == tuned["split"] and scratch["labelled"] == tuned["labelled"] == "10"
    with open(tuned["split"], newline="") as file:
        parts = {row["name"]: row["split"] for row in csv.DictReader(file)}
    assert sorted(parts.values()) == ["test"] * 4 + ["train"] * 16
    learnt = pathlib.Path(mae["subset"]).read_text().splitlines()
    assert sorted(learnt) == sorted(name for name, part in parts.items() if part == "train")

    assert "warning   --time=100s leaves less than 10 min for pre-training." in end.out

    assert cells_of(end.out, "scratch") == ["55.0 (50.0 to 60.0)", "40.0", "0 + 9", "0.0 + 0.5 = 0.5", "2"]
    assert cells_of(end.out, "mae") == ["75.0 (70.0 to 80.0)", "40.0", "7 + 9", "0.6 + 0.2 = 0.8", "2"]
    assert cells_of(end.out, "always 'dark'")[0] == "25.0"
    page = (tmp_path / "runs" / "comparison.md").read_text()
    lines = re.findall(r"^result    (.*)", end.out, re.M)
    assert lines and re.findall(r"^- (.*)", page, re.M) == lines  # the page says what the screen says
    assert page.startswith(f"# folder:{photos}: 100s planned for each method, 10 labelled images\n\n| method")


def test_the_same_command_resumes_and_methods_are_added(here, photos, tmp_path, stand_in):
    given = (f"--dataset=folder:{photos}", "--steps=5", f"--workdir={tmp_path / 'runs'}")
    stand_in.failing.add("pretrain_mae_seed=0")
    end = here("reproduce", *given, "--methods=mae,scratch")
    assert end.status == 2 and "1 run failed" in end.err and cells_of(end.out, "mae")[0] == "missing"
    assert stand_in.commands["pretrain_mae_seed=0"]["steps"] == "5" and "finetune_mae_seed=0" not in stand_in.commands
    assert "warning   Fewer than 800 steps of pre-training often teach little" in end.out
    assert f"predict.py --init_from={tmp_path / 'runs' / 'finetune_scratch_seed=0'} --images=NEW_IMAGES " in end.out
    stand_in.failing.clear()
    stand_in.commands.clear()
    end = here("reproduce", *given, "--methods=mae,scratch,dino")
    assert end.status == 0, end.err
    assert list(stand_in.commands) == [f"{run}_{name}_seed=0" for name in ("mae", "dino") for run in RUNS]
    assert all("time" not in one for one in stand_in.commands.values())
    stand_in.commands.clear()
    assert here("reproduce", *given, "--methods=scratch").status == 0 and not stand_in.commands
    other = here("reproduce", *given[:1], "--steps=6", given[2])
    assert other.status == 2 and "holds a comparison with other values of --steps; choose another folder" in other.err


RUNS = ("pretrain", "finetune")


def test_probes_are_added_to_finished_runs(here, photos, tmp_path, stand_in):
    home = tmp_path / "runs"
    given = (f"--dataset=folder:{photos}", "--time=100s", f"--workdir={home}", "--methods=scratch,mae")
    assert here("reproduce", *given).status == 0
    stand_in.commands.clear()
    for more, ran in (
        (["--frozen_features"], ["probe_scratch_seed=0", "probe_mae_seed=0"]),
        ([], []),  # they stay
        (
            ["--seeds=0,1"],
            ["finetune_scratch_seed=1", "probe_scratch_seed=1", *(f"{run}_mae_seed=1" for run in (*RUNS, "probe"))],
        ),
    ):
        end = here("reproduce", *given, *more)
        assert end.status == 0 and list(stand_in.commands) == ran, end.err
        assert ("times 100s is" in end.out) == any("finetune" in name for name in ran)
        saved = json.loads((home / "comparison.json").read_text())
        assert saved["settings"]["frozen_features"] is True
        assert all((one["knn"], one["linear"]) == (0.3, 0.4) for one in saved["runs"])
        stand_in.commands.clear()


def test_all_seeds_of_splitmask_have_the_preset_that_the_first_one_chose(here, photos, tmp_path, stand_in):
    home = tmp_path / "runs"
    given = (f"--dataset=folder:{photos}", "--steps=5", f"--workdir={home}", "--methods=scratch,splitmask,mae")
    assert here("reproduce", *given).status == 0
    assert "preset" not in stand_in.commands["pretrain_splitmask_seed=0"]
    assert json.loads((home / "comparison.json").read_text())["settings"]["preset"] == "small"
    assert here("reproduce", *given, "--seeds=0,1").status == 0
    assert stand_in.commands["pretrain_splitmask_seed=1"]["preset"] == "small"
    assert "preset" not in stand_in.commands["pretrain_mae_seed=1"]

    stand_in.commands.clear()
    for seeds, flags in (("1", ""), ("0,1", "--preset=paper\n")):  # of an earlier version, and of another machine
        for seed in seeds.split(","):
            (home / f"pretrain_splitmask_seed={seed}" / "run.flags").write_text(flags)
        end = here("reproduce", *given, "--seeds=2")
        line = f"Expected one --preset in all runs of splitmask, received paper and small in {home}; choose another"
        assert end.status == 2 and line in end.err and not stand_in.commands
    assert here("reproduce", *given[:3], "--methods=mae").status == 0


def test_more_flags_go_to_the_methods_that_read_them(here, photos, tmp_path, stand_in):
    methods = "--methods=mae,splitmask,splitmask-paper"
    given = (f"--dataset=folder:{photos}", methods, f"--workdir={tmp_path / 'runs'}", "--steps=3")
    more = ("--pretrain_flags=--mask_ratio=0.6 --keep=0.3 --warmup=0.1", "--finetune_flags=--epochs=3")
    assert here("reproduce", *given, *more, "--size=vit_tiny").status == 0
    ran = stand_in.commands
    assert ran["encoder"]["size"] == "vit_tiny" and ran["encoder"]["warmup"] == "0.1"
    assert not {"keep", "mask_ratio"} & set(ran["encoder"])
    mae, splitmask = ran["pretrain_mae_seed=0"], ran["pretrain_splitmask_seed=0"]
    assert (mae.get("mask_ratio"), mae.get("keep"), mae["warmup"]) == ("0.6", None, "0.1")
    assert (splitmask.get("mask_ratio"), splitmask.get("keep"), splitmask["warmup"]) == (None, "0.3", "0.1")
    paper = ran["pretrain_splitmask-paper_seed=0"]
    assert {**splitmask, "preset": "paper", "workdir": paper["workdir"]} == paper and paper["keep"] == "0.3"
    assert ran["finetune_mae_seed=0"]["epochs"] == "3" and "warmup" not in ran["finetune_mae_seed=0"]


@pytest.mark.parametrize(
    "given, message",
    [
        (["--dataset=sample", "--table=ablation"], "Expected --dataset or --table, received both; leave one out."),
        (["--table=ablation", "--methods=mae"], "--methods does not go with --table; leave one out."),
        (["--table=ablation", "--time=1h"], "--time does not go with --table; leave one out."),
        (["--dataset=sample", "--rows=x"], "--rows does not go with --dataset; leave one out."),
        (["--dataset=sample"], "Expected --time (equal minutes) or --steps (equal steps), received neither."),
        (["--dataset=sample", "--time=1h", "--steps=5"], "or --steps (equal steps), received both."),
        (["--dataset=sample", "--time=1"], "Expected --time as 2h, 90min or 1h30min, received '1'."),
        (
            ["--dataset=sample", "--steps=5", "--methods=mae,moco,random"],
            "splitmask-paper, splitmask-small, received moco, random.",
        ),
        (["--dataset=sample", "--steps=5", "--methods=mae,mae"], "Expected --methods once each, received 'mae,mae'."),
        (["--dataset=sample", "--steps=5", "--methods=mae,deit", "--labelled=9"], "Expected no deit in --methods"),
        (["--dataset=sample", "--steps=5", "--pretrain_flags=--seed=3"], "Expected --pretrain_flags without --seed"),
        (
            ["--dataset=sample", "--time=5s", "--finetune_flags=--epochs=3"],
            "Expected --finetune_flags without --epochs",
        ),
        (
            ["--dataset=sample", "--steps=5", "--finetune_flags=--epochs 3"],
            "as '--name=value --name=value', received '3'",
        ),
        (["--dataset=sample", "--steps=5", "--finetune_flags='"], "Expected --finetune_flags as flags in quotes"),
        (["--dataset=folder:nowhere", "--steps=5"], "Folder not found: nowhere"),
    ],
)
def test_contradictions_end_in_one_line(refused, tmp_path, given, message):
    assert message in refused("reproduce", *given, f"--workdir={tmp_path / 'runs'}")


def test_a_list_of_runs_needs_no_keras(python, photos, tmp_path):
    recipe = str(ROOT / "recipes" / "reproduce.py")
    start = f"import sys, runpy; sys.modules.update(keras=None); sys.argv[0] = {recipe!r}; runpy.run_path({recipe!r}, "
    start += "run_name='__main__')"
    backend = keras.backend.backend()
    given = (f"--dataset=folder:{photos}", "--methods=scratch,mae", "--time=100s", f"--workdir={tmp_path / 'runs'}")
    out = python("-c", start, *given, "--list", "--precision=float16", backend=backend, PYTHONPATH=str(ROOT))
    assert out.count(" --precision=float16 --workdir=") == 5  # scratch and mae, each with what all share
    assert re.search(r"^mae, seed 0: no result yet$", out, re.M) and cells_of(out, "mae")[0] == "missing"
    assert re.search(r"^  \S*python\S* \S*pretrain.py .*--method=mae --time=75.0s --seed=0 ", out, re.M), out
    assert re.search(r"^  \S*python\S* \S*finetune.py .*--time=25.0s --seed=0 ", out, re.M), out
    assert not (tmp_path / "runs").exists()
    assert "yes / yes / yes" in python(
        "-c", start, "--table=ablation", "--list", f"--workdir={tmp_path / 'runs'}", backend=backend
    )


@pytest.fixture
def forked(monkeypatch, tmp_path):
    """Runs the commands in processes that tests/recipes/forked.py makes, which need not import Keras again."""
    env = {**os.environ, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "recipes" / "forked.py")], env=env, cwd=ROOT, **pipes
    )
    log = tmp_path / "log.txt"

    def run(command, **options):
        server.stdin.write(json.dumps([pathlib.Path(command[1]).stem, command[2:], str(log)]) + "\n")
        server.stdout.readline()
        return child(int(server.stdout.readline()))

    monkeypatch.setattr(subprocess, "Popen", run)
    yield log
    server.stdin.close()
    server.wait()


@pytest.mark.parametrize("budget, seeds", [("--steps=2", "01"), ("--time=2s", "0")])
def test_the_table_holds_the_numbers_of_the_runs(here, photos, tmp_path, forked, budget, seeds):
    home = tmp_path / "runs"
    given = (
        f"--dataset=folder:{photos}",
        "--methods=scratch,mae",
        f"--seeds={','.join(seeds)}",
        "--size=vit_micro",
        budget,
    )
    more = "--log_every=5 --batch_size=4" + (" --steps=3" if "steps" in budget else "")
    command = (
        "reproduce",
        *given,
        "--pretrain_flags=--log_every=5 --pictures=0",
        f"--finetune_flags={more}",
        f"--workdir={home}",
        *(["--frozen_features"] if "steps" in budget else []),
    )
    end = here(*command)
    assert end.status == 0, end.err + end.out + forked.read_text()
    results = {
        method: [json.loads((home / f"finetune_{method}_seed={seed}/result.json").read_text()) for seed in seeds]
        for method in ("scratch", "mae")
    }
    for method, found in results.items():
        values = [100 * one["test_top1"] for one in found]
        spread = f" ({min(values):.1f} to {max(values):.1f})" if len(set(values)) > 1 else ""
        assert cells_of(end.out, method)[0] == f"{sum(values) / len(values):.1f}{spread}"
        assert all(one["test_images"] == 4 and one["train_images"] == 16 for one in found)
    saved = json.loads((home / "comparison.json").read_text())
    assert [one["top1"] for one in saved["runs"]] == [one["test_top1"] for found in results.values() for one in found]
    assert saved["settings"]["dataset"] == f"folder:{photos}"
    with open(home / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"]) for row in rows] == [(m, s) for m in ("scratch", "mae") for s in seeds]
    for row, one in zip(rows, saved["runs"], strict=True):
        assert one["commonest_class_top1"] == 0.5
        assert float(row["top1"]) == one["top1"] and int(row["finetune_steps"]) == one["finetune_steps"] > 0
        lines = [json.loads(line) for line in (pathlib.Path(row["folder"]) / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1]["seconds"] == one["finetune_seconds"] and lines[-1]["step"] == one["finetune_steps"]
        assert bool(one["pretrain_steps"]) == (row["method"] != "scratch")
    if budget == "--steps=2":
        assert [one["pretrain_steps"] for one in saved["runs"]] == [0, 0, 2, 2]
        assert [one["finetune_steps"] for one in saved["runs"]] == [3] * 4
        for row in rows:
            folder = home / f"probe_{row['method']}_seed={row['seed']}"
            probed = json.loads((folder / "probe.json").read_text())
            assert (float(row["knn"]), float(row["linear"])) == (probed["knn_accuracy"], probed["linear_accuracy"])
            assert ("--random\n" in (folder / "run.flags").read_text()) == (row["method"] == "scratch")
        assert all(text.endswith(" untrained") for text in cells_of(end.out, "scratch")[2:4])
        assert method_results.OF_FROZEN in (home / "comparison.md").read_text()
    Image.open(home / "comparison.png").verify()
    forked.unlink()
    again = here(*command)
    assert again.status == 0 and not forked.exists() and cells_of(again.out, "mae") == cells_of(end.out, "mae")


def result_of(method, seed, top1, steps=1000, chance=0.1):
    of_time = {"pretrain_seconds": 60.0, "finetune_seconds": 30.0, "finetune_steps": 5, "balanced_accuracy": top1}
    names = {"commonest_class_top1": chance, "commonest_class": "a|b$", "split": "test", "images": 50}
    return {"method": method, "seed": seed, "top1": top1, "pretrain_steps": steps, **of_time, **names}


def test_the_advice_follows_from_the_ranges(tmp_path):
    def advice(**tops):
        steps = {"scratch": 0, "dino": 100}
        found = [result_of(m, i, top, steps.get(m, 1000)) for m, all_of in tops.items() for i, top in enumerate(all_of)]
        return " ".join(method_results.advice(found, 800))

    assert advice() == ""
    assert advice(mae=[0.5, 0.6, 0.7], scratch=[0.1, 0.2, 0.3]) == (
        "mae has the highest mean. Its worst seed is better than the best of every other method."
    )
    assert "Its range overlaps with that of scratch" in advice(mae=[0.5, 0.6, 0.7], scratch=[0.1, 0.2, 0.5])
    assert "add --seeds=0,1,2" in advice(mae=[0.5], scratch=[0.1])
    assert "No pre-training is ahead of none" in advice(mae=[0.5] * 3, scratch=[0.6] * 3)
    equal = advice(scratch=[0.5], mae=[0.5], beit=[0.4])
    assert equal.startswith("scratch and mae are equal, with the highest mean, 50.00%. Fewer than three seeds")
    assert equal.endswith("No pre-training is ahead of none: allow more time, or use more images without labels.")
    several = advice(mae=[0.3, 0.1, 0.2], dino=[0.2, 0.2, 0.2])  # 0.3 + 0.1 + 0.2 is not 3 * 0.2 in floats
    assert several.startswith("mae and dino are equal, with the highest mean, 20.00%. Add seeds or time.")
    assert "dino: fewer than 800 steps" in advice(dino=[0.5] * 3, scratch=[0.6] * 3)
    assert advice(mae=[0.05], scratch=[0.1]).startswith(
        "After fine-tuning, no method is better than always naming one class"
    )


def test_minutes_that_are_not_equal_are_named():
    results = [result_of("mae", 0, 0.5), result_of("scratch", 0, 0.5), result_of("scratch", 1, 0.5)]
    assert method_results.uneven(results) == "" == method_results.uneven([])
    results[1]["finetune_seconds"] = 90.0  # so that scratch takes 60 + 60 s on average, and mae 60 + 30 s
    assert "scratch took 1.3 times as long as mae" in method_results.uneven(results)


def test_the_picture_shows_each_seed_and_chance(tmp_path, monkeypatch):
    results = [result_of("mae", 0, 0.5), result_of("mae", 1, 0.7), result_of("scratch", 0, 0.3)]
    drawn = []
    from matplotlib.figure import Figure

    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: (drawn.append(self), save(self, *args, **options))
    )
    method_results.draw(tmp_path / "picture.png", results, "photos$")
    (axes,) = drawn[0].axes
    points = [tuple(point) for group in axes.collections for point in group.get_offsets().tolist()]
    assert points == [(50, 0), (70, 0), (60, 0), (30, 1), (30, 1)]
    assert list(axes.lines[-1].get_xdata()) == [10, 10] and [t.get_text() for t in axes.get_yticklabels()] == [
        "mae",
        "scratch",
    ]
    assert Image.open(tmp_path / "picture.png").size[0] > 600


def test_minutes_add_up_as_they_are_shown():
    result = {**result_of("mae", 0, 0.5), "pretrain_seconds": 14.4, "finetune_seconds": 14.4}
    assert "| 0.2 + 0.2 = 0.4 " in method_results.text_of(["mae"], [result])


def test_the_table_names_what_is_missing():
    text = method_results.text_of(["scratch", "mae"], [result_of("mae", 0, 0.5)])
    assert cells_of(text, "scratch") == ["missing", "", "", ""] and cells_of(text, "mae")[0] == "50.0"
    assert len({len(line) for line in text.splitlines()}) == 1
