"""Models as programs of other runtimes: the same answers, errors for images that do not fit, and the table of formats
in docs/export.md."""

import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.backend import programs
from keras_splitmask.data import center_box
from keras_splitmask.data.decoding import part
from keras_splitmask.data.resizing import resize
from keras_splitmask.interchange import PROGRAMS, check_program, program_of, save_program
from recipes.shared.runtimes import BACKENDS, QUANTIZED, RUNTIMES, SMALLER

SHAPE = (64, 96, 3)
NAMES = ["cat", "dög", "a\nb"]
OF_TENSORFLOW = [form for form in PROGRAMS if form != "torch"]
RELATIVE = "Encoder with relative positions"
KINDS = ("Encoder", "Classifier", "Segmenter", "RetinaNet", "MaskRCNN")


def encoder(**options):
    return ks.Encoder(SHAPE, patch_size=16, width=16, depth=1, heads=2, **options)


def made(kind):
    """A model of a kind with random weights, as far from its start as training would bring it."""
    keras.utils.set_random_seed(0)
    if kind == "Encoder":
        model = encoder()
    elif kind == RELATIVE:
        model = encoder(relative_positions=True)
    elif kind in ("Classifier", "Segmenter"):
        own = {"width": 16} if kind == "Segmenter" else {}
        model = getattr(ks.transfer, kind)(encoder(), 3, class_names=NAMES, **own)
    else:
        pytest.importorskip("keras_cv", reason="detectors are KerasCV's, which is not installed")
        model = getattr(ks.transfer, kind)(encoder(), 3, class_names=NAMES, width=16, max_detections=4)
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign_add(0.05 * rng.standard_normal(weight.shape).astype("float32"))
    return model


def saved(model, form, tmp_path, **numbers):
    """Save a model, and return the function that runs the program by its runtime."""
    for package in {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}.get(form, ()):
        pytest.importorskip(package, reason=f"{form} needs {package}, which is not installed")
    save_program(model, tmp_path / form, form, **numbers)
    return RUNTIMES[form](tmp_path / form)


def check(model, run, make_images):
    """One image and three give what the model gives."""
    for images in (make_images(1, SHAPE), make_images(3, SHAPE)):
        expected, answer = program_of(model)(ops.convert_to_tensor(images)), run(images)
        assert set(answer) == set(expected)
        for name, value in expected.items():
            value = ops.convert_to_numpy(value)
            assert answer[name].dtype == value.dtype and answer[name].shape == value.shape
            np.testing.assert_allclose(answer[name], value, atol=1e-4 * max(1.0, np.abs(value).max()))


@pytest.mark.tensorflow
@pytest.mark.parametrize("form", OF_TENSORFLOW)
@pytest.mark.parametrize("kind", ["Encoder", RELATIVE, "Classifier", pytest.param("Segmenter", marks=pytest.mark.long)])
def test_programs_of_tensorflow_answer_as_the_model(kind, form, make_images, tmp_path):
    model = made(kind)
    check(model, saved(model, form, tmp_path), make_images)


@pytest.mark.tensorflow
def test_levels_of_five_cells_leave_for_onnx(make_images, tmp_path):
    """Such, and of 7 or 10, are those of images of 160, 224 and 320 pixels."""
    model = ks.transfer.Segmenter(ks.Encoder((160, 160, 3), 16, 16, 1, 2), 3, width=8)
    run, images = saved(model, "onnx", tmp_path), make_images(2, (160, 160, 3))
    expected = ops.convert_to_numpy(program_of(model)(ops.convert_to_tensor(images))["labels"])
    assert (run(images)["labels"] == expected).mean() > 0.99


@pytest.mark.tensorflow
@pytest.mark.endurance
@pytest.mark.parametrize("form", OF_TENSORFLOW)
@pytest.mark.parametrize("kind", ["RetinaNet", "MaskRCNN"])
def test_detectors_choose_the_same_boxes(kind, form, make_images, tmp_path):
    model = made(kind)
    check(model, saved(model, form, tmp_path), make_images)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch writes it")
@pytest.mark.parametrize("kind", ["Encoder", RELATIVE, "Classifier", "Segmenter"])
def test_programs_of_torch_answer_as_the_model(kind, make_images, tmp_path):
    model = made(kind)
    check(model, saved(model, "torch", tmp_path), make_images)


@pytest.mark.tensorflow
@pytest.mark.parametrize("form", SMALLER)
def test_smaller_programs_answer_nearly_as_the_model(form, make_images, tmp_path):
    keras.utils.set_random_seed(3)  # with these weights sums of products do not fit into 16 bits
    encoder = ks.Encoder(SHAPE, patch_size=16, width=64, depth=2, heads=2)
    model = ks.transfer.Classifier(encoder, 3)
    model.head.kernel.assign(np.random.default_rng(0).standard_normal((64, 3)))
    images, sizes = make_images(16, SHAPE), {}
    expected = ops.convert_to_numpy(program_of(model)(ops.convert_to_tensor(images))["scores"])
    for quantize, most in ((None, 1e-4), ("float16", 5e-3), ("int8", 0.1), ("calibrated_int8", 0.3)):
        run = saved(model, form, tmp_path / str(quantize), quantize=quantize, examples=images)
        (file,) = (tmp_path / str(quantize) / form).iterdir()
        sizes[quantize] = file.stat().st_size
        assert np.abs(run(images)["scores"] - expected).max() < most
        assert run(images[:1])["scores"].shape == (1, 3) and run(images)["scores"].dtype == "float32"
    assert sizes["float16"] < 0.65 * sizes[None] and max(sizes["int8"], sizes["calibrated_int8"]) < 0.5 * sizes[None]


