"""The wheel: what is in it, and that the command works from it, in environments where nothing else is installed."""

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile

import keras
import pytest

from recipes import splitmask
from tests import pages
from tests.running import ROOT

EXTRAS = {"tf": ("tensorflow", ()), "jax": ("jax", ()), "torch": ("torch", ("torch==2.13.0",))}  # backend, versions
TINY = ("--flagfile=quickstart", "--steps=5", "--log_every=2", "--batch_size=8", "--fit_patches=2000", "--workdir=run")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The path of a wheel, built from a copy of the files without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("keras_splitmask", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    code = "from setuptools import build_meta; build_meta.build_wheel('.')"
    end = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert end.returncode == 0, end.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_has_every_file_that_a_user_needs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, patterns in (("keras_splitmask", ("**/*.py", "py.typed", "data/sample/*")), ("recipes", ("**/*.py",))):
        expected = {p.relative_to(ROOT).as_posix() for pattern in patterns for p in (ROOT / folder).glob(pattern)}
        assert expected and expected <= names, expected - names
    flags = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes" / "flags").rglob("*.flags")}
    assert len(flags) > 20 and flags <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "docs", "examples"))]


def test_its_command_runs_in_another_folder(wheel, tmp_path):
    archive = zipfile.ZipFile(wheel)
    points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert archive.read(points).decode().split() == ["[console_scripts]", "splitmask", "=", "recipes.splitmask:main"]
    archive.extractall(tmp_path / "site")
    script = tmp_path / "splitmask"
    script.write_text("from recipes.splitmask import main\nmain()\n")

    def run(*arguments):
        command = [sys.executable, script, *arguments]
        env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    listed = run()
    assert listed.returncode == 0 and all(f"  {name} " in listed.stdout for name in splitmask.programs())
    assert run("--version").stdout.startswith("keras-splitmask ")
    help_of = run("pretrain", "--help")
    assert help_of.returncode == 0 and "splitmask pretrain --flagfile=quickstart\n" in help_of.stdout
    assert (
        "Expected --steps to be" in run("pretrain", "--flagfile=paper/mae", "--steps=no").stderr
    )  # the file was found


@pytest.mark.endurance
@pytest.mark.parametrize("extra", EXTRAS)
def test_it_pretrains_in_an_empty_environment(wheel, tmp_path, extra):
    backend, versions = EXTRAS[extra]
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("KERAS", "PYTHON", "TF_"))}
    try:
        pip = [environment / "bin" / "pip", "install", "--quiet", f"{wheel}[{extra},data]", *versions]
        subprocess.run(pip, env=env, check=True)

        def run(*arguments):
            command = [environment / "bin" / "splitmask", *arguments]
            end = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
            assert (end.returncode, end.stderr) == (0, ""), end.stderr
            return end.stdout

        assert f", {backend} " in run("--version")
        printed = run("pretrain", *TINY)
        assert printed.startswith("sample: 10000 images\n") and f"epochs), {backend}\n" in printed
        assert {"model.keras", "report.html", "run.flags"} <= set(os.listdir(elsewhere / "run"))
        run("probe", "--init_from=run", "--dataset=sample", "--train_limit=200", "--test_limit=100", "--epochs=1")
        # Python code in the same environment, where nobody has chosen a backend.
        code = "import keras_splitmask, keras; print(keras.backend.backend())"
        end = subprocess.run([environment / "bin" / "python", "-c", code], env=env, capture_output=True, text=True)
        assert end.stdout == f"{backend}\n", end.stderr
    finally:
        shutil.rmtree(environment)  # gigabytes


PHOTOS = ROOT.parent / "shared" / "data" / "grocery.tar"
CLASSES, LONGEST = ("Apple", "Juice", "Milk"), 15 * 60  # seconds, without installing
SHORT = {"pretrain": ["--time=4min"], "finetune": ["--epochs=20", "--batch_size=32"]}


def unpack_photos(folder):
    """Real photographs in the folders that README names; returns {name of a new file: its class}."""
    truth = {}
    with tarfile.open(PHOTOS) as archive:
        for member in archive.getmembers():
            parts = pathlib.PurePosixPath(member.name).parts
            if not member.isfile() or len(parts) != 4:
                continue
            _, split, label, name = parts
            targets = [f"photos/{label}/{name}"] if split == "train" else []
            if label in CLASSES and split == "train":
                targets.append(f"labelled/{label}/{name}")
            if label in CLASSES and split == "test" and label not in truth.values():
                truth[f"{label}.jpg"] = label
                targets.append(f"new/{label}.jpg")
            for target in targets:
                (folder / target).parent.mkdir(parents=True, exist_ok=True)
                (folder / target).write_bytes(archive.extractfile(member).read())
    return truth


@pytest.mark.endurance
@pytest.mark.skipif(not PHOTOS.is_file(), reason=f"{PHOTOS} with photographs is not there")
def test_readme_leads_from_photos_to_answers(wheel, tmp_path):
    """README's commands for own photos, in an environment where only the wheel is installed, on this backend."""
    extra, (backend, versions) = next((e, v) for e, v in EXTRAS.items() if v[0] == keras.backend.backend())
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    truth = unpack_photos(elsewhere)
    photos = sum(path.is_file() for path in (elsewhere / "photos").rglob("*"))
    commands = pages.commands_of(ROOT / "README.md")
    commands = commands[next(i for i, (_, words) in enumerate(commands) if "--dataset=folder:photos" in words) :]
    assert [name for name, _ in commands] == ["pretrain", "finetune", "predict", "embed", "export", "export"]
    if backend == "jax":  # on which no program is written
        del commands[-1]
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("KERAS", "PYTHON", "TF_"))}
    try:
        pip = [environment / "bin" / "pip", "install", "--quiet", f"{wheel}[{extra},data,report]", *versions]
        subprocess.run(pip, env=env, check=True)
        began = time.monotonic()
        for name, words in commands:
            command = [environment / "bin" / "splitmask", name, *words, *SHORT.get(name, [])]
            end = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
            assert end.returncode == 0, end.stderr
            print(f"{time.monotonic() - began:6.0f} s  {name}", flush=True)
        assert time.monotonic() - began < LONGEST
        with open(elsewhere / "runs/predictions/predictions.csv", newline="") as file:
            found = {row["file"]: row["class"] for row in csv.DictReader(file)}
        assert set(found) == set(truth) and set(found.values()) <= set(CLASSES)
        result = json.loads((elsewhere / "runs/tuned/result.json").read_text())
        assert result["classes"] == sorted(CLASSES) and result["test_top1"] > result["commonest_class_top1"]
        code = "import keras_splitmask as ks; f = lambda run: ks.embed_images(ks.load(run), 'new')[1]['pooled'];"
        code += "import numpy as np; print(len(np.load('runs/features.npz')['names']));"
        code += "print(abs(f('runs/photos') - f('runs/encoder')).max() < 1e-3)"
        end = subprocess.run([environment / "bin" / "python", "-c", code], cwd=elsewhere, env=env, capture_output=True)
        assert end.stdout.decode().split() == [str(photos), "True"], end.stderr.decode()
    finally:
        shutil.rmtree(environment)  # gigabytes
