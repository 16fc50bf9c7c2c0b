"""The triple loss's third term: hidden states that point the same way."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from flaxdistill.losses.hidden import Hidden


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenCosine(Hidden):
    """Turn the student's hidden states towards the teacher's: 1 - cos.

    The published code of DistilBERT compares the last layer only and every token but padding (Sanh et al., 2019); both
    are the defaults. Patient distillation (Sun et al., 2019) is ``layers`` skip and ``tokens`` first: the squared
    distance of normalised vectors is twice 1 - cos.
    """

    @property
    def term(self) -> str:
        return "cosine"

    def distance(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return 1.0 - cosine(x, y)


def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the cosine of the angle between vectors [..., D], in float32; 0 and a zero gradient for zero vectors."""
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    # eps stands inside the root: the gradient of a norm at zero is not a number.
    norms = jax.lax.rsqrt(jnp.sum(x * x, -1) + 1e-12) * jax.lax.rsqrt(jnp.sum(y * y, -1) + 1e-12)
    return jnp.sum(x * y, -1) * norms
