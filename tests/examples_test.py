"""The programs in examples/ run, on tiny settings, and are short."""

import keras
import numpy as np
import pytest

import keras_splitmask as ks
from tests.running import ROOT

Image = pytest.importorskip("PIL.Image")
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LINES = 25


@pytest.fixture
def runs(tmp_path, monkeypatch, make_images):
    """The runs and the folder of images that the examples name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ks.SIZES, "vit_micro", (16, 1, 2))
    for name in ("runs/quickstart", "runs/tuned", "new"):
        (tmp_path / name).mkdir(parents=True)
    encoder = ks.Encoder.from_size("vit_micro", image_shape=(28, 28, 1), patch_size=7)
    ks.SplitMask(encoder, inpaint_weight=0).save("runs/quickstart/model.keras")
    ks.transfer.Classifier(encoder, 2, class_names=["cat", "dog"]).save("runs/tuned/model.keras")
    for i, image in enumerate(make_images(3, (30, 40, 3))):
        Image.fromarray(image).save(f"new/{i}.png")


def test_there_are_five_and_each_is_short():
    assert len(EXAMPLES) == 5
    for path in EXAMPLES:
        lines = [line for line in path.read_text().splitlines() if line]
        assert len(lines) <= LINES, path.name
        assert lines[0].startswith('"""') and lines[0].endswith('"""')


@pytest.mark.backend
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(path, runs, capsys):
    text, names = path.read_text(), {"__name__": "__main__"}
    tiny = text.replace("LIMIT, EPOCHS = 1000, 20", "LIMIT, EPOCHS = 100, 1").replace("batch_size=64", "batch_size=50")
    exec(compile(tiny, path, "exec"), names)
    if path.stem == "load_and_predict":
        printed = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in printed[:3]] == ["0.png", "1.png", "2.png"]
        assert printed[3].endswith(" is most similar to 0.png.")
        return
    assert int(names["model"].optimizer.iterations) == 2
    if path.stem == "freeze_the_encoder":
        kept, loaded = ks.load("frozen.keras"), ks.load("runs/quickstart").encoder
        for ours, theirs in zip(kept.encoder.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (ours, theirs)))
        assert kept.class_names == names["source"].classes
    if path.stem == "own_tokenizer":
        words = keras.ops.convert_to_numpy(names["model"].tokenizer(names["images"]))
        assert words.shape == (100, 16) and words.min() >= 0 and 4 < len(np.unique(words)) <= 16
