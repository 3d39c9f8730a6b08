"""The values that finetune.py chooses for a folder, and what it refuses."""

import re

import pytest
from PIL import Image

import keras_splitmask as ks
from keras_splitmask.data import free_memory


def images(root, rng):
    """Eight images of noise of 32x32 in each of two classes."""
    for name in "ab":
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), "uint8")).save(root / name / f"{i}.png")
    return f"--dataset=folder:{root}"


@pytest.mark.backend
def test_from_scratch_encoder_batch_and_steps_are_chosen_and_resumed(here, tmp_path, rng, stop_at_step):
    given = (images(tmp_path / "set", rng), "--log_every=1", "--save_every=1", "--epochs=6")
    options = (*given, f"--workdir={tmp_path / 'run'}")
    with pytest.MonkeyPatch.context() as patch:
        stop_at_step(3, patch)
        end = here("finetune", *options)
    assert end.status == 75, end.err
    image = "--image_size=32 (the size of the images), --patch_size=4 (about 8 x 8 patches)"
    assert f"chosen    {image}\n" in end.out
    assert "chosen    --size=vit_micro (for " in end.out and "chosen    --batch_size=12 (for 12 images)" in end.out
    assert re.search(r"^memory    about \d\.\d GB of \d+\.\d GB at hand$", end.out, re.M)
    flags = (tmp_path / "run" / "run.flags").read_text()
    chosen = ("--image_size=32", "--patch_size=4", "--size=vit_micro", "--batch_size=12", "--epochs=6.0")
    assert set(chosen) <= set(flags.split("\n")) and "--steps" not in flags

    Image.new("RGB", (500, 500)).save(tmp_path / "set" / "a" / "0.png")  # a new folder like this would get another plan
    end = here("finetune", *options)
    assert end.status == 0 and "resumed at step" in end.out and "chosen" not in end.out, end.err
    assert (tmp_path / "run" / "run.flags").read_text() == flags
    model = ks.load(tmp_path / "run")
    assert model.encoder.image_shape == (32, 32, 3) and model.encoder.patch_size == 4

    tuned = (*given[:2], f"--init_from={tmp_path / 'run'}", "--steps=1", f"--workdir={tmp_path / 'tuned'}")
    end = here("finetune", *tuned)
    assert end.status == 0 and "chosen    --batch_size=12" in end.out and "--size" not in end.out, end.err
    assert f"predict.py --init_from={tmp_path / 'tuned'} --images=NEW_IMAGES " in end.out
    assert "--size" not in (tmp_path / "tuned" / "run.flags").read_text()


def test_what_does_not_fit_into_memory_is_refused_before_it_starts(refused, tmp_path, rng, monkeypatch):
    monkeypatch.setattr(free_memory, "free_memory", lambda: 1e9)
    given = (images(tmp_path / "set", rng), "--size=vit_base", "--image_size=224", "--batch_size=32")
    line = refused("finetune", *given, f"--workdir={tmp_path / 'run'}")
    # What this process has already counts as at hand, so a batch of 1 may fit, or only a smaller encoder.
    change = r"--(batch_size=\d+|size=vit_\w+)"
    assert re.search(rf"Expected training to fit into 80% of the .* Add {change}( {change})?\.", line)
    assert not (tmp_path / "run").exists()
