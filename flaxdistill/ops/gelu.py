"""GELU by the normal distribution's own function, in float32, both ways."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Compute ``x Phi(x)``, Phi the standard normal distribution (Hendrycks and Gimpel, 2016, equation 1).

    x of any shape and float type; the result has its type. `jax.nn.gelu` rounds every operation to ``x``'s type and saves
    what lies between them; here all is float32 and only ``x`` is saved.
    """
    y = x.astype(jnp.float32)
    return (y * _below(y, x.dtype)).astype(x.dtype)


def _forward(x):
    return gelu(x), x


def _backward(x, g):
    # Without the barrier XLA would keep the forward pass's erf, in float32, until here.
    y = jax.lax.optimization_barrier(x).astype(jnp.float32)
    density = jnp.exp(-0.5 * y * y) * (1 / math.sqrt(2 * math.pi))
    return ((g.astype(jnp.float32) * (_below(y, x.dtype) + y * density)).astype(x.dtype),)


def _below(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Give the share of the normal distribution below x, to as many digits as ``dtype`` has.

    Far to the left erf has float32's rounding of 1 and erfc its digits, for two polynomials and an exponential more.
    """
    z = x * math.sqrt(0.5)
    return 0.5 * jax.lax.erfc(-z) if dtype == jnp.float32 else 0.5 + 0.5 * jax.lax.erf(z)


gelu.defvjp(_forward, _backward)
