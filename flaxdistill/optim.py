"""The optimiser: AdamW with warm-up, decay and clipping."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from flaxdistill import tree
from flaxdistill.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with the published DistilBERT settings as defaults.

    ``warmup`` is a share of all steps when below 1, else a number of steps; ``end`` is the last rate as a share of
    ``rate``; ``clip`` bounds the global gradient norm, 0 for none. Biases and norms are never decayed. ``lamb`` scales
    each tensor's update to the norm of the tensor (You et al., 2020), for batches of thousands of rows.
    """

    rate: float = 5e-4
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.0
    warmup: float = 0.05
    decay: Literal["linear", "cosine", "constant"] = "linear"
    end: float = 0.0
    clip: float = 5.0
    lamb: bool = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"optim.{field.name} is {value}; it must be a finite number")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"optim.{name} is {getattr(self, name)}; it must be at least 0 and below 1, such as 0.9"
                )
        if not self.rate > 0:
            raise UserError(f"optim.rate is {self.rate}; it must be above 0")
        for name in ("eps", "warmup", "end", "clip", "weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"optim.{name} is {getattr(self, name)}; it must be 0 or above")

    def schedule(self, steps: int, rate: Any = None) -> optax.Schedule:
        """Give the learning rate at each of ``steps`` steps, the first of which already moves; ``rate``: a lane's own."""
        rate = self.rate if rate is None else rate
        warmup = round(self.warmup * steps) if self.warmup < 1 else min(round(self.warmup), steps)
        rest, end = max(steps - warmup, 1), rate * self.end
        falls = {
            "linear": optax.linear_schedule(rate, end, rest),
            "cosine": optax.cosine_decay_schedule(rate, rest, self.end),
            "constant": optax.constant_schedule(rate),
        }
        if not warmup:
            return falls[self.decay]
        rise = optax.linear_schedule(rate / warmup, rate, max(warmup - 1, 1))
        return optax.join_schedules([rise, falls[self.decay]], [warmup])

    def build(self, steps: int, rate: Any = None) -> optax.GradientTransformation:
        """Build the transformation; an update with a non-finite gradient is skipped and counted in its state."""
        chain = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        adam = (optax.lamb if self.lamb else optax.adamw)(
            self.schedule(steps, rate),
            self.b1,
            self.b2,
            self.eps,
            weight_decay=self.weight_decay,
            mask=decayed,
        )
        return skip_nonfinite(optax.chain(*chain, adam))


def skip_nonfinite(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Change nothing where the gradient's norm is not finite, and count that in an ``optax.ApplyIfFiniteState``.

    ``optax.apply_if_finite`` reads every gradient once more and branches: a branch makes a GPU wait for the host, and
    keeps XLA from computing the norm, which clipping and the log need too, only once. Squares above float32 count as
    not finite.
    """

    def init(params: Any) -> optax.ApplyIfFiniteState:
        none, never = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return optax.ApplyIfFiniteState(none, jnp.array(True), never, tx.init(params))

    def update(gradient: Any, state: optax.ApplyIfFiniteState, params: Any = None) -> tuple[Any, Any]:
        finite = jnp.isfinite(optax.tree.norm(gradient))
        updates, inner = tx.update(gradient, state.inner_state, params)
        updates = jax.tree.map(lambda u: jnp.where(finite, u, jnp.zeros_like(u)), updates)
        inner = jax.tree.map(lambda new, old: jnp.where(finite, new, old), inner, state.inner_state)
        streak = jnp.where(finite, 0, state.notfinite_count + 1)
        return updates, optax.ApplyIfFiniteState(
            streak, finite, state.total_notfinite + jnp.where(finite, 0, 1), inner
        )

    return optax.GradientTransformation(init, update)


def decayed(params: Any) -> Any:
    """Mark what weight decay touches: everything but biases and norms."""
    return tree.map_with_path(lambda path, _: not re.search(r"(^|/)(bias|scale)$", path), params)
