"""Promises 11 to 13 of docs/reliability.md: what is the user's stays, one run has one folder, and a run that cannot
print goes on."""

import errno
import fcntl
import io
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from recipes.shared import paths, record, screen
from recipes.shared.workdir import has_results

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = (
    "--size=vit_micro",
    "--patch_size=4",
    "--image_size=8",
    "--vocabulary=16",
    "--batch_size=4",
    "--steps=6",
    "--log_every=1",
    "--pictures=0",
)
FOLDERS = [
    {"pictures/1.png": "mine", "checkpoints/best.pth": "weeks", "data.json": "{}"},
    {"checkpoints/step-0000000004.checkpoint": "of another run"},
    *(
        {name: "mine"}
        for name in (
            "run.flags",
            "metrics.jsonl",
            "model.keras",
            "result.json",
            "probe.json",
            "report.html",
            "subset.txt",
            "data.json",
        )
    ),
    {"part-model.keras": "mine"},
    {"run.flags.part": "mine"},
    {"run.files": "a list of mine\nnotes.txt\n", "notes.txt": "mine"},
    {"run.files": "", "notes.txt": "mine"},
    {"photos/cat/1.jpg": "mine"},
    {".hidden": "mine"},
    {"small_ablation.md": "mine"},
    {"index.json": "{}", "images-1.array_record": "mine"},
    {"empty/.keep": ""},
    {"saved_model.pb": "mine", "variables/variables.index": "mine"},
]


def one_step(arrays, workdir):
    """The flags of a pre-training of one step on an .npz file of images."""
    size = ("--size=vit_micro", "--vocabulary=8", "--batch_size=4", "--steps=1")
    return (f"--dataset=npz:{arrays}", *size, f"--workdir={workdir}")


def make(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def photographs(folder, count=8):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), "uint8")).save(folder / f"{i}.png")
    return folder


def test_twenty_folders_of_the_users_are_refused_and_stay(refused, tmp_path):
    assert len(FOLDERS) == 20
    given = {
        "pretrain": "--dataset=sample",
        "finetune": "--dataset=sample",
        "detect": "--dataset=coco:x",
        "segment": "--dataset=masks:x",
    }
    for i, files in enumerate(FOLDERS):
        folder = make(tmp_path / str(i), files)
        name = list(given)[i % len(given)]
        for more in ([], ["--overwrite"]):
            line = refused(name, given[name], f"--workdir={folder}", *more)
            assert (
                "Expected --workdir to be a new or empty folder, or that of a run, received" in line
                and "overwrite" not in line
            )
        assert "that does not exist yet" in refused("export", "--init_from=x", f"--output={folder}")
        assert content(folder) == {name: text.encode() for name, text in files.items()}
    assert "or that of a run" in refused("probe", "--init_from=x", "--dataset=sample", f"--workdir={tmp_path / '0'}")
    assert "or that of a run" in refused("reproduce", "--table=ablation", f"--workdir={tmp_path / '0'}")


def test_an_export_leaves_folders_beside_it(here, pretrained, tmp_path):
    make(tmp_path / "vit.part", {"mine": "mine"})
    assert here("export", f"--init_from={pretrained}", "--layout=vit", f"--output={tmp_path / 'vit'}").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vit", "vit.part"] and content(
        tmp_path / "vit.part"
    ) == {"mine": b"mine"}


