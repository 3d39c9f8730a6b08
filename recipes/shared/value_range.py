"""The flag --value_range: which stored values are black and white. Fine-tuning uses the range of pre-training."""

from absl import flags

from recipes.shared import earlier

flags.DEFINE_list(
    "value_range",
    None,
    "LOW,HIGH: the stored values that become black and white, such as 0,4095 for 12-bit numbers in 16-bit files. Values"
    " outside are clipped. 8-bit images are not changed if HIGH is above 255. Default: as the run of --init_from has,"
    " or the range of the type.",
)
FLAGS = flags.FLAGS


def settle():
    """Take the range from the run of --init_from unless the flag is given, and print a line if the two differ."""
    if not FLAGS.init_from:
        return
    before = earlier.flag_of_run(FLAGS.init_from, "value_range")
    if FLAGS.value_range is None and before:
        FLAGS.value_range = before.split(",")
        print(f"--value_range={before}, as in the run of --init_from", flush=True)
    elif FLAGS.value_range is not None and tuple(float(value) for value in before.split(",") if value) != numbers():
        print(
            f"--value_range={','.join(FLAGS.value_range)} differs from the run of --init_from, which has"
            f" {before or 'none'}.",
            flush=True,
        )


def given():
    """Return (low, high), or None for the range of the type."""
    return tuple(FLAGS.value_range) if FLAGS.value_range else None


def numbers():
    """Return (low, high) as floats; None for the range of the type, or if they are no numbers."""
    try:
        return tuple(float(value) for value in FLAGS.value_range) if FLAGS.value_range else None
    except ValueError:  # refused when the data is opened
        return None
