"""What no single file can promise: the direction of imports, the size and names of files, and that BUILD tells the truth."""

import ast
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "keras_splitmask").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
METHOD = ("patches", "split", "encoder", "decoder", "losses", "splitmask")

# A part may import what stands on a line above its own. `data` and `training` stand apart, and use `seeds` alone.
ORDER = (
    {"patches", "seeds", "strict_json", "pickles"},
    {"split", "augment", "resampling", "archives", "weight_files"},
    {"encoder"},
    {"decoder"},
    {"losses"},
    {"tokenizers", "splitmask", "baselines", "transfer", "layouts"},
    {"evaluation", "interchange"},
)
APART = {"data", "training"}
FOR_ALL = {f"keras_splitmask/{name}.py" for name in ("training/layers", "training/chunks", "training/distribution", "training/inputs", "training/pixels", "training/steps", "data/optional", "data/resizing")}

PIP = {"PIL": "pillow", "absl": "absl_py"}  # module: package, where the names differ
NOT_IMPORTED = {  # what a file needs besides its imports
    "recipes/reproduce.py": {":recipes/finetune", ":recipes/pretrain", ":recipes/probe"},
    "tests/conftest.py": {"@pip//tensorflow", "@pip//jax", "@pip//torch"},
    "tests/__main__.py": {":tests/conftest", "@pip//pytest"},
}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def part_of(name):
    """ "keras_splitmask/training/steps.py" to "training", "keras_splitmask/split.py" to "split"."""
    return name.split("/")[1].removesuffix(".py")


def tree_of(path):
    return ast.parse(path.read_text())


def file_of(module):
    """The project's file behind a dotted name, or None."""
    place = ROOT.joinpath(*module.split("."))
    found = [p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()]
    return found[0] if found else None