def test_only_what_is_recorded_is_removed(here, refused, arrays, pretrained, tmp_path):
    workdir, outside = (
        shutil.copytree(pretrained, tmp_path / "run"),
        make(tmp_path / "outside", {"a.txt": "mine", "b.txt": "mine"}),
    )
    own = {"pictures/mine.png": "mine", "checkpoints/best.pth": "mine", "notes.txt": "mine", "result.json": "mine"}
    make(workdir, own)
    (workdir / "report.html").unlink()
    (workdir / "report.html").symlink_to(outside / "a.txt")
    (workdir / "linked").symlink_to(outside)
    with open(workdir / "run.files", "a") as file:
        file.write(
            f"../outside/a.txt\n{outside / 'a.txt'}\nlinked/b.txt\n\udc80garbage".encode(errors="replace").decode()
        )
    given = (*one_step(arrays, workdir), "--pictures=0", "--overwrite")
    assert "The run would delete --init_from=" in refused("pretrain", *given, f"--init_from={workdir}")
    end = here("pretrain", *given)
    assert end.status == 0, end.err
    left = content(workdir)
    assert {name: left[name] for name in own if name != "result.json"} == {
        name: b"mine" for name in own if name != "result.json"
    }
    assert left["result.json"] == b"mine" and content(outside) == {"a.txt": b"mine", "b.txt": b"mine"}
    assert (workdir / "report.html.1").is_symlink() and not (workdir / "report.html").is_symlink()
    assert sorted(name for name in left if name.endswith(".checkpoint")) == ["checkpoints/step-0000000001.checkpoint"]
    assert "pictures/inpainting_kmeans.png" not in left and "model.keras" in left


def test_a_start_that_failed_is_replaced_by_one_with_other_flags(here, refused, arrays, tmp_path, lines):
    """SplitMask compares the images of a batch, so it refuses batches of one, after the folder was begun."""
    workdir = tmp_path / "run"
    data = f"--dataset=npz:{arrays}", f"--workdir={workdir}"
    given = *data, "--size=vit_micro", "--vocabulary=8", "--steps=2", "--log_every=1", "--pictures=0"
    end = here("pretrain", *given, f"--probe=npz:{arrays}", "--batch_size=1")
    assert end.status == 2 and end.err.endswith(
        "received batches of one; raise the batch size, or set --match_weight=0.\n"
    )
    begun = set(content(workdir))
    assert {"run.files", "run.flags", "data.json"} <= begun <= {"run.files", "run.flags", "data.json", "metrics.jsonl"}
    make(workdir, {"notes.txt": "mine", "checkpoints.txt": "mine"})
    shutil.copytree(workdir, tmp_path / "other")
    end = here("pretrain", *given, "--batch_size=4")
    assert end.status == 0, end.err
    log = lines(workdir / "metrics.jsonl")
    assert [line["step"] for line in log][-2:] == [1, 2] and not any("knn" in key for line in log for key in line)
    assert "--batch_size=4" in (workdir / "run.flags").read_text()
    assert (workdir / "notes.txt").read_text() == (workdir / "checkpoints.txt").read_text() == "mine"
    assert "other values of --batch_size" in refused("pretrain", *given, "--batch_size=2")  # now it is a run

    # Another program may replace it too.
    given = f"--dataset=npz:{arrays}", f"--workdir={tmp_path / 'other'}", "--batch_size=4", "--steps=1"
    end = here("finetune", *given, "--size=vit_micro", "--patch_size=16", "--image_size=48x80")
    assert end.status == 0, end.err
    assert (tmp_path / "other" / "result.json").is_file() and (tmp_path / "other" / "notes.txt").is_file()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, False),
        ({"run.flags": "--seed=1\n", "data.json": "{}", "subset.txt": "a", "metrics.jsonl": ""}, False),
        ({"metrics.jsonl": '{"step": 0, "knn": 0.5}\n{"step": 1'}, False),  # cut off
        ({"metrics.jsonl": '{"step": 0, "knn": 0.5}\n{"step": 1}\n'}, True),
        ({"metrics.jsonl": "epoch 1\n"}, True),
        ({"checkpoints/step-0000000001.checkpoint": ""}, True),
        ({"checkpoints/step-0000000001.damaged": ""}, True),
        ({"probe.json": "{}"}, True),
        ({"model.keras": ""}, True),
    ],
)
def test_what_is_a_run(tmp_path, files, expected):
    assert has_results(make(tmp_path, files)) == expected


