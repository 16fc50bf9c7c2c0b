"""Flaxdistill/train/checksum.py."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def sums(tree: Any) -> jax.Array:
    """Add up the bits of every array of a tree, each word times an odd number that tells its place: uint32 [arrays].

    The same however the arrays, of at most 32 bits a number, are split; another for another value of any number.
    """

    def one(x: jax.Array) -> jax.Array:
        words = (
            jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}") if x.dtype != bool else x
        )
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis in range(x.ndim):
            stride = jnp.uint32(math.prod(x.shape[axis + 1 :]) % 2**32)
            place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * stride
        return jnp.sum(words.astype(jnp.uint32) * (2 * place + 1), dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(tree)])
