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
import itertools
import math

from absl import flags

from recipes.shared import commandline, common_flags, dense, hardware, value_range

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
flags.DEFINE_integer(
    "head_width", 512, lower_bound=1, help="Channels of the head; 768 for the paper's ViT-B. Fewer are cheaper."
)
flags.DEFINE_float(
    "auxiliary_weight",
    0.4,
    lower_bound=0,
    help="With --head=upernet, weight of the loss of a second, smaller head during training.",
)
flags.DEFINE_enum(
    "class_weight",
    None,
    ["balanced", "root"],
    "Weight the pixels of rare classes more: balanced by the inverse of their fraction of all pixels, root by its"
    " square root. Default: all pixels count the same.",
)
common_flags.fraction(
    "largest_class", 0.75, "A random part of an image is drawn again, up to ten times, if one class fills more of it."
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
MOST_COUNTED = 1000  # label maps whose pixels are counted for --class_weight


def label_maps(model, source, limit=None):
    """Yield each image of a source, or of the first `limit`, with its true and its predicted label map, at the image's
    own size."""
    import numpy as np

    from keras_splitmask import evaluation
    from keras_splitmask.data.resizing import resize

    shape, predict = model.encoder.image_shape, functools.partial(dense.predict, model)
    pairs = source.each(lambda i: (source.image(i), source.label_map(i)), limit)
    while chunk := list(itertools.islice(pairs, FLAGS.batch_size)):
        if FLAGS.inference == "whole":
            logits = predict(np.stack([resize(image, shape[:2]) for image, _ in chunk]))
            maps = [
                evaluation.best_class(of_image, truth.shape) for of_image, (_, truth) in zip(logits, chunk, strict=True)
            ]
        else:
            maps = [
                evaluation.segment_sliding(predict, image, shape, batch_size=FLAGS.batch_size) for image, _ in chunk
            ]
        for (image, truth), predicted in zip(chunk, maps, strict=True):
            yield image, truth, predicted


def judge(model, source, limit=None):
    """Compute mean IoU and accuracies on a source or its first images, and the IoU of each class."""
    from keras_splitmask import evaluation

    matrix = evaluation.ConfusionMatrix(len(source.classes))
    for _, truth, predicted in label_maps(model, source, limit):
        matrix.add(truth, predicted)
    values = {name: getattr(matrix, name) for name in ("mean_iou", "pixel_accuracy", "mean_accuracy")}
    values |= {f"iou/{name}": float(value) for name, value in zip(source.classes, matrix.iou, strict=True)}
    return {name: value for name, value in values.items() if not math.isnan(value)}  # NaN: no labelled pixels


def class_weights(source):
    """The weights of --class_weight, whose mean over the pixels is 1; None without."""
    import numpy as np

    if not FLAGS.class_weight:
        return None
    counts = np.zeros(len(source.classes))
    for i in np.linspace(0, len(source) - 1, min(len(source), MOST_COUNTED)).round().astype(int):
        labels = source.label_map(i)
        counts += np.bincount(labels[labels < len(counts)], minlength=len(counts))
    if not counts.any():
        raise commandline.BadInput(
            "Expected labelled pixels with --class_weight, received none in the label maps; leave it out."
        )
    share = counts / counts.sum()
    # A class that no counted pixel has is as rare as the rarest of the others, and may be in the rest.
    weights = np.maximum(share, share[share > 0].min()) ** {"balanced": -1.0, "root": -0.5}[FLAGS.class_weight]
    weights /= (weights * share).sum()
    shown = ", ".join(f"{name} {weight:.2f}" for name, weight in zip(source.classes, weights, strict=True))
    print(f"--class_weight={FLAGS.class_weight}: {shown}", flush=True)
    return weights.tolist()


def finish(model, source, run, values):
    """Print the metrics, save a picture of predictions, and return the metrics."""
    from keras_splitmask import evaluation

    shown = list(label_maps(model, source, FLAGS.pictures)) if FLAGS.pictures else []
    if shown:
        picture = run.file("pictures/label_maps.png")
        evaluation.save_label_maps(picture, *zip(*shown, strict=True), source.classes, FLAGS.pictures)
        print(f"picture   {picture}", flush=True)
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
    encoder = dense.build_encoder("learned")
    source, judged = dense.open_sets(data.open_segmentation)

    def batches(start):
        options = {"scale": dense.scale(SCALE), "largest_class": FLAGS.largest_class}
        order = {"seed": FLAGS.seed, "start": start, "workers": FLAGS.workers}
        return data.segmentation_batches(source, encoder.image_shape, FLAGS.batch_size, **options, **order)

    batches(0)  # stop at bad options before anything is written
    dense.check_memory(encoder, devices, run, len(source))
    options = {
        "drop": FLAGS.dropout,
        "auxiliary_weight": FLAGS.auxiliary_weight,
        "seed": FLAGS.seed,
        "accumulate": FLAGS.accumulate,
        "augmentation": dense.colours(),
        "class_weights": class_weights(source),
        "class_names": source.classes,
        "value_range": value_range.numbers(),
    }
    model = transfer.Segmenter(encoder, len(source.classes), FLAGS.head, FLAGS.neck, FLAGS.head_width, **options)
    dense.train(devices, run, model, source, judged, batches, judge, finish)


if __name__ == "__main__":
    commandline.run(
        hardware.spread(main, one_host=True, free=dense.FREE, auto=dense.AUTO),
        value_range.settle,
        required=("dataset", "workdir"),
    )
