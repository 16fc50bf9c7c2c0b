"""The floors: who may import whom, how long files are, and what is never imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flaxdistill"

FLOORS: list[tuple[int, str, set[str]]] = [
    (1, "version.py", set()),
    (1, "errors.py", set()),
    (1, "pytrees.py", {"jax"}),
    (1, "param_paths.py", {"jax"}),
    (1, "metrics.py", {"numpy", "scipy"}),
    (1, "terminal.py", {"rich"}),
    (2, "runtime/", {"jax", "numpy", "orbax", "etils", "gcsfs", "google_crc32c", "safetensors"}),
    (3, "ops/", {"jax"}),
    (3, "data/readers/", {"pyarrow", "datasets", "tensorflow_datasets"}),
    (3, "data/", {"numpy", "tokenizers"}),
    (3, "data/preparation/", {"numpy", "apache_beam"}),
    (4, "losses/", {"jax"}),
    (4, "models/", {"jax", "flax"}),
    (4, "tasks/", {"jax", "numpy", "sklearn", "scipy", "seqeval"}),
    (5, "train/", {"jax", "numpy", "optax", "orbax", "tensorboardX", "wandb"}),
    (5, "hub/families/", {"numpy"}),
    (5, "hub/", {"jax", "numpy", "safetensors", "orbax", "huggingface_hub"}),
    (6, "experiment/", {"jax", "numpy", "typeguard"}),
    (6, "inference/", {"jax", "numpy"}),
    (7, "planning/", {"jax"}),
    (7, "report/", {"jax", "numpy", "matplotlib"}),
    (7, "api/", {"jax", "numpy", "rich", "huggingface_hub"}),
    (8, "cli/", {"tyro", "jax", "numpy"}),
    (9, "", set()),
]
"""Earlier rows may be imported by later ones; the same table as in ARCHITECTURE.md. The last row is the package itself."""

ROWS = {path: row for row, (_, path, _) in enumerate(FLOORS)}
SEPARATE = {4, 5, 6, 7}
"""Floors whose folders do not import each other."""

LONGEST_FILE = 300
LONGEST_FUNCTION = 70
LONGEST_STEP = 100
NEVER = {"torch", "tensorflow", "pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec"}

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def row_of(file: str) -> str:
    """Return the row of the deepest folder that holds a file of the package."""
    return max((path for _, path, _ in FLOORS if file.startswith(path)), key=len)


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports of a file, wherever they stand."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "write whole names: a relative import hides its floor"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


def own(file: str) -> set[str]:
    """The package's own files that a file imports."""
    found = set()
    for name in imported(parse(file)):
        parts = name.split(".")
        if parts[0] == "flaxdistill":
            # The longest prefix that is a file or folder: the rest is a name within it.
            candidates = ["/".join(parts[1:n]) for n in range(len(parts), 1, -1)]
            files = [f for c in candidates for f in (f"{c}.py", f"{c}/__init__.py") if f in FILES]
            found.add(files[0] if files else "__init__.py")
    return found


@pytest.mark.parametrize("file", FILES)
def test_imports_only_from_below(file):
    here = row_of(file)
    assert here or file in {"__init__.py", "__main__.py"}, (
        f"{file} is in no row; add it here and in ARCHITECTURE.md"
    )
    for other in own(file):
        there = row_of(other)
        if there == here:
            continue
        assert ROWS[there] < ROWS[here], f"{file} imports {other}, which is above it"
        floor, below = FLOORS[ROWS[here]][0], FLOORS[ROWS[there]][0]
        same_folder = here.partition("/")[0] == there.partition("/")[0]
        assert not (floor == below and floor in SEPARATE) or same_folder, (
            f"{file} imports {other} of its own floor"
        )


def test_size_of_the_house():
    loose = [file for file in FILES if "/" not in file]
    folders = {file.partition("/")[0] for file in FILES if "/" in file}
    assert len(loose) <= 8 and len(folders) <= 14 and len(FLOORS) <= 24


def test_no_circles():
    edges = {file: own(file) - {file} for file in FILES}
    while edges:
        leaves = {file for file, others in edges.items() if not others & set(edges)}
        assert leaves, f"these files import each other in a circle: {sorted(edges)}"
        edges = {file: others for file, others in edges.items() if file not in leaves}


@pytest.mark.parametrize("file", FILES)
def test_third_party(file):
    top = {name.partition(".")[0] for name in imported(parse(file))}
    third = top - set(sys.stdlib_module_names) - {"flaxdistill"}
    allowed = FLOORS[ROWS[row_of(file)]][2]
    assert third <= allowed, f"{file} may import {sorted(allowed)}"
    assert not top & NEVER, file


@pytest.mark.parametrize("file", FILES)
def test_runs_no_text(file):
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in CALLS, f"{file}:{node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False, (
                f"{file}:{node.lineno}"
            )


def test_walls():
    """What ARCHITECTURE.md says in words, beside the table."""
    assert {row for _, row, third in FLOORS if "flax" in third} == {"models/"}
    beams = [
        file
        for file in FILES
        if any(name.startswith("apache_beam") for name in imported(parse(file)))
    ]
    assert beams == ["data/preparation/beam.py"]
    for file in FILES:
        if file.startswith("data/"):
            others = {other for other in own(file) if not other.startswith("data/")}
            assert others <= {
                "errors.py",
                "runtime/gcs_paths.py",
                "runtime/gcs.py",
                "runtime/files.py",
            }, file
        if file.startswith("train/"):
            assert not {row_of(other) for other in own(file)} & {
                "models/",
                "tasks/",
                "hub/families/",
            }, file


@pytest.mark.parametrize("file", FILES)
def test_length(file):
    lines = len((PACKAGE / file).read_text(encoding="utf-8").splitlines())
    assert lines < LONGEST_STEP if file == "train/step.py" else lines <= LONGEST_FILE, (
        f"{file} has {lines} lines"
    )
    for node in ast.walk(parse(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{file}:{node.lineno} {node.name} has {lines} lines"


@pytest.mark.parametrize("file", FILES)
def test_public_things_have_docstrings(file):
    """Modules, and public functions and classes; a method that fulfils a documented contract needs none, nor a signature."""
    tree = parse(file)
    assert ast.get_docstring(tree), f"{file} does not say what it is for"
    for node in _public(tree.body):
        assert ast.get_docstring(node), f"{file}:{node.lineno} {node.name}"
        if isinstance(node, ast.ClassDef) and not node.bases:
            for method in _public(node.body):
                if isinstance(method, ast.FunctionDef):
                    assert ast.get_docstring(method), (
                        f"{file}:{method.lineno} {node.name}.{method.name}"
                    )


def _public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield from () if "overload" in map(ast.unparse, node.decorator_list) else (node,)


def test_no_row_is_idle():
    assert {row_of(file) for file in FILES} == set(ROWS)


def test_architecture_has_the_same_table():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| `([^`]+)` \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    told = [
        (int(floor), "" if path == "root" else path, set(third.split(", ")) - {"-"})
        for floor, path, third in rows
    ]
    assert told == FLOORS
