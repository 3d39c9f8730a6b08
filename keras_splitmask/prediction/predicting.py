"""Predict the classes, objects or label maps of new images, prepared exactly as in evaluation."""

import functools

import numpy as np

from keras_splitmask.data.augmentation import center_box
from keras_splitmask.data.framing import letterbox
from keras_splitmask.data.images import open_images
from keras_splitmask.data.resizing import read_resized, resize
from keras_splitmask.data.sources import Source
from keras_splitmask.evaluation.detection import to_original
from keras_splitmask.evaluation.segmentation import best_class, segment_sliding
from keras_splitmask.prediction.batches import check_weights, compute_named, read_batches, run_model
from keras_splitmask.prediction.options import check_count, check_model, check_ratio, none_readable
from keras_splitmask.transfer import Classifier, MaskRCNN, RetinaNet, Segmenter

BATCH_SIZE = {"classes": 64, "objects": 16, "label_maps": 16}


class NoHead(ValueError):
    """The model is an encoder without a head that classifies, detects or segments."""


class Predictor:
    """What a model predicts: how an image is read for it, and what its outputs mean.

    Args:
        model: the model.
        batch_size: number of images that the model gets at a time; by default that of `BATCH_SIZE`.

    Attributes:
        kind: "classes", "objects" or "label_maps".
        class_names: names of the classes; their numbers as text if the model does not know them.
        step: number of images that are read together.
        padded_to: number of images that the model gets: `batch_size`, or all if those are fewer.
    """

    kind = ""

    def __init__(self, model, batch_size=None):
        self.model = model
        self.batch_size = check_count("batch_size", BATCH_SIZE[self.kind] if batch_size is None else batch_size)
        self.step = self.padded_to = self.batch_size
        self.shape = model.encoder.image_shape
        self.class_names = list(getattr(model, "class_names", None) or map(str, range(model.classes)))

    def read(self, source, index):
        """Read an image of a `Source` for `results`."""
        raise NotImplementedError

    def results(self, images):
        """Predict for a list of what `read` returned: a list of dictionaries of arrays."""
        raise NotImplementedError


class Classification(Predictor):
    """Classes of images: "label" int, "class_name", "score" float, the probability, and "scores" (classes,) float32.

    Args:
        model: a `Classifier`.
        batch_size: see `Predictor`.
        crop_ratio: fraction of an image's side to keep, from the centre. By default the model's own, or 1.
    """

    kind = "classes"

    def __init__(self, model, batch_size=None, crop_ratio=None):
        super().__init__(model, batch_size)
        self.crop_ratio = check_ratio(getattr(model, "crop_ratio", 1.0) if crop_ratio is None else crop_ratio)

    def read(self, source, index):
        return read_resized(source, index, self.shape[:2], functools.partial(center_box, ratio=self.crop_ratio))

    def results(self, images):
        logits = run_model(self.model, images, self.padded_to).astype("float64")  # (B, classes)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))  # the largest is 0, so no exponential overflows
        scores = (shares / shares.sum(axis=1, keepdims=True)).astype("float32")
        labels = [int(label) for label in logits.argmax(axis=1)]
        return [
            {"label": label, "class_name": self.class_names[label], "score": float(row[label]), "scores": row}
            for label, row in zip(labels, scores, strict=True)
        ]


class Detection(Predictor):
    """Objects in images: "boxes" (n, 4) float32, [top, left, bottom, right] in pixels of the image as it is stored
    upright; "scores" (n,); "labels" (n,) int; "class_names", a list of n; "size" (height, width); and "masks", n COCO
    RLEs, if the model has masks.

    Args:
        model: a `RetinaNet` or a `MaskRCNN`.
        batch_size: see `Predictor`.
        least_score: leave out objects with a lower score.
    """

    kind = "objects"

    def __init__(self, model, batch_size=None, least_score=0.0):
        super().__init__(model, batch_size)
        check_weights(model)
        self.least_score = least_score

    def read(self, source, index):
        image = source.image(index)
        return (*letterbox(image, self.shape), image.shape[:2])  # (image, factors, size of the original)

    def results(self, images):
        outputs = run_model(self.model, [image for image, *_ in images], self.padded_to)
        found = []
        for i, (_, factor, size) in enumerate(images):
            output = {name: value[i] for name, value in outputs.items()}  # (K, ...) each, of one image
            # -1 stands for no object, and `to_original` leaves those out.
            output["labels"] = np.where(output["scores"] >= self.least_score, output["labels"], -1)
            objects = to_original(output, factor, *size)
            names = [self.class_names[label] for label in objects["labels"]]
            found.append({"size": tuple(size), "class_names": names, **objects})
        return found


