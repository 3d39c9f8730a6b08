"""Write a function of a model as a program that another runtime runs, without Keras.

Each format is written by the backend in `WRITERS`, which loads the models of all backends. Keras' own exporters are not
used: they let images of wrong sides through, name no inputs and outputs, and on torch fix the number of images.
"""

import contextlib
import json
import logging
import pathlib
import tempfile
import types
import warnings
import zipfile

import keras

from keras_splitmask.backend.optional import optional

CLASSES = "classes.json"  # a list of the names of the classes, in the programs that have them
WRITERS = {"saved_model": "tensorflow", "onnx": "tensorflow", "litert": "tensorflow", "torch": "torch"}
FILES = {"onnx": "model.onnx", "litert": "model.tflite", "torch": "model.pt2"}  # a SavedModel has several
AXES = ("batch", "height", "width")  # of images that may be of any length
OPSET = 18  # of ONNX
QUANTIZED = ("float16", "int8", "calibrated_int8")  # numbers that a program may have in place of float32
SMALLER = ("onnx", "litert")  # formats that have them
LOOPING = ("saved_model", "onnx", "litert")  # formats that hold a loop as such; others write each of its rounds out


def write_program(function, model, image_shape, folder, form, class_names=None, quantize=None, examples=None):
    """Write a function as a program with one input, "images" (B, H, W, C) uint8 for any B, and named outputs.

    Images of other sides, channels or types are an error in the program.

    Args:
        function: from a tensor (B, H, W, C) uint8 to a dictionary of tensors. It uses the weights of `model` alone.
        model: a built Keras model.
        image_shape: (H, W, C). A side that is None may be of any length, the same for all images of a call.
        folder: path of a folder that exists.
        form: one of `WRITERS`.
        class_names: names of the classes, which the program carries.
        quantize: one of `QUANTIZED`, or None for float32. See `save_program`.
        examples: (n, H, W, C) uint8, by which calibrated_int8 chooses the range of each tensor.

    Raises:
        ValueError: on another backend than the one that writes the format, or if the format knows no such numbers.
        ImportError: if a package that writes the format is missing.
    """
    if keras.backend.backend() != WRITERS[form]:
        raise ValueError(
            f"Expected the backend {WRITERS[form]}, which writes {form}, received {keras.backend.backend()}; set"
            f" KERAS_BACKEND={WRITERS[form]} before Keras is imported."
        )
    if quantize not in (None, *QUANTIZED):
        raise ValueError(f"Expected quantize among {', '.join(QUANTIZED)}, received {quantize!r}.")
    if quantize and form not in SMALLER:
        raise ValueError(
            f"Expected a format among {', '.join(SMALLER)} for {quantize}, received {form}; choose another."
        )
    if quantize == "calibrated_int8" and examples is None:
        raise ValueError("Expected examples of images for calibrated_int8, received none; give some of your own.")
    given = getattr(examples, "shape", ())
    if examples is not None and (tuple(given[1:]) != tuple(image_shape) or not given[0] or examples.dtype != "uint8"):
        raise ValueError(f"Expected examples (n, {', '.join(map(str, image_shape))}) uint8, received {given}.")
    write = {"saved_model": _saved_model, "onnx": _onnx, "litert": _litert, "torch": _torch}[form]
    more = (quantize, examples) if form in SMALLER else ()
    with _without_notes():
        write(function, model, (None, *image_shape), pathlib.Path(folder), list(class_names or ()), *more)


