"""A checksum of arrays that does not depend on how they are split over devices."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def checksums(tree: Any) -> jax.Array:
    """Compute one checksum per array of a tree, uint32 [arrays].

    Each element's bits, of at most 32, are multiplied by an odd number that encodes the element's
    position, then added modulo 2^32. The sum is the same for any sharding, and changes when the
    bits of any one element change.
    """

    def checksum(x: jax.Array) -> jax.Array:
        bits = (
            jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}") if x.dtype != bool else x
        )
        position = jnp.zeros(x.shape, jnp.uint32)
        for axis in range(x.ndim):
            stride = jnp.uint32(math.prod(x.shape[axis + 1 :]) % 2**32)
            position += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * stride
        return jnp.sum(bits.astype(jnp.uint32) * (2 * position + 1), dtype=jnp.uint32)

    return jnp.stack([checksum(leaf) for leaf in jax.tree.leaves(tree)])
