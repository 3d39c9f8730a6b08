"""--time: steps that fit into it, how reproduce.py divides it, and runs of finetune.py, with --dry_run too."""

import re

import pytest

from keras_splitmask.data.counting import counted
from recipes.shared import time_limit
from tests.running import FROM_SCRATCH


def test_equal_minutes_are_divided_as_values_say():
    assert time_limit.divided(1000, 0) == (0, 1000)  # from scratch
    assert time_limit.divided(1000, 0.75) == (750, 250)  # before pre-training
    assert time_limit.divided(1000, 0.75, 0.95 * 750) == pytest.approx((750, 250))  # as forecast
    assert time_limit.divided(1000, 0.75, 0.95 * 600) == pytest.approx((750, 400))  # steps were faster
    assert time_limit.divided(1000, 0.75, 0.95 * 800) == pytest.approx((750, 200))
    assert time_limit.divided(1000, 0.75, 3000) == pytest.approx((750, 125))  # not less than half of it
    # The steps of both take as long as those from scratch, if those of fine-tuning take as long as forecast.
    for spent in (0.0, 100.0, 500.0, 700.0):
        left = time_limit.divided(1000, 0.5, spent)[1]
        assert spent + time_limit.USED * left == pytest.approx(time_limit.USED * 1000)


def test_steps_that_fit_into_a_time():
    assert time_limit.steps_in(100, 0.5) == 190
    assert time_limit.steps_in(100, 0.5, besides=45) == 100
    assert time_limit.steps_in(1, 30) == 1


def test_a_time_takes_the_place_of_epochs(here, refused, tmp_path, lines):
    given = ("finetune", *FROM_SCRATCH, "--log_every=2", f"--workdir={tmp_path / 'timed'}")
    end = here(*given, "--time=2s")
    assert end.status == 0, end.err
    flags = dict(
        line[2:].partition("=")[::2] for line in (tmp_path / "timed" / "run.flags").read_text().splitlines()[1:]
    )
    steps = int(flags["steps"])
    said = re.search(
        rf"^time      .+ for {steps} steps? of (\S+) s; evaluations besides: (\d+) of (\S+) s$", end.out, re.M
    )
    step, count, evaluation = float(said[1]), int(said[2]), float(said[3])
    warning = (
        f"warning   2 s is enough for {counted(int(steps), 'step')}. Fewer than 500 are often too few: allow more than "
    )
    assert (warning in end.out) == (steps < 500)
    # Two figures of each are printed, and one evaluation more or less may be planned. Evaluations get at most half.
    most, least = (1.9 - min((count + more) * evaluation, 1.0) for more in (-1.1, 1.1))
    assert 0.9 * least / step - 1 <= steps <= 1.1 * most / step + 1, end.out
    assert sum("test_accuracy" in line for line in lines(tmp_path / "timed" / "metrics.jsonl")) == count
    # What was measured leaves no trace.
    again = here("finetune", f"--flagfile={tmp_path / 'timed' / 'run.flags'}", f"--workdir={tmp_path / 'again'}")
    assert again.status == 0, again.err
    first, second = (
        [
            (line["step"], line.get("loss"), line.get("test_accuracy"))
            for line in lines(tmp_path / run / "metrics.jsonl")
        ]
        for run in ("timed", "again")
    )
    assert first == second and len(first) > 1
    (tmp_path / "timed" / "model.keras").unlink()  # as if it had been killed at the end
    resumed = here(*given, "--time=2s")
    assert (
        resumed.status == 0 and f"resumed at step {steps}" in resumed.out and "evaluations besides" not in resumed.out
    )
    for more in ("--steps=3", "--epochs=100"):
        line = refused("finetune", *FROM_SCRATCH, f"--workdir={tmp_path / 'b'}", "--time=2s", more)
        assert "Expected --time without --steps and --epochs, received --time=2s; leave the others out." in line
    assert "Expected --time as 2h" in refused("finetune", *FROM_SCRATCH, f"--workdir={tmp_path / 'b'}", "--time=2")


def test_a_dry_run_of_finetune_says_what_it_takes_and_leaves_nothing(here, tmp_path):
    end = here("finetune", *FROM_SCRATCH, f"--workdir={tmp_path / 'run'}", "--steps=40", "--dry_run")
    assert end.status == 0 and "memory    about" in end.out, end.err
    seconds = float(re.search(r"^time      .+ for 40 steps of (\S+) s; evaluations besides: ", end.out, re.M)[1])
    assert 0 < seconds < 60 and not (tmp_path / "run").exists()