def check_resizing(form, make_images, tmp_path):
    """Images of other sizes, one and three, get the answers of what the host resizes; wrong ones are errors."""
    model = made("Encoder")
    run = saved(model, form, tmp_path, resize=True, crop_ratio=0.875)
    for images in (make_images(1, (40, 300, 3)), make_images(3, (130, 170, 3)), make_images(1, SHAPE)):
        box = center_box(*images.shape[1:3], SHAPE[:2], 0.875)
        framed = np.stack([resize(part(image, box), SHAPE[:2]) for image in images])
        for name, value in program_of(model)(ops.convert_to_tensor(framed)).items():
            answer = run(images)[name]
            assert answer.dtype == "float32" and answer.shape == tuple(value.shape)
            np.testing.assert_allclose(answer, ops.convert_to_numpy(value), atol=0.05)  # numbers up to 3
    for wrong in ((2, 3, 40, 60), (1, 40, 60, 4), (1, 0, 60, 3), (1, 40, 0, 3)):
        with pytest.raises(Exception, match=r"(?i)shape|size|dimension|index|slice|guard"):
            run(np.zeros(wrong, "uint8"))
    with pytest.raises(Exception, match=r"(?i)type|uint8"):
        run(np.zeros((1, 40, 60, 3), "float32"))


@pytest.mark.tensorflow
@pytest.mark.parametrize("form", OF_TENSORFLOW)
def test_programs_of_tensorflow_resize(form, make_images, tmp_path):
    check_resizing(form, make_images, tmp_path)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch writes it")
def test_programs_of_torch_resize(make_images, tmp_path):
    check_resizing("torch", make_images, tmp_path)


@pytest.mark.backend
@pytest.mark.parametrize(
    "kind", ["Segmenter", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("RetinaNet", "MaskRCNN"))]
)
def test_dense_answers_are_about_the_given_images(kind, make_images):
    """They are those of `predict_images`, which resizes on the host, so that few numbers differ a little."""
    model = made(kind)
    for images in (make_images(1, (40, 300, 3)), make_images(2, (130, 170, 3)), make_images(1, (200, 50, 3))):
        answers = program_of(model, resize=True)(ops.convert_to_tensor(images))
        answers = {name: ops.convert_to_numpy(value) for name, value in answers.items()}
        for i, expected in enumerate(ks.predict_images(model, images)):
            if kind == "Segmenter":
                assert (answers["labels"][i] == expected["label_map"]).mean() > 0.99
                continue
            shown = answers["labels"][i] >= 0
            boxes = answers["boxes"][i][shown]
            cut = np.clip(boxes, 0, np.array(images.shape[1:3] * 2)) if kind == "MaskRCNN" else boxes
            np.testing.assert_allclose(cut, expected["boxes"], atol=1.0)
            np.testing.assert_array_equal(answers["labels"][i][shown], expected["labels"])
            np.testing.assert_allclose(answers["scores"][i][shown], expected["scores"], atol=0.01)


def check_dense_resizing(kind, form, make_images, tmp_path):
    model = made(kind)
    run = saved(model, form, tmp_path, resize=True)
    for images in (make_images(1, (40, 300, 3)), make_images(3, (130, 170, 3))):
        expected, answer = program_of(model, resize=True)(ops.convert_to_tensor(images)), run(images)
        for name, value in expected.items():
            value = ops.convert_to_numpy(value)
            assert answer[name].dtype == value.dtype and answer[name].shape == value.shape
            differences = np.abs(answer[name] - value) / max(1.0, np.abs(value).max())
            assert np.quantile(differences, 0.99) < 1e-4


@pytest.mark.tensorflow
@pytest.mark.endurance
@pytest.mark.parametrize("form", OF_TENSORFLOW)
@pytest.mark.parametrize("kind", ["Segmenter", "RetinaNet", "MaskRCNN"])
def test_dense_programs_of_tensorflow_resize(kind, form, make_images, tmp_path):
    check_dense_resizing(kind, form, make_images, tmp_path)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch writes it")
def test_dense_programs_of_torch_resize(make_images, tmp_path):
    check_dense_resizing("Segmenter", "torch", make_images, tmp_path)


@pytest.mark.tensorflow
@pytest.mark.parametrize("form", SMALLER)
def test_programs_of_int8_resize_in_float32(form, make_images, tmp_path):
    model, images = made("Classifier"), make_images(4, (200, 150, 3))
    run = saved(model, form, tmp_path, quantize="int8", resize=True)
    expected = ops.convert_to_numpy(program_of(model, resize=True)(ops.convert_to_tensor(images))["scores"])
    assert np.abs(run(images)["scores"] - expected).max() < 0.1


