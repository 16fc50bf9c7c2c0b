"""Arrays [B, T, ...] as chunks of tokens that a loop computes one after another.

Shapes: B rows in G groups (the rows of one device are a group), T tokens, n chunks of c tokens.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from flaxdistill.runtime.backend import platform
from flaxdistill.runtime.mesh_axes import batch_axes, num_shards

CHUNK_TOKENS = {"cpu": 256, "gpu": 8192, "tpu": 4096}
"""Tokens per device in one chunk: enough to fill its multipliers without using too much memory."""


def split_chunks(tree: Any, shape: tuple[int, ...], chunk: int) -> Any:
    """Split arrays [B, T, ...] into chunks [n, G, B / G, c, ...] of nearly equal size.

    Rows and tokens stay separate axes, and the rows of a device stay together: flattening [B, T]
    first would gather every device's rows on every device.

    Args:
      tree: A pytree of arrays [B, T, ...].
      shape: (B, T).
      chunk: The maximum of c; 0 chooses ``CHUNK_TOKENS`` for each device.
    """
    B, T = shape
    G = num_shards(B)
    chunk = chunk or max(CHUNK_TOKENS.get(platform(), CHUNK_TOKENS["tpu"]) * G // B, 1)
    n = max(-(-T // chunk), 1)  # T = 0 is one empty chunk
    c = -(-T // n)

    def split(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, n * c - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(keep_local(x.reshape(G, B // G, n, c, *x.shape[2:])), 2, 0)

    return jax.tree.map(split, tree)


def join_chunks(tree: Any, shape: tuple[int, ...]) -> Any:
    """Join chunks [n, G, B / G, c, ...] into arrays [B, T, ...]; ``shape`` is (B, T)."""

    def join(x: jax.Array) -> jax.Array:
        n, G, b, c = x.shape[:4]
        return jnp.moveaxis(x, 0, 2).reshape(G * b, n * c, *x.shape[4:])[:, : shape[1]]

    return jax.tree.map(join, tree)


def keep_local(x: jax.Array) -> jax.Array:
    """Constrain each group of [G, ...] to its own device."""
    axes = batch_axes(x.shape[0])
    return jax.lax.with_sharding_constraint(x, P(axes)) if axes else x
