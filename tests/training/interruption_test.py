import errno
import os
import shutil
import signal

import keras
import numpy as np
import pytest

from keras_splitmask.training import Checkpoints, checkpoints, interruption, model_state


@pytest.fixture
def make_line():
    """A model of one weight, which becomes the mean of what it is shown."""

    def make():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")], name="line")
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", run_eagerly=keras.backend.backend() != "jax")
        model.optimizer.build(model.trainable_variables)
        return model

    return make


def fit(model, *callbacks, epochs=3, steps=2):
    batches = ((np.ones((1, 2), "float32"), np.ones((1, 1), "float32")) for _ in range(epochs * steps))
    model.fit(batches, steps_per_epoch=steps, epochs=epochs, callbacks=list(callbacks), verbose=0, shuffle=False)


class At(keras.callbacks.Callback):
    """Does something after a step, before the checkpoints hear of it."""

    def __init__(self, step, action):
        super().__init__()
        self.left = step
        self.action = action

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            self.action()


def stop():
    signal.raise_signal(signal.SIGTERM)


def stopped(model, saves, *callbacks):
    """Fits until the exit, whose status must be 75; the handlers are afterwards what they were."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end, saves.listening():
        fit(model, *callbacks, saves)
    assert end.value.code == 75 == os.EX_TEMPFAIL
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.backend
@pytest.mark.parametrize(("every", "saved"), [(1, [4, 6]), (2, [4, 6]), (3, [4]), (5, [6]), (7, [])])
def test_every_so_many_steps_at_ends_of_epochs(make_line, tmp_path, every, saved):
    fit(make_line(), Checkpoints(tmp_path, every=every))
    assert checkpoints.steps(tmp_path) == saved


@pytest.mark.backend
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_signal_within_a_step_saves_after_it(make_line, tmp_path, capsys, step, number):
    model, saves = make_line(), Checkpoints(tmp_path, every=100, note={"shift": 3})
    stopped(model, saves, At(step, lambda: signal.raise_signal(number)))
    assert checkpoints.steps(tmp_path) == [step]
    assert f"stopped by {number.name}, saved at step {step}; the same command goes on" in capsys.readouterr().out
    again = make_line()
    resumed = Checkpoints(tmp_path)
    assert resumed.resume(again) == step and resumed.note == {"shift": 3}
    for old, new in zip(
        model_state.variables_of(model).values(), model_state.variables_of(again).values(), strict=True
    ):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (old, new)))
    assert int(again.optimizer.iterations) == step


@pytest.mark.parametrize(("within", "saved"), [(60.0, [3]), (0.0, [])])
def test_signals_that_come_together_are_one_request_and_a_later_one_ends_it_at_once(
    make_line, tmp_path, monkeypatch, within, saved
):
    monkeypatch.setattr(interruption, "SAME", within)
    both = At(3, lambda: [signal.raise_signal(number) for number in (signal.SIGINT, signal.SIGTERM)])
    stopped(make_line(), Checkpoints(tmp_path, every=100), both)
    assert checkpoints.steps(tmp_path) == saved


def test_a_hangup_that_is_ignored_stays_ignored(make_line, tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        saves = Checkpoints(tmp_path, every=100)
        with saves.listening():
            fit(make_line(), At(3, lambda: signal.raise_signal(signal.SIGHUP)), saves)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert saves.step == 6 and not checkpoints.steps(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_hangup_saves_although_the_terminal_is_gone(make_line, tmp_path, monkeypatch):
    class Gone:
        def write(self, text):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        flush = write

    monkeypatch.setattr("sys.stdout", Gone())
    stopped(make_line(), Checkpoints(tmp_path, every=100), At(3, lambda: signal.raise_signal(signal.SIGHUP)))
    assert checkpoints.steps(tmp_path) == [3]


def test_a_signal_within_a_save_does_not_cut_it_off(make_line, tmp_path, monkeypatch):
    save = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *a, **k: (stop(), save(*a, **k)))
    stopped(make_line(), Checkpoints(tmp_path, every=2))
    assert checkpoints.steps(tmp_path) == [2]


def test_a_signal_between_two_calls_of_fit_and_after_the_last(make_line, tmp_path):
    model, saves = make_line(), Checkpoints(tmp_path / "between", every=100)
    with pytest.raises(SystemExit), saves.listening():
        fit(model, saves)
        stop()
        fit(model, saves)
    assert checkpoints.steps(tmp_path / "between") == [7]
    saves = Checkpoints(tmp_path / "after", every=100)
    with pytest.raises(SystemExit), saves.listening():
        fit(model, saves)
        stop()
    assert checkpoints.steps(tmp_path / "after") == [6]


def test_a_signal_before_the_first_step_stops_at_once(tmp_path):
    saves = Checkpoints(tmp_path)
    with pytest.raises(SystemExit) as end, saves.listening():
        stop()
        pytest.fail("It went on.")
    assert end.value.code == 75 and not checkpoints.steps(tmp_path)


def test_checkpoints_take_two_percent_of_the_time(make_line, tmp_path, monkeypatch):
    clock, saved = [0.0], []
    monkeypatch.setattr(interruption.time, "monotonic", lambda: clock[0])

    def save(folder, step, *_, **__):
        clock[0] += 2.0
        saved.append(step)

    monkeypatch.setattr(checkpoints, "save", save)
    saves = Checkpoints(tmp_path)
    saves.set_model(make_line())
    for saves.step in range(1, 1001):
        clock[0] += 1.0
        saves.on_epoch_end(0)
    assert saved[0] == 1 and set(np.diff(saved)) == {100}  # 2 s in 100
    assert 2 * len(saved) <= 0.02 * clock[0] + 2


def failing(monkeypatch, steps, error):
    """Makes saves at these steps fail."""
    save = checkpoints.save

    def fail(folder, step, *arguments, **options):
        if step in steps:
            raise error
        return save(folder, step, *arguments, **options)

    monkeypatch.setattr(checkpoints, "save", fail)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.backend
def test_a_full_disk_is_reported_once_and_the_run_goes_on(make_line, tmp_path, monkeypatch, capsys):
    failing(monkeypatch, (4, 6, 8, 14), FULL)
    fit(make_line(), Checkpoints(tmp_path, every=2), epochs=8)
    assert checkpoints.steps(tmp_path) == [12, 16]
    assert capsys.readouterr().out.splitlines() == [
        (
            f"no checkpoint at step 4 in {tmp_path}: [Errno 28] No space left on device; the last is of step 2. Make"
            " room on that disk."
        ),
        "a checkpoint could be saved again, at step 10",
        (
            f"no checkpoint at step 14 in {tmp_path}: [Errno 28] No space left on device; the last is of step 12. Make"
            " room on that disk."
        ),
        "a checkpoint could be saved again, at step 16",
    ]


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), MemoryError("no more")])
def test_a_run_that_is_stopped_says_that_nothing_could_be_saved(make_line, tmp_path, monkeypatch, capsys, error):
    failing(monkeypatch, (2, 3), error)
    stopped(make_line(), Checkpoints(tmp_path, every=2), At(3, stop))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no checkpoint")]
    assert [line.split(" in ")[0] for line in lines] == ["no checkpoint at step 2", "no checkpoint at step 3"]
    assert lines[-1].endswith(f"{error}; there is none yet. Check that folder and its permissions.")


def test_failed_writes_of_a_subclass_are_reported(make_line, tmp_path, capsys):
    class Recorded(Checkpoints):
        def write(self, arrays):
            if self.step == 2:
                raise FULL
            super().write(arrays)

    fit(make_line(), Recorded(tmp_path, every=2))
    assert checkpoints.steps(tmp_path) == [4, 6] and capsys.readouterr().out.startswith("no checkpoint at step 2 in ")


def test_a_folder_that_was_removed_is_made_again(make_line, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    fit(make_line(), At(3, lambda: shutil.rmtree(tmp_path / "run")), Checkpoints(folder, every=2))
    assert checkpoints.steps(folder) == [4, 6]


def wrapped(error):
    """A library's own error about a failed write."""
    try:
        raise error
    except OSError as cause:
        try:
            raise RuntimeError("cannot close the file") from cause
        except RuntimeError as outer:
            return outer


