"""The check of what the models are given: images and options that would be learnt from wrongly are refused in one line."""

import contextlib
import copy
import functools
import inspect
import math
import types
import warnings

import keras
import numpy as np

from keras_splitmask.training.layers import check_float

SAFE = ("uint8", "uint16", "bool")  # dtypes whose range is known
LOOKED_AT = 256  # images of an array, spread over it
TOLERANCE = 0.01  # around 0..1, for the rounding of resizing


def dtype_name(tensor):
    """The name of the dtype of any library's tensor, such as "float32"."""
    return getattr(tensor.dtype, "name", None) or str(tensor.dtype).rpartition(".")[2]


def problem_of_dtype(name):
    """What is wrong with every image of this dtype, in a line, or None."""
    if name in SAFE or name == "int32" or name.startswith(("float", "bfloat")):
        return None
    return f"Expected pixels as uint8, uint16 or float in 0..1, received {name}; convert them to uint8, or divide them by the largest possible value."


def problem_of(images, numbers=None, finite=True):
    """What is wrong with the pixels of images (B, H, W, C), of any library and of these numbers, in a line, or None."""
    name = dtype_name(images)
    if problem := problem_of_dtype(name):
        return problem
    if name in SAFE or 0 in images.shape:
        return None
    step = max(1, images.shape[0] // LOOKED_AT) if len(images.shape) else None
    values = _array(images[::step] if step else images)
    low, high = float(values.min()), float(values.max())  # NaN if one is
    if name == "int32":
        return None if low >= 0 and 255 < high <= 65535 else _problem_of_integers(low, high)
    if not math.isfinite(high - low) and not finite:
        values = values[np.isfinite(values)]
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not math.isfinite(high - low):
        first = int(np.argmin(np.isfinite(values).reshape(len(values), -1).all(axis=1))) * step if step else 0
        return f"Expected finite pixels, received NaN or infinity in image {first if numbers is None else numbers[first]}; leave such images out."
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return None
    return f"Expected float pixels in 0..1, received {low:.4g} to {high:.4g}; {_advice(low, high)}."


def _problem_of_integers(low, high):
    kind = "uint8" if low >= 0 and high <= 255 else "float in 0..1"
    return f"Expected pixels as uint8, uint16 or float in 0..1, received int32 of {low:.0f} to {high:.0f}; convert them to {kind}."


def _advice(low, high):
    if low < -0.5 and low >= -1 - TOLERANCE and high <= 1 + TOLERANCE:
        return "undo the scaling to -1..1 ((images + 1) / 2) or pass uint8"
    if low >= -0.5 and high <= 1.5:
        return "clip them to 0..1 (numpy.clip(images, 0, 1))"
    if low < 0 or high > 65535:
        return "pass them in 0..1 or as uint8, not normalised, which the encoder does"
    return "divide them by 255 (images / 255) or pass uint8" if high <= 255 else "divide them by 65535 (images / 65535) or pass uint16"


def _array(tensor):
    if hasattr(tensor, "detach"):  # torch's
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if dtype_name(tensor) == "bfloat16" else tensor
    array = np.asarray(tensor)
    return array.astype("float32") if dtype_name(array) == "bfloat16" else array


def check_pixels(images, numbers=None, finite=True):
    """Refuse images (B, H, W, C), or a structure of such, that are no pixels as `patches.to_pixels` takes them.

    Args:
        images: of any library.
        numbers: (B,) int, which images of the user's they are, for the message; left out, from 0 on.
        finite: whether to refuse NaN and infinity.

    Raises:
        ValueError: for floats outside 0..1, values that are not finite, and integers of other types than uint8 and uint16. int32 is
            taken for uint16, as which torch has it, if a value is above 255 and none above 65535.
    """
    for leaf in _leaves(images):
        if problem := problem_of(leaf, numbers, finite):
            raise ValueError(problem)


def check_fitted(tokenizer):
    """Refuse a tokenizer of this library that learns its words from images and has seen none. Raises ValueError."""
    if getattr(tokenizer, "learns", False) and not tokenizer.fitted:
        raise ValueError(f"Expected a fitted {type(tokenizer).__name__}, received one that has seen no images; call tokenizer.fit(images) first.")


def _leaves(images):
    return [x for x in keras.tree.flatten(images) if hasattr(x, "dtype") and hasattr(x, "shape")]


def _images_of(batch):
    """The images of a batch: all of it, or the first of (images, labels, weights)."""
    return batch[0] if isinstance(batch, (tuple, list)) else batch


class Look:
    """Looks at the first batch of a stream as it passes.

    Attributes:
        problem: what was wrong with it, in a line, since backends wrap the errors of their input pipelines; or None.
    """

    def __init__(self, several, finite=True):
        self.several = several  # whether a batch must have more than one image
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
            leaves = _leaves(_images_of(batch))
            self.check_count(next((x.shape[0] for x in leaves if len(x.shape)), None))
            self.check(leaves)
        return batch

    def check(self, leaves):
        try:
            check_pixels(leaves, finite=self.finite)
        except ValueError as error:
            self.problem = str(error)
            raise

    def check_count(self, images):
        if self.several and images == 1:
            self.problem = (
                "Expected batches of at least two images, since the match loss compares images, received batches of one; "
                "raise the batch size, or build the model with match_weight=0."
            )
            raise ValueError(self.problem)

    def over(self, batches):
        """The batches of an iterable, the first of which is looked at."""
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
    """Batches of any kind that Keras takes, of which `look` sees the first as it passes; none is read for it."""
    if isinstance(data, keras.utils.PyDataset):
        return _LookedAt(data, look)
    if isinstance(data, types.GeneratorType):
        return look.over(data)
    kinds = {(c.__module__.split(".")[0], c.__name__) for c in type(data).__mro__}
    if ("tensorflow", "DatasetV2") in kinds:
        return _watched_dataset(data, look)
    if kinds & {("tensorflow", "DistributedDataset"), ("tensorflow", "DistributedDatasetsFromFunction")}:
        return data  # `patches.to_pixels` refuses wrong dtypes
    if kinds & {("grain", "MapDataset"), ("grain", "IterDataset")}:
        return data.map(look)
    if kinds & {("grain", "DataLoader"), ("torch", "DataLoader")}:
        view = copy.copy(data)
        view.__class__ = type("DataLoader", (type(data),), {"__iter__": lambda self: look.over(data)})
        return view
    return data


def _watched_dataset(dataset, look):
    """A `tf.data.Dataset`, unchanged where dtypes say enough."""
    import tensorflow as tf

    specs = _leaves(_images_of(dataset.element_spec))
    if specs and specs[0].shape.rank:
        look.check_count(specs[0].shape[0])
    look.problem = next(filter(None, (problem_of_dtype(dtype_name(spec)) for spec in specs)), None)
    if look.problem:
        raise ValueError(look.problem)
    counted = not look.several or (specs and specs[0].shape.rank and specs[0].shape[0])
    if counted and all(dtype_name(spec) in SAFE for spec in specs):
        return dataset

    def seen(*images):
        look.seen = False  # of each epoch the first batch
        look((images,))
        return True

    @tf.autograph.experimental.do_not_convert
    def passing(number, batch):
        images = [x for x in tf.nest.flatten(_images_of(batch)) if isinstance(x, tf.Tensor)]
        checked = tf.cond(tf.equal(number, 0), lambda: tf.numpy_function(seen, images, tf.bool), lambda: True)
        with tf.control_dependencies([checked]):
            return tf.nest.map_structure(lambda x: x if x is None else tf.identity(x), batch)

    return dataset.enumerate().map(passing)


def _admitted(data, look, size=None, steps=None):
    """Arrays, checked, or batches that are watched. `size` and `steps` are the batches' as Keras takes them for arrays."""
    leaves = [x for x in keras.tree.flatten(data) if x is not None]
    if not leaves or not all(hasattr(x, "dtype") and hasattr(x, "shape") for x in leaves):
        return watched(data, look)
    count = leaves[0].shape[0] if len(leaves[0].shape) else 0
    size = size or (math.ceil(count / steps) if steps else 32)
    look.check_count(min(count, size))
    look.check(leaves)
    if look.several and count % size == 1:
        warnings.warn("The last batch has one image, from which the match loss learns nothing; choose another batch size.", stacklevel=4)
    return data


@contextlib.contextmanager
def _values_kept(model):
    """Return to the variables the values that Keras on JAX takes from them before it asks for data, if there is none or a step fails."""
    if keras.backend.backend() != "jax":
        yield
        return
    optimizer = getattr(model, "optimizer", None)  # of a model that was not compiled, which may predict all the same
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.metrics_variables, *(optimizer.variables if optimizer is not None else [])]
    values = [v.value for v in variables]  # no copies: the first step takes their memory
    try:
        yield
    except BaseException:
        for variable, value in zip(variables, values):
            if variable._value is None and not value.is_deleted():
                variable.assign(value)
        raise


