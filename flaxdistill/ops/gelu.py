"""GELU with the exact normal distribution function, computed in float32 in both passes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Compute x Phi(x), with Phi the standard normal distribution function.

    The formula is equation 1 of Hendrycks and Gimpel, 2016. ``x`` has any shape and float dtype,
    and the result has its dtype. ``jax.nn.gelu`` rounds every operation to the dtype of ``x`` and
    saves the intermediate arrays; here all arithmetic is float32 and only ``x`` is saved.
    """
    y = x.astype(jnp.float32)
    return (y * _normal_cdf(y, x.dtype)).astype(x.dtype)


def _forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gelu(x), x


def _backward(x: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    # Without the barrier XLA would save the forward pass's erf, in float32, until here.
    y = jax.lax.optimization_barrier(x).astype(jnp.float32)
    density = jnp.exp(-0.5 * y * y) * (1 / math.sqrt(2 * math.pi))
    return ((g.astype(jnp.float32) * (_normal_cdf(y, x.dtype) + y * density)).astype(x.dtype),)


def _normal_cdf(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Compute Phi(x) to the precision of ``dtype``.

    For large negative x, 1 + erf loses all digits in float32 and erfc has them. erfc costs two more
    polynomials and an exponential, so lower precisions use erf.
    """
    z = x * math.sqrt(0.5)
    return 0.5 * jax.lax.erfc(-z) if dtype == jnp.float32 else 0.5 + 0.5 * jax.lax.erf(z)


gelu.defvjp(_forward, _backward)
