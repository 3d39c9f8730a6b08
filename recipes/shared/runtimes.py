"""Run an exported program as its users do: by its runtime alone, without Keras and this library.

python recipes/shared/runtimes.py FORM FOLDER IMAGES.npz ANSWERS.npz

IMAGES.npz holds batches of images, which may be of different sizes. ANSWERS.npz gets the names of the answers, and the
answers to each batch, as "0 NAME", "1 NAME".
"""

import pathlib
import sys


def _saved_model(folder):
    import tensorflow as tf

    program = tf.saved_model.load(str(folder))
    serve = program.signatures["serving_default"]
    return lambda images: {name: value.numpy() for name, value in serve(images=tf.constant(images)).items()}


def _onnx(folder):
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def _litert(folder):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(folder / "model.tflite")).get_signature_runner()
    return lambda images: runner(images=images)


def _torch(folder):
    import torch

    program = torch.export.load(folder / "model.pt2").module()
    return lambda images: {name: value.detach().numpy() for name, value in program(torch.tensor(images)).items()}


RUNTIMES = {"saved_model": _saved_model, "onnx": _onnx, "litert": _litert, "torch": _torch}
# As in keras_splitmask/backend/programs.py, which imports Keras, and so cannot say which backend to choose for it.
BACKENDS = {"saved_model": "tensorflow", "onnx": "tensorflow", "litert": "tensorflow", "torch": "torch"}
QUANTIZED = ("float16", "int8", "calibrated_int8")
SMALLER = ("onnx", "litert")
RESIZED = ("none", "int8")  # the numbers that a program with --resize may have
# What writes and runs a program, besides the backend.
PACKAGES = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai-edge-litert",)}

if __name__ == "__main__":
    import numpy as np

    sys.modules.update(keras=None, keras_splitmask=None)  # importing them fails, as where they are not installed
    form, folder, images, answers = sys.argv[1:]
    run = RUNTIMES[form](pathlib.Path(folder))
    with np.load(images) as batches:
        found = [run(batches[name]) for name in batches.files]
    named = {f"{i} {name}": value for i, answer in enumerate(found) for name, value in answer.items()}
    np.savez(answers, names=list(found[0]), **named)
