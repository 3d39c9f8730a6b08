"""Learn to find objects, and with masks their outlines, with a pre-trained encoder or from scratch.

    python recipes/detect.py --init_from=runs/cells --dataset=coco:cells --image_size=384x512 --workdir=runs/found

coco:DIR holds DIR/SPLIT/images and DIR/SPLIT/instances.json, in COCO's format, for the splits train, val and test; or
what COCO's own archives unpack to: DIR/annotations/instances_train2017.json, DIR/train2017 and so on. tfds:coco/2017
has boxes, but no masks.
"""

import itertools

from absl import flags

from recipes.shared import commandline, dense, hardware, value_range

# These change the result.
flags.DEFINE_string("dataset", None, "Annotated images: coco:DIR or tfds:NAME, such as tfds:coco/2017.")
flags.DEFINE_enum(
    "head",
    "retinanet",
    ["retinanet", "maskrcnn"],
    "retinanet is KerasCV's, and finds boxes; maskrcnn also outlines, and is the paper's.",
)
flags.DEFINE_bool(
    "masks", True, "Of --head=maskrcnn: learn outlines; objects without one are ignored. Without, it is Faster R-CNN."
)
flags.DEFINE_enum(
    "positions",
    "sine_cosine",
    ["learned", "sine_cosine"],
    "Position table; the paper replaces a learned one, which would have to be resampled.",
)
flags.DEFINE_integer(
    "head_width", 256, lower_bound=1, help="Channels of the feature pyramid and the heads. Fewer are cheaper."
)
flags.DEFINE_float(
    "anchor_scale",
    None,
    lower_bound=0.1,
    help=(
        "Side of a level's smallest anchors in units of its stride; left out, 4 for retinanet, 8 for maskrcnn. Lower it"
        " for small objects."
    ),
)
flags.DEFINE_integer(
    "samples", None, lower_bound=1, help="Of --head=maskrcnn: regions to learn from, of each image; left out, 512."
)
flags.DEFINE_integer(
    "proposals", None, lower_bound=1, help="Of --head=maskrcnn: regions to choose from, of each image; left out, 1000."
)
flags.DEFINE_integer(
    "max_objects",
    100,
    lower_bound=1,
    help=(
        "Objects of an image to learn from, the largest if it has more; the others are ignored. Raise it for crowded"
        " images."
    ),
)
flags.adopt_module_key_flags(dense)
flags.adopt_module_key_flags(value_range)
FLAGS = flags.FLAGS
SCALE = ("0.5", "1.5")
MASK_SIZE = 56  # side of a target


def build_model(encoder, classes):
    """The detector by the flags."""
    import keras_splitmask as ks

    options = {"neck": FLAGS.neck, "width": FLAGS.head_width, "seed": FLAGS.seed, "accumulate": FLAGS.accumulate}
    given = {
        name: FLAGS[name].value for name in ("anchor_scale", "samples", "proposals") if FLAGS[name].value is not None
    }
    if FLAGS.head == "maskrcnn":
        return ks.transfer.MaskRCNN(encoder, classes, masks=FLAGS.masks, **options, **given)
    if wrong := [f"--{name}" for name in ("samples", "proposals") if name in given]:
        raise commandline.BadInput(
            f"Expected --head=maskrcnn with {', '.join(wrong)}, received --head=retinanet; leave them out."
        )
    return ks.transfer.RetinaNet(encoder, classes, **options, **given)


def detections(model, source, limit=None):
    """What the model finds in the images of a source, or the first of them, in their own pixels.

    Returns:
        For each image that can be read a tuple: the image, (its entry and its annotations as COCO has them), its
            `Objects` as a dictionary,
        and what was found, a dictionary as `evaluation` takes it.
    """
    import numpy as np

    from keras_splitmask import data, evaluation

    def read(i):
        return source.image(i), source.truth_of(i), vars(source.objects(i))

    images = source.each(read, limit)
    while chunk := list(itertools.islice(images, 4 * FLAGS.batch_size)):
        boxed = [data.letterbox(image, model.encoder.image_shape) for image, *_ in chunk]
        answers = dense.predict(model, np.stack([image for image, _ in boxed]))
        for place, ((image, truth, objects), (_, factor)) in enumerate(zip(chunk, boxed, strict=True)):
            answer = {name: value[place] for name, value in answers.items()}
            found = {"image_id": truth[0]["id"], **evaluation.to_original(answer, factor, *image.shape[:2])}
            yield image, truth, objects, found


def judge(model, source, limit=None):
    """Average precision on a source, or its first images: numbers by name, of boxes, of masks if there are any, and of
    each class."""
    from keras_splitmask import evaluation

    parts = [(truth, found) for _, truth, _, found in detections(model, source, limit)]
    truth, found = source.truth([truth for truth, _ in parts]), [found for _, found in parts]
    values = {}
    for prefix, kind, of_kind in (("", "boxes", truth), ("mask_", "masks", outlined(truth))):
        if of_kind["annotations"] and all(kind in prediction for prediction in found):
            scores = evaluation.average_precision(of_kind, found, kind)
            of_classes = scores.pop("per_class")
            values |= {f"{prefix}{name}": value for name, value in scores.items()}
            values |= {
                f"{prefix}{measure}/{name}": value
                for name, of_class in of_classes.items()
                for measure, value in of_class.items()
            }
    return values


def outlined(truth):
    """COCO's truth for masks, where an object without an outline is a crowd that fills its box: what is found there
    does not count."""
    filled = []
    for annotation in truth["annotations"]:
        left, top, width, height = annotation["bbox"]
        corners = [left, top, left + width, top, left + width, top + height, left, top + height]
        filled.append(
            annotation if "segmentation" in annotation else {**annotation, "segmentation": [corners], "iscrowd": 1}
        )
    return {**truth, "annotations": filled}


def finish(model, source, run, values):
    """Print and draw what the model is worth, and return it."""
    from keras_splitmask import evaluation

    shown = list(detections(model, source, FLAGS.pictures)) if FLAGS.pictures else []
    if shown:
        images, _, truths, found = zip(*shown, strict=True)
        evaluation.save_detections(
            run.file("pictures/detections.png"), images, truths, found, source.classes, FLAGS.pictures
        )
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
        print(f"AP {values['ap']:.3f} (0.5: {values['ap50']:.3f}, 0.75: {values['ap75']:.3f}){masks}")
    return values


def main(devices, run):
    import keras

    from keras_splitmask import data

    keras.utils.set_random_seed(FLAGS.seed)
    encoder = dense.build_encoder(positions=FLAGS.positions)
    source, judged = dense.open_sets(data.open_detection)
    mask_size = MASK_SIZE if FLAGS.head == "maskrcnn" and FLAGS.masks else None
    if mask_size and not judged.outlined:
        print("No object of the split to judge by has an outline: masks are learnt, but not measured.", flush=True)
    options = {
        "scale": dense.scale(SCALE),
        "max_objects": FLAGS.max_objects,
        "mask_size": mask_size,
    }

    def batches(start):
        order = {"seed": FLAGS.seed, "start": start, "workers": FLAGS.workers}
        return data.detection_batches(source, encoder.image_shape, FLAGS.batch_size, **options, **order)

    batches(0)  # what does not fit stops here, before anything is written
    model = build_model(encoder, len(source.classes))
    dense.train(devices, run, model, source, judged, batches, judge, finish)


if __name__ == "__main__":
    commandline.run(hardware.spread(main, one_host=True, free=dense.FREE), value_range.settle)