def _checked(name):
    """The method of `keras.Model` of this name, of a `CheckedModel`."""
    method = getattr(keras.Model, name)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(self, *arguments, **options):
        bound = signature.bind(self, *arguments, **options)
        given = bound.arguments
        if given.get("kwargs", {}).get("_use_cached_eval_dataset"):  # `fit` validates, and has checked the data
            with _values_kept(self):
                return method(*bound.args, **bound.kwargs)
        looks = self._check_given(name, given)
        try:
            with _values_kept(self):
                return method(*bound.args, **bound.kwargs)
        except Exception:
            if problem := next((look.problem for look in looks if look.problem), None):
                raise ValueError(problem) from None
            raise

    return checked


class CheckedModel(keras.Model):
    """A model of images that checks what it is given before anything is learnt or told from it.

    The first batch is looked at, of an array images spread over it; the values of batches that TensorFlow's strategies have
    distributed already are not. `train_on_batch`, `test_on_batch` and `predict_on_batch` look at one batch in all and leave NaN to the
    training step, which skips it.
    """

    takes_pixels = True  # whether what it is given are pixels; other values are not checked

    own_step = False  # whether its training step is `steps`'s
    own_loss = False  # whether its loss and its metrics are its own
    compares = False  # whether the loss compares images
    _batch_seen = False

    fit, evaluate, predict = _checked("fit"), _checked("evaluate"), _checked("predict")
    train_on_batch, test_on_batch, predict_on_batch = _checked("train_on_batch"), _checked("test_on_batch"), _checked("predict_on_batch")

    def __call__(self, images, *arguments, **options):
        if self.takes_pixels and isinstance(images, np.ndarray) and images.ndim:
            check_pixels(images[:: max(1, len(images) // 8)], finite=False)  # a few, which takes no time
        return super().__call__(images, *arguments, **options)

    def check_ready(self):
        """Raise ValueError if what training needs was not done beforehand."""

    @functools.wraps(keras.Model.compile)
    def compile(self, *arguments, **options):
        bound = inspect.signature(keras.Model.compile).bind(self, *arguments, **options)
        if self.own_loss:
            names = [n for n in ("loss", "loss_weights", "metrics", "weighted_metrics") if bound.arguments.get(n) is not None]
            if names:
                raise ValueError(f"Expected no {', '.join(names)} of {type(self).__name__}, which has its own loss and metrics; compile it without.")
        optimizer = bound.arguments.get("optimizer")
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if self.own_step and (count := getattr(optimizer, "gradient_accumulation_steps", None)):
            raise ValueError(
                f"Expected an optimizer without gradient_accumulation_steps, received {count}; "
                f"build {type(self).__name__} with accumulate={count}, and give it batches as many times larger."
            )
        return super().compile(*arguments, **options)

    @functools.wraps(keras.Model.save)
    def save(self, *arguments, **options):
        for layer in self._flatten_layers():
            check_float(layer)  # before the file that may be there is opened
        super().save(*arguments, **options)

    def compile_from_config(self, config):
        """Compile a loaded model as the saved one was; Keras would not, since `compile` is overridden."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def _check_given(self, name, given):
        """Check the arguments of the method `name`, and put what is watched in their place. Returns the `Look`s."""
        predicts = name.startswith("predict")
        if not predicts:
            self.check_ready()
            self._check_keras_options(given)
        if not self.takes_pixels:
            return []
        several = self.compares and not predicts
        if name.endswith("on_batch"):
            if not self._batch_seen:
                _admitted(given.get("x"), Look(several, finite=False), size=math.inf)
                self._batch_seen = True
            return []
        looks = [Look(several), Look(several)]
        given["x"] = _admitted(given.get("x"), looks[0], given.get("batch_size"), given.get("steps_per_epoch") or given.get("steps"))
        if (data := given.get("validation_data")) is not None:
            size = given.get("validation_batch_size") or given.get("batch_size")
            images = _admitted(_images_of(data), looks[1], size, given.get("validation_steps"))
            given["validation_data"] = (images, *data[1:]) if isinstance(data, (tuple, list)) else images
        return looks

    def _check_keras_options(self, given):
        weights = [name for name in ("class_weight", "sample_weight") if given.get(name) is not None]
        if weights and self.own_loss:
            raise ValueError(f"Expected no {' and no '.join(weights)} with {type(self).__name__}, whose loss has no weights; leave them out.")
        optimizer = getattr(self, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        callbacks = given.get("callbacks")
        callbacks = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else keras.tree.flatten(callbacks)
        setters = [type(c).__name__ for c in callbacks if isinstance(c, (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau))]
        if setters and optimizer is not None and isinstance(optimizer.get_config().get("learning_rate"), dict):
            raise ValueError(
                f"Expected an optimizer whose learning rate is a number with {setters[0]}, received one that follows a schedule; leave the "
                "callback out, or compile with keras_splitmask.training.LayerwiseAdamW(learning_rate=1e-3)."
            )
