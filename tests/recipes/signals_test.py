"""Signals outside of training: one line and the status to resume, or nothing where they are ignored."""

import contextlib
import signal

import pytest

from tests.recipes.workdir_test import SMALL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_a_signal_before_training_takes_one_line(here, tmp_path, monkeypatch, number):
    monkeypatch.setattr("keras_splitmask.data.open_source", lambda *given, **more: signal.raise_signal(number))
    end = here("pretrain", *SMALL, "--dataset=sample", f"--workdir={tmp_path / 'run'}")
    assert (end.status, end.out, end.err) == (
        75,
        f"Stopped by {number.name}. Run the same command to resume.\n",
        "",
    ) and not (tmp_path / "run").exists()


def test_of_several_signals_and_programs_only_one_says_so(here, tmp_path, monkeypatch):
    def stopped_twice(*given, **more):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("keras_splitmask.data.open_source", stopped_twice)
    given = ("pretrain", *SMALL, "--dataset=sample", f"--workdir={tmp_path / 'run'}")
    end = here(*given)
    assert (end.status, end.out) == (75, "Stopped by SIGTERM. Run the same command to resume.\n")
    monkeypatch.setattr("recipes.shared.children.is_child", lambda: True)
    end = here(*given)
    assert (end.status, end.out) == (75, "")


def test_a_signal_whose_exception_a_library_drops_stops_the_run_all_the_same(here, tmp_path, monkeypatch):
    from keras_splitmask import data

    def open_source(*given, real=data.open_source, **more):
        with contextlib.suppress(SystemExit):  # as Python does within __del__, and C++ in some callbacks
            signal.raise_signal(signal.SIGTERM)
        return real(*given, **more)

    given = ("pretrain", *SMALL, "--dataset=sample", "--steps=1", f"--workdir={tmp_path / 'run'}")
    with monkeypatch.context() as patch:
        patch.setattr(data, "open_source", open_source)
        end = here(*given)
    assert (
        end.status == 75
        and "Stopped by SIGTERM. Run the same command to resume.\n" in end.out
        and "step 1/1" not in end.out
    )
    end = here(*given)
    assert end.status == 0 and "step 1/1" in end.out


def test_ignored_signals_stay_ignored(here, tmp_path, monkeypatch):
    from keras_splitmask import data

    monkeypatch.setattr(
        data,
        "open_source",
        lambda *given, open_source=data.open_source, **more: (
            signal.raise_signal(signal.SIGHUP) or open_source(*given, **more)
        ),
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert here("pretrain", *SMALL, "--dataset=sample", "--steps=1", f"--workdir={tmp_path / 'run'}").status == 0
    finally:
        signal.signal(signal.SIGHUP, before)
