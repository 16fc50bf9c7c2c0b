"""Parameter paths as text, and ordered rules over them.

One mechanism serves sharding, weight decay, freezing and key maps: a table of (pattern, value), the first full
match wins, a leaf without a rule and a rule without a leaf are both errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from flaxdistill.errors import UserError

T = TypeVar("T")


def flatten(tree: Any) -> dict[str, Any]:
    """Flatten nested dicts and tuples to ``{"layer_0/attention/query/kernel": leaf}``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(_name(key) for key in path): leaf for path, leaf in leaves}


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
    """Map ``function(path, leaf)`` over a tree, keeping its structure."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function("/".join(_name(k) for k in path), leaf), tree
    )


def match(
    rules: Sequence[tuple[str, T]], paths: Iterable[str], *, what: str, unused: bool = False
) -> dict[str, T]:
    """Give every path the value of the first pattern that matches the whole of it.

    Raises UserError naming each path without a rule and, unless ``unused`` allows them, each rule without a path.
    """
    found: dict[str, T] = {}
    used: set[str] = set()
    paths = list(paths)
    for path in paths:
        for pattern, value in rules:
            if re.fullmatch(pattern, path):
                found[path] = value
                used.add(pattern)
                break
    missing = [path for path in paths if path not in found]
    if missing:
        raise UserError(f"no {what} rule matches {', '.join(missing)}; add one to the table")
    idle = [pattern for pattern, _ in rules if pattern not in used]
    if idle and not unused:
        raise UserError(
            f"{what} rule {', '.join(repr(p) for p in idle)} matches no parameter; known: {', '.join(paths)}"
        )
    return found


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
