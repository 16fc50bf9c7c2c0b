"""The layout of the package: allowed imports, lengths, docstrings; and imports between tests."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flaxdistill"
TESTS = ROOT / "tests"

FLOORS: list[tuple[int, str, set[str]]] = [
    (1, "version.py", set()),
    (1, "errors.py", set()),
    (1, "pytrees.py", {"jax"}),
    (1, "param_paths.py", {"jax"}),
    (1, "metrics.py", {"numpy", "scipy"}),
    (1, "terminal.py", {"rich"}),
    (
        2,
        "runtime/",
        {"jax", "numpy", "orbax", "etils", "gcsfs", "google_crc32c", "safetensors", "typeguard"},
    ),
    (3, "ops/", {"jax"}),
    (3, "data/readers/", {"pyarrow", "datasets", "tensorflow_datasets"}),
    (3, "data/", {"numpy", "tokenizers"}),
    (3, "data/preparation/", {"numpy", "apache_beam"}),
    (4, "losses/", {"jax"}),
    (4, "models/", {"jax", "flax", "numpy"}),
    (5, "tasks/", {"jax", "numpy", "sklearn", "scipy", "seqeval"}),
    (6, "train/", {"jax", "numpy", "optax", "orbax", "tensorboardX", "wandb"}),
    (6, "hub/families/", {"numpy"}),
    (6, "hub/", {"jax", "numpy", "safetensors", "orbax", "huggingface_hub"}),
    (7, "experiment/", {"jax", "numpy"}),
    (7, "inference/", {"jax", "numpy"}),
    (8, "planning/", {"jax"}),
    (8, "report/", {"jax", "numpy", "matplotlib"}),
    (8, "api/", {"jax", "numpy", "rich", "huggingface_hub"}),
    (9, "cli/", {"tyro", "jax", "numpy"}),
    (10, "", set()),
]
"""A file may import from earlier rows only. ARCHITECTURE.md has the same table.

The last row is the files of the package itself.
"""

ROWS = {path: row for row, (_, path, _) in enumerate(FLOORS)}
SEPARATE = {4, 5, 6, 7, 8}
"""Floors whose folders must not import each other."""

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 70
MAX_STEP_LINES = 100
FORBIDDEN_IMPORTS = {
    "torch",
    "tensorflow",
    "pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
}
FORBIDDEN_CALLS = {"eval", "exec"}

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


TEST_FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py"))


def row_of(file: str) -> str:
    """Return the row of the deepest folder that holds a file of the package."""
    return max((path for _, path, _ in FLOORS if file.startswith(path)), key=len)


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_names(path: Path) -> Iterator[str]:
    """Yield the dotted names of all imports of a file, at any depth."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def imported_files(file: str) -> set[str]:
    """Return the files of the package that a file of the package imports."""
    files = set()
    for name in imported_names(PACKAGE / file):
        package, *parts = name.split(".")
        if package == "flaxdistill":
            # The longest prefix that is a file or a folder; the rest is a name in it.
            prefixes = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
            candidates = [f for p in prefixes for f in (f"{p}.py", f"{p}/__init__.py")]
            files.add(next((f for f in candidates if f in FILES), "__init__.py"))
    return files


@pytest.mark.parametrize("file", FILES)
def test_imports_only_earlier_rows(file):
    row = row_of(file)
    assert row or file in {"__init__.py", "__main__.py"}, (
        f"{file} is in no row; add one here and in ARCHITECTURE.md"
    )
    for other in imported_files(file):
        other_row = row_of(other)
        if other_row == row:
            continue
        assert ROWS[other_row] < ROWS[row], f"{file} imports {other}, which is above it"
        floor, other_floor = FLOORS[ROWS[row]][0], FLOORS[ROWS[other_row]][0]
        same_folder = row.partition("/")[0] == other_row.partition("/")[0]
        assert floor != other_floor or floor not in SEPARATE or same_folder, (
            f"{file} imports {other} of the same floor"
        )


def test_number_of_files_and_folders():
    top_files = [file for file in FILES if "/" not in file]
    folders = {file.partition("/")[0] for file in FILES if "/" in file}
    assert len(top_files) <= 8 and len(folders) <= 14 and len(FLOORS) <= 24


def test_no_import_cycles():
    edges = {file: imported_files(file) - {file} for file in FILES}
    while edges:
        leaves = {file for file, others in edges.items() if not others & set(edges)}
        assert leaves, f"these files import each other in a cycle: {sorted(edges)}"
        edges = {file: others for file, others in edges.items() if file not in leaves}


@pytest.mark.parametrize("file", FILES)
def test_third_party_imports(file):
    packages = {name.partition(".")[0] for name in imported_names(PACKAGE / file)}
    third_party = packages - set(sys.stdlib_module_names) - {"flaxdistill"}
    allowed = FLOORS[ROWS[row_of(file)]][2]
    assert third_party <= allowed, f"{file} may import {sorted(allowed)}"
    assert not packages & FORBIDDEN_IMPORTS, file


