import json

import numpy as np
import pytest

from keras_splitmask.evaluation import read_metrics
from keras_splitmask.evaluation.metrics import latest, mean_between, series, smoothed


def lines_of(name, **values):
    return [{"step": int(step[1:]), name: value} for step, value in values.items()]


def test_broken_lines_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1, "loss": 3.0}\n5\n{"loss": 7.0}\n[1]\n{"step": "two"}\n\xff notes\n'
        + b"[" * 100_000
        + b'\n{"step": 2, "loss": 4.0}\n{"step": 3, "lo'
    )
    assert read_metrics(path) == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 4.0}]


def test_an_interval_weighs_as_many_steps_as_it_has():
    lines = [{"step": 0, "knn_accuracy": 0.1}, *lines_of("loss", s10=4.0, s20=3.0, s22=9.0)]
    steps, weights, values = series(lines, "loss")
    np.testing.assert_array_equal(steps, [10, 20, 22])
    np.testing.assert_array_equal(weights, [10, 10, 2])
    np.testing.assert_array_equal(values, [4, 3, 9])
    assert latest(lines, "loss") == pytest.approx((10 * 3 + 2 * 9) / 12)
    assert mean_between(lines, "loss", 0.5, 1) == pytest.approx((10 * 3 + 2 * 9) / 12)
    assert mean_between(lines, "loss", 0, 0.1) is None


def test_a_measurement_at_a_step_has_no_weight():
    lines = lines_of("knn_accuracy", s0=0.1, s10=0.2, s12=0.6)
    assert latest(lines, "knn_accuracy") == 0.6
    assert latest(lines, "loss") is None and latest([], "loss") is None


def test_values_that_are_no_numbers_are_left_out():
    lines = lines_of("loss", s1=None, s2="3", s3=True, s4=float("nan"), s5=2.0)
    assert series(json.loads(json.dumps(lines)), "loss")[2].tolist() == [2.0]


def test_a_short_last_interval_moves_the_smoothed_curve_little():
    whole = smoothed(np.array([10, 10, 10, 10]), np.array([1.0, 1, 1, 5]), 10)
    short = smoothed(np.array([10, 10, 10, 1]), np.array([1.0, 1, 1, 5]), 10)
    kept = np.exp(-1)
    seen = (1 - kept) * 5 + kept * (1 - kept) * (1 + kept + kept**2)
    assert whole[-1] == pytest.approx(seen / ((1 - kept) * (1 + kept + kept**2 + kept**3)))
    assert whole[-1] > 3 and 1 < short[-1] < 1.5
    np.testing.assert_allclose(smoothed(np.array([3, 1, 7]), np.full(3, 2.5), 4), 2.5)  # from the first step on
