"""What a machine without a backend says, by processes in which packages are missing."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

from keras_splitmask.backend import optional
from tests import architecture
from tests.running import ROOT

IMPORT = "import keras_splitmask, keras; print(keras.backend.backend())"


@pytest.fixture
def without(tmp_path):
    """Run Python where these packages are missing; `config` is the content of Keras' keras.json."""

    def run(missing, code=IMPORT, config=None, **environment):
        if config:
            (tmp_path / "keras.json").write_text(json.dumps(config))
        env = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_HOME": str(tmp_path), **environment}
        if "KERAS_BACKEND" not in environment:
            del env["KERAS_BACKEND"]
        code = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); {code}"
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)

    return run


NONE = (
    "Keras needs a backend, and none is installed. Run one of: pip install torch; pip install tensorflow; pip install"
    " jax"
)


def test_without_a_backend_an_import_says_what_to_install(without):
    end = without(["tensorflow", "jax", "torch"])
    assert end.returncode == 1 and end.stderr.splitlines()[-1] == f"ImportError: {NONE}"
    assert "site-packages" not in end.stderr  # no traceback of Keras


def test_a_chosen_backend_that_is_missing_is_named(without):
    end = without(["torch"], KERAS_BACKEND="torch")
    line = "ImportError: The backend torch, chosen by KERAS_BACKEND, is not installed. Use KERAS_BACKEND="
    assert end.stderr.splitlines()[-1].startswith(line) and end.stderr.endswith(", or run: pip install torch\n")
    end = without(["jax"], config={"backend": "jax"})
    assert "The backend jax, chosen by " in end.stderr and "keras.json, is not installed." in end.stderr


def test_the_first_installed_backend_is_chosen_if_the_user_chose_none(without):
    # Keras itself writes this file.
    end = without(["tensorflow", "jax"], config={"backend": "tensorflow"})
    assert end.stdout == "torch\n", end.stderr


def test_a_program_without_a_backend_ends_in_one_line(without):
    program = "import runpy; sys.argv = [{!r}]; runpy.run_path(sys.argv[0], run_name='__main__')"
    code = program.format(str(ROOT / "recipes" / "probe.py"))
    end = without(["tensorflow", "jax", "torch"], code)
    assert (end.returncode, end.stderr) == (2, f"probe.py: {NONE}\n")
    end = without(["torch"], code, KERAS_BACKEND="torch")
    assert end.returncode == 2 and end.stderr.startswith("probe.py: The backend torch is not installed. Use --backend=")
    assert end.stderr.endswith(" or run: pip install torch\n") and end.stderr.count("\n") == 1


def test_the_packages_to_install_are_those_of_the_extras():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, packages in optional.PACKAGES.items():
        given = [line.split(">")[0] for line in extras[extra] if ";" not in line]
        assert packages.split() == given, extra
    used = [
        name for path in architecture.LIBRARY for name in re.findall(r'optional\("[\w.]+", "(\w+)"\)', path.read_text())
    ]
    assert len(used) > 20 and set(used) <= set(optional.PACKAGES)
