"""Evaluate a frozen encoder by nearest neighbours, and by a linear classifier on the features of every block.

    python recipes/probe.py --init_from=runs/quickstart --dataset=sample --workdir=runs/quickstart-probe
    python recipes/probe.py --init_from=runs/photos --dataset=folder:labelled

The block that counts is chosen on training images that are held out, not on those that are evaluated.

The features of all blocks are kept in memory, up to four times: 32 x images x blocks x width bytes, or 15 GB for
100,000 images and ViT-S. If that is too much, probe stops before it starts, and names a --train_limit that fits.
"""

from absl import flags

from recipes.shared import commandline, common_flags, image_sets, memory, screen, splits, value_range, workdir

# These change the result.
flags.DEFINE_string(
    "init_from",
    None,
    "Run folder, .keras file, file or folder of weights of Hugging Face or timm, or hf:OWNER/NAME,"
    " of the encoder to evaluate.",
)
flags.DEFINE_string(
    "dataset",
    None,
    "Labelled set: sample, folder:PATH, npz:PATH or tfds:NAME. The classifiers are trained on its"
    " train split; see also --judge.",
)
flags.DEFINE_bool("random", False, "Evaluate the same encoder with new random weights, as a baseline.")
flags.DEFINE_integer(
    "train_limit",
    None,
    lower_bound=1,
    help="Largest number of labelled training images to use. Lower it if memory runs out. Default: all.",
)
flags.DEFINE_integer("test_limit", None, lower_bound=1, help="Largest number of images to evaluate on. Default: all.")
flags.DEFINE_list(
    "neighbours", ["20"], "Number of neighbours that vote. Each one of a list is tried, such as DINO's 10,20,100,200."
)
flags.DEFINE_enum(
    "features",
    "pooled",
    ["pooled", "cls"],
    "Features that neighbours are compared by: the mean of the patches, or cls, which suits DINO.",
)
flags.DEFINE_integer("epochs", 50, lower_bound=1, help="Epochs of the linear classifiers. Raise it for few labels.")
flags.DEFINE_float("learning_rate", 1e-2, lower_bound=0, help="Learning rate of the linear classifiers.")
flags.DEFINE_integer("seed", 0, lower_bound=0, upper_bound=2**31 - 1, help="Seed of --random's weights and --split.")

# These do not.
common_flags.fraction(
    "max_bad_fraction",
    0.1,
    "Largest fraction of unreadable files in each split. Each one is listed in data.json of --workdir.",
)
flags.DEFINE_string("data_dir", None, "Folder where tfds stores its data.")
flags.adopt_module_key_flags(splits)
flags.adopt_module_key_flags(value_range)
FLAGS = flags.FLAGS


def vote(bank, queries, labels, judged_labels):
    """Print and return the kNN accuracy for each number in --neighbours."""
    from keras_splitmask import evaluation
    from keras_splitmask.data.counting import counted

    bank, queries = evaluation.standardise(bank, queries)
    result = {}
    for number in FLAGS.neighbours:
        if int(number) > len(bank):
            print(
                f"--neighbours={number} is more than the {counted(len(bank), 'training image')}; all vote.", flush=True
            )
        accuracy = float((evaluation.weighted_knn(bank, labels, queries, int(number)) == judged_labels).mean())
        result[f"knn_accuracy_{number}" if result else "knn_accuracy"] = accuracy
        print(f"kNN {number:<6} {accuracy:.2%}", flush=True)
    return result


def check_memory(encoder, train, judged):
    """Stop if the images and their features do not fit into memory, with limits that do."""
    import keras

    limits = FLAGS.train_limit, FLAGS.test_limit
    counts = [min(len(source), limit or len(source)) for source, limit in zip((train, judged), limits, strict=True)]
    sizes, there = (encoder.width, encoder.depth, encoder.heads), memory.at_hand()
    needed, each = memory.of_probe(keras.backend.backend(), sizes, encoder.image_shape, counts)
    if fewer := memory.fewer(there, needed, counts, each):
        raise commandline.BadInput(
            f"Expected the features to fit into {memory.SHARE_OF_MEMORY:.0%} of the {there / 1e9:.1f} GB of memory at"
            f" hand, which would take about {needed / 1e9:.1f} GB. Add"
            f" {' '.join(f'--{name}={value}' for name, value in fewer.items())}."
        )


def judge(run=None):
    """Evaluate the encoder and print its accuracies. Returns them by name, and the `Splits`."""
    import keras

    import keras_splitmask as ks
    from keras_splitmask import evaluation
    from keras_splitmask.backend.keras_private import set_random_seed
    from keras_splitmask.data.counting import counted

    set_random_seed(FLAGS.seed)
    say = (lambda _: None) if FLAGS.random else print  # weights that are replaced are not worth a line
    encoder = ks.interchange.load_encoder(FLAGS.init_from, say, dtype=keras.config.dtype_policy())
    if FLAGS.random:
        encoder = ks.Encoder.from_config(encoder.get_config())
        print(f"random    all weights are replaced by random ones, by --seed={FLAGS.seed}", flush=True)
    shape = encoder.image_shape
    train = image_sets.open_split(FLAGS.dataset, "train", shape[-1])
    image_sets.say(f"{FLAGS.dataset}: {train.summary()}")
    sets = splits.open_splits(run, train)
    train, judged, split = sets.train, sets.judged, sets.split
    check_memory(encoder, train, judged)
    images, labels = image_sets.read(train, "train", shape, FLAGS.train_limit)
    judged_images, judged_labels = image_sets.read(judged, split, shape, FLAGS.test_limit)
    print(f"{counted(len(images), 'labelled image')}, {len(judged_images)} to evaluate on", flush=True)

    result = vote(
        *(evaluation.extract(encoder, x, key=FLAGS.features) for x in (images, judged_images)), labels, judged_labels
    )

    features, judged_features = (
        evaluation.block_features(encoder, images),
        evaluation.block_features(encoder, judged_images),
    )
    options = {"epochs": FLAGS.epochs, "learning_rate": FLAGS.learning_rate}
    accuracies = evaluation.linear_probe(features, labels, judged_features, judged_labels, **options)
    for i, accuracy in enumerate(accuracies):
        result[f"linear_accuracy_block_{i + 1}"] = float(accuracy)
        print(f"block {i + 1:<4} {accuracy:.2%}", flush=True)
    best = evaluation.best_block(features, labels, **options)
    result |= {"best_block": best + 1, "linear_accuracy": float(accuracies[best])}
    print(
        f"linear     {accuracies[best]:.2%}, of block {best + 1}, which is best on held-out training images", flush=True
    )
    return {**result, "judged_by": split}, sets


def main():
    if not FLAGS.neighbours or not all(number.isdigit() and int(number) for number in FLAGS.neighbours):
        raise commandline.BadInput(
            f"Expected --neighbours as numbers from 1 on, such as 10,20, received {','.join(FLAGS.neighbours)!r}."
        )
    if not FLAGS.workdir:
        judge()
        screen.check_result()
        return
    with workdir.opened() as run:
        result, sets = judge(run)
        run.start(sets.train)
        sets.write(run)
        sets.save_record()
        run.write_json("probe.json", result)
        run.show_files()


if __name__ == "__main__":
    commandline.run(main, value_range.settle, required=("init_from", "dataset"))
