"""Batches on their way to a model: the first of them is looked at, and none is used up for it."""

from __future__ import annotations

import copy
import math
import re
import types
import warnings

import keras

from keras_splitmask.backend import distribution
from keras_splitmask.training.pixels import SAFE, check_pixels, dtype_name, images_of, leaves, problem_of_dtype


def check_parts(data, count):
    """A batch, or a device's share of it, that is to be taken in `count` equal parts, as it is.

    Raises:
        ValueError: if the parts are not equal: in one line, or by TensorFlow in a longer text, from which `fit` takes
            it.
    """
    images = distribution.size(data)
    if isinstance(images, int):
        if images % count:
            raise ValueError(_problem_of_parts(count, images))
        return data
    import tensorflow as tf

    # The identities make what follows wait for the assertion: a reshape would fail in words of its own.
    with tf.control_dependencies([tf.debugging.assert_equal(images % count, 0, message=_problem_of_parts(count))]):
        return tf.nest.map_structure(lambda x: x if x is None else tf.identity(x), data)


def _problem_of_parts(count, images=None, devices=1):
    by_devices = f" times {devices} devices" if devices > 1 else ""
    received = "another number" if images is None else images
    advice = "choose another batch size, or leave out the last images if they do not fill a batch"
    return (
        f"Expected a number of images in each batch that is a multiple of accumulate={count}{by_devices}, received"
        f" {received}; {advice}."
    )


def problem_within(error: Exception) -> str | None:
    """The problem that this library states within the message of an error of TensorFlow's, or of Keras' about a layer,
    in a line, or None."""
    found = re.search(
        r"(Expected a number of images in each batch that is a multiple of accumulate[^.\n]*\.)", str(error)
    )
    if not found and isinstance(error, ValueError):
        found = re.search(r"(?:ValueError: |\x1b\[1m)(Expected [^\n\x1b]*)", str(error))
    return found and found[1]


class Look:
    """Looks at the first batch of a stream as it passes.

    Attributes:
        problem: what was wrong with it, in a line, since backends wrap the errors of their input pipelines; or None.
    """

    def __init__(self, several, finite=True, parts=1, devices=1, problem_of_labels=None):
        self.several = several  # whether a batch must have more than one image
        self.parts, self.devices = parts, devices  # each device splits its shard of a batch into equal parts
        self.problem_of_labels = problem_of_labels  # a function that says it in a line
        self.finite = finite  # whether to refuse NaN and infinity
        self.problem = None
        self.seen = False

    def __call__(self, batch):
        """The batch itself.

        Raises:
            ValueError: see `check_pixels`; and for a single image where the loss compares images.
        """
        if not self.seen:
            self.seen = True
            images = leaves(images_of(batch))
            self.check_count(next((x.shape[0] for x in images if len(x.shape)), None))
            self.check(images)
            self.check_labels(batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None)
        return batch

    def check(self, images):
        try:
            check_pixels(images, finite=self.finite)
        except ValueError as error:
            self.problem = str(error)
            raise

    def check_labels(self, labels):
        self.problem = self.problem_of_labels and self.problem_of_labels(labels)
        if self.problem:
            raise ValueError(self.problem)

    def check_count(self, images: int | None, last: int = 0) -> None:
        """Raise ValueError if batches of `images` images, or a `last` smaller one, do not suit the model.

        They must be divisible into parts, and have two images if the loss compares images.
        """
        for count, devices in ((images, self.devices), (last, 1)):  # devices may have unequal shards of a last batch
            if count is not None and self.parts > 1 and count % (self.parts * devices):
                self.problem = _problem_of_parts(self.parts, count, devices)
                raise ValueError(self.problem)
        if self.several and images == 1:
            self.problem = (
                "Expected batches of at least two images, since the match loss compares images, received batches of"
                " one; raise the batch size, or set match_weight=0."
            )
            raise ValueError(self.problem)

    def over(self, batches):
        """Yield the batches of an iterable, and check the first."""
        self.seen = False
        for batch in batches:
            yield self(batch)


