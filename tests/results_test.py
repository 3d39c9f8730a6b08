"""docs/results.py, which joins comparisons to the logs and writes the page from them."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.running import ROOT

SETTINGS = {"dataset": "folder:cifar10", "time": "15min", "labelled": "500", "precision": "float32"}
NUMBERS = {"split": "test", "images": 10, "labelled_images": 5, "pretrain_steps": 70, "finetune_steps": 30}
NUMBERS |= {"pretrain_seconds": 600.0, "finetune_seconds": 300.0}
GIVEN = {"name": "mine", "machine": "a laptop"}


def run_of(method, seed=0, top1=0.5):
    return {"method": method, "seed": seed, "top1": top1, "folder": "runs", **NUMBERS}


@pytest.fixture
def project(tmp_path):
    """A copy of the page, its program and its logs."""
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/results.py", "docs/results.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs" / "logs", tmp_path / "docs" / "logs")
    return tmp_path


def contents(project):
    return {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


@pytest.fixture
def add(project, tmp_path_factory):
    """Adds a comparison, as a dictionary or the text of its file; returns how the program ended."""
    path = tmp_path_factory.mktemp("compared") / "comparison.json"

    def run(made, **given):
        path.write_text(made if isinstance(made, str) else json.dumps(made))
        given = {"add": path, **GIVEN, **given}
        flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
        command = [sys.executable, str(project / "docs" / "results.py"), *flags]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def test_a_comparison_begins_a_log_and_another_joins_it(project, add):
    end = add({"settings": SETTINGS, "runs": [run_of("scratch", top1=0.25), run_of("mae")]})
    assert end.returncode == 0, end.stderr
    end = add({"settings": {**SETTINGS, "seeds": "1"}, "runs": [run_of("mae", top1=0.75), run_of("mae", 1)]})
    assert end.returncode == 0, end.stderr
    log = json.loads((project / "docs/logs/results/mine.json").read_text())
    assert log["settings"] == SETTINGS
    found = [(one["method"], one["seed"], one["top1"], one["machine"]) for one in log["runs"]]
    assert found == [
        *(("scratch", 0, 0.25, "a laptop"), ("mae", 0, 0.75, "a laptop")),
        ("mae", 1, 0.5, "a laptop"),
    ]
    page = (project / "docs/results.md").read_text()
    assert "| MAE | 62.5 (50.0 to 75.0) |" in page and "logs/results/mine.json" in page


@pytest.mark.parametrize(
    "made, given, line",
    [
        ({}, {"name": None}, "Expected --name with --add, received none; add --name=..."),
        ({}, {"machine": ""}, "Expected --machine with --add, received none; add --machine=..."),
        ({}, {"name": "../mine"}, "Expected --name as letters, digits and underscores, received ../mine; choose"),
        ({}, {"add": None}, "Expected --add with --name and --machine, received none; add --add="),
        ({}, {"add": "nowhere.json"}, "received nowhere.json (No such file or directory); correct --add."),
        ('{"settings": {"data', {}, "which is none; run the comparison again."),
        ("[1]", {}, "which is none; run the comparison again."),
        ({"runs": []}, {}, "Expected a comparison with runs, received"),
        ({"runs": [{"method": "mae", "seed": 0}]}, {}, "Expected runs with finetune_seconds, finetune_steps, images, "),
        ({"runs": [run_of("splitmask")]}, {}, "beit, dino, received splitmask; compare others, or add a name to NAMES"),
        ({"settings": {**SETTINGS, "dataset": "folder:photos"}}, {}, "fashion_mnist, received photos; rename it, or"),
        ({"settings": {"dataset": "folder:cifar10", "steps": 9}}, {}, "by --time, received --steps=9; compare with"),
        (
            {"settings": {**SETTINGS, "time": "30min"}},
            {"name": "cifar10_500_15min"},
            "Expected --frozen_features=True, --pretrain_flags=--pictures=0, --pretrain_fraction=0.75, --time=15min, as"
            " in the log cifar10_500_15min, received no --frozen_features, no --pretrain_flags, no --pretrain_fraction,"
            " --time=30min; compare with equal settings, or choose another --name.",
        ),
    ],
)
def test_what_the_page_could_not_show_is_refused_and_changes_nothing(project, add, made, given, line):
    if isinstance(made, dict):
        made = {"settings": SETTINGS, "runs": [run_of("scratch")], **made}
    before = contents(project)
    end = add(made, **given)
    assert end.returncode == 1 and end.stderr.startswith("results.py: Expected ") and end.stderr.count("\n") == 1
    assert line in end.stderr and contents(project) == before
