import json
import math
import types

import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.training import RunLog
from keras_splitmask.training.objective_model import ObjectiveModel


def read(path):
    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


class Line(ObjectiveModel):
    """Loss: slope times the mean of the images."""

    takes_pixels = False

    def __init__(self):
        super().__init__(None, logged=["brightness"])
        self.slope = self.add_weight(shape=(), initializer="ones", name="slope")
        self.built = True

    def call(self, images):
        return images

    def objective(self, batch, training):
        return self.slope * ops.mean(batch.images), {"brightness": ops.mean(batch.images)}


def fit(log, levels, interval=None, model=None, **more):
    """Steps of one image each, of these brightnesses."""
    if model is None:
        model = Line()
        model.compile(keras.optimizers.SGD(0.0), run_eagerly=keras.backend.backend() != "jax")
    images = np.array(levels, "float32").reshape(-1, 1, 1, 1)
    interval = interval or len(levels)

    def batches():
        for image in images:
            yield (image[None], *more.values())

    model.fit(
        batches(), steps_per_epoch=interval, epochs=len(levels) // interval, callbacks=[log], shuffle=False, verbose=0
    )
    return model


@pytest.mark.backend
def test_a_line_per_interval(tmp_path, capsys):
    measures = [lambda step: {"knn_accuracy": step / 10}, lambda step: None]
    log = RunLog(tmp_path / "metrics.jsonl", steps=6, batch_size=4, images=10, measures=measures)
    model = fit(log, [1, 3, 5, 7], interval=2)
    fit(log, [2, 4], model=model)  # the rest in a call of its own
    start, *lines = read(tmp_path / "metrics.jsonl")
    assert start == {"step": 0, "epoch": 0, "knn_accuracy": 0}
    found = [(line["step"], line["loss"], line["brightness"], line["knn_accuracy"]) for line in lines]
    assert found == [(2, 2, 2, 0.2), (4, 6, 6, 0.4), (6, 3, 3, 0.6)]
    assert [line["epoch"] for line in lines] == [2 * 4 / 10, 4 * 4 / 10, 6 * 4 / 10]
    assert all(line["images_per_second"] > 0 and line["learning_rate"] == 0 for line in lines)
    assert lines[0]["seconds"] < lines[1]["seconds"] < lines[2]["seconds"]
    assert "skipped_steps" not in lines[-1]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "step 0/6  kNN 0.0%" and len(printed) == 5
    assert (
        printed[1].startswith("step 2/6  loss 2.000  kNN 20.0%")
        and "images/s" in printed[1]
        and printed[4].endswith("0 min 00 s left")
    )
    assert printed[3].startswith("  diverging: ")  # from 2 to 6; it is not printed again at 3


@pytest.mark.backend
def test_skipped_steps_are_counted_and_left_out_of_means(tmp_path, capsys):
    log = RunLog(
        tmp_path / "metrics.jsonl",
        steps=6,
        batch_size=1,
        images=1,
        measures=[lambda step: {"odd": math.nan, "large": math.inf}],
    )
    fit(log, [1, math.nan, 3, math.inf, 5, 5], interval=2)
    lines = read(tmp_path / "metrics.jsonl")
    assert [line.get("skipped_steps") for line in lines] == [None, 1, 2, 2]
    assert [line.get("loss") for line in lines] == [None, 1, 3, 5]
    assert not any({"odd", "large"} & set(line) for line in lines)
    assert "SKIPPED 2" in capsys.readouterr().out


@pytest.mark.backend
def test_a_run_without_a_finite_step_stops_and_says_since_when(tmp_path):
    log = RunLog(tmp_path / "metrics.jsonl", steps=12, batch_size=1, images=1, patience=4)
    with pytest.raises(
        FloatingPointError,
        match="Expected a finite loss and gradient, received none from step 6 on; the run stops at step 9",
    ):
        fit(log, [1, 1, 1, math.nan, 1, math.nan, *[math.inf] * 3, 1, 1, 1], interval=3)
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl")] == [0, 3, 6]


