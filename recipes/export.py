"""Export a trained encoder as a SavedModel that needs TensorFlow alone.

    python recipes/export.py --init_from=runs/quickstart --output=runs/quickstart/encoder

`tf.saved_model.load(PATH).serve(images)` takes images (B, H, W, C) uint8 of any number B, and gives a dictionary of "pooled" (B, D), "cls"
(B, D) and "feature_map" (B, rows, columns, D), all float32. Preprocessing is inside.
"""

import commandline
from absl import flags

# These change the result.
flags.DEFINE_string("init_from", None, "Run folder or .keras file of the encoder to export.")

# These do not.
flags.DEFINE_string("output", None, "Folder to write; it must not exist yet.")
FLAGS = flags.FLAGS
TOLERANCE = 1e-4  # in units of the answer's own size


def main():
    commandline.require("init_from", "output")
    import os
    import pathlib

    import keras
    import numpy as np

    import keras_splitmask as ks
    from keras_splitmask.data.optional import optional

    output = pathlib.Path(FLAGS.output)
    if output.exists():
        raise commandline.BadInput(f"Expected an --output that does not exist yet, received {output}.")
    if keras.backend.backend() == "torch":
        raise commandline.BadInput("SavedModels are written on the tensorflow or jax backend; any run can be exported with --backend=tensorflow.")
    tf = optional("tensorflow", "tf")
    encoder = ks.interchange.load_encoder(FLAGS.init_from, dtype="float32")  # whatever the precision of training
    aside = output.with_name(output.name + ".part")
    signature = [keras.InputSpec(shape=(None, *encoder.image_shape), dtype="uint8")]
    encoder.export(aside, format="tf_saved_model", input_signature=signature, verbose=False)
    served = tf.saved_model.load(str(aside))
    images = np.random.default_rng(0).integers(0, 256, (3, *encoder.image_shape), dtype="uint8")
    expected, received = encoder(images), served.serve(images)
    for name, value in expected.items():
        value = keras.ops.convert_to_numpy(value)
        difference = np.abs(value - received[name].numpy()).max() / max(1.0, np.abs(value).max())
        print(f"{name:<12} {'x'.join(map(str, value.shape[1:])):<12} differs by {difference:.1e} after reloading")
        if not difference < TOLERANCE:
            raise RuntimeError(f"The exported encoder's {name} differs by {difference} from the original; {aside} is kept for a look.")
    os.replace(aside, output)
    print(f"exported  {output}")


if __name__ == "__main__":
    commandline.run(main)
