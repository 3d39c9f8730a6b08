"""The private parts of Keras that this library uses, each in one file and for one reason.

Keras may rename them in any version. tests/backend/keras_private_test.py then says in one line which part is missing,
where it is used and what for; it also fails if the library uses a private part that is not in this table.
"""

import contextlib
import sys
import typing

import keras


class Part(typing.NamedTuple):
    """A private attribute or method of a Keras object.

    Attributes:
        owner: the object that has it: "model", "optimizer", "variable", "lazy" for Keras' stand-in for TensorFlow, or
            "fit" for a name in the code of `fit`.
        name: its name.
        file: the library's file that uses it, from keras_splitmask on.
        reason: what would not work without it.
        backend: the Keras backend that has it; None for all.
    """

    owner: str
    name: str
    file: str
    reason: str
    backend: str | None = None


ADAMW, OPTIMIZER = "backend/adamw.py", "training/optimizer.py"
MODEL, INPUTS, CLASSIFIER = "training/objective_model.py", "training/inputs.py", "transfer/classify.py"

PARTS = (
    Part("model", "_flatten_layers", "backend/keras_private.py", "lists the layers within layers"),
    Part("model", "_get_metrics_result_or_logs", MODEL, "makes the logs of an epoch those of all replicas"),
    Part("model", "_maybe_symbolic_build", MODEL, "builds the optimizer without a batch", "tensorflow"),
    Part("fit", "_distributed_dataset", MODEL, "tells the shape of the labels before a batch is read", "tensorflow"),
    Part("fit", "_use_cached_eval_dataset", INPUTS, "tells the validation within `fit` from other evaluations"),
    Part("variable", "_value", INPUTS, "tells which values JAX has taken from a model when a step fails"),
    Part("model", "_symbolic_build", CLASSIFIER, "builds the loss and the metrics of `compile` for the labels at hand"),
    Part("model", "_compile_loss", CLASSIFIER, "computes the loss of `compile` inside our step"),
    Part("model", "_compile_metrics", CLASSIFIER, "updates the metrics of `compile` inside our step"),
    Part("lazy", "_available", "backend/keras_private.py", "leaves TensorFlow alone where another backend computes"),
    Part("optimizer", "_apply_weight_decay", OPTIMIZER, "decays the weights that DECAY_RULES names"),
    Part("optimizer", "_backend_update_step", OPTIMIZER, "gives each layer a learning rate of its own"),
    Part("optimizer", "_clip_gradients", OPTIMIZER, "clips by a norm that is computed in one pass"),
    Part("optimizer", "_parallel_update_step", ADAMW, "updates all weights by torch's fused kernel", "torch"),
    Part("optimizer", "_get_variable_index", ADAMW, "finds the moments of a weight"),
    Part("optimizer", "_momentums", ADAMW, "is the table of first moments"),
    Part("optimizer", "_velocities", ADAMW, "is the table of second moments"),
)


def layers_of(model, include_self=True):
    """All layers of a model, those within other layers too; with the model itself by default."""
    return list(model._flatten_layers(include_self=include_self))


def lazy_tensorflow():
    """Keras' stand-in for TensorFlow, which imports it at first use."""
    return sys.modules["keras.src.utils.module_utils"].tensorflow


@contextlib.contextmanager
def tensorflow_left_out():
    """Within this, Keras on another backend does not import TensorFlow, 5 to 10 s and 0.4 GB, only to look whether an
    object is of it: where nothing has imported it, nothing is."""
    tensorflow = lazy_tensorflow()
    before = tensorflow._available
    if keras.backend.backend() != "tensorflow" and "tensorflow" not in sys.modules:
        tensorflow._available = False
    try:
        yield
    finally:
        tensorflow._available = before


def set_random_seed(seed):
    """`keras.utils.set_random_seed`, which seeds TensorFlow's generator only where something may draw from it."""
    with tensorflow_left_out():
        keras.utils.set_random_seed(seed)