@contextlib.contextmanager
def _without_notes():
    """Silence what converters warn of, which is about their own versions and graphs. Errors still come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _serving(function, shape):
    tf = optional("tensorflow", "tf")

    def serve(images):
        # What calls a signature would otherwise get an answer for other sides, if they have as many pixels.
        return function(tf.ensure_shape(images, shape))

    return tf.function(serve, [tf.TensorSpec(shape, "uint8", name="images")], autograph=False)


def as_graph(function, image_shape):
    """The function, as `write_program` takes it, as a graph with TensorFlow, whose loops take minutes otherwise."""
    return _serving(function, (None, *image_shape)) if keras.backend.backend() == "tensorflow" else function


def _saved_model(function, model, shape, folder, class_names):
    tf = optional("tensorflow", "tf")
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]  # which the function reads
    module.serve = _serving(function, shape)
    with tempfile.TemporaryDirectory() as aside:
        if class_names:
            file = pathlib.Path(aside, CLASSES)
            file.write_text(_text(class_names), encoding="utf-8")
            module.classes = tf.saved_model.Asset(str(file))
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def _onnx(function, model, shape, folder, class_names, quantize, examples):
    convert, onnx = optional("tf2onnx", "onnx").convert, optional("onnx", "onnx")
    serve = _serving(function, shape)
    program, _ = convert.from_function(serve, input_signature=serve.input_signature, opset=OPSET)
    for value in (*program.graph.input, *program.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = AXES[0]
    for i, side in enumerate(shape):
        if side is None:
            program.graph.input[0].type.tensor_type.shape.dim[i].dim_param = AXES[i]
    if quantize == "float16":
        halved = optional("onnxruntime.transformers.float16", "onnx").convert_float_to_float16
        program = halved(program, keep_io_types=True)
    if class_names:
        onnx.helper.set_model_props(program, {"classes": _text(class_names)})
    file = str(folder / FILES["onnx"])
    onnx.save(program, file)
    # Weights of 7 bits: with 8, processors without VNNI add up products in 16 bits, which overflow.
    if quantize == "int8":
        optional("onnxruntime.quantization", "onnx").quantize_dynamic(file, file, reduce_range=True)
    elif quantize == "calibrated_int8":
        batches = ({"images": examples[i : i + 1]} for i in range(len(examples)))
        reader = types.SimpleNamespace(get_next=lambda: next(batches, None))
        # The products, in which nearly all of the time is spent. More of it in int8 changes more answers.
        own = {"reduce_range": True, "per_channel": True, "op_types_to_quantize": ["MatMul", "Gemm"]}
        optional("onnxruntime.quantization", "onnx").quantize_static(file, file, reader, **own)


def _litert(function, model, shape, folder, class_names, quantize, examples):
    tf = optional("tensorflow", "tf")

    def serve(images):
        # LiteRT knows no ensure_shape, and would take images of any shape. The minimum takes this one alone.
        largest = tf.fill([side or 1 for side in shape[1:]], 255)
        return function(tf.cast(tf.minimum(tf.cast(images, "int32"), largest), "uint8"))

    with tempfile.TemporaryDirectory() as aside:
        _saved_model(serve, model, shape, aside, ())
        converter = tf.lite.TFLiteConverter.from_saved_model(aside)
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        elif quantize == "calibrated_int8":
            converter.representative_dataset = lambda: ({"images": image[None]} for image in examples)
        content = converter.convert()
    path = folder / FILES["litert"]
    path.write_bytes(content)
    if class_names:  # associated files of LiteRT are a zip archive after the model
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(CLASSES, _text(class_names))


def _torch(function, model, shape, folder, class_names):
    import torch

    class Served(torch.nn.Module):  # without the model as a part, whose weights would be written a second time
        def forward(self, images):
            return function(images)

    free = {i: torch.export.Dim(name, min=1) for i, name in enumerate(AXES) if shape[i] is None}
    # What is 1 in the example, torch would take for a constant.
    example = [side or 2 + i for i, side in enumerate(shape)]
    images = torch.zeros(example, dtype=torch.uint8, device=model.variables[0].value.device)
    with torch.no_grad():
        program = torch.export.export(Served().eval(), (images,), dynamic_shapes=(free,), strict=False)
    torch.export.save(
        program, folder / FILES["torch"], extra_files={CLASSES: _text(class_names)} if class_names else {}
    )


def _text(class_names):
    return json.dumps(class_names, ensure_ascii=False)
