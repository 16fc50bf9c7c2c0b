"""Names of mesh axes, and over which of them rows are split."""

from __future__ import annotations

import math

import jax

ROWS = ("data", "fsdp")
"""The axes of a mesh over which a batch's rows are split; parameters are split over ``fsdp`` and ``tensor``."""


def spread(rows: int) -> tuple[str, ...]:
    """Name the axes of the mesh around a compiled function over which ``rows`` rows can be split; () without one.

    Over ``tensor`` too where they divide: what is computed row by row need not be done twice there.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    for wanted in ((*ROWS, "tensor"), ROWS):
        axes = tuple(axis for axis in wanted if shape.get(axis, 1) > 1)
        if rows % math.prod(shape[axis] for axis in axes) == 0:
            return axes
    return ()


def devices(rows: int, heads: int = 0) -> int:
    """Count the groups of devices that ``spread`` splits ``rows`` rows among; 1 without a mesh.

    What comes in ``heads`` as well is split by them over ``tensor``, or not at all.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    if heads and heads % shape.get("tensor", 1):
        return math.prod(shape[axis] for axis in spread(rows) if axis != "tensor")
    return math.prod(shape[axis] for axis in spread(rows))
