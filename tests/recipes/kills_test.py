"""Promises 1 to 3 and 12 of docs/reliability.md: a run that is killed or asked to stop goes on as if it had not been.

The numbers of kills are those of the environment variables KILLS, STOPS, DOUBLES, COMMANDS and RECIPE_KILLS where they
are given.
"""

import json
import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_splitmask.training import checkpoints

pytestmark = pytest.mark.backend
ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMES = {"images_per_second", "seconds", "data_wait_fraction"}
STEPS, EVERY = 24, 2
GIVEN = (
    "--dataset=sample",
    "--size=vit_micro",
    "--image_size=8",
    "--patch_size=4",
    "--vocabulary=4096",
    "--batch_size=4",
    "--pictures=0",
)
GIVEN += (f"--steps={STEPS}", "--log_every=1", f"--save_every={EVERY}", "--drop_path=0.2")


def counts(variable, few, many):
    """The short form of a test for every day, and its full count for -m endurance."""
    return [
        pytest.param(few, marks=pytest.mark.long),
        pytest.param(int(os.environ.get(variable, many)), marks=pytest.mark.endurance),
    ]


class Forks:
    """Runs of pretrain.py, one after another, in processes that tests/recipes/forked.py makes."""

    def __init__(self, folder):
        cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "jax"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        env = {**os.environ, **cache, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": str(ROOT)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "bufsize": 0}
        self.server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "recipes" / "forked.py")], env=env, cwd=ROOT, **pipes
        )
        self.folder = folder

    def start(self, workdir, *more):
        """Start a run; its process, which leads a group of its own, is `self.pid`, and what it prints goes to
        `self.log`."""
        self.log = self.folder / f"{time.monotonic_ns()}.log"
        self.log.touch()
        line = json.dumps(["pretrain", [*GIVEN, f"--workdir={workdir}", *more], str(self.log)])
        self.server.stdin.write(line.encode() + b"\n")
        self.pid = int(self.server.stdout.readline())

    def ended(self):
        return bool(select.select([self.server.stdout], [], [], 0)[0])

    def status(self):
        return int(self.server.stdout.readline())

    def wait_for(self, condition, pause=0.0):
        """Wait until the condition holds, or the run has ended."""
        while not self.ended() and not condition():
            time.sleep(pause)

    def no_orphans(self, seconds=10):
        """Whether nothing is left of the run's group of processes, within some seconds."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        return False


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.server.stdin.close()
    forks.server.wait()


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """What a run leaves that nobody stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    forks.start(workdir)
    assert forks.status() == 0, forks.log.read_text()
    return remains(workdir)


def told(workdir):
    """The whole lines of metrics.jsonl, without what depends on the clock."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [{name: value for name, value in json.loads(line).items() if name not in TIMES} for line in lines]


def remains(workdir):
    """All that a finished run left: every step's line, and every variable of its last checkpoint, by its bytes."""
    step, note, arrays = checkpoints.load_newest(workdir / "checkpoints", pytest.fail)
    return (
        step,
        note,
        told(workdir),
        {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()},
    )


def parts(workdir):
    folder = workdir / "checkpoints"
    return [name for name in os.listdir(folder) if name.endswith(".part")] if folder.is_dir() else []


def assert_same(a, b, note):
    """What two runs left is the same, or what differs first is shown."""
    assert a[:2] == b[:2] and a[3].keys() == b[3].keys(), note
    different = [pair for pair in zip(a[2], b[2], strict=False) if pair[0] != pair[1]]
    assert not different and len(a[2]) == len(b[2]), (note, different[:1], len(a[2]), len(b[2]))
    assert not [name for name in a[3] if a[3][name] != b[3][name]], note


def stamps(workdir):
    return {(name, (workdir / "checkpoints" / name).stat().st_mtime_ns) for name in parts(workdir)}


def newest(workdir):
    found = checkpoints.load_newest(workdir / "checkpoints", pytest.fail)
    return found[0] if found else 0