@pytest.mark.parametrize("file", FILES)
def test_executes_no_data(file):
    for node in ast.walk(parse(PACKAGE / file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS, f"{file}:{node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            value = node.value
            assert isinstance(value, ast.Constant) and value.value is False, f"{file}:{node.lineno}"


DATA_IMPORTS = {"errors.py", "runtime/gcs_paths.py", "runtime/gcs.py", "runtime/files.py"}
"""Files outside data/ that data/ may import."""


def test_restricted_imports():
    """Only models/ imports flax, one file Beam; data/ and train/ know little of the rest."""
    assert {row for _, row, third_party in FLOORS if "flax" in third_party} == {"models/"}
    beam = [
        file
        for file in FILES
        if any(name.startswith("apache_beam") for name in imported_names(PACKAGE / file))
    ]
    assert beam == ["data/preparation/beam.py"]
    for file in FILES:
        if file.startswith("data/"):
            others = {other for other in imported_files(file) if not other.startswith("data/")}
            assert others <= DATA_IMPORTS, file
        if file.startswith("train/"):
            rows = {row_of(other) for other in imported_files(file)}
            assert not rows & {"models/", "tasks/", "hub/families/"}, file


@pytest.mark.parametrize("file", FILES)
def test_length(file):
    lines = len((PACKAGE / file).read_text(encoding="utf-8").splitlines())
    assert lines < MAX_STEP_LINES if file == "train/step.py" else lines <= MAX_FILE_LINES, (
        f"{file} has {lines} lines"
    )
    for node in ast.walk(parse(PACKAGE / file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{file}:{node.lineno} {node.name}: {lines} lines"


@pytest.mark.parametrize("file", FILES)
def test_public_names_have_docstrings(file):
    """A method of a derived class needs none: the base class documents it."""
    tree = parse(PACKAGE / file)
    assert ast.get_docstring(tree), f"{file} has no docstring"
    for node in _public(tree.body):
        assert ast.get_docstring(node), f"{file}:{node.lineno} {node.name}"
        if isinstance(node, ast.ClassDef) and not node.bases:
            for method in _public(node.body):
                if isinstance(method, ast.FunctionDef):
                    name = f"{file}:{method.lineno} {node.name}.{method.name}"
                    assert ast.get_docstring(method), name


def _public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield from () if "overload" in map(ast.unparse, node.decorator_list) else (node,)


def test_every_row_has_files():
    assert {row_of(file) for file in FILES} == set(ROWS)


def test_architecture_has_the_same_table():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    table = [
        (int(floor), "" if path == "root" else path, set(third_party.split(", ")) - {"-"})
        for floor, path, third_party in rows
    ]
    assert table == FLOORS


@pytest.mark.parametrize("file", TEST_FILES)
def test_no_test_imports_another(file):
    """Tests share helpers/ and conftest.py; only test_mutations.py imports its list."""
    modules = {Path(name).stem for name in TEST_FILES} | {"tests", "conftest"}
    modules -= {"__init__"} | ({"mutations"} if file == "test_mutations.py" else set())
    modules -= {path.stem for path in (TESTS / "helpers").iterdir()}
    imported = {name.partition(".")[0] for name in imported_names(TESTS / file)}
    assert not imported & modules


PARAMETER_PATH = re.compile(
    r"(^|/)(kernel|bias|scale|embedding)$|layer_(\{|\\d|\d)|embeddings/|mlm/|^classifier"
)
PATH_OWNERS = ("models/", "hub/families/", "runtime/sharding.py")
"""Where parameters get their names; the others ask an architecture, a head or a family."""

OWN_PARAMETERS = {"losses/hidden.py": {"kernel", "bias"}} | {
    f"tasks/{task}.py": {"classifier"}
    for task in ("question_answering", "text_classification", "token_classification")
}
"""Losses and heads that name parameters of their own."""


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(PATH_OWNERS)])
def test_parameter_paths_are_known_to_their_owners_only(file):
    constants = {
        node.value
        for node in ast.walk(parse(PACKAGE / file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 60
    }
    paths = {text for text in constants if PARAMETER_PATH.search(text)}
    assert paths <= OWN_PARAMETERS.get(file, set()), file


@functools.cache
def names_of_subclasses(*bases: str) -> set[str]:
    """Return the classes of the package below some classes, and these classes."""
    names, size = set(bases), 0
    classes = [
        node
        for file in FILES
        for node in ast.walk(parse(PACKAGE / file))
        if isinstance(node, ast.ClassDef)
    ]
    while len(names) > size:
        size = len(names)
        names |= {c.name for c in classes if {ast.unparse(base) for base in c.bases} & names}
    return names


def test_nothing_switches_on_tasks_heads_or_losses():
    """What differs between them is a method of theirs."""
    kinds = names_of_subclasses("Task", "Head", "Loss", "Parametrization") - {"Architecture"}
    switches = []
    for file in FILES:
        for node in ast.walk(parse(PACKAGE / file)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                tested = set(re.findall(r"\w+", ast.unparse(node.args[1])))
                switches += [f"{file}:{node.lineno}"] if tested & kinds else []
            if isinstance(node, ast.Compare) and any(
                isinstance(side, ast.Attribute) and side.attr == "head"
                for side in (node.left, *node.comparators)
            ):
                sides = (node.left, *node.comparators)
                text = any(isinstance(side, ast.Constant) for side in sides)
                switches += [f"{file}:{node.lineno}"] if text else []
    # The teacher cache stores what one kind of loss reads.
    assert [s for s in switches if not s.startswith("experiment/teachers.py")] == []
