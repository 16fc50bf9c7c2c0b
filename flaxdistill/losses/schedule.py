"""A number that may move with the step: rates, weights and temperatures."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A line from ``start`` to ``end`` over ``steps`` steps, then ``end``; a constant where they are equal.

    Written ``2`` or ``4:1:1000`` (from 4 to 1 over 1,000 steps). Raises UserError for any other text.
    """

    start: float
    end: float
    steps: int = 0

    def __post_init__(self):
        if not (math.isfinite(self.start) and math.isfinite(self.end) and self.steps >= 0):
            raise UserError(
                f"a schedule goes from {self.start} to {self.end} in {self.steps} steps; give finite numbers, and no steps "
                "below 0"
            )

    @staticmethod
    def parse(text: str) -> Schedule:
        """Read ``2`` or ``4:1:1000``."""
        try:
            parts = text.split(":")
            if len(parts) == 1:
                start = end = float(parts[0])
                steps = 0
            else:
                start, end, steps = float(parts[0]), float(parts[1]), int(parts[2])
            if len(parts) in (1, 3):
                return Schedule(start, end, steps)
        except (ValueError, IndexError, UserError):
            pass
        raise UserError(
            f"{text!r} is no schedule: write one number such as 2, or start:end:steps such as 4:1:1000"
        )

    @property
    def constant(self) -> bool:
        """Whether it never moves."""
        return self.start == self.end

    def __str__(self) -> str:
        # Every digit, so that it reads back as it was.
        start, end = (str(float(x)).removesuffix(".0") for x in (self.start, self.end))
        return start if self.constant else f"{start}:{end}:{self.steps}"

    def __call__(self, step: jax.Array | int) -> jax.Array:
        """Give the value at ``step``, a float32 scalar."""
        share = (
            jnp.clip(jnp.asarray(step, jnp.float32) / max(self.steps, 1), 0.0, 1.0)
            if self.steps
            else 1.0
        )
        return jnp.asarray(self.start + (self.end - self.start) * share, jnp.float32)


def constant(value: float) -> Schedule:
    """Make a schedule that never moves."""
    return Schedule(value, value)
