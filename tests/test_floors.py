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
    (1, "noise.py", set()),
    (1, "address.py", set()),
    (1, "bucket.py", {"etils", "gcsfs", "google_crc32c"}),
    (1, "files.py", {"safetensors"}),
    (1, "data/", {"numpy", "tokenizers", "pyarrow", "datasets", "tensorflow_datasets", "apache_beam"}),
    (1, "pytrees.py", {"jax"}),
    (1, "tree.py", {"jax"}),
    (1, "layer_map.py", set()),
    (1, "schedule.py", {"jax"}),
    (1, "processes.py", {"jax", "orbax"}),
    (1, "hardware.py", {"jax"}),
    (1, "chips.py", set()),
    (1, "costs.py", {"jax"}),
    (1, "collectives.py", set()),
    (1, "lanes.py", {"jax"}),
    (1, "metrics.py", {"numpy", "sklearn", "scipy", "seqeval"}),
    (2, "ops/", {"jax"}),
    (3, "losses/", {"jax"}),
    (3, "models/", {"jax", "flax"}),
    (3, "tasks/", {"jax", "numpy"}),
    (3, "optim.py", {"jax", "optax"}),
    (3, "sharding.py", {"jax", "numpy"}),
    (4, "families/", {"numpy"}),
    (4, "feed.py", {"jax", "numpy"}),
    (4, "student.py", {"jax"}),
    (4, "train/", {"jax", "numpy", "optax", "orbax", "tensorboardX", "wandb"}),
    (5, "tensors.py", {"numpy", "safetensors"}),
    (5, "fetch.py", {"huggingface_hub"}),
    (5, "experiment.py", {"typeguard"}),
    (6, "hub.py", {"numpy", "safetensors", "orbax"}),
    (6, "workdir.py", {"jax", "numpy"}),
    (6, "convert.py", {"orbax"}),
    (6, "beginning.py", {"jax"}),
    (6, "fit.py", {"jax", "numpy"}),
    (6, "offline.py", {"jax", "numpy"}),
    (6, "judging.py", {"jax", "numpy"}),
    (6, "doctor.py", {"jax", "numpy", "optax"}),
    (6, "program.py", {"jax"}),
    (6, "ahead.py", {"jax", "numpy"}),
    (6, "build.py", {"jax", "numpy"}),
    (7, "compiled.py", {"jax"}),
    (7, "plan.py", set()),
    (7, "fillers.py", {"jax", "numpy"}),
    (7, "augment.py", {"numpy"}),
    (7, "questions.py", {"numpy"}),
    (7, "prediction.py", {"jax", "numpy"}),
    (7, "evaluation.py", set()),
    (7, "portable.py", {"jax"}),
    (7, "fresh.py", {"jax", "numpy"}),
    (7, "card.py", {"huggingface_hub"}),
    (7, "push.py", {"huggingface_hub"}),
    (7, "export.py", {"numpy"}),
    (7, "stages.py", {"jax", "numpy"}),
    (7, "inspection.py", {"jax", "numpy"}),
    (8, "flags.py", {"tyro"}),
    (8, "configuration.py", {"tyro"}),
    (8, "terminal.py", {"rich"}),
    (8, "report/", {"jax", "numpy", "matplotlib"}),
    (8, "model.py", {"numpy"}),
    (8, "run.py", {"rich"}),
    (8, "verbs.py", {"tyro"}),
    (8, "cli.py", {"tyro"}),
    (8, "__main__.py", set()),
    (8, "__init__.py", set()),
]
"""Earlier rows may be imported by later ones; the same table as in ARCHITECTURE.md."""

ROWS = {path: row for row, (_, path, _) in enumerate(FLOORS)}
APART = (3, 4, 5)
"""Floors whose rows do not import each other."""

LONGEST = 300
NEVER = {"torch", "tensorflow", "pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec"}

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def row_of(file: str) -> str:
    """The row a file of the package belongs to."""
    return file.partition("/")[0] + "/" if "/" in file else file


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
    assert here in ROWS, f"{file} is in no row; add it to the table here and in ARCHITECTURE.md"
    for other in own(file):
        there = row_of(other)
        if there == here:
            continue
        assert ROWS[there] < ROWS[here], f"{file} imports {other}, which is above it"
        floor, below = FLOORS[ROWS[here]][0], FLOORS[ROWS[there]][0]
        assert not (floor == below and floor in APART), f"{file} imports {other} of its own floor"


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
            assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{file}:{node.lineno}"


def test_walls():
    """What the design says in so many words, beside the table."""
    assert {row for _, row, third in FLOORS if "flax" in third} == {"models/"}
    beams = [file for file in FILES if any(name.startswith("apache_beam") for name in imported(parse(file)))]
    assert beams == ["data/beam.py"]
    assert ROWS["data/"] < ROWS["pytrees.py"]
    for file in FILES:
        others = {row_of(other) for other in own(file)}
        if file.startswith("data/"):
            assert others <= {"data/", "errors.py", "address.py", "bucket.py", "files.py"}, file
        if file.startswith("train/"):
            assert not others & {"models/", "tasks/", "families/"}, file


@pytest.mark.parametrize("file", FILES)
def test_length(file):
    lines = len((PACKAGE / file).read_text(encoding="utf-8").splitlines())
    assert lines <= (99 if file == "train/step.py" else LONGEST), (
        f"{file} has {lines} lines: what are its two nouns?"
    )


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
                    assert ast.get_docstring(method), f"{file}:{method.lineno} {node.name}.{method.name}"


def _public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield from () if "overload" in map(ast.unparse, node.decorator_list) else (node,)


def test_no_row_is_idle():
    assert {row_of(file) for file in FILES} == set(ROWS)


def test_architecture_has_the_same_table():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| `([^`]+)` \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    told = [(int(floor), path, set(third.split(", ")) - {"-"}) for floor, path, third in rows]
    assert told == FLOORS
