"""Names of mesh axes, and the axes that a batch is sharded over."""

from __future__ import annotations

import math

import jax

BATCH_AXES = ("data", "fsdp")
"""Mesh axes that a batch's rows are sharded over. Parameters are sharded over fsdp and tensor."""


def batch_axes(rows: int) -> tuple[str, ...]:
    """Return the axes of the enclosing mesh that ``rows`` rows can be sharded over.

    Includes ``tensor`` if the rows divide evenly, so that no row is computed twice. Returns ()
    without a mesh.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    for candidates in ((*BATCH_AXES, "tensor"), BATCH_AXES):
        axes = tuple(axis for axis in candidates if shape.get(axis, 1) > 1)
        if rows % math.prod(shape[axis] for axis in axes) == 0:
            return axes
    return ()


def num_shards(rows: int, heads: int = 0) -> int:
    """Return the number of shards of ``rows`` rows; 1 without a mesh.

    With ``heads``, ``tensor`` shards the attention heads, and counts only if it divides them.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    if heads and heads % shape.get("tensor", 1):
        return math.prod(shape[axis] for axis in batch_axes(rows) if axis != "tensor")
    return math.prod(shape[axis] for axis in batch_axes(rows))
