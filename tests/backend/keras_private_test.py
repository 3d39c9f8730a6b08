"""Keras' private parts: what a new version of Keras took away is named in one line, and none is used unlisted."""

import ast
import inspect
import sys

import keras
import numpy as np
import pytest

from keras_splitmask.backend.keras_private import PARTS, lazy_tensorflow, set_random_seed
from tests.architecture import LIBRARY, ROOT, imports_of, name_of, tree_of


@pytest.fixture(scope="module")
def owners():
    """A small compiled model, its optimizer and a weight."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.build((None, 2))
    model.compile("adamw", "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    owners = {"model": model, "optimizer": model.optimizer, "variable": model.trainable_variables[0]}
    return {**owners, "lazy": lazy_tensorflow()}


def is_there(owners, part):
    if part.owner == "fit":
        return part.name in inspect.getsource(sys.modules[inspect.unwrap(keras.Model.fit).__module__])
    return hasattr(owners[part.owner], part.name)


@pytest.mark.backend
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_keras_has_it(owners, part):
    if part.backend in (None, keras.backend.backend()):
        line = f"Keras {keras.__version__} has no {part.name} of {part.owner}, which {part.reason}: {part.file}."
        assert is_there(owners, part), line


def test_a_missing_part_is_seen(owners):
    assert not is_there(owners, PARTS[0]._replace(name="_flatten_layer"))
    assert not is_there(owners, PARTS[0]._replace(owner="fit", name="_use_cached_dataset"))


def private_names(path, names):
    """Those of `names` that a file uses as attributes, or defines as methods."""
    nodes = list(ast.walk(tree_of(path)))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {f.name for node in nodes if isinstance(node, ast.ClassDef) for f in node.body if hasattr(f, "name")}
    return used & names


@pytest.mark.backend
def test_each_is_used_in_its_file_only(owners):
    names = {name for owner in owners.values() for name in dir(owner) if name.startswith("_") and name[1] != "_"}
    names |= {part.name for part in PARTS}
    listed = {(f"keras_splitmask/{part.file}", part.name) for part in PARTS}
    files = [path for path in LIBRARY if "keras" in imports_of(path)[1] or path.stem == "keras_private"]
    used = {(name_of(path), name) for path in files for name in private_names(path, names)}
    assert used - listed == set()
    assert [name for file, name in listed if name not in (ROOT / file).read_text()] == []


@pytest.fixture
def no_tensorflow(monkeypatch):
    """Fails where another backend imports TensorFlow through Keras."""
    if keras.backend.backend() != "tensorflow":
        lazy = lazy_tensorflow()
        monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
        monkeypatch.setattr(lazy, "_available", None)
        monkeypatch.setattr(lazy, "initialize", lambda: pytest.fail("TensorFlow was imported."))
        yield
        assert lazy._available is None
    else:
        yield


@pytest.mark.backend
def test_the_seed_is_keras():
    draws = []
    for set_seed in (keras.utils.set_random_seed, set_random_seed):
        set_seed(3)
        draws.append([*np.random.rand(2), *keras.ops.convert_to_numpy(keras.random.uniform((2,)))])
    assert draws[0] == draws[1]


@pytest.mark.backend
def test_seeding_and_saving_need_no_tensorflow(make_model, tmp_path, no_tensorflow):
    set_random_seed(3)
    make_model().save(tmp_path / "model.keras")
