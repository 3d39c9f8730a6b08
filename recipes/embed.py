"""Compute features of images with an encoder, and compare the images by them.

    python recipes/embed.py --init_from=runs/quickstart --images=photos --output=features.npz
    python recipes/embed.py --init_from=runs/quickstart --images=photos --output=features.npz --duplicates --outliers
    python recipes/embed.py --init_from=runs/quickstart --images=photos --output=features.npz --neighbours=cat.jpg

An .npz file holds "names" (N,) and an array for each of --features: "pooled" (N, D), "cls" (N, D), "patches" (N, rows,
columns, D), all float32. An .npy file holds one array. A .parquet file has a column "file" and a column per kind.
OUTPUT.json lists what the features depend on, and the files that cannot be read, with the reason.

Comparisons write a table and a picture beside the features, such as features.duplicates.csv and
features.duplicates.png. They use the features in --output if those are of the same model and images. The similarity of
two images is the cosine of their features, after each feature was centred and divided by its standard deviation.
Run the same command again to resume.
"""

import os
import pathlib
import shlex

from absl import flags

from recipes.shared import commandline, comparison, earlier, feature_files, new_images, results, screen, writing

# These change the result.
flags.DEFINE_string(
    "init_from",
    None,
    "Run folder, .keras file, file or folder of weights of Hugging Face or timm, or hf:OWNER/NAME, of the encoder.",
)
flags.DEFINE_list(
    "features",
    ["pooled"],
    "Kinds of features: pooled, the mean of the patches; cls, which suits DINO; patches, one vector per patch. Several"
    " as pooled,cls.",
)

# Comparisons.
flags.DEFINE_bool("duplicates", False, "Find near-duplicates: images whose similarity is --threshold or more.")
flags.DEFINE_float(
    "threshold",
    0.98,
    lower_bound=-1,
    upper_bound=1,
    help="Least similarity of near-duplicates. Lower it to find more changed copies, raise it if groups mix subjects.",
)
flags.DEFINE_bool("outliers", False, "Order the images by their mean distance to their --near nearest neighbours.")
flags.DEFINE_string("neighbours", None, "Image file: find the --near images that are most similar to it.")
flags.DEFINE_integer("near", 12, lower_bound=1, help="Number of nearest neighbours for --outliers and --neighbours.")

# These do not.
flags.DEFINE_string("output", None, "File of the features, .npz, .npy or .parquet.")
flags.adopt_module_key_flags(new_images)
flags.adopt_module_key_flags(results)
FLAGS = flags.FLAGS


def load_embedding():
    """Load the encoder of --init_from: a `prediction.Embedding`, which prepares images as a classifier there does."""
    import keras

    import keras_splitmask as ks

    reports, policy = [], keras.config.dtype_policy()
    model = ks.load(FLAGS.init_from, reports.append)
    encoder = model if isinstance(model, ks.Encoder) else getattr(model, "encoder", None)
    if encoder is None or encoder.dtype_policy.name != policy.name:
        encoder = ks.interchange.load_encoder(FLAGS.init_from, reports.append, dtype=policy)
    if reports:
        print(reports[-1])
    batch_size = FLAGS.batch_size or ks.prediction.embedding.BATCH_SIZE
    ratio = FLAGS.crop_ratio or earlier.crop_ratio(FLAGS.init_from, model) or 1.0
    return ks.prediction.Embedding(encoder, FLAGS.features, batch_size, ratio)


def compute(output, settings, embedding, source):
    """Compute the features of all images of a source into a file, from where an earlier process was stopped."""
    from keras_splitmask.data.counting import counted

    folder = output.with_name(f"{output.name}.part")
    with results.opened(folder, settings, last="none") as record:
        parts = feature_files.Parts(folder, record, embedding.sizes())
        with results.removed_if_empty(record, parts, lambda: parts.names()[0]):
            fill(parts, embedding, source)
        names, left_out = parts.names()
        left_out = {**source.left_out, **left_out}
        parts.write(output, names)
        facts = {"settings": settings, "left_out": left_out, "names": names}
        writing.write_json(feature_files.facts_file(output), facts)
        parts.close()
        record.clear()
    writing.remove_empty([folder])
    shapes = ", ".join(f"{name} {'x'.join(map(str, (len(names), *size)))}" for name, size in embedding.sizes().items())
    print(f"{counted(len(names), 'image')}, {shapes}", flush=True)
    new_images.list_left_out(left_out, feature_files.facts_file(output))


