"""Judge a frozen encoder: nearest neighbours and a linear classifier at every block.

    python recipes/probe.py --init_from=runs/quickstart --dataset=sample --workdir=runs/quickstart-probe

The features of all blocks are held in memory, 8 x images x blocks x width bytes: 4 GB for 100,000 images and ViT-S. --train_limit takes fewer.
"""

import commandline
import image_sets
from absl import flags

# These change the result.
flags.DEFINE_string("init_from", None, "Run folder, .keras file, or .safetensors file or folder of Hugging Face or timm, of the encoder to judge.")
flags.DEFINE_string("dataset", None, "Labelled set: sample, folder:PATH, npz:PATH, npy:PATH or tfds:NAME; train split to learn from, test split to judge.")
flags.DEFINE_bool("random", False, "Judge the same encoder with fresh random weights: what pre-training has to beat.")
flags.DEFINE_integer("train_limit", None, lower_bound=1, help="Labelled training images to use at most.")
flags.DEFINE_integer("test_limit", None, lower_bound=1, help="Test images to use at most.")
flags.DEFINE_list("neighbours", ["20"], "How many neighbours vote; of several numbers, such as DINO's 10,20,100,200, each is tried.")
flags.DEFINE_enum("features", "pooled", ["pooled", "cls"], "What neighbours are found by: the mean of the patches, or DINO's cls.")
flags.DEFINE_integer("epochs", 50, lower_bound=1, help="Of the linear classifiers. Raise it for few labels.")
flags.DEFINE_float("learning_rate", 1e-2, lower_bound=0, help="Of the linear classifiers.")
flags.DEFINE_integer("seed", 0, "Of the random weights of --random.")

# These do not.
flags.DEFINE_string("data_dir", None, "Where tfds keeps its data.")
FLAGS = flags.FLAGS


def vote(bank, queries, labels, test_labels):
    """Accuracies of the kNN by the numbers of neighbours in --neighbours, told and returned."""
    from keras_splitmask import evaluation

    bank, queries = evaluation.standardise(bank, queries)
    result = {}
    for number in FLAGS.neighbours:
        accuracy = float((evaluation.weighted_knn(bank, labels, queries, int(number)) == test_labels).mean())
        result[f"knn_accuracy_{number}" if result else "knn_accuracy"] = accuracy
        print(f"kNN {number:<6} {accuracy:.2%}", flush=True)
    return result


def main():
    commandline.require("init_from", "dataset")
    if not FLAGS.neighbours or not all(number.isdigit() and int(number) for number in FLAGS.neighbours):
        raise commandline.BadInput(f"Expected --neighbours as numbers from 1 on, such as 10,20, received {','.join(FLAGS.neighbours)!r}.")
    import keras

    import keras_splitmask as ks
    from keras_splitmask import data, evaluation

    keras.utils.set_random_seed(FLAGS.seed)
    encoder = ks.interchange.load_encoder(FLAGS.init_from, print, dtype=keras.config.dtype_policy())
    if FLAGS.random:
        encoder = ks.Encoder.from_config(encoder.get_config())
    train = image_sets.open_labelled(FLAGS.dataset, "train", encoder.image_shape[-1])
    test = image_sets.open_labelled(FLAGS.dataset, "test", encoder.image_shape[-1], train)
    images, labels = data.read_all(train, encoder.image_shape, FLAGS.train_limit)
    test_images, test_labels = data.read_all(test, encoder.image_shape, FLAGS.test_limit)
    print(f"{len(images)} labelled images, {len(test_images)} to judge by", flush=True)

    result = vote(*(evaluation.extract(encoder, x, key=FLAGS.features) for x in (images, test_images)), labels, test_labels)

    features, test_features = evaluation.block_features(encoder, images), evaluation.block_features(encoder, test_images)
    accuracies = evaluation.linear_probe(
        features, labels, test_features, test_labels, epochs=FLAGS.epochs, learning_rate=FLAGS.learning_rate
    )
    for i, accuracy in enumerate(accuracies):
        result[f"linear_accuracy_block_{i + 1}"] = float(accuracy)
        print(f"block {i + 1:<4} {accuracy:.2%}", flush=True)
    if FLAGS.workdir:
        commandline.write_json(commandline.start_run() / "probe.json", result)


if __name__ == "__main__":
    commandline.run(main)
