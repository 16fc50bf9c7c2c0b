"""Dropout whose random numbers depend on the row only, not on the batch that the row is in."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""The rotation distances of Threefry-2x32."""


def dropout(x: jax.Array, rate: float, keys: jax.Array | None, site: int) -> jax.Array:
    """Set a random fraction ``rate`` of entries to 0 and divide the others by 1 - ``rate``.

    flax.linen's dropout draws for the whole batch at once, so its result changes when the batch is
    split over micro-batches or devices.

    Args:
      x: [B, ...].
      rate: The probability that an entry is dropped.
      keys: PRNG keys [B], one per row; None disables dropout.
      site: The number of this dropout in the model. Two sites must not have the same number, or
        they drop the same entries.
    """
    if keys is None or rate == 0.0:
        return x
    # Divided in float32, because bfloat16 rounds 0.9 to 0.898.
    scaled = (x.astype(jnp.float32) / (1 - effective_rate(rate))).astype(x.dtype)
    return jnp.where(keep_mask(x.shape, rate, keys, site), scaled, jnp.zeros_like(x))


def effective_rate(rate: float) -> float:
    """Round a rate to a multiple of 2^-16, which is what 16 random bits can draw; exact to 1e-5."""
    return round(rate * 2**16) / 2**16


def keep_mask(shape: tuple[int, ...], rate: float, keys: jax.Array, site: int) -> jax.Array:
    """Draw which entries of [B, ...] dropout keeps: bool, True with probability 1 - ``rate``.

    One 64-bit output of Threefry gives four entries, 16 bits each. The four are spread along the
    axis before the last, which no mesh shards and no layout pads, so that everything is one
    elementwise loop.
    """
    axis = max(len(shape) - 2, 1)
    quarter = list(shape)
    quarter[axis] = -(-shape[axis] // 4)
    counter = jnp.zeros(quarter, jnp.uint32)
    for i in range(1, len(quarter)):
        stride = jnp.uint32(math.prod(quarter[i + 1 :]))
        counter += jax.lax.broadcasted_iota(jnp.uint32, quarter, i) * stride
    key_data = jnp.expand_dims(jax.random.key_data(keys)[:, :2], tuple(range(2, len(shape) + 1)))
    threshold = jnp.uint32(round(rate * 2**16))
    words = threefry(key_data[:, 0], key_data[:, 1], counter, jnp.full(quarter, site, jnp.uint32))
    quarters = [bits >= threshold for word in words for bits in (word & 0xFFFF, word >> 16)]
    return jax.lax.slice_in_dim(jnp.concatenate(quarters, axis), 0, shape[axis], axis=axis)


def threefry(
    key_high: jax.Array, key_low: jax.Array, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Encrypt the counters (x, y) with Threefry-2x32 in 20 rounds (Salmon et al., 2011).

    All arrays are uint32 and broadcast. JAX's own Threefry is a loop over whole arrays on a CPU and
    a separate kernel on a GPU; XLA fuses this one into the code that reads it, which is eight times
    faster on a CPU.
    """
    key_schedule = (key_high, key_low, key_high ^ key_low ^ jnp.uint32(0x1BD11BDA))
    x, y = x + key_schedule[0], y + key_schedule[1]
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            x = x + y
            y = x ^ ((y << jnp.uint32(distance)) | (y >> jnp.uint32(32 - distance)))
        x = x + key_schedule[(group + 1) % 3]
        y = y + key_schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y