def live_and_be_killed(forks, workdir, rng, in_save):
    """A run until a SIGKILL, at any moment or in a save. Returns its exit status."""
    before = newest(workdir)
    forks.start(workdir)
    if in_save:
        target = before + rng.randint(1, 3) * EVERY
        forks.wait_for(lambda: checkpoints.steps(workdir / "checkpoints")[-1:] >= [target], 0.001)
        forks.wait_for(lambda: parts(workdir))
    else:
        moment = time.monotonic() + (rng.uniform(0, 2) if rng.random() < 0.2 else 60)
        forks.wait_for(lambda: len(told(workdir)) > before + 1 or time.monotonic() > moment, 0.005)
        moment = time.monotonic() + rng.uniform(0, 1)
        forks.wait_for(lambda moment=moment: time.monotonic() > moment, 0.001)
    if not forks.ended():
        os.kill(forks.pid, signal.SIGKILL)
    status = forks.status()
    assert forks.no_orphans()
    assert f"resumed at step {before}" in forks.log.read_text() or not before or status == -signal.SIGKILL
    return status


@pytest.mark.parametrize("kills", counts("KILLS", 3, 50))
def test_killed_runs_end_as_if_they_had_not_been(forks, whole, tmp_path, kills):
    seed = random.SystemRandom().randrange(10**6)
    rng, killed, inside, lost, runs = random.Random(seed), 0, 0, [], 0
    workdir = tmp_path / "0"
    while killed < kills or not runs:
        left_before = stamps(workdir)
        if killed < kills:
            status = live_and_be_killed(forks, workdir, rng, in_save=2 * inside <= killed)
        else:
            forks.start(workdir)
            status = forks.status()
        if status == -signal.SIGKILL:
            killed += 1
            inside += bool(stamps(workdir) - left_before)  # the kill came between the file's opening and its renaming
            done = max([line["step"] for line in told(workdir)], default=0)
            lost.append(done - newest(workdir))
            assert 0 <= lost[-1] <= EVERY, f"seed {seed}: {lost[-1]} steps lost by kill {killed}"
            continue
        assert status == 0, forks.log.read_text()
        assert_same(remains(workdir), whole, f"seed {seed}")
        assert not parts(workdir)
        runs += 1
        workdir = tmp_path / str(runs)
    print(
        f"\n{killed} SIGKILLs, {inside} of them in a save, {max(lost)} steps lost at most, {runs} runs finished, the"
        f" same bit by bit; seed {seed}"
    )
    assert kills < 20 or inside >= 0.4 * kills


@pytest.mark.parametrize("stops", counts("STOPS", 2, 20))
def test_runs_that_are_asked_to_stop_save_and_go_on(forks, whole, tmp_path, stops):
    seed = random.SystemRandom().randrange(10**6)
    rng, stopped, slowest, runs, workdir = random.Random(seed), 0, 0.0, 0, tmp_path / "0"
    while stopped < stops or not runs:
        forks.start(workdir, "--workers=2")
        if stopped < stops:
            before = len(told(workdir))
            forks.wait_for(
                lambda stopped=stopped, workdir=workdir, before=before: (
                    forks.log.stat().st_size and (stopped % 4 == 3 or len(told(workdir)) > before + 1)
                ),
                0.005,
            )
            moment = time.monotonic() + rng.uniform(0, 1)
            forks.wait_for(lambda moment=moment: time.monotonic() > moment, 0.001)
        began = time.monotonic()
        if stopped < stops and not forks.ended():
            (os.killpg if stopped % 2 else os.kill)(forks.pid, signal.SIGTERM)
        status = forks.status()
        if status == 0:
            assert_same(remains(workdir), whole, f"seed {seed}")
            runs += 1
            workdir = tmp_path / str(runs)
            continue
        stopped, slowest = stopped + 1, max(slowest, time.monotonic() - began)
        assert status == 75 and slowest < 30, forks.log.read_text()
        assert forks.no_orphans()
        assert max([line["step"] for line in told(workdir)], default=0) <= newest(workdir), "a step was not saved"
    print(f"\n{stopped} SIGTERMs, ended within {slowest:.1f} s, {runs} runs finished, the same bit by bit; seed {seed}")


