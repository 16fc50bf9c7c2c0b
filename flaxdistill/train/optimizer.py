"""The optimiser: AdamW with warm-up, decay and clipping."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxdistill import param_paths
from flaxdistill.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW (Loshchilov and Hutter, 2019) with the published DistilBERT settings as defaults.

    ``warmup`` is a share of all steps when below 1, else a number of steps; ``end`` is the last rate as a share of
    ``learning_rate``; ``clip`` bounds the global gradient norm, 0 for none. Biases and norms are never decayed. ``lamb`` scales
    each tensor's update to the norm of the tensor (You et al., 2020), for batches of thousands of rows.
    """

    learning_rate: float = 5e-4
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
        if not self.learning_rate > 0:
            raise UserError(f"optim.learning_rate is {self.learning_rate}; it must be above 0")
        for name in ("eps", "warmup", "end", "clip", "weight_decay"):
            if getattr(self, name) < 0:
                raise UserError(f"optim.{name} is {getattr(self, name)}; it must be 0 or above")

    def schedule(self, steps: int, learning_rate: Any = None) -> optax.Schedule:
        """Give the learning rate at each of ``steps`` steps, the first of which already moves; ``learning_rate``: a lane's own."""
        peak = self.learning_rate if learning_rate is None else learning_rate
        warmup = round(self.warmup * steps) if self.warmup < 1 else min(round(self.warmup), steps)
        rest, end = max(steps - warmup, 1), peak * self.end
        falls = {
            "linear": optax.linear_schedule(peak, end, rest),
            "cosine": optax.cosine_decay_schedule(peak, rest, self.end),
            "constant": optax.constant_schedule(peak),
        }
        if not warmup:
            return falls[self.decay]
        rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
        return optax.join_schedules([rise, falls[self.decay]], [warmup])

    def build(self, steps: int, learning_rate: Any = None) -> optax.GradientTransformation:
        """Build the transformation; an update with a non-finite gradient is skipped and counted in its state.

        Optax's chain would do the same with ``optax.apply_if_finite`` around it. Here moments choose between old and new
        where they are computed, so that each is read and written once, in its place: chosen afterwards, the old ones are
        copied whole, and an update took 2.9 times as long on a CPU. A branch would make a GPU wait for the host. Squares
        above float32 count as not finite.
        """
        schedule = self.schedule(steps, learning_rate)
        trust = optax.scale_by_trust_ratio()

        def init(params: Any) -> Moments:
            mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
            step, streak, skipped = (jnp.zeros((), jnp.int32) for _ in range(3))
            return Moments(step, mu, nu, streak, skipped)

        def update(gradient: Any, state: Moments, params: Any = None) -> tuple[Any, Moments]:
            norm = optax.tree.norm(gradient)
            finite = jnp.isfinite(norm)
            clip = jnp.where(norm < self.clip, 1.0, self.clip / norm) if self.clip else 1.0
            gradient = jax.tree.map(lambda g: g * clip, gradient)

            def mean(decay: float, order: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
                return lambda m, g: jnp.where(finite, decay * m + (1 - decay) * g**order, m)

            step = state.step + finite
            mu = jax.tree.map(mean(self.b1, 1), state.mu, gradient)
            nu = jax.tree.map(mean(self.b2, 2), state.nu, gradient)
            # Both are zero before the first finite gradient, whatever they are divided by.
            first, second = (1 - b ** jnp.maximum(step, 1) for b in (self.b1, self.b2))

            def move(m: jax.Array, v: jax.Array, param: jax.Array, is_decayed: bool) -> jax.Array:
                adam = m / first / (jnp.sqrt(v / second) + self.eps)
                return adam + self.weight_decay * param if is_decayed else adam

            updates = jax.tree.map(move, mu, nu, params, decayed(params))
            if self.lamb:
                updates, _ = trust.update(updates, optax.ScaleByTrustRatioState(), params)
            rate = schedule(state.step)
            updates = jax.tree.map(lambda u: jnp.where(finite, -rate * u, 0.0), updates)
            streak = jnp.where(finite, 0, state.notfinite_count + 1)
            return updates, Moments(step, mu, nu, streak, state.total_notfinite + ~finite)

        return optax.GradientTransformation(init, update)


class Moments(NamedTuple):
    """What AdamW remembers: updates made, running means of gradients and of their squares, and updates skipped.

    ``step``, ``notfinite_count`` (skipped in a row, up to now) and ``total_notfinite`` int32 []; ``mu`` and ``nu`` as the
    parameters. Names are optax's, by which ``optax.tree.get`` finds them.
    """

    step: jax.Array
    mu: Any
    nu: Any
    notfinite_count: jax.Array
    total_notfinite: jax.Array


def decayed(params: Any) -> Any:
    """Mark what weight decay touches: everything but biases and norms."""
    return param_paths.map_with_path(
        lambda path, _: not re.search(r"(^|/)(bias|scale)$", path), params
    )
