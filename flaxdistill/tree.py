"""Parameter paths as text, and ordered rules over them.

One mechanism serves sharding, weight decay, freezing and key maps: a table of (pattern, value), the first full
match wins, a leaf without a rule and a rule without a leaf are both errors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

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


@jax.jit
def sums(tree: Any) -> jax.Array:
    """Add up the bits of every array of a tree, each word times an odd number that tells its place: uint32 [arrays].

    The same however the arrays, of at most 32 bits a number, are split; another for another value of any number.
    """

    def one(x: jax.Array) -> jax.Array:
        words = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}") if x.dtype != bool else x
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis in range(x.ndim):
            stride = jnp.uint32(math.prod(x.shape[axis + 1 :]) % 2**32)
            place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * stride
        return jnp.sum(words.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(tree)])


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