def refuse_what_does_not_fit(run, images):
    """Other sides, sides the other way round, channels first and floats are errors."""
    for wrong in (
        np.concatenate([images, images], axis=1),
        images.transpose(0, 2, 1, 3),
        images.transpose(0, 3, 1, 2),
        images.astype("float32") / 255,
    ):
        with pytest.raises(Exception, match=r"(?i)shape|size|dimension|type|tensor"):
            run(wrong)


@pytest.mark.tensorflow
@pytest.mark.parametrize("form", OF_TENSORFLOW)
def test_programs_of_tensorflow_refuse_what_does_not_fit(form, make_images, tmp_path):
    refuse_what_does_not_fit(saved(made("Classifier"), form, tmp_path), make_images(2, SHAPE))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch writes it")
def test_programs_of_torch_refuse_what_does_not_fit(make_images, tmp_path):
    refuse_what_does_not_fit(saved(made("Classifier"), "torch", tmp_path), make_images(2, SHAPE))


@pytest.mark.tensorflow
def test_programs_of_tensorflow_carry_the_names_of_the_classes(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed")
    model = made("Classifier")
    for form in OF_TENSORFLOW:
        save_program(model, tmp_path / form, form)
    assert json.loads((tmp_path / "saved_model" / "assets" / "classes.json").read_text()) == NAMES
    properties = onnx.load(tmp_path / "onnx" / "model.onnx").metadata_props
    assert {one.key: json.loads(one.value) for one in properties} == {"classes": NAMES}
    with zipfile.ZipFile(tmp_path / "litert" / "model.tflite") as archive:
        assert json.loads(archive.read("classes.json")) == NAMES


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch writes it")
def test_programs_of_torch_carry_the_names_of_the_classes(tmp_path):
    import torch

    save_program(made("Classifier"), tmp_path / "saved", "torch")
    more = {"classes.json": ""}
    torch.export.load(tmp_path / "saved" / "model.pt2", extra_files=more)
    assert json.loads(more["classes.json"]) == NAMES


def test_the_recipe_knows_the_formats_of_the_library():
    """It reads them before it chooses the backend, so it has names of its own."""
    assert (BACKENDS, QUANTIZED, SMALLER) == (programs.WRITERS, programs.QUANTIZED, programs.SMALLER)


def test_bad_input_writes_nothing(tmp_path):
    other = "saved_model" if keras.backend.backend() != "tensorflow" else "torch"
    (tmp_path / "there").mkdir()
    for place, form, message in (
        ("new", other, "which writes"),
        ("new", "coreml", "Expected a format among saved_model, onnx, litert, torch, received 'coreml'"),
        ("there", other, "Expected a folder that does not exist yet"),
    ):
        with pytest.raises(ValueError, match=message):
            save_program(made("Classifier"), tmp_path / place, form)
    with pytest.raises(ValueError, match="which writes"):
        save_program(made("Classifier"), tmp_path / "new" / "deeper", other)
    for kind, options, message in (
        ("Segmenter", {"crop_ratio": 0.9}, "Expected crop_ratio with resize, of an encoder .*, received 0.9 for a Seg"),
        ("Encoder", {"quantize": "float16"}, "Expected float32 or int8 for a program that resizes, received float16"),
        *(
            ("Encoder", {"crop_ratio": ratio}, "Expected crop_ratio to be a number above 0 and up to 1, received")
            for ratio in (0, -1, 1.01, float("nan"), None, "0.9")
        ),
    ):
        with pytest.raises(ValueError, match=message):
            save_program(made(kind), tmp_path / "new", "onnx", resize=True, **options)
    for kind, message in (("RetinaNet", "Expected float32 for a RetinaNet"), ("Classifier", "which writes|among onnx")):
        with pytest.raises(ValueError, match=message):
            save_program(made(kind), tmp_path / "new", "saved_model", quantize="int8")
    with pytest.raises(
        ValueError, match="Expected an Encoder, Classifier, .* received a model of type SplitMask; save its encoder"
    ):
        save_program(
            ks.SplitMask(encoder(), ks.tokenizers.RandomProjection(SHAPE, 16, vocabulary=8)), tmp_path / "new", other
        )
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_the_table_of_formats_is_what_is_refused():
    """docs/export.md says for each model and format what `check_program` does; the tests above run what it allows."""

    def cell(kind, form):
        model, found = made(kind), "no"
        for inside, answer in ((False, "yes"), (True, "yes, also `--resize`")):
            try:
                check_program(model, form, resize=inside)
                found = answer
            except ValueError:
                pass
        return found

    rows = [f"| {kind} | " + " | ".join(cell(kind, form) for form in PROGRAMS) + " |" for kind in KINDS]
    head = "| | " + " | ".join(f"`{form}`" for form in PROGRAMS) + " |\n|---|" + "---|" * len(PROGRAMS)
    page = (pathlib.Path(__file__).parents[2] / "docs" / "export.md").read_text()
    assert "\n".join([head, *rows]) in page