@pytest.mark.backend
def test_a_short_run_in_which_every_step_was_skipped_is_no_success(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(FloatingPointError, match="received none in all 3 steps; nothing was learnt. Lower it."):
        fit(
            RunLog(path, steps=3, batch_size=1, images=1, advice="Lower it."),
            [math.nan, math.inf, math.nan],
            interval=1,
        )
    assert [line.get("skipped_steps") for line in read(path)] == [None, 1, 2]
    with pytest.raises(FloatingPointError, match="in all 3 steps"):  # as it goes on after its second step
        fit(RunLog(path, steps=3, batch_size=1, images=1, start=2), [math.nan])
    fit(RunLog(path, steps=3, batch_size=1, images=1, start=2), [1])
    assert read(path)[-1]["skipped_steps"] == 2


@pytest.mark.backend
def test_a_short_run_that_is_lost_up_to_its_end_is_no_success(tmp_path):
    with pytest.raises(FloatingPointError, match="received none from step 3 on; the run stops at step 5"):
        fit(RunLog(tmp_path / "lost.jsonl", steps=5, batch_size=1, images=1), [1, 1, *[math.nan] * 3], interval=1)
    fit(
        RunLog(tmp_path / "metrics.jsonl", steps=6, batch_size=1, images=1),
        [1, math.nan, 1, *[math.nan] * 3],
        interval=3,
    )  # half of it
    assert read(tmp_path / "metrics.jsonl")[-1]["skipped_steps"] == 4


@pytest.mark.backend
def test_skipped_steps_in_a_row_are_counted_over_restarts(tmp_path):
    log, levels, states = (
        RunLog(None, steps=30, batch_size=1, images=1, patience=5),
        [1, math.nan, 1, math.nan, math.nan],
        [],
    )
    after = log.on_train_batch_end
    log.on_train_batch_end = lambda batch, logs: [
        after(batch, logs),
        states.append(json.loads(json.dumps(log.state()))),
    ]
    fit(log, levels)
    assert [(state["lost_since"], state["counted"]) for state in states] == [
        (None, 0),
        (2, 1),
        (None, 1),
        (4, 2),
        (4, 3),
    ]
    assert log.state() == {"skipped_steps": 3, "lost_since": 4, "counted": 0}
    log = RunLog(tmp_path / "metrics.jsonl", steps=30, batch_size=1, images=1, start=5, patience=5, state=log.state())
    fit(log, [math.nan])
    assert read(tmp_path / "metrics.jsonl")[-1]["skipped_steps"] == 4
    with pytest.raises(FloatingPointError, match="received none from step 4 on; the run stops at step 8"):
        fit(RunLog(None, steps=30, batch_size=1, images=1, start=6, patience=5, state=log.state()), [math.nan] * 2)


@pytest.mark.backend
def test_any_other_model_stops_as_soon_as_its_loss_is_lost(tmp_path):
    model = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=keras.backend.backend() != "jax")
    log = RunLog(None, steps=4, batch_size=1, images=1)
    with pytest.raises(FloatingPointError, match="received none from step 3 on; the run stops at step 4"):
        fit(log, [1, 1, math.nan, 1], interval=4, model=model, labels=np.ones((1, 1), "float32"))


def test_a_run_that_goes_on_writes_no_line_before_its_first_step(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n')
    fit(RunLog(tmp_path / "metrics.jsonl", steps=4, batch_size=1, images=2, start=2), [1, 1])
    assert [(line["step"], line.get("epoch")) for line in read(tmp_path / "metrics.jsonl")] == [(2, None), (4, 2)]


def test_time_left_is_by_the_steps_of_this_session(monkeypatch, capsys):
    log = RunLog(None, steps=100, batch_size=1, images=1, start=40)
    log.set_model(types.SimpleNamespace(optimizer=types.SimpleNamespace(learning_rate=0.5)))
    clock = iter([0.0, 0.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    log.on_train_begin()
    log.on_epoch_begin(0)
    for batch in range(4):
        log.on_train_batch_end(batch, {"loss": 1.0})
    log.on_epoch_end(0, {"loss": 1.0})
    # Four steps took 10 s, so the 56 that are left take 140.
    assert capsys.readouterr().out == "step 44/100  loss 1.000  0 images/s  2 min 20 s left\n"
