"""Learn to find objects, and with masks their outlines, with a pre-trained encoder or from scratch.

    python recipes/detect.py --init_from=runs/cells --dataset=coco:cells --image_size=384x512 --workdir=runs/found

coco:DIR holds DIR/SPLIT/images and DIR/SPLIT/instances.json, in COCO's format, for the splits train, val and test; or what COCO's own
archives unpack to: DIR/annotations/instances_train2017.json, DIR/train2017 and so on. tfds:coco/2017 has boxes, but no masks.
"""

import itertools

import commandline
import dense
import hardware
from absl import flags

# These change the result.
flags.DEFINE_string("dataset", None, "Annotated images: coco:DIR or tfds:NAME, such as tfds:coco/2017.")
flags.DEFINE_enum("head", "retinanet", ["retinanet", "maskrcnn"], "retinanet is KerasCV's, and finds boxes; maskrcnn also outlines, and is the paper's.")
flags.DEFINE_bool("masks", True, "Of --head=maskrcnn: learn outlines, which every object must have; without, it is Faster R-CNN.")
flags.DEFINE_enum("positions", "sine_cosine", ["learned", "sine_cosine"], "Position table; the paper replaces a learned one, which would have to be resampled.")
flags.DEFINE_integer("head_width", 256, lower_bound=1, help="Channels of the feature pyramid and the heads. Fewer are cheaper.")
flags.DEFINE_float("anchor_scale", None, lower_bound=0.1, help="Side of a level's smallest anchors in units of its stride; left out, 4 for retinanet, 8 for maskrcnn. Lower it for small objects.")
flags.DEFINE_integer("samples", None, lower_bound=1, help="Of --head=maskrcnn: regions to learn from, of each image; left out, 512.")
flags.DEFINE_integer("proposals", None, lower_bound=1, help="Of --head=maskrcnn: regions to choose from, of each image; left out, 1000.")
flags.DEFINE_integer("max_objects", 100, lower_bound=1, help="Objects of an image to learn from, the largest if it has more.")
flags.adopt_module_key_flags(dense)
FLAGS = flags.FLAGS
SCALE = ("0.5", "1.5")
MASK_SIZE = 56  # side of a target


def build_model(encoder, classes):
    """The detector by the flags."""
    import keras_splitmask as ks

    options = {"neck": FLAGS.neck, "width": FLAGS.head_width, "seed": FLAGS.seed, "accumulate": FLAGS.accumulate}
    given = {name: FLAGS[name].value for name in ("anchor_scale", "samples", "proposals") if FLAGS[name].value is not None}
    if FLAGS.head == "maskrcnn":
        return ks.transfer.MaskRCNN(encoder, classes, masks=FLAGS.masks, **options, **given)
    if wrong := [f"--{name}" for name in ("samples", "proposals") if name in given]:
        raise commandline.BadInput(f"Expected --head=maskrcnn with {', '.join(wrong)}, received --head=retinanet; leave them out.")
    return ks.transfer.RetinaNet(encoder, classes, **options, **given)


def detections(model, source, limit=None):
    """What the model finds in the images of a source, or the first of them, in their own pixels: a dictionary for each, as `evaluation` takes it."""
    import numpy as np

    from keras_splitmask import data, evaluation

    found, images = [], dense.readable(source, limit)
    while chunk := list(itertools.islice(images, 4 * FLAGS.batch_size)):
        boxed = [data.letterbox(image, model.encoder.image_shape) for _, image in chunk]
        answers = dense.predict(model, np.stack([image for image, _ in boxed]))
        for place, ((i, _), (_, factor)) in enumerate(zip(chunk, boxed)):
            answer = {name: value[place] for name, value in answers.items()}
            found.append({"image_id": source.image_id(i), **evaluation.to_original(answer, factor, *source.size(i))})
    return found


def judge(model, source, limit=None):
    """Average precision on a source, or its first images: numbers by name, of boxes, of masks if there are any, and of each class."""
    from keras_splitmask import evaluation

    found = detections(model, source, limit)
    truth = source.truth()
    shown = {prediction["image_id"] for prediction in found}
    truth = {**truth, **{kind: [x for x in truth[kind] if x[key] in shown] for kind, key in (("images", "id"), ("annotations", "image_id"))}}
    values = {}
    for prefix, kind in (("", "boxes"), ("mask_", "masks")):
        if all(kind in prediction for prediction in found):
            scores = evaluation.average_precision(truth, found, kind)
            of_classes = scores.pop("per_class")
            values |= {f"{prefix}{name}": value for name, value in scores.items()}
            values |= {f"{prefix}{measure}/{name}": value for name, of_class in of_classes.items() for measure, value in of_class.items()}
    return values


def finish(model, source, workdir, values):
    """Print and draw what the model is worth, and return it."""
    from keras_splitmask import evaluation

    if FLAGS.pictures:
        numbers, images = zip(*dense.readable(source, FLAGS.pictures))
        truths = [vars(source.objects(i)) for i in numbers]
        found = detections(model, source, FLAGS.pictures)
        evaluation.save_detections(workdir / "pictures" / "detections.png", images, truths, found, source.classes, FLAGS.pictures)
    width = max(map(len, source.classes))
    for name in source.classes:
        if f"ap/{name}" in values:
            masks = f"  masks {values[f'mask_ap/{name}']:.3f}  at 0.5 {values[f'mask_ap50/{name}']:.3f}" if f"mask_ap/{name}" in values else ""
            print(f"{name:<{width}}  AP {values[f'ap/{name}']:.3f}  at 0.5 {values[f'ap50/{name}']:.3f}{masks}")
    masks = f", masks {values['mask_ap']:.3f}" if "mask_ap" in values else ""
    print(f"AP {values['ap']:.3f} (0.5: {values['ap50']:.3f}, 0.75: {values['ap75']:.3f}){masks}")
    return values


def main(devices):
    commandline.require("dataset", "workdir")
    import keras

    from keras_splitmask import data

    keras.utils.set_random_seed(FLAGS.seed)
    encoder = dense.build_encoder(positions=FLAGS.positions)
    source, judged = dense.open_sets(data.open_detection)
    mask_size = MASK_SIZE if FLAGS.head == "maskrcnn" and FLAGS.masks else None
    options = {"scale": dense.scale(SCALE), "max_objects": FLAGS.max_objects, "mask_size": mask_size, "workers": FLAGS.workers}

    def batches(start):
        return data.detection_batches(source, encoder.image_shape, FLAGS.batch_size, FLAGS.seed, start, **options)

    batches(0)  # what does not fit stops here, before anything is written
    model = build_model(encoder, len(source.classes))
    dense.train(devices, model, source, judged, batches, judge, finish)


if __name__ == "__main__":
    commandline.run(hardware.spread(main, one_host=True))
