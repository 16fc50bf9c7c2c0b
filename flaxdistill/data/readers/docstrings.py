"""The corpus that is always there: the English documentation of this package's own dependencies."""

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
SHORTEST = 200  # characters of a document after cleaning
ENGLISH_SHARE = (
    0.82  # least share of ASCII letters and spaces; below it a text is mostly code or tables
)

WORTH_PARSING = (
    0.15  # least share of a file in long strings; parsing the others costs more than it gives
)

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def read_docstrings(max_characters: int = 6_000_000) -> list[str]:
    """Collect the dependencies' docstrings as documents, in the order of their sha256.

    The packages are found and parsed, never imported. At most ``max_characters`` are returned: the
    documents with the smallest hashes, so a smaller corpus is a prefix of a larger one. The same
    installed versions give the same list.
    """
    documents = {}
    for package in PACKAGES:
        for path in _python_files(package):
            for docstring in _docstrings(path):
                text = clean(docstring) if len(docstring) >= SHORTEST else ""
                if len(text) >= SHORTEST and _is_english(text):
                    documents[hashlib.sha256(text.encode()).hexdigest()] = text
    kept, characters = [], 0
    for digest in sorted(documents):
        characters += len(documents[digest])
        if characters > max_characters:
            break
        kept.append(documents[digest])
    return kept


def _python_files(package: str) -> Iterator[Path]:
    spec = PathFinder.find_spec(package)  # a top-level name: nothing is imported on the way
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
    if sum(len(string) for string in strings if len(string) >= SHORTEST) < max(
        SHORTEST, WORTH_PARSING * len(source)
    ):
        return
    try:
        with warnings.catch_warnings():  # other people's invalid escapes
            warnings.simplefilter("ignore")
            module = ast.parse(source)
    except (SyntaxError, ValueError):  # a template, or written for another Python
        return
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node, clean=False)):
            yield docstring
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _added_documentation(node.value)
        waiting.extend(getattr(node, "body", ()))


def _added_documentation(call: ast.Call) -> Iterator[str]:
    # numpy documents what is written in C with add_newdoc(module, name, text).
    if isinstance(call.func, ast.Name) and call.func.id == "add_newdoc":
        for node in ast.walk(call):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def clean(docstring: str) -> str:
    """Keep the prose of a docstring: without examples to run, code blocks, headings' rules and markup."""
    text = inspect.cleandoc(docstring)
    text = re.sub(r"(?ms)^ *```.*?^ *```[^\n]*$", "", text)  # Markdown code
    text = re.sub(r"(?m)^ *>>>(.*\n?)(^ *\S.*\n?)*", "", text)  # an example and what it prints
    text = re.sub(r"(?m)^ *\.\. [\w-]+::.*$", "", text)  # directives
    text = re.sub(r"(?m)^[-=~^*#+| ]{3,}$", "", text)  # rules under headings and in tables
    text = re.sub(r":[\w:]+:`~?([^`<]*?)(?: <[^`]*>)?`", r"\1", text)  # roles
    text = re.sub(r"`{1,2}([^`\n]*)`{1,2}_{0,2}", r"\1", text)
    text = re.sub(r"\*\*([^*\n]+)\*\*", r"\1", text)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    return re.sub(r"[ \t]*\n(?:[ \t]*\n)+", "\n\n", text).strip()


def _is_english(text: str) -> bool:
    plain = sum(map(len, re.findall(r"[A-Za-z\s]+", text)))
    return plain >= ENGLISH_SHARE * len(text)
