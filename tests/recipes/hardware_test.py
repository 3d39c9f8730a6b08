import keras
import pytest

TIMES = {"images_per_second", "seconds", "data_wait_fraction"}
STOP = """
import runpy, signal, sys
from keras_splitmask import encoder, training

def begin(log, batch, logs=None, begin=training.RunLog.on_train_batch_begin):
    if log.step == 2:
        signal.raise_signal(signal.SIGTERM)
    return begin(log, batch, logs)

training.RunLog.on_train_batch_begin = begin
encoder.SIZES["vit_micro"] = (16, 2, 2)
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("status", end.code)
"""

SMALL = (
    "--dataset=sample",
    "--size=vit_micro",
    "--patch_size=4",
    "--image_size=8",
    "--vocabulary=16",
    "--decoder_depth=1",
    "--pictures=0",
)


def without_times(line):
    return {name: value for name, value in line.items() if name not in TIMES}


@pytest.mark.backend
def test_devices_that_the_backend_does_not_have_are_refused(refused, tmp_path):
    backend = keras.backend.backend()
    given = ("--dataset=sample", f"--workdir={tmp_path / 'run'}")
    other = {"tensorflow": "model_parallel", "jax": "mirrored", "torch": "tpu"}[backend]
    assert f"a strategy that the backend {backend} knows" in refused("pretrain", *given, f"--strategy={other}")
    assert "model_devices with strategy='model_parallel' alone" in refused("finetune", *given, "--model_devices=2")


@pytest.mark.backend
def test_a_batch_that_cannot_be_shared_is_refused(refused, command, tmp_path):
    given = (*SMALL, "--batch_size=9", f"--workdir={tmp_path / 'run'}")
    line = refused("pretrain", *given, "--devices=2", runner=command)
    assert (
        "Expected one device on torch, received devices=2"
        if keras.backend.backend() == "torch"
        else "the number of devices, 2, received 9"
    ) in line
    assert "1 times --accumulate=2, received 9" in refused("pretrain", *given, "--accumulate=2")


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch uses one device")
def test_a_run_on_two_devices_goes_on_with_one(here, python, tmp_path, lines):
    given = (*SMALL, "--batch_size=8", "--steps=6", "--log_every=2")
    assert here("pretrain", *given, f"--workdir={tmp_path / 'one'}", "--devices=1").status == 0
    stopped = python(
        "-c",
        STOP,
        "recipes/pretrain.py",
        *given,
        f"--workdir={tmp_path / 'run'}",
        "--devices=2",
        backend=keras.backend.backend(),
    )
    assert "on 2 devices" in stopped and stopped.endswith("status 75\n")
    end = here("pretrain", *given, f"--workdir={tmp_path / 'run'}", "--devices=1")
    assert end.status == 0 and "resumed at step 3" in end.out
    one, other = (lines(tmp_path / run / "metrics.jsonl") for run in ("one", "run"))
    assert [line["step"] for line in other] == [0, 2, 4, 6]
    assert [without_times(line) for line in one] == [
        pytest.approx(without_times(line), rel=1e-4, abs=1e-6) for line in other
    ]


@pytest.mark.backend
def test_several_steps_in_one_execution_change_nothing(here, refused, tmp_path, lines):
    given = (*SMALL, "--batch_size=4", "--steps=8", "--log_every=4", "--seed=1")
    assert "to divide --log_every=4 and the 8 steps" in refused(
        "pretrain", *given, f"--workdir={tmp_path / 'three'}", "--steps_per_execution=3"
    )
    if keras.backend.backend() == "torch":
        assert "on torch" in refused("pretrain", *given, f"--workdir={tmp_path / 'two'}", "--steps_per_execution=2")
        return
    for at_once in (1, 2):
        assert (
            here("pretrain", *given, f"--workdir={tmp_path / str(at_once)}", f"--steps_per_execution={at_once}").status
            == 0
        )
    one, two = (lines(tmp_path / str(at_once) / "metrics.jsonl") for at_once in (1, 2))
    assert [line["step"] for line in two] == [0, 4, 8]
    assert [without_times(line) for line in one] == [pytest.approx(without_times(line)) for line in two]
