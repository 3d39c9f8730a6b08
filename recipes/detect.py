"""Train a detector of boxes, and optionally of masks, on a pre-trained encoder or from scratch.

    python recipes/detect.py --init_from=runs/cells --dataset=coco:cells --image_size=384x512 --workdir=runs/found
    python recipes/detect.py --size=vit_micro --patch_size=8 --dataset=coco:cells --image_size=256 --workdir=runs/new

coco:DIR holds DIR/SPLIT/images and DIR/SPLIT/instances.json in COCO's format, where SPLIT is train, val or test. The
layout of COCO's own archives works too: DIR/annotations/instances_train2017.json, DIR/train2017 and so on.
voc:DIR holds XML files of Pascal VOC: DIR/Annotations, DIR/JPEGImages and DIR/ImageSets/Main/SPLIT.txt.
yolo:DIR holds text files of YOLO: DIR/data.yaml, DIR/images/SPLIT and DIR/labels/SPLIT.
folder:DIR is any of these, or an export of CVAT, Label Studio, LabelImg or Roboflow; a line says what was found. If DIR
has no splits, a fifth of the images, drawn by their names, is evaluated on; --judge=train trains on all.
tfds:coco/2017 has boxes, but no masks.
"""

import itertools

from absl import flags

from recipes.shared import commandline, dense, hardware, value_range

LEVELS = ("P2-P6", "P3-P7")

# These change the result.
flags.DEFINE_string(
    "dataset",
    None,
    (
        "Annotated images: folder:DIR, in the format of COCO, Pascal VOC or YOLO, or named as coco:DIR, voc:DIR or"
        " yolo:DIR; or tfds:NAME, such as tfds:coco/2017."
    ),
)
flags.DEFINE_enum(
    "head",
    "retinanet",
    ["retinanet", "maskrcnn"],
    "retinanet is KerasCV's and predicts boxes. maskrcnn is the paper's and predicts boxes and masks.",
)
flags.DEFINE_bool(
    "masks", True, "With --head=maskrcnn, learn masks; objects without one are ignored. --nomasks trains Faster R-CNN."
)
flags.DEFINE_integer(
    "head_width", 256, lower_bound=1, help="Channels of the feature pyramid and the heads. Fewer are cheaper."
)
flags.DEFINE_float(
    "anchor_scale",
    None,
    lower_bound=0.1,
    help=(
        "Side of the smallest anchors of a level, in units of its stride. Lower it for small objects. Default: what"
        " suits the objects of the training images for retinanet, 8 for maskrcnn."
    ),
)
flags.DEFINE_enum(
    "levels",
    "auto",
    ["auto", *LEVELS],
    "With --head=retinanet, levels of the feature pyramid. P3-P7 begins at every 8th pixel. P2-P6 begins at every 4th,"
    " for small objects; its head takes four times as long. Default: auto, what suits the objects of the training"
    " images.",
)
flags.DEFINE_integer(
    "max_detections", 100, lower_bound=1, upper_bound=1000, help="Largest number of objects found in an image."
)
flags.DEFINE_float(
    "score_threshold", 0.05, lower_bound=0, upper_bound=1, help="Least score of an object that is found."
)
flags.DEFINE_float(
    "iou_threshold",
    0.5,
    lower_bound=0,
    upper_bound=1,
    help="Of two boxes of one class that overlap by more than this, only the better is found. Raise it for crowds.",
)
flags.DEFINE_integer(
    "samples", None, lower_bound=1, help="With --head=maskrcnn, regions per image to train on. Default: 512."
)
flags.DEFINE_integer(
    "proposals", None, lower_bound=1, help="With --head=maskrcnn, regions per image to choose from. Default: 1000."
)
flags.DEFINE_integer(
    "max_objects",
    100,
    lower_bound=1,
    help=(
        "Largest number of objects per image to train on. Of more, the largest are used and the others are"
        " ignored. Raise it for crowded images."
    ),
)
flags.adopt_module_key_flags(dense)
flags.adopt_module_key_flags(value_range)
FLAGS = flags.FLAGS
SCALE = ("0.5", "1.5")
FEW_MISSED = 0.1  # share of a class that may be without an anchor
MOST_COUNTED = 2000  # images whose objects anchors are chosen by
MASK_SIZE = 56  # pixels of a side of a target mask