@pytest.mark.parametrize("error", [FULL, wrapped(FULL)])
def test_results_that_cannot_be_written_end_in_a_line_and_status_75(make_line, tmp_path, capsys, error):
    saves = Checkpoints(tmp_path, every=2)
    fit(make_line(), saves)
    with pytest.raises(SystemExit) as end, saves.finishing():
        raise error
    assert end.value.code == 75 and checkpoints.load_newest(tmp_path)[0] == 6
    assert (
        capsys.readouterr().out
        == "The results could not be written: [Errno 28] No space left on device; the last checkpoint, of step 6, is"
        f" in {tmp_path}. Make room on that disk. Then run the same command again.\n"
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), ValueError("Expected images"), OSError("cannot identify image")]
)
def test_other_errors_at_the_end_are_not_taken_for_a_full_disk(tmp_path, error):
    with pytest.raises(type(error), match=str(error)), Checkpoints(tmp_path).finishing():
        raise error


@pytest.mark.backend
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["dense/kernel", "momentum"])
def test_a_state_that_is_not_finite_is_not_saved(make_line, tmp_path, place, value):
    model, saves = make_line(), Checkpoints(tmp_path, every=2)
    name, variable = next((n, v) for n, v in model_state.variables_of(model).items() if place in n)

    def poison():
        saves.save = lambda *_, **__: (variable.assign(keras.ops.full(variable.shape, value)), Checkpoints.save(saves))

    with pytest.raises(
        FloatingPointError,
        match=(
            f"received NaN or infinity in .*{name.split('/')[-1]}; it is not saved, .* The checkpoint of step 2 is the"
            " last"
        ),
    ):
        fit(model, At(3, poison), saves)
    assert checkpoints.steps(tmp_path) == [2]
    assert all(np.isfinite(array).all() for array in checkpoints.load_newest(tmp_path)[2].values())


def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(make_line, tmp_path):
    fit(make_line(), Checkpoints(tmp_path, every=2))
    path = tmp_path / "step-0000000006.checkpoint"
    path.write_bytes(path.read_bytes()[:-1])
    told = []
    assert Checkpoints(tmp_path).resume(make_line(), told.append) == 4
    assert len(told) == 1 and str(path) in told[0] and "Going back to the one before" in told[0]
    assert Checkpoints(tmp_path / "nowhere").resume(make_line()) == 0


def test_variables_that_do_not_fit_are_errors(make_line, tmp_path):
    fit(make_line(), Checkpoints(tmp_path, every=2))
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="dense")], name="line")
    other.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.raises(ValueError, match="The checkpoint of step .* does not fit the model: .* is left over") as error:
        Checkpoints(tmp_path).resume(other)
    assert str(error.value).startswith(f"The checkpoint of step 6 in {tmp_path} does")
    assert "dense/kernel has shape (2, 1), expected (3, 1)" in str(error.value)
