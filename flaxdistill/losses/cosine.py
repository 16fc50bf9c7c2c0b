"""The triple loss's third term: hidden states that point the same way."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss, Terms, token_mask
from flaxdistill.pytrees import Batch, Outputs, Params
from flaxdistill.schedule import Schedule, constant


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Loss):
    """Turn the student's last hidden state towards the teacher's: 1 - cos, a mean over ``tokens``.

    The published code compares the last layer only and every token but padding (Sanh et al., 2019); both are the
    defaults. With several teachers the mean over teachers counts. Widths must be equal.
    """

    kind = "match"
    needs_teacher = True
    offline = ("hidden",)

    weight: Schedule = constant(1.0)
    tokens: Literal["real", "content"] = "real"

    def weights(self, step: jax.Array) -> Terms:
        return {"cosine": self.weight(step)}

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        for teacher in teachers:
            ours, theirs = student.hidden[-1].shape[-1], teacher.hidden[-1].shape[-1]
            if ours != theirs:
                raise UserError(
                    f"the cosine loss compares hidden states of equal width, but the student has {ours} and the teacher "
                    f"{theirs}: drop the loss from the config, or make the widths equal"
                )
        return {}

    def count(self, batch: Batch) -> Terms:
        return {"cosine": jnp.sum(token_mask(batch, self.tokens))}

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        mask = token_mask(batch, self.tokens)
        total = jnp.zeros((), jnp.float32)
        for teacher in teachers:
            total += jnp.sum(mask * (1.0 - cosine(student.hidden[-1], teacher.hidden[-1]))) / len(teachers)
        return scale["cosine"] * total, {"cosine": total}


def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the cosine of the angle between vectors [..., D], in float32; 0 and a zero gradient for zero vectors."""
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    # eps stands inside the root: the gradient of a norm at zero is not a number.
    norms = jax.lax.rsqrt(jnp.sum(x * x, -1) + 1e-12) * jax.lax.rsqrt(jnp.sum(y * y, -1) + 1e-12)
    return jnp.sum(x * y, -1) * norms