@pytest.mark.endurance
def test_of_two_starts_at_once_one_is_refused(forks, whole, tmp_path):
    """The second start comes at any moment of the first, which is then killed now and then, and started again at
    once."""
    second, rng = Forks(tmp_path), random.Random(0)
    for i in range(int(os.environ.get("DOUBLES", 10))):
        workdir = tmp_path / str(i)
        forks.start(workdir)
        if i % 3 != 2:  # else both begin at once
            forks.wait_for(lambda workdir=workdir: len(told(workdir)) > rng.randint(1, STEPS - 8), 0.005)
        second.start(workdir)
        statuses = [second.status()]
        if i % 3 == 1 and not forks.ended():
            os.kill(forks.pid, signal.SIGKILL)
        statuses.append(forks.status())
        logs = [server.log.read_text() for server in (second, forks)]
        if -signal.SIGKILL in statuses:
            forks.start(workdir)  # the lock is gone
            assert forks.status() == 0, forks.log.read_text()
            statuses = [0 if status == -signal.SIGKILL else status for status in statuses]
        assert sorted(statuses) == [0, 2], logs
        log = logs[statuses.index(2)]  # in which TensorFlow's C++ may have a line, too
        refusal = [line for line in log.splitlines() if line.startswith("pretrain.py: ")]
        assert (
            len(refusal) == 1 and "Another process is running in --workdir=" in refusal[0] and "Traceback" not in log
        ), log
        assert_same(remains(workdir), whole, logs)
    second.server.stdin.close()
    second.server.wait()


