"""The files of the project, what each imports, and BUILD made of it.

python -m tests.architecture            says in which lines BUILD differs from the files; exit status 1 if it does
python -m tests.architecture --write    writes BUILD
"""

import ast
import difflib
import pathlib
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIBRARY = sorted((ROOT / "keras_splitmask").rglob("*.py"))
RECIPES = sorted((ROOT / "recipes").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

PIP = {"PIL": "pillow", "absl": "absl_py"}  # module: package, where the names differ
NOT_IMPORTED = {  # what a file needs besides its imports
    "recipes/reproduce.py": {f"recipes/{name}" for name in ("detect", "finetune", "pretrain", "probe", "segment")},
    "recipes/splitmask.py": {
        f"recipes/{p.stem}" for p in (ROOT / "recipes").glob("[a-z]*.py") if p.stem != "splitmask"
    },
    "tests/style.py": {"@codespell", "@mypy", "@ruff"},
    "tests/conftest.py": {"@tensorflow", "@jax", "@torch"},
    "tests/__main__.py": {"tests/conftest", "@pytest"},
}
DATA = {
    "keras_splitmask/data/arrays": ":sample",
    "tests/architecture_test": ":checkout",
    "tests/docs_test": ":checkout",
    "tests/examples_test": ":checkout",
    "tests/notebook_test": ":checkout",
    "tests/style_test": ":checkout",
}  # files that a target reads


def name_of(path):
    """A file's name from the root, such as "recipes/pretrain.py"."""
    return path.relative_to(ROOT).as_posix()


def tree_of(path):
    """A file's syntax tree."""
    return ast.parse(path.read_text())


def file_of(module):
    """The project's file behind a dotted name, or None."""
    place = ROOT.joinpath(*module.split("."))
    return next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()), None)


def modules_of(node):
    """The dotted names that an import statement loads, or a call of `optional`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        # `from package import module` is the module's; `from package import name` is the package's own.
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if file_of(name) else node.module for name in names]
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "optional":
        return [argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant)]
    return []


def imports_of(path):
    """Names of the project's files and of other top-level modules that a file imports, anywhere in it."""
    own, others = set(), set()
    for node in ast.walk(tree_of(path)):
        for module in modules_of(node):
            neighbour = path.parent / f"{module}.py"  # a script's own folder is on its path
            if file := file_of(module) or (neighbour if neighbour.exists() else None):
                own.add(name_of(file))
            elif module != "__future__":
                others.add(module.split(".")[0])
    return own, others


def target_of(name):
    """The name of a file's target: its path, or its folder's for an `__init__.py`."""
    return name.removesuffix(".py").removesuffix("/__init__")


def needs_of(name):
    """The targets that a file needs, "@" before those of packages."""
    own, others = imports_of(ROOT / name)
    needs = {target_of(used) for used in own} - {target_of(name)}
    needs |= {f"@{PIP.get(module, module)}" for module in others - sys.stdlib_module_names}
    return needs | NOT_IMPORTED.get(name, set())


def table(paths, more=lambda path: set()):
    """Target: its needs, of each of these files; `more(path)` are needed besides."""
    return {target_of(name_of(path)): sorted(needs_of(name_of(path)) | more(path)) for path in paths}


def is_program(path):
    return path in RECIPES + BENCHMARKS and "__main__" in path.read_text()


def needs_of_tests(path):
    """What runs a test: `tests/__main__.py`, and the fixtures of its folder."""
    near = path.with_name("conftest.py")
    return needs_of("tests/__main__.py") | ({target_of(name_of(near))} if near.exists() else set())


def tables():
    """The tables of BUILD by name: libraries, programs and tests."""
    tests = [path for path in TESTS if path.stem.endswith("_test")]
    programs = [path for path in RECIPES + BENCHMARKS if is_program(path)]
    rest = [p for p in LIBRARY + RECIPES + BENCHMARKS + TESTS if p not in programs + tests and p.stem != "__main__"]
    return {
        "PACKAGES": table([path for path in rest if path.stem == "__init__"]),
        "LIBRARIES": table([path for path in rest if path.stem != "__init__"]),
        # A recipe runs on TensorFlow by default.
        "PROGRAMS": table(programs, lambda path: {"@tensorflow"}),
        "TESTS": table(tests, needs_of_tests),
    }


def written(name, rows):
    """A table as BUILD has it, its lines at most 120 columns wide."""
    lines = [f"{name} = {{"]
    for target, needs in rows.items():
        row = f'"{target}": "{" ".join(needs)}",'
        if len(row) > 114:
            wrapped = textwrap.wrap(" ".join(needs), 107, break_long_words=False, break_on_hyphens=False)
            row = f'"{target}": " ".join([\n' + ",\n".join(f'        "{line}"' for line in wrapped) + "]),"
        lines.append(f"    {row}")
    return "\n".join([*lines, "}"])


def build():
    """The text of BUILD."""
    made = tables()
    data = "DATA = {\n" + "".join(f'    "{name}": ["{label}"],\n' for name, label in DATA.items()) + "}"
    return "\n\n".join([HEAD, data, *(written(name, rows) for name, rows in made.items()), TAIL])


HEAD = '''"""One target for each file; `python -m tests.architecture --write` makes the tables."""

load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")

package(default_visibility = ["//visibility:public"])

licenses(["notice"])

exports_files(["LICENSE"])

filegroup(
    name = "sample",
    srcs = glob(["keras_splitmask/data/sample/*"]),
)

filegroup(
    name = "flags",
    srcs = glob(["recipes/flags/**/*.flags"]),
)

# What tests read of the checkout besides the code that they import.
filegroup(
    name = "checkout",
    srcs = glob(
        ["**"],
        exclude = [
            ".git/**",
            ".venv/**",
            "runs/**",
        ],
    ),
)

# In the tables, "a/b" is this project's target and "@numpy" a package.'''

TAIL = """[py_library(
    name = name,
    srcs = [name + "/__init__.py"],
    deps = [("@pip//" + need[1:]) if need[0] == "@" else (":" + need) for need in needs.split(" ") if need],
) for name, needs in PACKAGES.items()]

[py_library(
    name = name,
    srcs = [name + ".py"],
    data = DATA.get(name, []),
    deps = [("@pip//" + need[1:]) if need[0] == "@" else (":" + need) for need in needs.split(" ") if need],
) for name, needs in LIBRARIES.items()]

[py_binary(
    name = name,
    srcs = [name + ".py"],
    data = [":flags"],
    deps = [("@pip//" + need[1:]) if need[0] == "@" else (":" + need) for need in needs.split(" ")],
) for name, needs in PROGRAMS.items()]

[py_test(
    name = name,
    size = "large",
    srcs = ["tests/__main__.py", name + ".py"],
    args = [name + ".py"],
    data = DATA.get(name, [":checkout"] if name.startswith(("tests/recipes/", "tests/benchmarks/")) else []),
    main = "tests/__main__.py",
    deps = [("@pip//" + need[1:]) if need[0] == "@" else (":" + need) for need in needs.split(" ")],
) for name, needs in TESTS.items()]
"""


def main():
    file, made = ROOT / "BUILD", build()
    if "--write" in sys.argv[1:]:
        file.write_text(made)
        return 0
    difference = list(
        difflib.unified_diff(file.read_text().splitlines(), made.splitlines(), "BUILD", "the files", lineterm="")
    )
    print("\n".join(difference) or "BUILD names every file and what it needs.")
    return bool(difference)


if __name__ == "__main__":
    sys.exit(main())
