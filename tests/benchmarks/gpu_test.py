import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tests import class_folders
from tests.running import ROOT

STEP = ("--size=vit_micro", "--image_size=8x12", "--channels=3", "--vocabulary=16", "--batch_size=4")
# Python for gpu.sh: it keeps its arguments, and writes the file that is asked for.
PYTHON = f"""#!/bin/sh
case $1 in *gpu_record.py) exec {sys.executable} "$@" ;; esac
printf '%s\\n' "$@" >"$COMMANDS/$$"
case "$*" in *$FAILING*) echo "It broke."; exit 3 ;; esac
for argument; do
  case $argument in
    --json=*) echo '{{"done": true}}' >"${{argument#*=}}" ;;
    --workdir=*) mkdir -p "${{argument#*=}}"; echo '{{"done": true}}' >"${{argument#*=}}/comparison.json" ;;
  esac
done
"""
NVIDIA_SMI = "#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 580.159.04'\n"
CHECKED = {"check_torch_gpu_and_torch_cpu", "check_jax_gpu_and_jax_cpu", "check_jax_cpu_and_torch_cpu"}
TIMED = {f"time_{name}_{backend}" for name in ("alone", "small", "turns") for backend in ("torch", "jax")}
TRAINED = {f"train_{method}_torch" for method in ("scratch", "splitmask-small", "mae")}


@pytest.fixture
def gpu(tmp_path):
    """Runs gpu.sh; returns how it ended, and what is in gpu.json."""

    def run(*arguments, **environment):
        environment = {**os.environ, "PYTHON": sys.executable, **environment}
        command = ["bash", ROOT / "benchmarks" / "gpu.sh", *arguments]
        end = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800)
        path = tmp_path / "out" / "gpu.json"
        return end, json.loads(path.read_text()) if path.exists() else None

    return run


