"""The encoder of --init_from, or a new one, for the recipes that go on with it."""

from absl import flags

from recipes.shared import commandline, image_sets

FLAGS = flags.FLAGS


def load_encoder(**changes):
    """The encoder of --init_from, resized to --image_size, --patch_size and --channels if they are given; None if it
    was left out.

    `changes` replace arguments of it, such as positions.
    """
    import keras

    from keras_splitmask.interchange import load_encoder

    if not FLAGS.init_from:
        return None
    if FLAGS.size is not None:
        raise commandline.BadInput(f"--size is decided by --init_from={FLAGS.init_from}; leave it out.")
    changes = {"drop_path": FLAGS.drop_path, "dtype": keras.config.dtype_policy(), **changes}
    told = []
    encoder = load_encoder(FLAGS.init_from, told.append, **changes)
    shape = (*(image_sets.image_size() or encoder.image_shape[:2]), FLAGS.channels or encoder.image_shape[-1])
    patch_size = FLAGS.patch_size or encoder.patch_size
    if (shape, patch_size) != (encoder.image_shape, encoder.patch_size):
        encoder = load_encoder(FLAGS.init_from, told.append, image_shape=shape, patch_size=patch_size, **changes)
    print(told[-1])
    return encoder


def fresh_encoder(image_shape, **options):
    """An untrained encoder by the flags, for images of that shape."""
    import keras_splitmask as ks

    commandline.require("size", "patch_size")
    return ks.Encoder.from_size(FLAGS.size, image_shape, FLAGS.patch_size, drop_path=FLAGS.drop_path, **options)
