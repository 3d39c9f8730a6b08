import sys
import types

import pytest

from recipes.shared import event_files


def scalars(folder):
    """The values in the event files of a folder, as TensorBoard shows them: {tag: [(step, value)]}."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder), size_guidance={accumulator.SCALARS: 0}).Reload()
    return {
        tag: [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


@pytest.mark.backend
def test_tensorboard_reads_what_the_log_has(here, tmp_path, lines):
    pytest.importorskip("tensorboard")
    workdir = tmp_path / "run"
    end = here(
        "pretrain",
        "--dataset=sample",
        "--size=vit_micro",
        "--patch_size=14",
        "--vocabulary=8",
        "--fit_patches=200",
        "--batch_size=4",
        "--steps=3",
        "--log_every=2",
        "--pictures=0",
        "--logger=tensorboard",
        f"--workdir={workdir}",
    )
    assert end.status == 0, end.err
    logged = lines(workdir / "metrics.jsonl")
    found = scalars(workdir / "tensorboard")
    assert set(found) == {name for line in logged for name in line} - {"step"}
    for name, points in found.items():
        assert [(line["step"], line[name]) for line in logged if name in line] == points
    (file,) = (workdir / "tensorboard").iterdir()
    assert f"tensorboard/{file.name}\n" in (workdir / "run.files").read_text()  # --overwrite removes it


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(event_files, "FLAGS", types.SimpleNamespace(logger="tensorboard"))
    (tmp_path / "tensorboard").mkdir()
    return types.SimpleNamespace(file=lambda name: tmp_path / name)


def test_a_resumed_run_replaces_the_later_steps(run, tmp_path):
    pytest.importorskip("tensorboard")
    (log,) = event_files.loggers(run, 0)
    for step in (2, 4, 6):
        log({"step": step, "loss": 1.0})
    (log,) = event_files.loggers(run, 4)
    for step in (6, 8):
        log({"step": step, "loss": 2.0})
    assert scalars(tmp_path / "tensorboard") == {"loss": [(2, 1), (4, 1), (6, 2), (8, 2)]}


def test_a_full_disk_does_not_stop_a_run(run, capsys, monkeypatch):
    pytest.importorskip("tensorboard")
    (log,) = event_files.loggers(run, 0)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    log({"step": 1, "loss": 1.0})
    log({"step": 2, "loss": 1.0})
    assert capsys.readouterr().out.count("cannot be written (No space left on device)") == 1


def test_without_the_package_nothing_is_written(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    line = refused("pretrain", "--dataset=sample", f"--workdir={tmp_path / 'run'}", "--logger=tensorboard")
    assert line.endswith("Run: pip install tensorboard\n")
