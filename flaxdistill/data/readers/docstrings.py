"""A corpus without downloads: the English docstrings of this package's dependencies."""

import ast
import hashlib
import inspect
import re
import warnings
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = (
    "jax", "flax", "optax", "orbax", "numpy", "pyarrow", "safetensors", "tokenizers",
    "huggingface_hub", "tyro", "rich", "tensorboardX",
)  # fmt: skip
MIN_CHARACTERS = 200
"""Characters of the shortest document, after cleaning."""

MIN_ENGLISH = 0.82
"""Minimum fraction of ASCII letters and spaces; a text below it is mostly code or tables."""

MIN_STRINGS = 0.15
"""Minimum fraction of a file in long strings; parsing other files costs more than it yields."""

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def read_docstrings(max_characters: int = 6_000_000) -> list[str]:
    """Collect the docstrings of the dependencies as documents, ordered by sha256.

    The packages are located and parsed, never imported. At most ``max_characters`` are returned:
    the documents with the smallest hashes, so a smaller corpus is a prefix of a larger one. The
    same installed versions give the same list.
    """
    documents = {}
    for package in PACKAGES:
        for path in _python_files(package):
            for docstring in _docstrings(path):
                text = clean(docstring) if len(docstring) >= MIN_CHARACTERS else ""
                if len(text) >= MIN_CHARACTERS and _is_english(text):
                    documents[hashlib.sha256(text.encode()).hexdigest()] = text
    texts, characters = [], 0
    for digest in sorted(documents):
        characters += len(documents[digest])
        if characters > max_characters:
            break
        texts.append(documents[digest])
    return texts


def _python_files(package: str) -> Iterator[Path]:
    spec = PathFinder.find_spec(package)  # a top-level name, so nothing is imported
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for path in sorted(Path(folder).rglob("*.py*")):
            is_test = (
                "tests" in path.relative_to(folder).parts
                or path.stem.endswith("_test")
                or path.stem.startswith("test_")
            )
            if path.suffix in (".py", ".pyi") and not is_test:
                yield path


def _docstrings(path: Path) -> Iterator[str]:
    source = path.read_text(encoding="utf-8", errors="replace")
    strings = re.split(r"\"\"\"|'''", source)[1:-1:2]
    characters = sum(len(string) for string in strings if len(string) >= MIN_CHARACTERS)
    if characters < max(MIN_CHARACTERS, MIN_STRINGS * len(source)):
        return
    try:
        with warnings.catch_warnings():  # invalid escapes in other packages
            warnings.simplefilter("ignore")
            module = ast.parse(source)
    except (SyntaxError, ValueError):  # a template, or for another Python version
        return
    stack: list[ast.AST] = [module]
    while stack:
        node = stack.pop()
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node, clean=False)):
            yield docstring
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _newdoc_strings(node.value)
        stack.extend(getattr(node, "body", ()))


def _newdoc_strings(call: ast.Call) -> Iterator[str]:
    # numpy documents its C functions with add_newdoc(module, name, text).
    if isinstance(call.func, ast.Name) and call.func.id == "add_newdoc":
        for node in ast.walk(call):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def clean(docstring: str) -> str:
    """Reduce a docstring to prose: remove examples, code blocks, heading rules and markup."""
    text = inspect.cleandoc(docstring)
    text = re.sub(r"(?ms)^ *```.*?^ *```[^\n]*$", "", text)  # Markdown code
    text = re.sub(r"(?m)^ *>>>(.*\n?)(^ *\S.*\n?)*", "", text)  # an example and its output
    text = re.sub(r"(?m)^ *\.\. [\w-]+::.*$", "", text)  # directives
    text = re.sub(r"(?m)^[-=~^*#+| ]{3,}$", "", text)  # rules under headings and in tables
    text = re.sub(r":[\w:]+:`~?([^`<]*?)(?: <[^`]*>)?`", r"\1", text)  # roles
    text = re.sub(r"`{1,2}([^`\n]*)`{1,2}_{0,2}", r"\1", text)
    text = re.sub(r"\*\*([^*\n]+)\*\*", r"\1", text)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    return re.sub(r"[ \t]*\n(?:[ \t]*\n)+", "\n\n", text).strip()


def _is_english(text: str) -> bool:
    letters = sum(map(len, re.findall(r"[A-Za-z\s]+", text)))
    return letters >= MIN_ENGLISH * len(text)
