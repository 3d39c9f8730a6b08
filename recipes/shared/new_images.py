"""The images that predict.py and embed.py take: --images, and how they are read."""

import hashlib
import pathlib
import shlex
import time

from absl import flags

from recipes.shared import commandline, flag_names, value_range

# These change the result.
flags.DEFINE_multi_string(
    "images",
    None,
    "Folder of images, which may hold other folders; image file; .npy or .npz file of an array; .txt file that lists"
    " one path per line; or sample, the test images of the sample",
)
flags.DEFINE_string("array", None, "Name of the array in an .npz file of several, such as test_images.")
flags.DEFINE_integer(
    "batch_size",
    None,
    lower_bound=1,
    help="Images at a time. Lower it if memory runs out. Default: 64; 16 for detection and segmentation.",
)
flags.DEFINE_float(
    "crop_ratio",
    None,
    lower_bound=0.01,
    upper_bound=1,
    help="Fraction of an image's side to keep, from the centre, for classes and features. Default: as the classifier of"
    " --init_from has, or 1.",
)

# These do not.
flags.DEFINE_integer(
    "workers", 2, lower_bound=1, help="Threads that read images. Raise it for large photographs and many cores."
)
flags.adopt_module_key_flags(value_range)
FLAGS = flags.FLAGS
INTERVAL = 5.0  # seconds between two lines about the progress


def settle():
    """Take --images as --dataset has its names, such as folder:PATH, and the value range of the run."""
    for kind in ("folder:", "npz:", "npy:"):
        FLAGS.images = FLAGS.images and [path.removeprefix(kind) for path in FLAGS.images]
    value_range.settle()


def open_images(channels, own_range=None):
    """Open --images with the channels of the model, and print what was found.

    `own_range` is the value range of the model, which holds without --value_range.
    """
    from keras_splitmask import data
    from keras_splitmask.data.counting import counted

    given = value_range.given() or own_range
    if FLAGS.images == ["sample"]:
        source = data.open_source("sample", "test", channels=channels)
    else:
        source = data.open_images(FLAGS.images, channels, given, FLAGS.array, _say)
    left_out = f"; {counted(len(source.left_out), 'file')} cannot be used" if source.left_out else ""
    print(f"{', '.join(FLAGS.images[:3])}: {counted(len(source), 'image')}{left_out}", flush=True)
    return source


def _say(line):
    print(flag_names.with_flags(line), flush=True)


def typed(*options):
    """Write options for a command on the same images, as one types them: the given ones, and those typed here."""
    images = [f"--images={path}" for path in FLAGS.images]
    names = ("array", "batch_size", "crop_ratio", "value_range")
    more = [FLAGS[name].serialize() for name in names if FLAGS[name].present]
    return shlex.join([*options[:1], *images, *options[1:], *more])


def settings(source, path, **more):
    """List everything that results depend on, as {what: value}."""
    import keras

    own = {"backend": keras.backend.backend(), "value_range": source.value_range, "count of images": len(source)}
    return {"model": _fingerprint(path), "images": source.fingerprint, **own, **more}


def _fingerprint(path):
    """64 hexadecimal digits that change when the files of a model do."""
    path = pathlib.Path(path).expanduser()
    patterns = ("model.keras", "*.safetensors", "*.bin", "*.index.json", "config.json", "preprocessor_config.json")
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else [file for name in patterns for file in sorted(path.glob(name))]:
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def show_progress(batches, step, count):
    """Pass batches on, whose first item is a number, and print a line about the progress every few seconds.

    Args:
        batches: an iterator.
        step: number of images in a batch.
        count: number of all images.
    """
    begun = shown = time.monotonic()
    first = None
    for number, *batch in batches:
        yield number, *batch
        now, done = time.monotonic(), min(count, (number + 1) * step)
        if first is None:  # without the time for compiling
            begun, first = now, done
        if now - shown > INTERVAL and done < count:
            shown = now
            speed = f", {(done - first) / (now - begun):.0f} images/s" if done > first else ""
            print(f"{done} of {count} images{speed}", flush=True)
        commandline.stop_if_asked()


def none_readable(left_out):
    """The error for images if none can be read, from {name: reason}."""
    from keras_splitmask.prediction import options

    return commandline.BadInput(str(options.none_readable(len(left_out), left_out)))


def list_left_out(left_out, path):
    """Print the number of images that cannot be used and the first reasons. `path` is the file that lists all."""
    from keras_splitmask.data.counting import counted

    if left_out:
        name, reason = next(iter(left_out.items()))
        print(
            f"{counted(len(left_out), 'image')} left out, such as {name} ({reason}); all are listed in {path}",
            flush=True,
        )
