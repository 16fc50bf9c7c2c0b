"""Parameter paths as strings, and ordered rules over them.

Sharding, weight decay and freezing use one mechanism: a table of (pattern, value) in which the
first full match wins. A path without a rule is an error, and so is a rule without a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from flaxdistill.errors import UserError

T = TypeVar("T")

BIASES_AND_NORMS = r"(.*/)?(bias|scale)"
"""The pattern of the parameters that weight decay usually leaves out."""


def flatten(tree: Any) -> dict[str, Any]:
    """Flatten nested dicts and tuples to ``{"layer_0/attention/query/kernel": leaf}``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_join(path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nest ``{"a/b": leaf}`` into ``{"a": {"b": leaf}}``."""
    nested: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return nested


def map_with_path(function: Any, tree: Any) -> Any:
    """Map ``function(path, leaf)`` over a tree and keep its structure."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_join(path), leaf), tree)


def match(
    rules: Sequence[tuple[str, T]], paths: Iterable[str], *, table: str, allow_unused: bool = False
) -> dict[str, T]:
    """Return, for every path, the value of the first rule whose pattern matches all of it.

    ``table`` names the rules in errors. Raises UserError naming the paths without a rule and,
    unless ``allow_unused``, the rules without a path.
    """
    values: dict[str, T] = {}
    used: set[str] = set()
    paths = list(paths)
    for path in paths:
        for pattern, value in rules:
            if re.fullmatch(pattern, path):
                values[path] = value
                used.add(pattern)
                break
    missing = [path for path in paths if path not in values]
    if missing:
        raise UserError(f"no {table} rule matches {', '.join(missing)}; add one to the table")
    unused = [pattern for pattern, _ in rules if pattern not in used]
    if unused and not allow_unused:
        raise UserError(
            f"{table} rule {', '.join(repr(pattern) for pattern in unused)} matches no parameter; "
            f"known: {', '.join(paths)}"
        )
    return values


def _join(path: Iterable[Any]) -> str:
    return "/".join(_name(key) for key in path)


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
