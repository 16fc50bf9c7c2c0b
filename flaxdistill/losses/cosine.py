"""The cosine loss of DistilBERT and of patient knowledge distillation."""

from __future__ import annotations

import dataclasses
from typing import Literal  # noqa: F401 - API pages resolve inherited fields in this module

import jax
import jax.numpy as jnp

from flaxdistill.losses.hidden import Hidden
from flaxdistill.losses.schedule import Schedule  # noqa: F401 - for the same reason


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenCosine(Hidden):
    """Align the directions of hidden states: 1 - cos(student, teacher).

    The defaults are those of DistilBERT's published code: the last layer only, and every token
    except padding (Sanh et al., 2019). Patient knowledge distillation (Sun et al., 2019) is
    ``HiddenCosine(layers="skip", tokens="first")``: its squared distance of normalized vectors is 2
    (1 - cos).

    Needs a teacher of equal width, or ``project``. Term: ``cosine``.
    """

    @property
    def term(self) -> str:
        return "cosine"

    def distance(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        return 1.0 - cosine(student, teacher)


def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the cosine of the angle between vectors [..., D] in float32.

    Value and gradient are 0 for zero vectors.
    """
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    # The epsilon is inside the root, because the gradient of a norm at zero is NaN.
    norms = jax.lax.rsqrt(jnp.sum(x * x, -1) + 1e-12) * jax.lax.rsqrt(jnp.sum(y * y, -1) + 1e-12)
    return jnp.sum(x * y, -1) * norms