class _LookedAt(keras.utils.PyDataset):
    """A `PyDataset` whose first batch is looked at."""

    def __init__(self, batches, look):
        super().__init__(batches.workers, batches.use_multiprocessing, batches.max_queue_size)
        self.batches, self.look = batches, look

    def __getitem__(self, index):
        return self.look(self.batches[index])

    @property
    def num_batches(self):
        return self.batches.num_batches

    def on_epoch_begin(self):
        self.batches.on_epoch_begin()

    def on_epoch_end(self):
        self.batches.on_epoch_end()


def watched(data, look):
    """Wrap batches of any kind that Keras takes, so that `look` sees the first as it passes. None is read early."""
    if isinstance(data, keras.utils.PyDataset):
        return _LookedAt(data, look)
    if isinstance(data, types.GeneratorType):
        return look.over(data)
    # By name: importing a library only to know its classes would load it.
    kinds = {(c.__module__.split(".")[0], c.__name__) for c in type(data).__mro__}
    if ("tensorflow", "DatasetV2") in kinds:
        return _watched_dataset(data, look)
    if kinds & {("tensorflow", "DistributedDataset"), ("tensorflow", "DistributedDatasetsFromFunction")}:
        return data  # `patches.to_pixels` refuses wrong dtypes
    if kinds & {("grain", "MapDataset"), ("grain", "IterDataset")}:
        return data.map(look)
    if kinds & {("grain", "DataLoader"), ("torch", "DataLoader")}:
        # Keras recognises a loader by its classes, so the view is of a subclass of the same name.
        view = copy.copy(data)
        view.__class__ = type("DataLoader", (type(data),), {"__iter__": lambda self: look.over(data)})
        return view
    return data


def _watched_dataset(dataset, look):
    """A `tf.data.Dataset`, unchanged where dtypes say enough."""
    import tensorflow as tf

    specs = leaves(images_of(dataset.element_spec))
    if specs and specs[0].shape.rank:
        look.check_count(specs[0].shape[0])
    look.problem = next(filter(None, (problem_of_dtype(dtype_name(spec)) for spec in specs)), None)
    if look.problem:
        raise ValueError(look.problem)
    if not isinstance(dataset.element_spec, tuple):
        look.check_labels(None)
    counted = (not look.several and look.parts == 1) or (specs and specs[0].shape.rank and specs[0].shape[0])
    if counted and all(dtype_name(spec) in SAFE for spec in specs):
        return dataset

    def seen(*images):
        look.check_count(next((x.shape[0] for x in images if len(x.shape)), None))
        look.check(images)
        return True

    @tf.autograph.experimental.do_not_convert
    def passing(number, batch):
        images = [x for x in tf.nest.flatten(images_of(batch)) if isinstance(x, tf.Tensor)]
        # In the first batch only: a call of Python in every batch would slow the pipeline down.
        checked = tf.cond(tf.equal(number, 0), lambda: tf.numpy_function(seen, images, tf.bool), lambda: True)
        with tf.control_dependencies([checked]):
            return tf.nest.map_structure(lambda x: x if x is None else tf.identity(x), batch)

    return dataset.enumerate().map(passing)


def admitted(data, look, size=None, steps=None, labels=None, held_back=0.0):
    """Arrays, checked, or batches that are watched. `size`, `steps` and `labels` are the batches' as Keras takes them
    for arrays, and `held_back` the share of an array that is not trained on."""
    arrays = [x for x in keras.tree.flatten(data) if x is not None]
    if not arrays or not all(hasattr(x, "dtype") and hasattr(x, "shape") for x in arrays):
        return watched(data, look)
    count = int((arrays[0].shape[0] if len(arrays[0].shape) else 0) * (1 - held_back))
    # 32 is Keras' default for arrays.
    size = size or (math.ceil(count / steps) if steps else 32)
    if not count:
        raise ValueError("Expected at least one image, received none.")
    look.check_count(min(count, size), count % size if math.isfinite(size) else 0)
    look.check(arrays)
    look.check_labels(labels)
    if look.several and count % size == 1:
        warnings.warn(
            "The last batch has one image, from which the match loss learns nothing; choose another batch size.",
            stacklevel=4,
        )
    return data
