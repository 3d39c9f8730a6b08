import shutil

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks

LOAD = """
import sys
sys.modules.update(keras=None, keras_splitmask=None, jax=None)  # as on a machine without them
import numpy as np
import tensorflow as tf
encoder, images = tf.saved_model.load(sys.argv[1]), np.load(sys.argv[2])
one, five = (encoder.serve(images[:count]) for count in (1, 5))
answers = {f"{name}_{k}": v.numpy() for name, answer in (("one", one), ("five", five)) for k, v in answer.items()}
np.savez(sys.argv[3], **answers)
"""


def check(answers, run, images):
    """What the SavedModel answers, to one image and to five, is what the run's encoder does."""
    encoder = ks.interchange.load_encoder(run, dtype="float32")
    assert len(answers) == 2 * 3
    for count, prefix in ((1, "one"), (5, "five")):
        for name, expected in encoder(images[:count]).items():
            answer = answers[f"{prefix}_{name}"]
            assert answer.dtype == "float32" and answer.shape == tuple(expected.shape)
            np.testing.assert_allclose(answer, ops.convert_to_numpy(expected), atol=1e-4)


@pytest.mark.backend
def test_the_encoder_of_a_run_answers_without_keras(here, command, pretrained, python, make_images, tmp_path):
    """The run is one of the backend at hand; on torch, TensorFlow writes what torch cannot."""
    saved = tmp_path / "a" / "saved"
    given = (f"--init_from={pretrained}", f"--output={saved}")
    if keras.backend.backend() == "torch":
        end = here("export", *given)
        assert end.status == 2 and "A SavedModel is written on the tensorflow or jax backend" in end.err
        end = command("export", *given, "--backend=tensorflow")
    else:
        end = here("export", *given)
    assert end.status == 0 and not end.err, end.err
    assert "feature_map  3x5x16       differs by" in end.out and f"exported  {saved}" in end.out
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    np.save(tmp_path / "images.npy", make_images(5, (48, 80, 5)))
    python("-c", LOAD, saved, tmp_path / "images.npy", tmp_path / "answers.npz")
    check(np.load(tmp_path / "answers.npz"), pretrained, np.load(tmp_path / "images.npy"))


def test_it_says_that_the_head_of_a_classifier_stays(here, pretrained, tmp_path):
    run = shutil.copytree(pretrained, tmp_path / "run")
    (run / "result.json").write_text('{"classes": ["cat", "dog", "owl"]}')
    end = here("export", f"--init_from={run}", "--layout=vit", f"--output={tmp_path / 'vit'}")
    assert f"the encoder alone: the head for 3 classes stays in {run}" in end.out, end
    end = here("export", f"--init_from={pretrained}", "--layout=vit", f"--output={tmp_path / 'vit2'}")
    assert end.status == 0 and "stays" not in end.out.replace(str(tmp_path), "")


@pytest.mark.tensorflow
def test_by_the_command_in_float32_for_any_run(here, command, make_images, tmp_path):
    import tensorflow as tf

    small = (
        "--size=vit_micro",
        "--patch_size=4",
        "--image_size=8x12",
        "--vocabulary=8",
        "--batch_size=4",
        "--steps=1",
        "--pictures=0",
    )
    assert (
        here("pretrain", "--dataset=sample", f"--workdir={tmp_path / 'run'}", *small, "--precision=bfloat16").status
        == 0
    )
    end = command("export", f"--init_from={tmp_path / 'run'}", f"--output={tmp_path / 'saved'}")
    assert end.status == 0 and not end.err
    served, images = tf.saved_model.load(str(tmp_path / "saved")), make_images(5, (8, 12, 1))
    answers = {
        f"{prefix}_{k}": v.numpy()
        for prefix, n in (("one", 1), ("five", 5))
        for k, v in served.serve(images[:n]).items()
    }
    check(answers, tmp_path / "run", images)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output={tmp}/saved"], "Expected --init_from: Run folder, .keras file"),
        (["--init_from={run}"], "Expected --output: Folder to write"),
        (["--init_from={run}", "--output={tmp}"], "Expected an --output that does not exist yet, received"),
        (["--init_from={tmp}", "--output={tmp}/saved", "--layout=vit"], "there is no file"),
    ],
)
def test_bad_input_ends_in_one_line(refused, pretrained, tmp_path, flags, message):
    assert message in refused("export", *(flag.format(run=pretrained, tmp=tmp_path) for flag in flags))


def test_the_encoder_for_another_library_and_back(here, arrays, pretrained, tmp_path):
    end = here("export", f"--init_from={pretrained}", "--layout=beit", f"--output={tmp_path / 'beit'}")
    assert (
        end.status == 2
        and "Expected square images for the layout beit, received 48x80" in end.err
        and not (tmp_path / "beit").exists()
    )
    end = here("export", f"--init_from={pretrained}", "--layout=vit", f"--output={tmp_path / 'vit'}")
    assert end.status == 0 and "differs by" in end.out, end.err
    assert sorted(path.name for path in (tmp_path / "vit").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    given = (
        f"--init_from={tmp_path / 'vit'}",
        f"--dataset=npz:{arrays}",
        "--batch_size=4",
        "--steps=1",
        f"--workdir={tmp_path / 'tuned'}",
    )
    end = here("finetune", *given)
    assert end.status == 0 and "loaded    30 of 30 weights as they are" in end.out, end.err + end.out
