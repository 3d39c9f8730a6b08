import io
import json
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
ABLATION = "--table=ablation"
# What runs leave behind, by their program, where SEED is the run's.
LEFT = {
    "pretrain": {"model.keras": "", "metrics.jsonl": '{"seconds": 1}\n{"seconds": 90.0}\n'},
    "finetune": {"result.json": '{"test_top1": 0.7SEED}'},
    "probe": {
        "probe.json": json.dumps({"knn_accuracy": 0.9} | {f"linear_accuracy_block_{n}": n / 8 for n in range(1, 5)})
    },
    "detect": {"result.json": '{"ap": 0.25, "ap50": 0.5, "ap/WBC": 0.75, "mask_ap": 0.125}'},
    "segment": {"result.json": '{"mean_iou": 0.25, "pixel_accuracy": 0.75}'},
}
ROWS = ["BEiT: no / yes / no", "yes / yes / no", "yes / no / yes", "yes / yes / yes"]


@pytest.fixture
def stand_in(monkeypatch):
    """Instead of running the commands, leaves behind what they would; returns the commands. Those in `failing` fail."""
    commands, failing = [], set()

    def ended(status):
        return types.SimpleNamespace(wait=lambda: status, stdin=io.BytesIO())

    def run(command, **options):
        commands.append([text.removeprefix("--") for text in command[1:]])
        recipe = pathlib.Path(command[1]).stem
        options = dict(text.removeprefix("--").split("=", 1) for text in command[2:])
        if recipe in failing:
            return ended(2)
        folder, seed = pathlib.Path(options["workdir"]), int(options["seed"])
        folder.mkdir(parents=True)
        for name, content in LEFT[recipe].items():
            (folder / name).write_text(content.replace("SEED", f"{seed}"))
        return ended(0)

    monkeypatch.setattr(subprocess, "Popen", run)
    return types.SimpleNamespace(commands=commands, failing=failing)


