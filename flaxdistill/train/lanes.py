"""Lanes: one run with several seeds and learning rates, side by side as one program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Tree = Any


class Lane(NamedTuple):
    """What sets one lane apart: its seed and its peak learning rate; numbers, or arrays [L] of several lanes."""

    seed: Any
    learning_rate: Any


def each(f: Callable[..., Tree], lanes: Sequence[Lane], *trees: Tree) -> Tree:
    """Call ``f(lane, *trees)`` for one lane, or for all at once: trees and result then have a leading axis of lanes."""
    if len(lanes) == 1:
        return f(lanes[0], *trees)
    seeds, rates = zip(*lanes, strict=True)
    return jax.vmap(f)(Lane(jnp.array(seeds, jnp.int32), jnp.array(rates, jnp.float32)), *trees)


def split(values: Tree, number: int) -> list[Tree]:
    """Take what belongs to each of so many lanes."""
    if number == 1:
        return [values]

    def one(n: int) -> Tree:
        return jax.tree.map(lambda value: value[n], values)

    return [one(n) for n in range(number)]