def test_a_foreign_checkpoint_is_not_taken_for_one_of_the_run(refused, arrays, pretrained, tmp_path):
    workdir = shutil.copytree(pretrained, tmp_path / "run")
    (workdir / "checkpoints" / "step-0000000099.checkpoint").write_bytes(b"mine")
    given = (*one_step(arrays, workdir), "--overwrite")
    assert "is a checkpoint that this run did not write; move it" in refused("pretrain", *given)
    end = refused("finetune", f"--dataset=npz:{arrays}", f"--init_from={workdir}", f"--workdir={workdir}")
    assert f"received {workdir}, which holds a pre-training run; choose another" in end and "--overwrite" not in end


def test_the_same_run_by_other_words_goes_on(here, tmp_path, monkeypatch, stop_at_step, lines):
    """With --overwrite in the command, the workdir copied, and the data moved and named with a tilde."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(photographs(tmp_path / "photos").parent)
    given = (*SMALL, "--overwrite")
    with monkeypatch.context() as patch:
        stop_at_step(2, patch)
        assert here("pretrain", *given, "--dataset=folder:photos", "--workdir=~/a").status == 75
    assert (tmp_path / "a" / "run.flags").exists() and not (tmp_path / "~").exists()
    shutil.copytree("a", "copied")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir("else")
    for step, workdir, dataset in (
        (2, "../copied/", "~/photos/"),
        (3, f"{tmp_path}/copied", "../photos"),
        (4, "~/copied", "~/moved"),
    ):
        if "moved" in dataset:
            (tmp_path / "photos").rename(tmp_path / "moved")
        with monkeypatch.context() as patch:
            stop_at_step(step + 1, patch)
            end = here("pretrain", *given, f"--dataset=folder:{dataset}", f"--workdir={workdir}")
        assert end.status == 75 and f"resumed at step {step}" in end.out, end.err
    Image.new("RGB", (16, 12)).save(tmp_path / "moved" / "new.png")  # the run keeps its images
    end = here("pretrain", *SMALL, "--dataset=folder:~/moved", "--workdir=~/copied")
    assert end.status == 0 and "resumed at step 5" in end.out and "8 images of 8x8x3" in end.out
    assert [line["step"] for line in lines(tmp_path / "copied" / "metrics.jsonl")] == list(range(7))


def test_another_set_with_the_same_names_and_sizes_is_not_the_same_data(
    here, refused, tmp_path, stop_at_step, monkeypatch
):
    """Files that are not compressed have equal sizes. A copy is the same data. Nothing goes on without its flags."""
    for color in ("red", "blue"):
        (tmp_path / color).mkdir()
        for i in range(8):
            Image.new("RGB", (16, 12), color).save(tmp_path / color / f"{i}.bmp")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        stop_at_step(2, patch)
        assert here("pretrain", *SMALL, "--dataset=folder:red", "--workdir=run").status == 75
    assert "other values of --dataset" in refused("pretrain", *SMALL, "--dataset=folder:blue", "--workdir=run")
    shutil.copytree("red", "copied")
    with monkeypatch.context() as patch:
        stop_at_step(3, patch)
        assert "resumed at step 2" in here("pretrain", *SMALL, "--dataset=folder:copied", "--workdir=run").out
    os.remove("run/run.flags")
    assert "File not found: run/run.flags, which lists the flags of the checkpoints" in refused(
        "pretrain", *SMALL, "--dataset=folder:copied", "--workdir=run"
    )


def test_paths_whose_bytes_are_no_utf8_go_on(here, tmp_path, stop_at_step, monkeypatch):
    photos, workdir = (tmp_path / os.fsdecode(name) for name in (b"photos\xff", b"run\xfe"))
    given = (*SMALL, "--steps=3", f"--dataset=folder:{photographs(photos)}", f"--workdir={workdir}")
    with monkeypatch.context() as patch:
        stop_at_step(2, patch)
        assert here("pretrain", *given).status == 75
    assert os.fsencode(f"--dataset=folder:{photos}\n") in (workdir / "run.flags").read_bytes()
    end = here("pretrain", *given)
    assert end.status == 0 and "resumed at step 2" in end.out and (workdir / "report.html").is_file(), end.err


def test_a_removal_that_is_cut_off_leaves_no_checkpoint_without_its_flags(tmp_path, monkeypatch):
    run = record.Record(make(tmp_path, {"run.flags": "", "checkpoints/step-0000000001.checkpoint": ""}))
    for name in ("run.flags", "checkpoints/step-0000000001.checkpoint"):
        run.add(name)
    with monkeypatch.context() as patch:
        unlink = pathlib.Path.unlink
        patch.setattr(pathlib.Path, "unlink", lambda path: (unlink(path), os.kill(os.getpid(), signal.SIGINT)))
        with pytest.raises(KeyboardInterrupt):
            run.clear()
    assert [path.name for path in run.files()] == ["run.flags"]
    run.close()


def test_data_moved_together_with_the_run_is_the_same(tmp_path):
    same = paths.same
    old, new = tmp_path / "old", tmp_path / "new"
    moved = (f"{old}/tuned", f"{new}/tuned")
    assert same("init_from", f"{old}/first", f"{new}/first", "/", moved)
    assert same("dataset", "folder:data", f"folder:{new}/data", old, moved)
    assert not same("init_from", f"{old}/first", f"{new}/second", "/", moved)
    assert not same("dataset", f"folder:{old}/data", f"masks:{new}/data", "/", moved)
    assert same("init_from", "hf:someone/vit", "hf:someone/vit", "/", moved)
    for other in ("hf:someone/beit", f"{new}/first"):
        assert not same("init_from", "hf:someone/vit", other, "/", moved)
        assert not same("init_from", other, "hf:someone/vit", "/", moved)
    assert paths.begun_in(str(old), "init_from", "hf:someone/vit") == "hf:someone/vit"
    (old / "first").mkdir(parents=True)  # it is there still, so the other is another
    assert not same("init_from", f"{old}/first", f"{new}/first", "/", moved)


def test_a_path_without_its_user_or_without_a_name_is_refused(refused, tmp_path, monkeypatch):
    assert "Unknown user ~nobody.of.this.name in --workdir=~nobody.of.this.name/x; write ./~nobody" in refused(
        "pretrain", "--dataset=sample", "--workdir=~nobody.of.this.name/x"
    )
    assert "Expected --workdir: " in refused("pretrain", "--dataset=sample", "--workdir=")
    (tmp_path / "removed").mkdir()
    monkeypatch.chdir(tmp_path / "removed")
    (tmp_path / "removed").rmdir()
    assert "The current folder no longer exists: " in refused("pretrain", "--dataset=sample", "--workdir=run")


def test_a_run_in_its_data_folder_is_no_data(here, refused, tmp_path):
    photos = photographs(tmp_path / "photos")
    given = (*SMALL, "--steps=1", "--pictures=2", f"--dataset=folder:{photos}")
    for name in ("run", "test"):  # the latter is no split
        end = here("pretrain", *given, f"--workdir={photos / name}")
        assert end.status == 0 and "8 images of 8x8x3" in end.out, end.err
    assert "2 folders not entered (run: a run; test: a run)" in end.out
    assert "new or empty folder" in refused("pretrain", *given, f"--workdir={photos}")


def test_a_cache_is_not_made_where_the_images_are(refused, tmp_path):
    photos = photographs(tmp_path / "photos")
    for cache in (photos, f"{photos}/", tmp_path, f"{tmp_path}/run/../photos"):
        line = refused(
            "pretrain",
            *SMALL,
            "--steps=1",
            f"--dataset=folder:{photos}",
            f"--cache={cache}",
            f"--workdir={tmp_path / 'run'}",
        )
        assert (
            f"Expected --cache to be apart from the images, received {cache}, which contains those of --dataset" in line
        )
    line = refused(
        "pretrain",
        *SMALL,
        "--steps=1",
        "--dataset=sample",
        f"--probe=folder:{photos}",
        f"--cache={photos}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert "which contains those of --probe" in line


def test_a_disk_without_room_for_a_line_leaves_nothing(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            os,
            "write",
            lambda descriptor, content: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")),
        )
        with pytest.raises(OSError, match="No space left"):
            record.Record(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_second_start_is_refused_and_changes_nothing(here, refused, arrays, pretrained, tmp_path):
    workdir = shutil.copytree(pretrained, tmp_path / "run")
    given = (f"--flagfile={workdir / 'run.flags'}", f"--workdir={workdir}")
    with open(workdir / "run.files", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for more in ([], ["--overwrite"]):
            assert "Another process is running in --workdir=" in refused("pretrain", *given, *more)
        assert (
            here("probe", f"--init_from={workdir}", f"--dataset=npz:{arrays}", "--epochs=1").status == 0
        )  # reading needs no lock
    assert "holds this run, finished" in here("pretrain", *given).out


def test_the_lock_ends_with_its_process_though_its_children_live(tmp_path):
    reader, writer = os.pipe()
    holder = os.fork()
    if not holder:
        record.Record(tmp_path)
        child = os.fork()
        os.write(writer, f"{child}\n".encode()) if child else None
        time.sleep(60)
        os._exit(0)
    child = int(os.read(reader, 100))
    with pytest.raises(record.InUse):
        record.Record(tmp_path)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        record.Record(tmp_path).close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_record_survives_a_line_cut_off_and_a_full_disk(tmp_path, monkeypatch):
    first = record.Record(tmp_path)
    first.add("a")
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        )
        first.add("b")
    assert (tmp_path / "run.files").read_text().splitlines()[1:] == ["a"]
    first.add("c")
    first.close()
    with open(tmp_path / "run.files", "a") as file:
        file.write("cut o")
    second = record.Record(tmp_path)
    assert second.names == ["a", "b", "c"]
    second.add("d")
    assert (tmp_path / "run.files").read_text().splitlines()[1:] == ["a", "b", "c", "d"]
    second.close()


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_a_closed_screen_is_reported_once_and_stops_nothing(monkeypatch, number):
    class Failing(io.StringIO):
        def flush(self):
            raise OSError(number, os.strerror(number))

    for failing, other in (("stdout", "stderr"), ("stderr", "stdout")):
        monkeypatch.setattr(sys, failing, Failing())
        monkeypatch.setattr(sys, other, io.StringIO())
        with screen.kept_open():
            for _ in range(3):
                print("a line", file=getattr(sys, failing), flush=True)
        assert (
            getattr(sys, other).getvalue() == f"{failing} cannot be written ({os.strerror(number)}); the run goes on.\n"
        )
        monkeypatch.undo()


@pytest.mark.parametrize("redirection", ["| head -1", "> /dev/full", ">&-", ">&- 2>&-", "> /dev/full 2> /dev/full"])
def test_output_that_nobody_reads_does_not_change_the_exit_status(redirection):
    command = f'set -o pipefail; "{sys.executable}" recipes/pretrain.py --help {redirection}'
    assert subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=60).returncode == 0


def test_a_result_that_cannot_be_printed_is_no_success(pretrained, arrays):
    probe = f"probe.py --init_from={pretrained} --dataset=npz:{arrays} --train_limit=8 --test_limit=4 --epochs=1"
    for command in ("reproduce.py --table=ablation --list", probe):
        end = subprocess.run(
            ["bash", "-c", f"{sys.executable} recipes/{command} > /dev/full"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        last = end.stderr.splitlines()[-1]
        assert (end.returncode, last) == (
            os.EX_TEMPFAIL,
            (
                f"{command.split()[0]}: [Errno 28] No space left on device: 'stdout'. Make room, then run the same"
                " command again."
            ),
        )
    assert (
        subprocess.run(
            ["bash", "-c", f"set -o pipefail; {sys.executable} recipes/reproduce.py --table=ablation --list | head -1"],
            cwd=ROOT,
            timeout=60,
        ).returncode
        == 0
    )
