import importlib.util
import json
import re

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image, ImageOps

import keras_splitmask as ks
from keras_splitmask.interchange import framing, programs
from recipes.shared import card_code, model_card, program_pictures, runtimes
from tests import class_folders, running

LOAD = """
import pathlib, sys
sys.modules.update(keras=None, keras_splitmask=None, jax=None)  # as on a machine without them
import numpy as np
from recipes.shared.runtimes import RUNTIMES
run, images = RUNTIMES[sys.argv[1]](pathlib.Path(sys.argv[2])), np.load(sys.argv[3])
one, five = (run(images[:count]) for count in (1, 5))
answers = {f"{name}_{k}": v for name, answer in (("one", one), ("five", five)) for k, v in answer.items()}
np.savez(sys.argv[4], **answers)
"""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A classifier of 8x12 colour images of two classes, fine-tuned in half precision."""
    folder = tmp_path_factory.mktemp("tuned")
    rng = np.random.default_rng(0)
    given = class_folders.noise(folder / "labelled", rng, train__cat=4, train__dög=4, test__cat=2, test__dög=2)
    given = (given, *class_folders.FOLDERS, f"--workdir={folder / 'run'}", "--image_size=8x12", "--precision=bfloat16")
    end = running.run_here("finetune", *given, "--steps=5", "--learning_rate=0.1")
    assert end.status == 0, end.err
    return folder / "run"


def served(python, form, folder, images, tmp_path):
    """What a program answers to one image and to five, by its runtime alone: [(count, {name: array})]."""
    np.save(tmp_path / "images.npy", images)
    python("-c", LOAD, form, folder, tmp_path / "images.npy", tmp_path / "answers.npz")
    with np.load(tmp_path / "answers.npz") as file:
        return [
            (count, {name.partition("_")[2]: file[name] for name in file.files if name.startswith(prefix)})
            for count, prefix in ((1, "one_"), (5, "five_"))
        ]


@pytest.mark.backend
def test_the_encoder_of_a_run_answers_without_keras(command, pretrained, python, make_images, tmp_path):
    """The run is one of the backend at hand; TensorFlow writes the program."""
    saved = tmp_path / "a" / "saved"
    end = command("export", f"--init_from={pretrained}", "--layout=saved_model", f"--output={saved}")
    assert end.status == 0 and not end.err, end.err
    assert "feature_map  3x5x16       differs by" in end.out and f"exported  {saved}" in end.out
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    images = make_images(5, (48, 80, 5))
    encoder = ks.interchange.load_encoder(pretrained, dtype="float32")
    for count, answers in served(python, "saved_model", saved, images, tmp_path):
        assert set(answers) == {"pooled", "cls", "feature_map"}
        for name, expected in encoder(images[:count]).items():
            assert answers[name].dtype == "float32" and answers[name].shape == tuple(expected.shape)
            np.testing.assert_allclose(answers[name], ops.convert_to_numpy(expected), atol=1e-4)


@pytest.mark.parametrize("form", runtimes.RUNTIMES)
def test_a_classifier_leaves_with_a_card_whose_code_runs(command, tuned, python, make_images, tmp_path, form):
    for package in runtimes.PACKAGES.get(form, ()):
        pytest.importorskip(package.replace("-", "_"), reason=f"{form} needs {package}, which is not installed")
    end = command("export", f"--init_from={tuned}", f"--layout={form}", f"--output={tmp_path / 'saved'}")
    assert end.status == 0 and not end.err, end.err
    assert re.search(r"^scores +2 +differs by \d\.\de-0[5-9] after reloading$|0\.0e\+00", end.out, re.M), end.out
    images = make_images(5, (8, 12, 3))
    model = ks.load(tuned)
    for count, answers in served(python, form, tmp_path / "saved", images, tmp_path):
        (scores,) = answers.values()
        # The run computed in half precision, the program does in float32.
        expected = ops.convert_to_numpy(ops.softmax(model(images[:count])))
        assert scores.dtype == "float32" and np.allclose(scores, expected, atol=0.02)
        np.testing.assert_allclose(scores.sum(axis=-1), 1, atol=1e-5)
    card = card_of(tmp_path / "saved")
    result = json.loads((tuned / "result.json").read_text())
    assert card.startswith("# A classifier of 2 classes\n") and "0. `cat`\n1. `dög`\n" in card
    assert f"- top-1 accuracy on test: {result['test_top1']:.1%}" in card and "`--batch_size=4`" in card
    assert "\n```\npip install " in card
    check_the_code_on_a_photo(python, tmp_path / "saved", model)


def card_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def output_of_the_code(python, folder):
    """What the code of a card prints last, beside a photo that its EXIF tag turns."""
    rows, columns = np.mgrid[:90, :50]
    waves = [127 + 120 * np.sin(rows / a + columns / b) for a, b in ((9, 14), (20, 5), (7, 30))]
    photo, exif = Image.fromarray(np.stack(waves, axis=-1).astype("uint8")), Image.Exif()
    exif[274] = 6  # stored as (90, 50), shown as (50, 90)
    photo.save(folder / "photo.jpg", exif=exif, quality=95)
    (code,) = re.findall(r"^```python\n(.*?)^```$", card_of(folder), re.M | re.S)
    return python("-c", f"import os; os.chdir({str(folder)!r})\n{code}").splitlines()[-1]


def check_the_code_on_a_photo(python, folder, model):
    """The code of a card names the class that the model does, with nearly the same probability."""
    name, score = output_of_the_code(python, folder).split()
    expected = prediction_of_the_photo(folder, model)
    assert name == expected["class_name"] and abs(float(score) - expected["score"]) < 0.04


def prediction_of_the_photo(folder, model):
    """From its pixels, since `predict` reads large files at a lower resolution."""
    with Image.open(folder / "photo.jpg") as photo:
        (found,) = ks.predict_images(model, np.asarray(ImageOps.exif_transpose(photo))[None])
    return found


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch writes it")
def test_a_program_that_resizes_has_a_simpler_card(here, tuned, python, tmp_path):
    end = here("export", f"--init_from={tuned}", "--layout=torch", "--resize", f"--output={tmp_path / 'saved'}")
    assert end.status == 0 and not end.err, end.err
    assert re.search(r"^resized +the pixels differ by 0\.[0-3]\d of 255$", end.out, re.M), end.out
    assert re.search(r"^scores +2 +differs by \d\.\de[-+]0\d after reloading$", end.out, re.M), end.out
    assert "class        the same for 16 of 16\n" in end.out
    card = card_of(tmp_path / "saved")
    assert "`images` (B, height, width, 3) uint8, for any B and of any size" in card and "ImageOps.fit" not in card
    check_the_code_on_a_photo(python, tmp_path / "saved", ks.load(tuned))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch writes it")
@pytest.mark.parametrize("wrong", ["filter", "part", "channels", "squeezed"])
def test_a_program_that_resizes_otherwise_is_refused(here, tuned, monkeypatch, tmp_path, wrong):
    right = framing.centre_resized

    def squeezed(images, size, ratio):  # and without antialiasing
        import torch

        moved = ops.cast(ops.transpose(images, (0, 3, 1, 2)), "float32")
        resized = torch.nn.functional.interpolate(moved, size=size, mode="bilinear")
        return ops.cast(ops.transpose(resized, (0, 2, 3, 1)), "uint8")

    if wrong == "filter":  # bilinear, antialiased
        monkeypatch.setattr(framing, "_bicubic", lambda distance: ops.relu(1 - ops.abs(distance)))
    else:
        instead = {
            "part": lambda images, size, ratio: right(images, size, 0.5 * ratio),
            "channels": lambda images, size, ratio: right(ops.flip(images, axis=-1), size, ratio),
            "squeezed": squeezed,
        }
        monkeypatch.setattr(programs, "centre_resized", instead[wrong])
    end = here("export", f"--init_from={tuned}", "--layout=torch", "--resize", f"--output={tmp_path / 'saved'}")
    assert end.status == 2 and "The exported program resizes otherwise, by " in end.err, end
    assert not (tmp_path / "saved").exists()


def test_the_head_of_a_classifier_stays_with_the_weights_of_an_encoder(here, tuned, tmp_path):
    end = here("export", f"--init_from={tuned}", "--layout=vit", f"--output={tmp_path / 'vit'}")
    line = f"the encoder alone: the head for 2 classes stays in {tuned}; --layout=timm or --layout=onnx holds a whole"
    assert line in end.out, end
    card = (tmp_path / "vit" / "README.md").read_text(encoding="utf-8")
    assert (
        card.startswith("# An encoder")
        and 'ViTModel.from_pretrained(".", add_pooling_layer=False)' in card
        and "cat" not in card
    )


@pytest.mark.parametrize("what", ["auto", "model"])
def test_a_classifier_leaves_whole_for_timm(here, tuned, make_images, tmp_path, what):
    end = here("export", f"--init_from={tuned}", "--layout=timm", f"--what={what}", f"--output={tmp_path / 'timm'}")
    assert end.status == 0 and re.search(r"^scores +2 +differs by", end.out, re.M), end.err + end.out
    size = sum(path.stat().st_size for path in (tmp_path / "timm").iterdir())
    assert end.out.endswith(f"exported  {tmp_path / 'timm'}, {size / 1e6:.1f} MB\n"), end.out
    assert re.search(r"^compared  with the model on \d+ images? of the sample", end.out, re.M), end.out
    assert json.loads((tmp_path / "timm" / "config.json").read_text())["label_names"] == ["cat", "dög"]
    images = make_images(5, (8, 12, 3))
    model, again = (ks.load(folder) for folder in (tuned, tmp_path / "timm"))
    # The run computed in half precision, what was exported does in float32.
    expected, logits = (ops.convert_to_numpy(ops.cast(m(images), "float32")) for m in (model, again))
    np.testing.assert_allclose(logits, expected, atol=0.05)
    card = (tmp_path / "timm" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# A classifier of 2 classes\n") and "0. `cat`\n1. `dög`\n" in card


def test_the_code_of_a_card_for_timm_names_a_class(here, tuned, python, tmp_path):
    pytest.importorskip("timm")
    end = here("export", f"--init_from={tuned}", "--layout=timm", f"--output={tmp_path / 'timm'}")
    assert end.status == 0, end.err
    name, score = output_of_the_code(python, tmp_path / "timm").split()
    expected = prediction_of_the_photo(tmp_path / "timm", ks.load(tuned))
    assert name == expected["class_name"] and abs(float(score) - expected["score"]) < 0.04


@pytest.mark.parametrize("layout", ["vit", "mae", "timm"])
def test_the_code_of_a_card_gives_features_of_a_photo(here, tuned, python, tmp_path, layout):
    pytest.importorskip("timm" if layout == "timm" else "transformers")
    given = (f"--init_from={tuned}", f"--layout={layout}", "--what=encoder")
    end = here("export", *given, f"--output={tmp_path / 'saved'}")
    assert end.status == 0, end.err
    assert output_of_the_code(python, tmp_path / "saved") == "torch.Size([1, 16])"


def test_the_encoder_of_a_classifier_leaves_for_timm(here, tuned, tmp_path):
    end = here("export", f"--init_from={tuned}", "--layout=timm", "--what=encoder", f"--output={tmp_path / 'timm'}")
    assert end.out.endswith(f"the encoder alone: the head for 2 classes stays in {tuned}\n"), end
    assert json.loads((tmp_path / "timm" / "config.json").read_text())["num_classes"] == 0
    card = (tmp_path / "timm" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# An encoder") and "pipeline" not in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output={tmp}/saved"], "Expected --init_from: Run folder, .keras file"),
        (["--init_from={run}"], "Expected --output: Folder to write"),
        (["--init_from={run}", "--output={tmp}"], "Expected an --output that does not exist yet, received"),
        (["--init_from={tmp}", "--output={tmp}/saved", "--layout=vit"], "there is no file"),
        (
            ["--init_from={run}", "--output={tmp}/saved", "--layout=vit", "--what=model"],
            "Expected --what=encoder with --layout=vit, received --what=model; --layout=timm or --layout=onnx holds a",
        ),
        (
            ["--init_from={run}", "--output={tmp}/saved", "--layout=timm", "--what=model"],
            "received a model of type SplitMask; use --what=encoder",
        ),
        (
            ["--init_from={run}", "--output={tmp}/saved", "--layout=torch", "--backend=tensorflow"],
            "Expected --backend=torch for --layout=torch, received tensorflow; leave it out. Runs of all backends can",
        ),
        (
            ["--init_from={run}", "--output={tmp}/saved", "--layout=torch", "--quantize=int8"],
            "Expected --layout=onnx or litert with --quantize=int8, received torch; choose another.",
        ),
        (
            ["--init_from={run}", "--output={tmp}/saved", "--layout=onnx", "--quantize=calibrated_int8"],
            "Expected --images with --quantize=calibrated_int8, received none; name a folder.",
        ),
        (
            ["--init_from={run}", "--output={tmp}/saved", "--layout=vit", "--resize"],
            "Expected --layout=saved_model, onnx, litert, torch with --resize, received vit, which holds weights only",
        ),
        (
            ["--init_from={run}", "--output={tmp}/saved", "--layout=litert", "--resize", "--quantize=float16"],
            "Expected --quantize=none or int8 with --resize, received float16, which is too coarse for the places of",
        ),
    ],
)
def test_bad_input_ends_in_one_line(refused, pretrained, tmp_path, flags, message):
    assert message in refused("export", *(flag.format(run=pretrained, tmp=tmp_path) for flag in flags))


def test_a_missing_package_is_named_before_anything_is_loaded(refused, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name))
    line = refused("export", "--init_from=none", f"--output={tmp_path / 'saved'}", "--layout=onnx")
    assert "--layout=onnx needs tensorflow, tf2onnx, onnxruntime. Run: pip install tf2onnx" in line


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_code_of_every_card_is_python(channels):
    for kind in model_card.KINDS:
        for layout in (*runtimes.RUNTIMES, *(("timm",) if kind in card_code.TIMM_SHOWN else ())):
            for named in (False, True):
                compile(card_code.code_of(kind, layout, (8, 12, channels), 0.875, named=named), layout, "exec")
    for layout in card_code.LIBRARIES:
        compile(card_code.code_of("Encoder", layout, (8, 12, channels)), layout, "exec")


def test_the_card_says_that_a_program_moves_no_window(tmp_path):
    model = ks.transfer.Segmenter(ks.Encoder((32, 32, 3), 16, 8, 1, 1), 2, width=8)
    for inference, said in (("slide", True), ("whole", False)):
        (tmp_path / "run.flags").write_text(f"--inference={inference}\n")
        card = model_card.text_of(model, "onnx", str(tmp_path))
        assert ("`splitmask predict --inference=whole` does it so" in card) == said == ("--inference=slide" in card)


def test_images_that_cannot_be_used_are_counted(tmp_path, capsys, make_images):
    Image.fromarray(make_images(1, (20, 30, 3))[0]).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:100])
    source = program_pictures.open_pictures([str(tmp_path)], ks.Encoder((8, 8, 3), 4, 8, 1, 1))
    assert len(source) == 1 and "left out  1 file, such as cut.png (" in capsys.readouterr().out


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch writes it")
def test_what_no_program_holds_is_refused(refused, pretrained, tmp_path):
    given = (f"--init_from={pretrained}", f"--output={tmp_path / 'saved'}", "--layout=torch")
    line = refused("export", *given, "--what=model")
    assert (
        "Expected a classifier, detector or segmenter" in line
        and "received a model of type SplitMask; use --what=encoder" in line
    )


def test_what_another_program_wrote_meanwhile_is_left_alone(here, pretrained, monkeypatch, tmp_path):
    output, save = tmp_path / "vit", ks.interchange.save_encoder

    def save_after_another(*given):
        save(*given)
        output.mkdir()
        (output / "mine").touch()

    monkeypatch.setattr(ks.interchange, "save_encoder", save_after_another)
    end = here("export", f"--init_from={pretrained}", "--layout=vit", f"--output={output}")
    assert end.status == 2 and f"received {output} (another program wrote it meanwhile); choose another" in end.err
    assert [path.name for path in tmp_path.rglob("*")] == ["vit", "mine"]


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch writes it")
def test_a_model_with_classes_that_is_no_classifier_leaves_as_its_encoder(here, tmp_path):
    small = ("--size=vit_micro", "--batch_size=4", "--steps=1", "--pictures=0", f"--workdir={tmp_path / 'run'}")
    assert here("pretrain", "--dataset=sample", "--method=deit", *small).status == 0
    end = here("export", f"--init_from={tmp_path / 'run'}", "--layout=torch", f"--output={tmp_path / 'saved'}")
    assert end.status == 0 and "pooled" in end.out, end.err


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
        "README.md",
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