def fill(parts, embedding, source):
    """Compute the features that are missing in the parts, and stop if there are none in the end."""
    step, count = embedding.batch_size, len(source)
    if begun := parts.journal.count:
        print(f"resumed at image {min(begun * step, count)} of {count}", flush=True)
    batches = embedding.batches(source, begun, FLAGS.workers)
    for number, indices, features, unreadable in new_images.show_progress(batches, step, count):
        left_out = {source.name(index): reason for index, reason in unreadable.items()}
        parts.add(number, [source.name(index) for index in indices], features, left_out)
    names, left_out = parts.names()
    if not names:
        raise new_images.none_readable(left_out)


def check_output(output, settings):
    """Return whether the features in --output are those that are asked for. Others are refused, or removed with
    --overwrite."""
    facts = feature_files.read_facts(output)
    if not os.path.lexists(output):
        return False
    if not facts:
        raise commandline.BadInput(
            f"Expected an --output that does not exist yet, or earlier features, received {output}; choose another."
        )
    if facts["settings"] == settings and not FLAGS.overwrite:
        print(f"{output} already holds these features", flush=True)
        return True
    if not FLAGS.overwrite:
        other = [name for name in settings if facts["settings"].get(name) != settings[name]]
        raise commandline.BadInput(
            f"Expected a new --output, received {output}, which holds features with other values of"
            f" {', '.join(other[:3])}. Choose another --output, or replace them with --overwrite."
        )
    return False


def compare(output, embedding, source):
    """Write the tables and pictures of the comparisons that the flags ask for."""
    key = next((name for name in embedding.features if name != "patches"), None)
    doubts = earlier.doubts(FLAGS.init_from)  # similar features may then mean little
    if key and not (doubts or FLAGS.duplicates or FLAGS.outliers or FLAGS.neighbours):
        options = [f"--init_from={FLAGS.init_from}", f"--output={output}", f"--features={','.join(FLAGS.features)}"]
        print(
            f"next      {screen.program('embed')} {new_images.typed(*options, '--duplicates', '--outliers')}",
            flush=True,
        )
    if doubts:
        print(f"warning   {' '.join(doubts)} Similar features may mean little.", flush=True)
    if not (FLAGS.duplicates or FLAGS.outliers or FLAGS.neighbours):
        return
    names = feature_files.read_facts(output)["names"]
    compared = comparison.Comparison(output, source, names, feature_files.read(output, key))
    found = FLAGS.duplicates and compared.duplicates(FLAGS.threshold)
    if FLAGS.outliers:
        compared.outliers(FLAGS.near)
    if FLAGS.neighbours:
        compared.neighbours(os.path.expanduser(FLAGS.neighbours), embedding, key, FLAGS.near)
    if doubts:  # groups of such features are no reason to divide images by them
        return
    folders = [path for path in FLAGS.images if os.path.isdir(path)]
    if found and len(folders) == len(FLAGS.images) == 1 and any("/" in name for name in names):  # maybe of classes
        options = [f"--groups={compared.path('duplicates.csv')}", f"--dataset=folder:{folders[0]}"]
        options += [f"--init_from={FLAGS.init_from}", f"--workdir={output.with_suffix('')}-tuned"]
        print(f"next      {screen.program('finetune')} {shlex.join(options)}", flush=True)


def main():
    output = pathlib.Path(FLAGS.output)
    feature_files.check(output, FLAGS.features)
    results.check_apart(output)
    if set(FLAGS.features) == {"patches"} and (FLAGS.duplicates or FLAGS.outliers or FLAGS.neighbours):
        raise commandline.BadInput(
            "Expected pooled or cls among --features for comparisons, received patches only; add pooled."
        )
    embedding = load_embedding()
    source = new_images.open_images(embedding.shape[-1])
    options = {"features": embedding.features, "batch_size": embedding.batch_size, "crop_ratio": embedding.crop_ratio}
    settings = new_images.settings(source, FLAGS.init_from, **options, precision=FLAGS.precision)
    if not check_output(output, settings):
        compute(output, settings, embedding, source)
    print(f"features  {output}", flush=True)
    compare(output, embedding, source)


if __name__ == "__main__":
    commandline.run(main, new_images.settle, required=("init_from", "images", "output"))
