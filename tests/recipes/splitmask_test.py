"""The command `splitmask`, which starts the recipes."""

import os
import subprocess
import sys
import tomllib
from unittest import mock

import pytest

from recipes import splitmask
from recipes.shared import screen
from tests.running import ROOT

TINY = ("--dataset=sample", "--size=vit_micro", "--image_size=8", "--patch_size=4", "--vocabulary=8", "--batch_size=8")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A file `splitmask` like that which pip writes, in a folder on the PATH."""
    script = tmp_path / "bin" / "splitmask"
    script.parent.mkdir()
    module, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["splitmask"].split(
        ":"
    )
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return script


@pytest.fixture
def splitmask_command(installed, tmp_path):
    """Run `splitmask` with these arguments in another folder than the project's."""
    (tmp_path / "elsewhere").mkdir()

    def run(*arguments, cwd=tmp_path / "elsewhere", **environment):
        env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return subprocess.run(["splitmask", *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)

    return run


def test_it_lists_the_programs_with_a_sentence_each(splitmask_command):
    end = splitmask_command()
    assert end.returncode == 0 and not end.stderr and end.stdout == splitmask_command("--help").stdout
    for name, sentence in splitmask.programs().items():
        assert f"  {name:<10} {sentence}\n" in end.stdout
        assert sentence.endswith(".") and sentence.count(".") == 1


def test_every_program_is_in_the_table():
    programs = {path.stem for path in (ROOT / "recipes").glob("*.py")} - {"__init__", "splitmask"}
    assert set(splitmask.programs()) == programs <= set(splitmask.PROGRAMS)


def test_what_is_no_program_ends_in_one_line(splitmask_command):
    for given, advice in (("pretrian", "Did you mean pretrain?"), ("--dataset=sample", "Choose one of pretrain, ")):
        end = splitmask_command(given)
        assert end.returncode == 2 and not end.stdout
        assert end.stderr.startswith(f"splitmask: Unknown program '{given}'. {advice}") and end.stderr.count("\n") == 1


def test_it_prints_the_versions(splitmask_command):
    import keras

    import keras_splitmask as ks

    end = splitmask_command("--version")
    assert end.stdout.startswith(f"keras-splitmask {ks.__version__}, Python 3.") and end.stdout.count("\n") == 1
    assert f", keras {keras.__version__}" in end.stdout


def test_its_messages_name_the_program_as_it_was_called(splitmask_command):
    end = splitmask_command("probe", "--neighbour=1")
    assert end.returncode == 2
    assert end.stderr == "splitmask probe: Unknown command line flag 'neighbour'. Did you mean: neighbours ?\n"


def test_a_run_of_the_script_resumes_by_the_command(splitmask_command, here, tmp_path):
    given = (*TINY, "--steps=2", f"--workdir={tmp_path / 'run'}", "--pictures=0")
    end = here("pretrain", *given)
    assert end.status == 0, end.err
    end = splitmask_command("pretrain", *given)
    assert end.returncode == 0 and "already holds this run, finished" in end.stdout, end.stderr
    end = splitmask_command("pretrain", *given, "--seed=1")
    assert end.returncode == 2 and end.stderr.startswith("splitmask pretrain: ") and "--seed" in end.stderr


def test_commands_are_written_as_the_user_calls_them(installed, monkeypatch, tmp_path):
    with mock.patch.object(sys, "argv", [str(ROOT / "recipes" / "finetune.py")]):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "orig_argv", ["python3", "recipes/finetune.py"])
        assert screen.program("predict") == "python3 recipes/predict.py" and screen.name() == "finetune.py"
        monkeypatch.setattr(sys, "orig_argv", [".venv/bin/python", "recipes/finetune.py"])
        assert screen.program("predict") == ".venv/bin/python recipes/predict.py"
        monkeypatch.chdir(tmp_path)
        assert screen.program("predict").endswith(f"python {ROOT / 'recipes' / 'predict.py'}")
        assert screen.arguments_of("predict") == [sys.executable, str(ROOT / "recipes" / "predict.py")]
        monkeypatch.setattr(screen, "_script", str(installed))
        assert screen.program("predict") == "splitmask predict" and screen.name() == "splitmask finetune"
        assert screen.arguments_of("predict") == [sys.executable, str(installed), "predict"]
        monkeypatch.setenv("PATH", "/usr/bin")
        assert screen.program("predict") == "bin/splitmask predict"
        spaced = tmp_path / "my environment" / "splitmask"
        monkeypatch.setattr(screen, "_script", str(spaced))
        assert screen.program("predict") == "'my environment/splitmask' predict"


def test_the_flag_files_of_the_project_are_found_from_every_folder(splitmask_command, tmp_path):
    for name in ("quickstart", "quickstart.flags", "recipes/flags/quickstart.flags", "paper/mae"):
        end = splitmask_command("pretrain", f"--flagfile={name}", "--steps=no")
        assert end.returncode == 2 and "Expected --steps to be a whole number, received 'no'." in end.stderr, end.stderr
    (tmp_path / "elsewhere" / "quickstart").write_text("--steps=own\n")  # the user's goes first
    assert "received 'own'" in splitmask_command("pretrain", "--flagfile=quickstart").stderr
    end = splitmask_command("pretrain", "--flagfile=quikstart")
    assert end.stderr == ("splitmask pretrain: Flag file not found: quikstart. Did you mean --flagfile=quickstart?\n")


def test_programs_that_start_programs_do_so_in_the_same_way(splitmask_command, tmp_path):
    given = ("--table=ablation", f"--workdir={tmp_path / 'runs'}", "--rows=yes / yes / yes", "--columns=linear")
    end = splitmask_command("reproduce", *given, "--list")
    assert end.returncode == 0, end.stderr
    assert "\n  splitmask pretrain --flagfile=recipes/flags/small/sample.flags " in end.stdout
    assert not (tmp_path / "runs").exists()


REPRODUCE = """
import sys
from recipes import splitmask
from recipes.shared import tables
column = tables.Column("tuned", "finetune", ("--dataset=sample", "--labelled=20", "--steps=1"), tables.top1)
row = tables.Row("tiny", tuple(sys.argv[2].split()), (50.0,))
tables.TABLES["small"]["ablation"] = tables.Table("tiny", "rows", (column,), (row,))
sys.argv = [sys.argv[1], "reproduce", "--table=ablation", f"--workdir={sys.argv[3]}"]
splitmask.main()
"""


@pytest.mark.endurance
def test_reproduce_runs_other_programs_by_the_command(python, installed, tmp_path):
    arguments = ("-c", REPRODUCE, installed, " ".join([*TINY, "--steps=1"]), tmp_path / "runs")
    printed = python(*arguments, backend="torch", PYTHONPATH=str(ROOT))
    assert "tuned, seed 0: finetune in " in printed and "missing" not in printed
    assert list((tmp_path / "runs").rglob("result.json"))
    # A program that fails says its name as the user knows it.
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", REPRODUCE, installed, "--dataset=folder:nowhere", tmp_path / "other"]
    end = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert end.returncode == 2
    first, last = end.stderr.splitlines()
    assert first.startswith("splitmask pretrain: Folder not found") and last.startswith(
        "splitmask reproduce: 1 run failed"
    )


@pytest.mark.endurance
def test_several_hosts_run_the_command(hosts, tmp_path):
    given = (*TINY, "--steps=2", "--pictures=0", f"--workdir={tmp_path / 'run'}")
    first, second = hosts("jax", "recipes/splitmask.py", "pretrain", *given, PYTHONPATH=str(ROOT))
    assert "step 2/2" in first and "sample" not in second and "step" not in second
