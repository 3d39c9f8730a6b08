"""The encoder that a recipe starts from: that of --init_from, or a new one."""

from absl import flags

from recipes.shared import commandline, image_sets

FLAGS = flags.FLAGS


def load_encoder(**changes):
    """Load the encoder of --init_from, resized to --image_size, --patch_size and --channels if given.

    `changes` replace arguments of the encoder, such as positions. Returns None without --init_from.
    """
    import keras

    from keras_splitmask.interchange import load_encoder

    if not FLAGS.init_from:
        return None
    if FLAGS.size is not None:
        raise commandline.BadInput(f"--init_from={FLAGS.init_from} already sets the size; leave --size out.")
    changes = {"drop_path": FLAGS.drop_path, "dtype": keras.config.dtype_policy(), **changes}
    reports = []
    # First as it is, since only the file says its size; then again, if it is to be another.
    encoder = load_encoder(FLAGS.init_from, reports.append, **changes)
    shape = (*(image_sets.image_size() or encoder.image_shape[:2]), FLAGS.channels or encoder.image_shape[-1])
    patch_size = FLAGS.patch_size or encoder.patch_size
    if (shape, patch_size) != (encoder.image_shape, encoder.patch_size):
        encoder = load_encoder(FLAGS.init_from, reports.append, image_shape=shape, patch_size=patch_size, **changes)
    print(reports[-1])
    return encoder


def fresh_encoder(image_shape, **options):
    """Build an untrained encoder of the flags for images of this shape."""
    import keras_splitmask as ks

    commandline.require("size", "patch_size")
    return ks.Encoder.from_size(FLAGS.size, image_shape, FLAGS.patch_size, drop_path=FLAGS.drop_path, **options)
