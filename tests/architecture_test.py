"""What no single file can promise: the direction of imports, the size and names of files, and that BUILD tells the
truth."""

import ast
import re
import sys
import tomllib

import pytest

from tests import architecture
from tests.architecture import BENCHMARKS, LIBRARY, RECIPES, ROOT, TESTS, imports_of, name_of, tree_of

METHOD = ("patches", "split", "encoder", "decoder", "losses", "splitmask")

# A part may import what stands on a line above its own. `data` and `training` stand apart, and use `options` and
# `backend` alone.
ORDER = (
    {"options", "misfits"},
    {"backend"},
    {"patches"},
    {"split", "augment", "resampling"},
    {"encoder"},
    {"decoder"},
    {"losses", "projector"},
    {"tokenizers", "splitmask", "baselines", "transfer"},
    {"evaluation", "interchange"},
    {"prediction"},
)
APART = {"data", "training"}
USES_DATA = {"prediction"}  # which brings models and images together
ABOVE_THE_ORDER = {
    f"keras_splitmask/{name}.py"
    for name in (
        "training/batch",
        "training/inputs",
        "training/objective_model",
        "training/pixels",
        "training/word_perplexity",
        "data/resizing",
        "interchange/weight_files",
    )
}  # used by models


def part_of(name):
    """ "keras_splitmask/training/steps.py" to "training", "keras_splitmask/split.py" to "split"."""
    return name.split("/")[1].removesuffix(".py")


def test_imports_point_one_way():
    wrong = []
    for path in LIBRARY:
        name, part = name_of(path), part_of(name_of(path))
        if name == "keras_splitmask/__init__.py":
            continue
        level = [i for i, parts in enumerate(ORDER) if part in parts]
        assert level or part in APART, f"{name} has no place in the order of imports: see DESIGN."
        below = set().union(*ORDER[: level[0]]) if level else set()
        below |= {"data"} if part in USES_DATA else set()
        for used in imports_of(path)[0]:
            allowed = part_of(used) in below | {part} | ORDER[0] | ORDER[1] or (
                used in ABOVE_THE_ORDER and part not in APART
            )
            if used == "keras_splitmask/__init__.py" or not allowed:
                wrong.append(f"{name} imports {used}")
    assert not wrong, "\n".join(wrong)


def test_nothing_below_the_recipes_reads_a_flag_or_a_recipe():
    for path in LIBRARY:
        text = path.read_text()
        assert "absl import flags" not in text and "FLAGS" not in text, name_of(path)
        assert not [used for used in imports_of(path)[0] if not used.startswith("keras_splitmask/")], name_of(path)


def test_no_file_is_a_place_for_anything():
    names = {path.stem for path in LIBRARY + RECIPES + BENCHMARKS + TESTS}
    assert not names & {"utils", "util", "misc", "common", "helpers", "base", "core"}


@pytest.mark.parametrize("path", LIBRARY + RECIPES + BENCHMARKS + TESTS, ids=name_of)
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= (300 if path in LIBRARY else 500)
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            code = node.body[1:] if ast.get_docstring(node) and node.body[1:] else node.body
            length = node.end_lineno - code[0].lineno + 1  # without the signature and the docstring
            assert length <= 60, f"{node.name} is {length} lines long"


def test_the_method_is_read_in_six_short_files():
    assert sum(len((ROOT / "keras_splitmask" / f"{name}.py").read_text().splitlines()) for name in METHOD) < 1100


def test_backends_are_named_in_training_alone():
    backends, wrong = {"tensorflow", "jax", "torch"}, []
    for path in LIBRARY:
        if part_of(name_of(path)) in ("training", "backend"):
            continue
        strings = {n.value for n in ast.walk(tree_of(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        wrong += [f"{name_of(path)}: {name}" for name in backends & (imports_of(path)[1] | strings)]
    assert not wrong, "\n".join(wrong)


def test_import_loads_keras_numpy_and_absl_alone(python):
    missing = "import sys; sys.modules.update(tensorflow=None); "  # as on a machine without it
    python("-c", f"{missing} import keras_splitmask", backend="jax")
    loaded, by_keras = (
        set(python("-c", f"import sys, {name}; print(*sys.modules)", backend="jax").split())
        for name in ("keras_splitmask", "keras")
    )
    ours = {name.split(".")[0] for name in loaded} - {name.split(".")[0] for name in by_keras} - sys.stdlib_module_names
    assert ours == {"keras_splitmask"} | ours & {"absl", "numpy"}, ours


def test_no_paths_of_one_machine():
    for path in (
        *LIBRARY,
        *RECIPES,
        *BENCHMARKS,
        *TESTS,
        *ROOT.glob("recipes/flags/**/*.flags"),
        ROOT / "README.md",
        ROOT / ".ci" / "run",
    ):
        found = re.findall(r"(?<![\w.~])/(?:home|root|work|Users|mnt|opt|scratch)/\S*", path.read_text())
        assert not found, f"{name_of(path)}: {found}"


def test_ci_runs_the_readmes_command():
    block = re.search(r"<!-- tests: begin -->(.*?)<!-- tests: end -->", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block, "README.md has no command between <!-- tests: begin --> and <!-- tests: end -->."
    commands = [line for line in block[1].splitlines() if line.startswith("python3 -m venv")]
    assert commands == ["python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m tests"]
    assert "<!-- tests: begin -->/,/<!-- tests: end -->/p' README.md" in (ROOT / ".ci" / "run").read_text()


def test_the_style_is_checked_before_the_tests():
    text = (ROOT / "tests" / "__main__.py").read_text()
    assert text.index('"tests.style"') < text.index("ThreadPoolExecutor(3)")
    assert "entry: python -m tests.style" in (ROOT / ".pre-commit-config.yaml").read_text()


def test_the_library_requires_three_packages_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["keras>=3.15,<4", "numpy", "absl-py"]
    required = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert required[-1] == "-e ."
    extras = project["optional-dependencies"]
    assert set(required[:-1]) == {
        *project["dependencies"],
        *extras["tf"],
        *extras["cv"],
        *extras["data"],
        *extras["coco"],
        *extras["report"],
    }


def test_build_names_every_file_and_what_it_needs():
    assert (ROOT / "BUILD").read_text() == architecture.build(), "run: python -m tests.architecture --write"