@pytest.mark.endurance
def test_by_the_command(tmp_path):
    """The same with `python recipes/pretrain.py` and nothing else: SIGKILL and SIGTERM in turn, the latter also while
    it starts."""
    rng, seen = random.Random(0), []
    env = {**os.environ, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "recipes/pretrain.py",
        *GIVEN,
        "--steps=300",
        "--log_every=5",
        "--save_every=5",
        f"--workdir={tmp_path / 'run'}",
    ]
    for i in range(int(os.environ.get("COMMANDS", 6))):
        before = newest(tmp_path / "run")
        run = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        for line in run.stdout:  # a run that goes on from step 17 says how far it is at step 20
            if i % 3 == 2 or (line.startswith("step ") and int(line[5:].split("/")[0]) > before):
                break
        time.sleep(rng.uniform(0, 1))
        os.killpg(run.pid, (signal.SIGKILL, signal.SIGTERM, signal.SIGTERM)[i % 3])
        began = time.monotonic()
        run.stdout.read()
        seen.append((run.wait(), newest(tmp_path / "run")))
        assert (
            seen[-1][0] == (-signal.SIGKILL, 75, 75)[i % 3] and time.monotonic() - began < 30 and seen[-1][1] >= before
        )
        with pytest.raises(ProcessLookupError):
            os.killpg(run.pid, 0)
    end = subprocess.run([*command, "--steps=300"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert end.returncode == 0, end.stderr
    print(f"\nexit status and step saved, by the command: {seen}")
    assert [line["step"] for line in told(tmp_path / "run")] == list(range(0, 301, 5))
    assert all(np.isfinite(line["loss"]) for line in told(tmp_path / "run")[1:])


# reproduce.py with a table of one small cell.
REPRODUCE = """
import runpy, sys
from recipes.shared import tables
column = tables.Column("tuned", "finetune", tuple(sys.argv[2].split()), tables.top1)
row = tables.Row("tiny", tuple(sys.argv[1].split()), (50.0,))
tables.TABLES["small"]["ablation"] = tables.Table("tiny", "rows", (column,), (row,))
sys.argv = ["recipes/reproduce.py", "--table=ablation", *sys.argv[3:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LITTLE = "--size=vit_micro --patch_size=8 --image_size=32 --batch_size=4 --log_every=1"
PRETRAIN = (
    "--dataset=sample --size=vit_micro --image_size=8 --patch_size=4 --vocabulary=64 --batch_size=4 --pictures=0"
    " --steps=60 --log_every=1 --save_every=2"
)
GIVEN_BY_RECIPE = {
    "finetune": f"{LITTLE} --dataset=npz:DATA/labelled.npz --steps=200",
    "detect": f"{LITTLE} --dataset=coco:DATA/boxes --head_width=16 --steps=40 --judge_every=10",
    "segment": f"{LITTLE} --dataset=masks:DATA/maps --head_width=16 --steps=80 --judge_every=20",
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with labelled images, boxes and label maps: a bright rectangle in each image."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    labelled = {}
    for split, count in (("train", 8), ("val", 4)):
        images, annotations = rng.integers(0, 60, (count, 32, 32, 3), "uint8"), []
        for folder in ("boxes/{}/images", "maps/{}/images", "maps/{}/labels"):
            (root / folder.format(split)).mkdir(parents=True)
        for i, image in enumerate(images):
            top, left, side = (int(x) for x in rng.integers(4, 14, 3))
            image[top : top + side, left : left + side] = 250
            Image.fromarray(image).save(root / "boxes" / split / "images" / f"{i}.png")
            Image.fromarray(image).save(root / "maps" / split / "images" / f"{i}.png")
            Image.fromarray((image[..., 0] == 250).astype("uint8")).save(root / "maps" / split / "labels" / f"{i}.png")
            annotations.append(
                {
                    "id": i,
                    "image_id": i,
                    "category_id": 1,
                    "bbox": [left, top, side, side],
                    "area": side**2,
                    "iscrowd": 0,
                }
            )
        files = [{"id": i, "file_name": f"{i}.png", "height": 32, "width": 32} for i in range(count)]
        content = {"images": files, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
        (root / "boxes" / split / "instances.json").write_text(json.dumps(content))
        name = {"train": "train", "val": "test"}[split]
        labelled |= {f"{name}_images": images, f"{name}_labels": np.arange(count) % 2}
    (root / "maps" / "classes.json").write_text(json.dumps({"classes": ["rest", "box"], "void": 255}))
    np.savez(root / "labelled.npz", **labelled)
    return root


def command_of(recipe, drawn, workdir):
    if recipe != "reproduce":
        return [
            sys.executable,
            f"recipes/{recipe}.py",
            *GIVEN_BY_RECIPE[recipe].replace("DATA", str(drawn)).split(),
            f"--workdir={workdir}",
        ]
    judge = f"--dataset=npz:{drawn}/labelled.npz --batch_size=4 --log_every=1 --steps=60"
    pretrain = PRETRAIN.replace("sample", f"npz:{drawn}/labelled.npz")
    return [sys.executable, "-c", REPRODUCE, pretrain, judge, f"--workdir={workdir}"]


def all_that_remains(workdir):
    """The same as `remains` of each run in a folder, by its place, with its result."""
    runs = sorted(path.parent for path in workdir.rglob("metrics.jsonl"))
    results = [json.loads(path.read_text()) for path in sorted(workdir.rglob("result.json"))]
    return {run.relative_to(workdir).as_posix(): remains(run) for run in runs}, results


def lines_of(workdir):
    return sum(path.read_bytes().count(b"\n") for path in workdir.rglob("metrics.jsonl"))


@pytest.mark.endurance
@pytest.mark.parametrize("recipe", ["finetune", "detect", "segment", "reproduce"])
def test_recipes_killed_by_their_command_end_as_if_they_had_not_been(drawn, tmp_path, recipe):
    env = {**os.environ, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": str(ROOT)}
    options = {"cwd": ROOT, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    end = subprocess.run(command_of(recipe, drawn, tmp_path / "whole"), **options)
    assert end.returncode == 0, end.stdout
    whole, whole_results = all_that_remains(tmp_path / "whole")
    assert len(whole) == (2 if recipe == "reproduce" else 1) and whole_results
    seed, kills = random.SystemRandom().randrange(10**6), int(os.environ.get("RECIPE_KILLS", 5))
    rng, killed, finished, workdir = random.Random(seed), 0, 0, tmp_path / "0"
    while killed < kills or not finished:
        log = open(tmp_path / f"{time.monotonic_ns()}.log", "w+")
        run = subprocess.Popen(command_of(recipe, drawn, workdir), **{**options, "stdout": log}, start_new_session=True)
        if killed < kills:
            before, moment = lines_of(workdir), time.monotonic() + (rng.uniform(0, 8) if rng.random() < 0.2 else 300)
            while run.poll() is None and lines_of(workdir) <= before + 1 and time.monotonic() < moment:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1))
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
        status = run.wait()
        killed += status == -signal.SIGKILL
        if status != -signal.SIGKILL:
            log.seek(0)
            assert status == 0, log.read()
            found, results = all_that_remains(workdir)
            assert found.keys() == whole.keys() and results == whole_results, f"seed {seed}"
            for place in whole:
                assert_same(found[place], whole[place], f"seed {seed}, {place}")
            finished, workdir = finished + 1, tmp_path / str(finished + 1)
    print(f"\n{recipe}: {killed} SIGKILLs by the command, {finished} runs finished, the same bit by bit; seed {seed}")