def row_of(text, name):
    return next(
        [cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines() if line.startswith(f"| {name} |")
    )


def test_a_table_is_run_and_printed_beside_the_papers_numbers(here, tmp_path, stand_in):
    end = here("reproduce", ABLATION, "--seeds=0,1,2", f"--workdir={tmp_path}", "--precision=bfloat16")
    assert end.status == 0, end.err
    # One pre-training for the three cells of a row.
    assert [pathlib.Path(command[0]).stem for command in stand_in.commands] == ["pretrain", "finetune", "probe"] * 12
    assert all("precision=bfloat16" in command for command in stand_in.commands)
    for name, paper in zip(ROWS, ("82.8 41.0 32.5", "83.3 46.4 31.0", "79.3 4.0 32.5", "83.6 46.5 34.0"), strict=True):
        ours = ("71.0 ± 1.0", "50.0 ± 0.0", "1.5 ± 0.0")
        assert row_of(end.out, name) == [f"{own} [{number}]" for own, number in zip(ours, paper.split(), strict=True)]
    assert (tmp_path / "small_ablation.md").read_text() in end.out


def test_the_same_command_runs_missing_cells(here, tmp_path, stand_in):
    end = here("reproduce", ABLATION, f"--workdir={tmp_path}", f"--rows={ROWS[3]}", "--columns=linear")
    assert row_of(end.out, ROWS[3]) == ["missing [83.6]", "50.0 [46.5]", "1.5 [34.0]"]
    assert row_of(end.out, ROWS[0]) == ["missing [82.8]", "missing [41.0]", "missing [32.5]"]
    del stand_in.commands[:]
    end = here("reproduce", ABLATION, f"--workdir={tmp_path}", f"--rows={ROWS[3]}", "--seeds=0,1")
    recipes = [pathlib.Path(command[0]).stem for command in stand_in.commands]
    assert recipes == ["finetune", "pretrain", "finetune", "probe"]
    assert row_of(end.out, ROWS[3]) == ["70.5 ± 0.7 [83.6]", "50.0 ± 0.0 [46.5]", "1.5 ± 0.0 [34.0]"]


def test_failures_are_reported_and_the_rest_runs(here, tmp_path, stand_in):
    stand_in.failing.add("finetune")
    end = here("reproduce", ABLATION, f"--workdir={tmp_path}", f"--rows={ROWS[3]}")
    assert end.status == 2 and "1 run failed" in end.err
    assert row_of(end.out, ROWS[3]) == ["missing [83.6]", "50.0 [46.5]", "1.5 [34.0]"]


def test_list_runs_nothing(here, tmp_path, stand_in):
    end = here("reproduce", ABLATION, "--list", "--precision=bfloat16", f"--workdir={tmp_path / 'runs'}")
    assert all("--precision=bfloat16 --workdir=" in line for line in end.out.splitlines() if line.startswith("  "))
    assert end.status == 0 and not stand_in.commands and not (tmp_path / "runs").exists()
    assert end.out.count("seed 0: no result yet\n") == 12
    programs = re.findall(r"^  \S*python\S* recipes/(\w+).py --", end.out, re.M)
    assert {name: programs.count(name) for name in programs} == {"pretrain": 4, "finetune": 4, "probe": 4}


def test_bad_input_ends_in_one_line(refused, tmp_path):
    for given, message in (
        (
            ["--table=ablation", "--rows=no"],
            "Expected --rows among BEiT: no / yes / no, yes / yes / no, yes / no / yes, yes / yes / yes, received no.",
        ),
        (["--table=ablation", "--seeds=one"], "Expected --seeds as numbers from 0 on, such as 0,1,2, received 'one'."),
        ([], "Expected --dataset=folder:PATH for your own images, or --table, received neither."),
    ):
        assert message in refused("reproduce", *given, f"--workdir={tmp_path / 'runs'}")


def test_the_commands_of_imagenette_fill_its_table(here, tmp_path):
    """At a small size, on images of two classes."""
    for i in range(24):
        path = tmp_path / "images" / ("train" if i < 16 else "val") / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 40 + 160 * (i % 2) + i, "uint8")).save(path)
    row = "SplitMask small"
    given = ("reproduce", "--table=imagenette", "--scale=paper", "--list", f"--rows={row}")
    given += (f"--imagenette=folder:{tmp_path / 'images'}", f"--workdir={tmp_path / 'runs'}")
    end = here(*given)
    assert row_of(end.out, "MAE") == ["missing [72.1]", "missing [84.1]"]
    commands = [shlex.split(line) for line in end.out.splitlines() if line.startswith("  ")]
    small = "--size=vit_micro --image_size=16 --patch_size=4 --batch_size=8 --epochs=1 --vocabulary=8 --pictures=0"
    for words in commands[:2]:
        recipe = next(word for word in ("pretrain", "probe") if any(word in text for text in words[:2]))
        flags = [word for word in words if word.startswith("--")]
        assert f"--dataset=folder:{tmp_path / 'images'}" in flags
        assert here(recipe, *flags, *(small.split() if recipe == "pretrain" else ["--neighbours=3"])).status == 0
    found = row_of(here(*given).out, row)
    assert all(re.fullmatch(r"[0-9.]+", cell) for cell in found) and len(found) == 2


IN_FOLDERS = ("cifar10", "mnist", "groceries", "bccd", "camvid")