def imports_of(path):
    """Names of the project's files and of other top-level modules that a file imports, anywhere in it."""
    own, others = set(), set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from package import module` is the module's; `from package import name` is the package's own.
            modules = [f"{node.module}.{a.name}" if file_of(f"{node.module}.{a.name}") else node.module for a in node.names]
        else:
            continue
        for module in modules:
            # A script's own folder is on its path, so a recipe imports its neighbours without `recipes.`.
            neighbour = path.parent / f"{module}.py"
            file = file_of(module) or (neighbour if neighbour.exists() else None)
            if file:
                own.add(name_of(file))
            elif module != "__future__":
                others.add(module.split(".")[0])
    return own, others


def test_imports_point_one_way():
    wrong = []
    for path in LIBRARY:
        name, part = name_of(path), part_of(name_of(path))
        if name == "keras_splitmask/__init__.py":
            continue
        level = [i for i, parts in enumerate(ORDER) if part in parts]
        assert level or part in APART, f"{name} has no place in the order of imports: see DESIGN."
        below = set().union(*ORDER[: level[0]]) if level else set()
        for used in imports_of(path)[0]:
            allowed = part_of(used) in below | {part, "seeds"} or (used in FOR_ALL and part not in APART)
            if used == "keras_splitmask/__init__.py" or not allowed:
                wrong.append(f"{name} imports {used}")
    assert not wrong, "\n".join(wrong)


def test_nothing_below_the_recipes_reads_a_flag_or_a_recipe():
    for path in LIBRARY:
        text = path.read_text()
        assert "absl import flags" not in text and "FLAGS" not in text, name_of(path)
        assert not [used for used in imports_of(path)[0] if not used.startswith("keras_splitmask/")], name_of(path)


def test_no_file_is_a_place_for_anything():
    names = {path.stem for path in LIBRARY + RECIPES + TESTS}
    assert not names & {"utils", "util", "misc", "common", "helpers", "base", "core"}


@pytest.mark.parametrize("path", LIBRARY + RECIPES + TESTS, ids=name_of)
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= 400
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            code = node.body[1:] if ast.get_docstring(node) and node.body[1:] else node.body
            length = node.end_lineno - code[0].lineno + 1  # without the signature and the docstring
            assert length <= 40, f"{node.name} is {length} lines long"


def test_the_method_is_read_in_six_short_files():
    assert sum(len((ROOT / "keras_splitmask" / f"{name}.py").read_text().splitlines()) for name in METHOD) < 1100


def test_backends_are_named_in_training_alone():
    backends, wrong = {"tensorflow", "jax", "torch"}, []
    for path in LIBRARY:
        if part_of(name_of(path)) == "training":
            continue
        strings = {n.value for n in ast.walk(tree_of(path)) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        wrong += [f"{name_of(path)}: {name}" for name in backends & (imports_of(path)[1] | strings)]
    assert not wrong, "\n".join(wrong)


def test_import_loads_keras_numpy_and_absl_alone(python):
    missing = "import sys; sys.modules.update(tensorflow=None); "  # as on a machine without it
    python("-c", f"{missing} import keras_splitmask", backend="jax")
    loaded, by_keras = (set(python("-c", f"import sys, {name}; print(*sys.modules)", backend="jax").split()) for name in ("keras_splitmask", "keras"))
    ours = {name.split(".")[0] for name in loaded} - {name.split(".")[0] for name in by_keras} - sys.stdlib_module_names
    assert ours == {"keras_splitmask"} | ours & {"absl", "numpy"}, ours


def test_no_paths_of_one_machine():
    for path in (*LIBRARY, *RECIPES, *TESTS, *ROOT.glob("recipes/flags/**/*.flags"), ROOT / "README.md", ROOT / ".ci" / "run"):
        found = re.findall(r"(?<![\w.~])/(?:home|root|work|Users|mnt|opt|scratch)/\S*", path.read_text())
        assert not found, f"{name_of(path)}: {found}"


def test_ci_runs_the_readmes_command():
    block = re.search(r"<!-- tests: begin -->(.*?)<!-- tests: end -->", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block, "README.md has no command between <!-- tests: begin --> and <!-- tests: end -->."
    commands = [line for line in block[1].splitlines() if line.startswith("python3 -m venv")]
    assert commands == ["python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m tests"]
    assert "<!-- tests: begin -->/,/<!-- tests: end -->/p' README.md" in (ROOT / ".ci" / "run").read_text()


def test_the_library_requires_three_packages_alone():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["keras>=3.15,<4", "numpy", "absl-py"]
    required = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert required[-1] == "-e ."
    extras = project["optional-dependencies"]
    assert set(required[:-1]) == {*project["dependencies"], *extras["tf"], *extras["cv"], *extras["data"], *extras["interchange"], *extras["coco"]}


def target_of(name):
    """The label of a file's target: its path, or its folder's for an `__init__.py`."""
    return name.removesuffix(".py").removesuffix("/__init__")


def dependencies(name):
    own, others = imports_of(ROOT / name)
    labels = {f":{target_of(used)}" for used in own} - {f":{target_of(name)}"}
    labels |= {f"@pip//{PIP.get(module, module)}" for module in others - sys.stdlib_module_names}
    return labels | NOT_IMPORTED.get(name, set())


def expected_targets():
    """Name: (rule, sources, dependencies) of every target that BUILD must have."""
    targets = {}
    for path in (*LIBRARY, *RECIPES, *TESTS):
        name, sources, needs = name_of(path), [name_of(path)], dependencies(name_of(path))
        rule = "py_library"
        if path in RECIPES and "__main__" in path.read_text():
            rule = "py_binary"
            needs |= {"@pip//tensorflow"}  # the backend that a recipe runs on unless it is told otherwise
        if path in TESTS and path.stem.endswith("_test"):
            rule, sources = "py_test", ["tests/__main__.py", *sources]
            needs |= dependencies("tests/__main__.py")
            needs |= {f":{target_of(name_of(near))}" for near in [path.with_name("conftest.py")] if near.exists()}
        if path.name != "__main__.py":
            targets[target_of(name)] = rule, sources, needs
    return targets


def written_targets():
    written = {}
    for node in tree_of(ROOT / "BUILD").body:
        call = node.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
        if call and call.func.id.startswith("py_"):
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            name = ast.literal_eval(given["name"])
            sources, needs = (ast.literal_eval(given[key]) if key in given else [] for key in ("srcs", "deps"))
            written[name] = call.func.id, sources, set(needs)
            if call.func.id == "py_test":
                assert ast.literal_eval(given["main"]) == "tests/__main__.py", name
                assert ast.literal_eval(given["args"]) == [f"{name}.py"], name
            if call.func.id == "py_binary" and name != sources[0].removesuffix(".py"):
                assert "main" in given, name
    return written


def test_build_names_every_file_with_its_real_dependencies():
    expected, written = expected_targets(), written_targets()
    problems = [f"BUILD lacks {expected[name][0]} {name!r}: srcs {expected[name][1]}, deps {sorted(expected[name][2])}" for name in expected if name not in written]
    problems += [f"BUILD has {name!r}, which stands for no file" for name in written if name not in expected]
    for name in sorted(set(expected) & set(written)):
        (rule, sources, needs), (rule_given, sources_given, needs_given) = expected[name], written[name]
        problems += [f"{name}: is a {rule}, not a {rule_given}"] * (rule != rule_given)
        problems += [f"{name}: srcs should be {sources}"] * (sorted(sources) != sorted(sources_given))
        problems += [f"{name}: lacks the dependency {need!r}" for need in sorted(needs - needs_given)]
        problems += [f"{name}: does not need {need!r}" for need in sorted(needs_given - needs)]
    assert not problems, "\n".join(problems)