def build_model(encoder, source):
    """Build the detector of the flags for the objects of a source."""
    import keras_splitmask as ks

    class_names = source.classes

    options = {"neck": FLAGS.neck, "width": FLAGS.head_width, "seed": FLAGS.seed, "accumulate": FLAGS.accumulate}
    options |= {"augmentation": dense.colours(), "class_names": class_names, "value_range": value_range.numbers()}
    options |= {name: FLAGS[name].value for name in ("max_detections", "score_threshold", "iou_threshold")}
    given = {
        name: FLAGS[name].value for name in ("anchor_scale", "samples", "proposals") if FLAGS[name].value is not None
    }
    if FLAGS.head == "maskrcnn":
        if FLAGS.levels != "auto":
            raise commandline.BadInput(
                f"Expected --head=retinanet with --levels, received --levels={FLAGS.levels}; leave it out."
            )
        return ks.transfer.MaskRCNN(encoder, len(class_names), masks=FLAGS.masks, **options, **given)
    if wrong := [f"--{name}" for name in ("samples", "proposals") if name in given]:
        raise commandline.BadInput(
            f"Expected --head=maskrcnn with {', '.join(wrong)}, received --head=retinanet; leave"
            f" {'it' if len(wrong) == 1 else 'them'} out."
        )
    levels, anchor_scale = choose_anchors(source, encoder.image_shape)
    return ks.transfer.RetinaNet(encoder, len(class_names), levels=levels, anchor_scale=anchor_scale, **options)


def choose_anchors(source, image_shape):
    """Choose --levels and --anchor_scale where they are left open, and print how many objects have no anchor."""
    import numpy as np

    from keras_splitmask.data.framing import fitting
    from keras_splitmask.transfer import anchor_choice

    boxes, labels = [], []
    count = min(len(source), MOST_COUNTED)
    for i in np.linspace(0, len(source) - 1, count).round().astype(int):
        objects = source.objects(i)
        there = ~objects.crowd
        boxes.append(objects.boxes[there] * fitting(*source.size(i)[:2], image_shape[:2]))
        labels.append(objects.labels[there])
    boxes, labels = np.concatenate(boxes), np.concatenate(labels)
    seen = boxes, labels, len(source.classes), image_shape
    levels, anchor_scale = anchor_choice.choose(
        *seen, None if FLAGS.levels == "auto" else FLAGS.levels, FLAGS.anchor_scale
    )
    missed = anchor_choice.without_anchor(*seen, levels, anchor_scale)
    parts = [f"{name} {share:.1%}" for name, share in zip(source.classes, missed, strict=True) if share > 0]
    smallest = anchor_choice.anchor_sizes(levels, anchor_scale)[1][0][0]
    print(
        f"--levels={levels} --anchor_scale={anchor_scale:g}: anchors from {smallest:g} pixels; objects that no anchor"
        f" overlaps by half: {', '.join(parts[:10]) or 'none'}{', ...' * (len(parts) > 10)}"
        + ("; raise --image_size to find more of them" if np.nanmax(missed, initial=0) > FEW_MISSED else ""),
        flush=True,
    )
    return levels, anchor_scale


def detections(model, source, limit=None):
    """Detect objects in the images of a source, or in the first `limit` of them. Boxes are in pixels of the image.

    Yields:
        For each readable image: the image, its entry and annotations in COCO's format, its `Objects` as a dictionary,
        and the detections as a dictionary for `evaluation`.
    """
    import numpy as np

    from keras_splitmask import data, evaluation

    def read(i):
        return source.image(i), source.truth_of(i), vars(source.objects(i))

    images = source.each(read, limit)
    while chunk := list(itertools.islice(images, 4 * FLAGS.batch_size)):
        boxed = [data.letterbox(image, model.encoder.image_shape) for image, *_ in chunk]
        outputs = dense.predict(model, np.stack([image for image, _ in boxed]))
        for index, ((image, truth, objects), (_, factors)) in enumerate(zip(chunk, boxed, strict=True)):
            output = {name: value[index] for name, value in outputs.items()}
            detected = {"image_id": truth[0]["id"], **evaluation.to_original(output, factors, *image.shape[:2])}
            yield image, truth, objects, detected


