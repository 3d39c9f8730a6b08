import io
import re
import sys
import types

import pytest
from absl import flags

from recipes.shared import progress, screen


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log():
    return types.SimpleNamespace(step=2, batch_size=8)


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass by themselves at each look at the clock."""
    now = [100.0]

    def tick():
        now[0] += 2
        return now[0]

    monkeypatch.setattr(progress.time, "monotonic", tick)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (99, "99 s"),
        (111, "1 min 50 s"),
        (118, "2 min"),
        (599, "10 min"),
        (700, "12 min"),
        (4800, "80 min"),
    ],
)
def test_times_in_words(seconds, text):
    assert screen.in_words(seconds) == text


def test_words_of_the_bar():
    assert progress.words(0.5, [(1, 10.0)], 100, 8) == "loss 0.500"
    assert progress.words(0.5, [(1, 10.0), (5, 18.0)], 100, 8) == "loss 0.500  4 images/s  3 min 10 s left"


def test_a_terminal_gets_a_bar_below_the_lines(log, clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with progress.shown(6, log) as callback:
        assert "step 2/6" in terminal.getvalue()
        for step in (3, 4, 5, 6):
            log.step = step
            callback.on_train_batch_end(0, {"loss": 0.25})
            print(f"line of step {step}")
    assert sys.stdout is terminal  # as before
    text = re.sub(r"\x1b\[[\d;?]*\w", "", terminal.getvalue())
    assert "step 6/6" in text and "loss 0.250  4 images/s  2 s left" in text  # after step 5
    assert all(f"line of step {step}\n" in text for step in (3, 4, 5, 6))
    assert "about" not in text


def test_the_loss_is_read_once_a_second_at_most(log, monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 50.0 + log.step / 10)
    monkeypatch.setattr(sys, "stdout", Terminal())
    read = []

    class Loss(float):
        def __array__(self, *arguments, **options):
            raise AssertionError

    monkeypatch.setattr("keras.ops.convert_to_numpy", lambda value: read.append(log.step) or value)
    with progress.shown(26, log) as callback:
        for log.step in range(3, 27):
            callback.on_train_batch_end(0, {"loss": Loss(1)})
    assert read == [3, 13, 23, 26]


def test_a_pipe_gets_one_line(log, clock, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with progress.shown(12, log) as callback:
        for log.step in range(3, 13):
            callback.on_train_batch_end(0, {"loss": 0.25})
    assert stream.getvalue() == "time      about 20 s for 10 steps\n"


def test_pictures_between_steps_are_not_counted(log, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.shown(12, log) as callback:
        for _ in range(3):
            now[0] += 2  # a step
            callback.on_train_batch_end(0, {"loss": 0.25})
            now[0] += 60  # a picture
            callback.on_epoch_end(0, {})
    assert capsys.readouterr().out == "time      about 20 s for 10 steps\n"


@pytest.mark.parametrize("asked, missed", [("10s", True), ("15s", False), ("1h", False)])
def test_the_line_says_that_a_time_is_missed(log, clock, monkeypatch, capsys, asked, missed):
    values = flags.FlagValues()
    flags.DEFINE_string("time", asked, "", flag_values=values)
    values(["program"])
    for module in (progress, progress.time_limit):
        monkeypatch.setattr(module, "FLAGS", values)
    with progress.shown(12, log) as callback:
        for log.step in range(3, 13):
            callback.on_train_batch_end(0, {"loss": 0.25})
    assert (f", more than --time={asked}" in capsys.readouterr().out) == missed


def test_the_bar_goes_away_on_an_error(log, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(FloatingPointError), progress.shown(12, log):
        raise FloatingPointError
    assert sys.stdout is terminal
