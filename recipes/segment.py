"""Train a segmenter, which classifies every pixel, on a pre-trained encoder or from scratch.

    python recipes/segment.py --init_from=runs/photos --dataset=masks:streets --image_size=256 --workdir=runs/found
    python recipes/segment.py --size=vit_tiny --patch_size=8 --dataset=masks:streets --image_size=256 --workdir=runs/new

masks:DIR holds DIR/SPLIT/images and DIR/SPLIT/labels, where SPLIT is train, val or test. Labels are PNG files of class
numbers, with the names of the images. tfds:scene_parse150 is ADE20k. Other layouts and the exports of CVAT work, too.
If DIR has no splits, a fifth of the images, drawn by their names, is evaluated on; --judge=train trains on all.
Labels may hold a colour for each class instead. Then DIR/class_dict.csv lists them as name,r,g,b, or CVAT's
DIR/labelmap.txt. DIR/classes.json may name the classes of numbers, in one of these forms:

    {"classes": ["sky", "road"]}               sky is 0, road is 1; 255 is ignored, but see below
    {"classes": ["sky", "road"], "void": 0}    0 is ignored, sky is 1, road is 2; several numbers as [0, 9]
    {"0": "background", "255": "cell"}         each class by its number

Without it, the classes are "0" to the largest number, and 255 is ignored. A line says in how many label maps 255 occurs
and is ignored. In binary masks it is a class: where the label maps of the train split hold only 0 and 255, and no
classes.json or one with a list of at most two names, 255 is the second class, and a line says so.
"""

import functools
import math

from absl import flags

from recipes.shared import commandline, dense, hardware, value_range

# These change the result.
flags.DEFINE_string(
    "dataset",
    None,
    "Labelled images: masks:DIR or tfds:scene_parse150. DIR/classes.json names the classes, such as"
    ' {"classes": ["sky", "road"], "void": 255}.',
)
flags.DEFINE_enum(
    "head", "upernet", ["upernet", "deeplab", "segformer"], "upernet is the paper's; the others are KerasCV's."
)
flags.DEFINE_enum(
    "positions",
    "learned",
    ["learned", "sine_cosine"],
    "Position embeddings. Learned ones are resampled to --image_size.",
)
flags.DEFINE_integer(
    "head_width", 512, lower_bound=1, help="Channels of the head; 768 for the paper's ViT-B. Fewer are cheaper."
)
flags.DEFINE_float(
    "auxiliary_weight",
    0.4,
    lower_bound=0,
    help="With --head=upernet, weight of the loss of a second, smaller head during training.",
)
flags.DEFINE_float("dropout", 0.1, lower_bound=0, help="Fraction of the head's channels to drop during training.")

# These do not change the trained weights.
flags.DEFINE_enum(
    "inference",
    "whole",
    ["whole", "slide"],
    "How images are evaluated: resized as a whole, or through overlapping windows that keep their shape.",
)
flags.adopt_module_key_flags(dense)
flags.adopt_module_key_flags(value_range)
FLAGS = flags.FLAGS
SCALE = ("0.5", "2.0")


def label_maps(model, source, limit=None):
    """Yield each image of a source, or of the first `limit`, with its true and its predicted label map, at the image's
    own size."""
    from keras_splitmask import evaluation

    def predict(images):
        return dense.predict(model, images)

    segment = (
        evaluation.segment_whole
        if FLAGS.inference == "whole"
        else functools.partial(evaluation.segment_sliding, batch_size=FLAGS.batch_size)
    )
    for image, truth in source.each(lambda i: (source.image(i), source.label_map(i)), limit):
        yield image, truth, segment(predict, image, model.encoder.image_shape)


def judge(model, source, limit=None):
    """Compute mean IoU and accuracies on a source or its first images, and the IoU of each class."""
    from keras_splitmask import evaluation

    matrix = evaluation.ConfusionMatrix(len(source.classes))
    for _, truth, predicted in label_maps(model, source, limit):
        matrix.add(truth, predicted)
    values = {name: getattr(matrix, name) for name in ("mean_iou", "pixel_accuracy", "mean_accuracy")}
    values |= {f"iou/{name}": float(value) for name, value in zip(source.classes, matrix.iou, strict=True)}
    return {name: value for name, value in values.items() if not math.isnan(value)}  # NaN: no labelled pixels


def finish(model, source, run, values):
    """Print the metrics, save a picture of predictions, and return the metrics."""
    from keras_splitmask import evaluation

    shown = list(label_maps(model, source, FLAGS.pictures)) if FLAGS.pictures else []
    if shown:
        evaluation.save_label_maps(
            run.file("pictures/label_maps.png"), *zip(*shown, strict=True), source.classes, FLAGS.pictures
        )
    width = max(map(len, source.classes))
    for name in source.classes:
        if f"iou/{name}" in values:
            print(f"{name:<{width}}  IoU {values[f'iou/{name}']:.1%}")
    if "mean_iou" in values:
        print(f"mIoU {values['mean_iou']:.2%}, pixels {values['pixel_accuracy']:.2%}")
    return {**values, "class_numbers": source.class_numbers}


def main(devices, run):
    from keras_splitmask import data, transfer
    from keras_splitmask.backend.keras_private import set_random_seed

    set_random_seed(FLAGS.seed)
    encoder = dense.build_encoder(positions=FLAGS.positions)
    source, judged = dense.open_sets(data.open_segmentation)

    def batches(start):
        options = {"scale": dense.scale(SCALE)}
        order = {"seed": FLAGS.seed, "start": start, "workers": FLAGS.workers}
        return data.segmentation_batches(source, encoder.image_shape, FLAGS.batch_size, **options, **order)

    batches(0)  # stop at bad options before anything is written
    dense.check_memory(encoder, devices, run, len(source))
    options = {
        "drop": FLAGS.dropout,
        "auxiliary_weight": FLAGS.auxiliary_weight,
        "seed": FLAGS.seed,
        "accumulate": FLAGS.accumulate,
        "class_names": source.classes,
        "value_range": value_range.numbers(),
    }
    model = transfer.Segmenter(encoder, len(source.classes), FLAGS.head, FLAGS.neck, FLAGS.head_width, **options)
    dense.train(devices, run, model, source, judged, batches, judge, finish)


if __name__ == "__main__":
    commandline.run(
        hardware.spread(main, one_host=True, free=dense.FREE), value_range.settle, required=("dataset", "workdir")
    )