def judge(model, source, limit=None):
    """Compute average precision of boxes and masks on a source or its first images, overall and for each class."""
    from keras_splitmask import evaluation

    pairs = [(truth, detected) for _, truth, _, detected in detections(model, source, limit)]
    truth, predictions = source.truth([truth for truth, _ in pairs]), [detected for _, detected in pairs]
    values = {}
    for prefix, kind, kind_truth in (("", "boxes", truth), ("mask_", "masks", outlined(truth))):
        if kind_truth["annotations"] and all(kind in prediction for prediction in predictions):
            scores = evaluation.average_precision(kind_truth, predictions, kind)
            classes = scores.pop("per_class")
            values |= {f"{prefix}{name}": value for name, value in scores.items()}
            values |= {
                f"{prefix}{metric}/{name}": value
                for name, class_scores in classes.items()
                for metric, value in class_scores.items()
            }
    return values


def outlined(truth):
    """Prepare COCO's ground truth for masks. An object without a mask becomes a crowd that fills its box, so that
    detections there do not count."""
    filled = []
    for annotation in truth["annotations"]:
        left, top, width, height = annotation["bbox"]
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        filled.append(
            annotation if "segmentation" in annotation else {**annotation, "segmentation": [corners], "iscrowd": 1}
        )
    return {**truth, "annotations": filled}


def finish(model, source, run, values):
    """Print the metrics, save a picture of predictions, and return the metrics."""
    from keras_splitmask import evaluation

    shown = list(detections(model, source, FLAGS.pictures)) if FLAGS.pictures else []
    if shown:
        picture = run.file("pictures/detections.png")
        images, _, truths, predictions = zip(*shown, strict=True)
        evaluation.save_detections(picture, images, truths, predictions, source.classes, FLAGS.pictures)
        print(f"picture   {picture}", flush=True)
    width = max(map(len, source.classes))
    for name in source.classes:
        if f"ap/{name}" in values:
            masks = (
                f"  masks {values[f'mask_ap/{name}']:.3f}  at 0.5 {values[f'mask_ap50/{name}']:.3f}"
                if f"mask_ap/{name}" in values
                else ""
            )
            print(f"{name:<{width}}  AP {values[f'ap/{name}']:.3f}  at 0.5 {values[f'ap50/{name}']:.3f}{masks}")
    masks = f", masks {values['mask_ap']:.3f}" if "mask_ap" in values else ""
    if "ap" in values:
        print(
            f"AP {values['ap']:.3f} (0.5: {values['ap50']:.3f}, 0.75: {values['ap75']:.3f}){masks}, recall"
            f" {values['ar_100']:.3f}"
        )
    return {**values, "category_ids": source.category_ids}


def main(devices, run):
    from keras_splitmask import data
    from keras_splitmask.backend.keras_private import set_random_seed

    set_random_seed(FLAGS.seed)
    encoder = dense.build_encoder("sine_cosine")
    source, judged = dense.open_sets(data.open_detection)
    mask_size = MASK_SIZE if FLAGS.head == "maskrcnn" and FLAGS.masks else None
    if mask_size and not judged.outlined:
        print("No object of the evaluation split has a mask: masks are trained, but not evaluated.", flush=True)
    options = {
        "scale": dense.scale(SCALE),
        "max_objects": FLAGS.max_objects,
        "mask_size": mask_size,
    }

    def batches(start):
        order = {"seed": FLAGS.seed, "start": start, "workers": FLAGS.workers}
        return data.detection_batches(source, encoder.image_shape, FLAGS.batch_size, **options, **order)

    batches(0)  # stop at bad options before anything is written
    dense.check_memory(encoder, devices, run, len(source))
    model = build_model(encoder, source)
    dense.train(devices, run, model, source, judged, batches, judge, finish)


if __name__ == "__main__":
    commandline.run(
        hardware.spread(main, one_host=True, free=dense.FREE, auto=dense.AUTO),
        value_range.settle,
        required=("dataset", "workdir"),
    )
