"""The check of what the models are given: images and options that would be learnt from wrongly are refused in one
line."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from typing import Any

import keras
import numpy as np

from keras_splitmask.backend.keras_private import layers_of, tensorflow_left_out
from keras_splitmask.backend.layers import check_float
from keras_splitmask.training.pixels import check_pixels, images_of, problem_of_axes
from keras_splitmask.training.watching import Look, admitted, problem_within


def check_tokenizer(tokenizer: keras.layers.Layer, encoder: keras.layers.Layer) -> None:
    """Refuse a tokenizer built for other images or patches than the encoder: its words would belong to other patches.

    Raises:
        ValueError: if its image_shape or patch_size differs.
    """
    own = {name: getattr(encoder, name) for name in ("image_shape", "patch_size")}
    other = {name: getattr(tokenizer, name, value) for name, value in own.items()}
    if tuple(other["image_shape"]) != own["image_shape"] or other["patch_size"] != own["patch_size"]:
        expected, received = (", ".join(f"{name}={value}" for name, value in values.items()) for values in (own, other))
        raise ValueError(
            f"Expected a tokenizer of the encoder's {expected}, received one of {received}; build it with the"
            " encoder's."
        )


def check_absolute(encoder: keras.layers.Layer) -> None:
    """Refuse an encoder with relative positions for a method that encodes some of an image's patches, or reorders them.

    Raises:
        ValueError: if the encoder has relative positions.
    """
    if getattr(encoder, "relative_positions", False):
        raise ValueError(
            "Expected an encoder without relative positions for a method that encodes some of an image's patches"
            " or reorders them, received one with relative_positions=True; fine-tune it, or pre-train another."
        )


def check_fitted(tokenizer: keras.layers.Layer) -> None:
    """Refuse a tokenizer of this library that learns its words from images and has seen none. Raises ValueError."""
    if getattr(tokenizer, "learns", False) and not tokenizer.fitted:
        raise ValueError(
            f"Expected a fitted {type(tokenizer).__name__}, received one that has seen no images; call"
            " tokenizer.fit(images) first."
        )


@contextlib.contextmanager
def _values_kept(model):
    """Return to the variables the values that Keras on JAX takes from them before it asks for data, if there is none or
    a step fails."""
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
        for variable, value in zip(variables, values, strict=True):
            if variable._value is None and not value.is_deleted():
                variable.assign(value)
        raise


def _checked(name):
    """The method of `keras.Model` of this name, of a `CheckedModel`."""
    method = getattr(keras.Model, name)
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(self, *arguments, **options):
        # So arguments are found by name, however they were passed.
        bound = signature.bind(self, *arguments, **options)
        given = bound.arguments
        if given.get("kwargs", {}).get("_use_cached_eval_dataset"):  # `fit` validates, and has checked the data
            with _values_kept(self):
                return method(*bound.args, **bound.kwargs)
        looks = self._check_given(name, given)
        try:
            with _values_kept(self):
                return method(*bound.args, **bound.kwargs)
        except Exception as error:
            # A refusal inside a data pipeline arrives wrapped in an error of the backend, with pages of its own text.
            if problem := next((look.problem for look in looks if look.problem), None) or problem_within(error):
                raise ValueError(problem) from None
            raise

    return checked


class CheckedModel(keras.Model):
    """A model of images that checks its inputs before it trains on them or predicts from them.

    The first batch is looked at, of an array images spread over it; the values of batches that TensorFlow's strategies
    have distributed already are not. `train_on_batch`, `test_on_batch` and `predict_on_batch` look at one batch in all
    and leave NaN to the training step, which skips it.
    """

    takes_pixels = True  # whether what it is given are pixels; other values are not checked

    own_step = False  # whether its training step is `steps`'s
    accumulate = 1  # in how many parts a training step takes its batch
    own_loss = False  # whether its loss and its metrics are its own
    compares = False  # whether the loss compares images
    views: int | None = None  # number of views of each image that training takes, too, (B, views, H, W, C)
    _batch_seen = False

    fit, evaluate, predict = _checked("fit"), _checked("evaluate"), _checked("predict")
    train_on_batch, test_on_batch, predict_on_batch = (
        _checked("train_on_batch"),
        _checked("test_on_batch"),
        _checked("predict_on_batch"),
    )

    def __call__(self, images, *arguments, **options):
        # In two lines, since TensorFlow's AutoGraph does not know `:=`.
        problem = problem_of_axes(images) if self.takes_pixels else None
        if problem:
            raise ValueError(problem)
        if self.takes_pixels and isinstance(images, np.ndarray) and images.ndim:
            # Only NumPy's arrays: the values of a traced tensor are not known, and looking at a device's tensor would
            # wait.
            check_pixels(images[:: max(1, len(images) // 8)], finite=False)  # a few, which takes no time
        return super().__call__(images, *arguments, **options)

    @classmethod
    def from_config(cls, config):
        """Build the model of a configuration, with the layers in it."""
        nested = {name for name, value in config.items() if isinstance(value, dict) and "class_name" in value}
        layers = {name: keras.saving.deserialize_keras_object(config[name]) for name in nested}
        return cls(**{**config, **layers})

    def check_ready(self) -> None:
        """Raise ValueError if what training needs was not done beforehand."""

    def problem_of_images(self, images: Any) -> str | None:
        """Describe in a line what is wrong with the axes of what is trained on, or return None.

        Subclasses that learn from something other than images define it.
        """
        return problem_of_axes(images, self.views) if self.takes_pixels else None

    def problem_of_labels(self, labels: Any) -> str | None:
        """Describe in a line what is wrong with labels for `fit`, or return None."""

    def _check_learns(self):
        if not self.trainable_variables:
            raise ValueError(
                f"Expected a {type(self).__name__} with weights to learn, received one with none; set `trainable ="
                " True` before `compile`."
            )
        # Integers have no gradient.
        modes = {layer.quantization_mode for layer in layers_of(self)} - {None}
        if modes:
            raise ValueError(
                f"Expected float weights to train, received {', '.join(sorted(modes))}; train the model before it is"
                " quantized."
            )

    @functools.wraps(keras.Model.compile)
    def compile(self, *arguments, **options):
        bound = inspect.signature(keras.Model.compile).bind(self, *arguments, **options)
        if self.own_loss:
            names = [
                n for n in ("loss", "loss_weights", "metrics", "weighted_metrics") if bound.arguments.get(n) is not None
            ]
            if names:
                raise ValueError(
                    f"Expected no {', '.join(names)} of {type(self).__name__}, which has its own loss and metrics;"
                    " compile it without."
                )
        optimizer = bound.arguments.get("optimizer")
        # In float16 it may be within a LossScaleOptimizer.
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        if self.own_step and (count := getattr(optimizer, "gradient_accumulation_steps", None)):
            raise ValueError(
                f"Expected an optimizer without gradient_accumulation_steps, received {count}; "
                f"build {type(self).__name__} with accumulate={count}, and give it batches as many times larger."
            )
        return super().compile(*arguments, **options)

    @functools.wraps(keras.Model.save)
    def save(self, *arguments, **options):
        for layer in layers_of(self):
            check_float(layer)  # before the file that may be there is opened
        with tensorflow_left_out():
            super().save(*arguments, **options)

    def compile_from_config(self, config):
        """Compile a loaded model as the saved one was; Keras would not, since `compile` is overridden."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        # As Keras does: the optimizer's state can be loaded only once its variables are there.
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def _check_given(self, name, given):
        """Check the arguments of the method `name`, and put what is watched in their place. Returns the `Look`s."""
        predicts, on_batch = name.startswith("predict"), name.endswith("on_batch")
        if not predicts:
            self.check_ready()
            self._check_keras_options(given)
        if name == "fit" or (name == "train_on_batch" and not self._batch_seen):
            self._check_learns()
        x = given.get("x")
        # Keras on JAX predicts without `__call__`, which looks at the axes elsewhere.
        if predicts and self.takes_pixels and (hasattr(x, "shape") or isinstance(x, (list, tuple))):
            if problem := problem_of_axes(x):
                raise ValueError(problem)
        if not self.takes_pixels or (on_batch and self._batch_seen):
            return []
        options = {
            "several": self.compares and not predicts,
            "problem_of_labels": None if predicts else self.problem_of_labels,
        }
        if on_batch:
            admitted(given.get("x"), Look(finite=False, **options), math.inf, labels=given.get("y"))
            self._batch_seen = True
            return []
        strategy = getattr(self, "distribute_strategy", None)  # TensorFlow's
        parts = (
            {"parts": self.accumulate, "devices": strategy.num_replicas_in_sync if strategy else 1}
            if name == "fit"
            else {}
        )
        looks = [Look(**options, **parts), Look(**options)]
        steps = given.get("steps_per_epoch") or given.get("steps")
        given["x"] = admitted(
            given.get("x"),
            looks[0],
            given.get("batch_size"),
            steps,
            given.get("y"),
            given.get("validation_split") or 0.0,
        )
        if (data := given.get("validation_data")) is not None:
            # Keras, too, takes the batch size of training if the validation has none of its own.
            size, labels = given.get("validation_batch_size") or given.get("batch_size"), None
            if isinstance(data, (tuple, list)) and len(data) > 1:
                labels = data[1]
            images = admitted(images_of(data), looks[1], size, given.get("validation_steps"), labels)
            given["validation_data"] = (images, *data[1:]) if isinstance(data, (tuple, list)) else images
        return looks

    def _check_keras_options(self, given):
        weights = [name for name in ("class_weight", "sample_weight") if given.get(name) is not None]
        if weights and self.own_loss:
            raise ValueError(
                f"Expected no {' and no '.join(weights)} with {type(self).__name__}, whose loss has no weights; leave"
                " them out."
            )
        optimizer = getattr(self, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        callbacks = given.get("callbacks")
        callbacks = (
            callbacks.callbacks
            if isinstance(callbacks, keras.callbacks.CallbackList)
            else keras.tree.flatten(callbacks)
        )
        setters = [
            type(c).__name__
            for c in callbacks
            if isinstance(c, (keras.callbacks.LearningRateScheduler, keras.callbacks.ReduceLROnPlateau))
        ]
        if setters and optimizer is not None and isinstance(optimizer.get_config().get("learning_rate"), dict):
            raise ValueError(
                f"Expected an optimizer whose learning rate is a number with {setters[0]}, received one that follows a"
                " schedule; leave the callback out, or compile with"
                " keras_splitmask.training.LayerwiseAdamW(learning_rate=1e-3)."
            )
