"""Lanes: several seeds and learning rates trained in parallel as one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Tree = Any


class Lane(NamedTuple):
    """The settings that differ between lanes: scalars, or arrays [L] of several lanes."""

    seed: Any
    """Seed of every random draw."""
    learning_rate: Any
    """Peak learning rate."""


def map_lanes(f: Callable[..., Tree], lanes: Sequence[Lane], *trees: Tree) -> Tree:
    """Call ``f(lane, *trees)`` for one lane, or for several under ``vmap``.

    With several lanes all trees and the result have a leading axis of lanes.
    """
    if len(lanes) == 1:
        return f(lanes[0], *trees)
    seeds, rates = zip(*lanes, strict=True)
    return jax.vmap(f)(Lane(jnp.array(seeds, jnp.int32), jnp.array(rates, jnp.float32)), *trees)


def split_lanes(tree: Tree, number: int) -> list[Tree]:
    """Split a tree with a leading axis of ``number`` lanes; one lane has no such axis."""
    if number == 1:
        return [tree]

    def select(lane: int) -> Tree:
        return jax.tree.map(lambda leaf: leaf[lane], tree)

    return [select(lane) for lane in range(number)]