@pytest.fixture
def planned(gpu, tmp_path):
    """Runs gpu.sh as on a machine with a GPU, without running its commands; returns them, too, as lists of words."""

    def run(*arguments, failing="nothing"):
        programs, commands = tmp_path / "programs", tmp_path / "commands"
        commands.mkdir()
        programs.mkdir()
        for name, text in (("python", PYTHON), ("nvidia-smi", NVIDIA_SMI)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        path = f"{programs}:{os.environ['PATH']}"
        end, found = gpu(*arguments, PYTHON=programs / "python", PATH=path, COMMANDS=commands, FAILING=failing)
        return end, found, [file.read_text().splitlines() for file in commands.iterdir()]

    return run


def test_every_command_for_the_gpu_has_flags_that_its_program_knows(planned, parsed):
    end, found, commands = planned("out", "folder:photos")
    assert end.returncode == 0 and not end.stderr, end.stdout + end.stderr
    assert found["device"] | {"cpu_cores": 16} == {
        "gpu": "NVIDIA H200",
        "gpu_memory": "143771 MiB",
        "driver": "580.159.04",
        "cpu_cores": 16,
    }
    assert "keras " in found["versions"] and not found["dry_run"] and not found["failures"]
    assert set(found["results"]) == set(found["seconds"]) == CHECKED | TIMED | TRAINED
    assert max(map(int, re.findall(r"at most (\d+) s", end.stdout))) < 600
    for script, *arguments in commands:
        with parsed(os.path.basename(script).removesuffix(".py"), *arguments) as program:
            given = program.flags.flag_values_dict()
            if script.endswith("reproduce.py"):
                program.check_flags()
        if script.endswith("reproduce.py"):
            for name in ("pretrain", "finetune"):
                with parsed(name, *given[f"{name}_flags"].split()):
                    pass


def test_the_stages_leave_a_minute_of_a_quarter_of_an_hour():
    text = (ROOT / "benchmarks" / "gpu.sh").read_text()
    limits = [int(seconds) for seconds in re.findall(r"deadline=\$\(\(SECONDS \+ (\d+)", text)]
    assert len(limits) == 3 and sum(limits) <= 14 * 60


def test_a_part_that_fails_is_recorded_and_the_others_run(planned):
    end, found, _ = planned("out", "folder:photos", "check", "time", failing="--beside=torch_by_hand")
    assert end.returncode == 1 and "parts that failed: 2" in end.stdout
    assert found["failures"] == {f"time_turns_{name}": "status 3: It broke." for name in ("torch", "jax")}
    assert set(found["results"]) == CHECKED | TIMED - set(found["failures"])


def test_a_part_whose_time_was_up_loses_its_earlier_result(here, tmp_path):
    """124 is the status of `timeout`."""
    (tmp_path / "log").write_text("start     keras_splitmask: 31.0 s\n\n")
    (tmp_path / "gpu.json").write_text(
        '{"seconds": {}, "failures": {}, "results": {"time_alone_jax": {}, "check": {}}}'
    )
    paths = [f"--output={tmp_path / 'gpu.json'}", f"--log={tmp_path / 'log'}", "--result=/dev/null"]
    assert here("gpu_record", *paths, "--part=time_alone_jax", "--status=124", "--seconds=70").status == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    reason = "not finished after 70 s: start     keras_splitmask: 31.0 s"
    assert found["failures"] == {"time_alone_jax": reason}
    assert found["results"] == {"check": {}} and found["seconds"] == {"time_alone_jax": 70}


def test_arguments_that_it_cannot_use_are_refused(gpu, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    for arguments, reason in (
        (["out"], "Expected OUT and DATASET, received out"),
        (["", "sample", "--dry_run"], "Expected OUT and DATASET, received  sample;"),
        (["//", "sample", "--dry_run"], "Expected OUT and DATASET, received // sample;"),
        (["out", "", "--dry_run"], "Expected OUT and DATASET, received out ;"),
        (
            ["out", "sample", "--dry_run", "--methods="],
            "Expected --methods as names with commas between them, received",
        ),
        (["out", "sample", "--dry_run", "--backends=torch,,jax"], "Expected --backends as names"),
        (["out", "sample", "--dry_run", "--train_backend="], "Expected --train_backend as names"),
        (["out", "sample", "--quick"], "Unknown flag --quick"),
        (["out", "sample", "test"], "Expected the stages check, time and train, received test"),
        (["out", "sample"], "Expected a GPU that nvidia-smi finds; add --dry_run"),
    ):
        end, _ = gpu(*arguments, PATH=f"{tmp_path}:{os.environ['PATH']}")
        assert end.returncode == 2 and reason in end.stderr and not (tmp_path / "out").exists()
        assert end.stderr.count("\n") == 1 and not end.stdout


@pytest.mark.parametrize("name", ["out", "out.runs"])
def test_a_file_in_the_place_of_a_folder_is_refused_and_kept(gpu, tmp_path, name):
    (tmp_path / name).write_text("mine")
    end, _ = gpu("out/", "sample", "--dry_run")
    line = "gpu.sh: Expected folders that can be written, received out and out.runs; choose another OUT.\n"
    assert (end.returncode, end.stdout, end.stderr) == (2, "", line) and (tmp_path / name).read_text() == "mine"


@pytest.mark.backend
@pytest.mark.long
def test_a_step_is_saved_and_compared(here, tmp_path):
    one, other, result = (tmp_path / name for name in ("one.npz", "other.npz", "check.json"))
    assert here("gpu_step", *STEP, f"--output={one}").status == 0
    files = (f"--step={other}", f"--beside={one}", f"--json={result}")
    assert "There is no step other: nothing was printed" in here("gpu_compare", *files).err

    step = dict(np.load(one))
    assert "cpu" in str(step["bfloat16/device"]).lower()
    assert step["bfloat16/loss"] == pytest.approx(step["float32/loss"], rel=1e-2)
    moved = [np.abs(step[name.replace("before", "after")] - step[name]).max() for name in step if "/before/" in name]
    assert min(moved) > 0 and max(moved) < 0.01  # by a step of AdamW

    np.savez(other, **step)
    assert here("gpu_compare", *files).status == 0
    assert set(json.loads(result.read_text())["float32"]["differences"].values()) == {0}

    name = next(name for name in step if name.startswith("float32/after/") and name.endswith("project/kernel"))
    np.savez(other, **{**step, name: step[name] * 1.01, "bfloat16/loss": np.float32("nan")})
    end = here("gpu_compare", *files)
    assert end.status == 1 and "too large: float32 weights, float32 update, bfloat16 loss\n" in end.out
    found = json.loads(result.read_text())["float32"]
    assert found["worst_weight"] == name.removeprefix("float32/after/")
    assert found["differences"]["weights"] == pytest.approx(0.01, rel=1e-3)

    name = name.replace("after", "before")
    np.savez(other, **{**step, name: step[name] + 1})
    assert "The two steps start from different weights" in here("gpu_compare", *files).err


def test_a_dry_run_of_the_check(gpu, tmp_path):
    end, found = gpu("out", "sample", "check", "--dry_run", "--backends=torch")
    assert end.returncode == 0, end.stdout + end.stderr
    check = found["results"]["check_torch_gpu_and_torch_cpu"]
    assert check["float32"]["device"] == ["cpu", "cpu"] and 1 < check["float32"]["loss"][0] < 10
    assert found["dry_run"] and (tmp_path / "out" / "gpu.log").read_text().count("== check") == 1


@pytest.mark.endurance
def test_a_dry_run_of_all(gpu, tmp_path, rng):
    pytest.importorskip("jax")
    photos = class_folders.noise(tmp_path / "photos", rng, train__a=12, train__b=12, test__a=6, test__b=6)
    end, found = gpu("out", photos.removeprefix("--dataset="), "--dry_run")
    assert end.returncode == 0, end.stdout + end.stderr
    results = found["results"]
    assert set(results) == CHECKED | TIMED | TRAINED and not found["failures"]
    # Two backends, so their steps differ, but by rounding only.
    between = results["check_jax_cpu_and_torch_cpu"]["float32"]
    assert 0 < between["differences"]["update"] < between["tolerances"]["update"]
    for name in TIMED:
        rows = {row["step"]: row for row in results[name]["rows"]}
        beside = {"torch_by_hand", "beit", "mae"} if "turns" in name else set()
        assert set(rows) == {"keras_splitmask"} | beside
        assert all(row["ms"] > 0.1 and 0 < row["share_of_peak"] < 1 for row in rows.values())
        assert results[name]["memory_bytes"]["process"] > 2**26
    assert 0.9 < sum(results["time_turns_torch"]["parts"].values()) < 5
    for name in TRAINED:
        (run,) = results[name]["runs"]
        assert run["method"] == name.split("_")[1] and run["images"] == 12 and 0 <= run["top1"] <= 1
        assert run["finetune_steps"] > 0 and run["finetune_seconds"] > 0
        assert (run["pretrain_steps"] > 0) == (run["method"] != "scratch")
    assert re.search(r"parts that failed: 0$", (tmp_path / "out" / "gpu.log").read_text().strip())