class Segmentation(Predictor):
    """Label maps of images: "label_map" (height, width) uint8, classes of the pixels; and "size" (height, width).

    Args:
        model: a `Segmenter`.
        batch_size: see `Predictor`.
        inference: "whole" resizes an image as a whole, "slide" moves a window over it, see `segment_sliding`.
    """

    kind = "label_maps"

    def __init__(self, model, batch_size=None, inference="whole"):
        super().__init__(model, batch_size)
        if inference not in ("whole", "slide"):
            raise ValueError(f"Expected inference to be whole or slide, received {inference!r}.")
        self.inference = inference
        self.step = self.batch_size if inference == "whole" else 1  # an image has many windows

    def read(self, source, index):
        image = source.image(index)
        # Resized here, by the threads that read; windows are cut from the whole image.
        return (resize(image, self.shape[:2]) if self.inference == "whole" else image), image.shape[:2]

    def results(self, images):
        if self.inference == "whole":
            logits = run_model(self.model, [image for image, _ in images], self.padded_to)  # (B, H, W, classes)
            maps = [best_class(of_image, size) for of_image, (_, size) in zip(logits, images, strict=True)]
        else:
            predict = functools.partial(run_model, self.model, batch_size=self.batch_size)
            maps = [segment_sliding(predict, image, self.shape, batch_size=self.batch_size) for image, _ in images]
        return [{"label_map": labels, "size": labels.shape} for labels in maps]


def predictor_for(model, batch_size=None, **options):
    """Choose the `Predictor` for a model. `options` are those of its class; others are refused.

    Raises:
        NoHead: if the model neither classifies, detects nor segments.
        ValueError: if an option is for another kind of model, or a number is out of range.
        TypeError: if `model` is a path.
    """
    check_model(model)
    kinds = {Classifier: Classification, (RetinaNet, MaskRCNN): Detection, Segmenter: Segmentation}
    kind = next((kind for models, kind in kinds.items() if isinstance(model, models)), None)
    if kind is None:
        raise NoHead(
            f"Expected a classifier, a detector or a segmenter, received a model of type"
            f" {type(model).__name__}, which has no classes; fine-tune it first, or embed the images."
        )
    # None stands for an option that was not given, as with flags.
    given = {name: value for name, value in options.items() if value is not None}
    known = {"classes": {"crop_ratio"}, "objects": {"least_score"}, "label_maps": {"inference"}}[kind.kind]
    if wrong := sorted(given.keys() - known):
        raise ValueError(f"Expected no {' or '.join(wrong)} for a {type(model).__name__}, received one; leave it out.")
    return kind(model, batch_size, **given)


def predictions(predictor, source, start=0, workers=2):
    """Predict for all images of a `Source`, a batch at a time.

    Args:
        predictor: see `predictor_for`.
        source: a `Source`, see `data.open_images`.
        start: number of the batch to begin with.
        workers: number of threads that read.

    Yields:
        The number of the batch, {index: result} of its images, and {index: reason} of those that cannot be read.
    """
    read = functools.partial(predictor.read, source)
    # One shape for all batches, so that the model is compiled once.
    predictor.padded_to = max(1, min(predictor.batch_size, len(source)))
    for number, images, unreadable in read_batches(read, len(source), predictor.step, start, workers):
        results = compute_named(predictor.results, images, source) if images else []
        yield number, dict(zip(images, results, strict=True)), unreadable


class Results(list):
    """Predictions, one dictionary per image.

    Attributes:
        class_names: names of all classes.
        left_out: {name: reason} of the images that cannot be read.
    """

    def __init__(self, results, class_names, left_out):
        super().__init__(results)
        self.class_names = class_names
        self.left_out = left_out


def predict_images(model, images, batch_size=None, value_range=None, workers=2, **options):
    """Predict the classes, objects or label maps of new images of any size.

    Images are prepared as in the evaluation of the model. Files are read a few at a time; the results of all images are
    kept in memory.

    Args:
        model: a `Classifier`, a `RetinaNet`, a `MaskRCNN` or a `Segmenter`, such as `interchange.load_model` returns.
        images: a folder, files or arrays, see `data.open_images`; or a `Source`.
        batch_size: number of images that the model gets at a time.
        value_range: see `data.open_source`. By default the model's own.
        workers: number of threads that read.
        **options: `crop_ratio` of `Classification`, `least_score` of `Detection`, `inference` of `Segmentation`.

    Returns:
        `Results`: for each readable image a dictionary of its "name", and of what `Classification`, `Detection` or
        `Segmentation` say.

    Raises:
        ValueError: if no image can be read, a number is out of range, the model has no classes, or its outputs are not
            finite.
        TypeError: if `model` is a path, or `images` are of another type.
    """
    predictor = predictor_for(model, batch_size, **options)
    if not isinstance(images, Source):
        # The range that the model was trained with, if it knows one.
        value_range = value_range or getattr(model, "value_range", None)
        images = open_images(images, predictor.shape[-1], value_range)
    found, left_out = [], dict(images.left_out)
    for _, results, unreadable in predictions(predictor, images, workers=workers):
        found += [{"name": images.name(index), **result} for index, result in results.items()]
        left_out |= {images.name(index): reason for index, reason in unreadable.items()}
    if not found:
        raise none_readable(len(images), left_out)
    return Results(found, predictor.class_names, left_out)