@pytest.mark.parametrize(
    ("table", "runs", "row", "found"),
    [
        ("target_only", {"pretrain": 16, "finetune": 16}, "SplitMask small", ["70.0"] * 4),
        ("robustness", {"pretrain": 5, "finetune": 20}, "groceries", ["70.0"] * 4),
        ("length", {"pretrain": 15, "finetune": 15}, "SplitMask paper", ["70.0"] * 5),
        ("blocks", {"pretrain": 3, "probe": 3}, "random weights", ["12.5", "25.0", "37.5", "50.0"]),
        ("detection", {"pretrain": 4, "detect": 4}, "BEiT", ["25.0", "50.0", "75.0"]),
        ("segmentation", {"pretrain": 4, "segment": 4}, "SplitMask paper", ["25.0", "75.0"]),
    ],
)
def test_small_tables_without_published_numbers(here, tmp_path, stand_in, table, runs, row, found):
    for name in IN_FOLDERS:
        (tmp_path / name).mkdir()
    kinds = {"bccd": "coco", "camvid": "masks"}
    places = [f"--{name}={kinds.get(name, 'folder')}:{tmp_path / name}" for name in IN_FOLDERS]
    end = here("reproduce", f"--table={table}", *places, f"--workdir={tmp_path / 'runs'}")
    assert end.status == 0, end.err
    ran = [pathlib.Path(command[0]).stem for command in stand_in.commands]
    assert {name: ran.count(name) for name in ran} == runs
    assert row_of(end.out, row) == found and "[" not in row_of(end.out, row) and "numbers in brackets" not in end.out
    if table in ("detection", "segmentation"):
        images = tmp_path / {"detection": "bccd", "segmentation": "camvid"}[table] / "train" / "images"
        assert all(f"dataset=folder:{images}" in words for words in stand_in.commands[::2])


def test_dense_tables_at_the_papers_scale(here, tmp_path, stand_in):
    end = here("reproduce", "--table=detection", "--scale=paper", f"--workdir={tmp_path}")
    assert row_of(end.out, "ViT-B random, 6x") == ["25.0 [43.0]", "12.5 [38.8]"]
    assert row_of(end.out, "ViT-S SplitMask, COCO") == ["25.0 [45.3]", "12.5 [40.6]"]
    longer = [words for words in stand_in.commands if "epochs=72" in words]
    assert len(longer) == 2 and all("detect.py" in words[0] for words in longer)
    end = here("reproduce", "--table=segmentation", "--scale=paper", f"--workdir={tmp_path}")
    assert row_of(end.out, "SplitMask, ADE20k") == ["25.0 [45.7]"]


def test_a_data_set_that_lies_nowhere_is_named_before_anything_runs(here, refused, tmp_path, stand_in, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there is no folder of that name
    end = refused("reproduce", "--table=target_only")
    assert end == "reproduce.py: Data set not found: groceries. Give its place as --groceries=folder:PATH.\n"
    end = refused("reproduce", "--table=detection", "--bccd=coco:cells")
    assert end == "reproduce.py: Data set not found: cells. Give its place as --bccd=coco:PATH.\n"
    assert not stand_in.commands
    assert here("reproduce", "--table=target_only", "--columns=CIFAR-10").status == 0
    end = here("reproduce", "--table=target_only", "--list")
    assert end.status == 0
    assert re.findall(r"^data +(.*)", end.out, re.M) == [
        "--cifar10=tfds:cifar10",
        "--mnist=tfds:mnist",
        "Data set not found: groceries. Give its place as --groceries=folder:PATH.",
    ]


PARENT = """
import sys
from recipes.shared import children, commandline
with commandline._stopped_by_signals():
    raise SystemExit(children.run([sys.executable, "-c", sys.argv[-1]]))
"""
CHILD = """
import os, signal, sys, time
from recipes.shared import children
def stop(*arguments):
    os.write(1, b"saved\\n")  # `print` fails in a handler that interrupts another `print`
    time.sleep(0.5)
    os.write(1, b"ended\\n")
    os._exit(75)
signal.signal(signal.SIGTERM, stop)
children.end_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_run_saves_and_ends_with_the_process_that_runs_it(number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    parent.stdout.readline()  # both have begun
    parent.send_signal(number)
    rest = parent.stdout.read()  # ends when both have ended
    assert [line for line in rest.splitlines() if "topped by" not in line] == ["saved", "ended"]
    assert parent.wait(10) == (-signal.SIGKILL if number == signal.SIGKILL else 75)
