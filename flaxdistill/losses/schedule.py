"""Scalars that may change with the step: loss weights and temperatures."""

from __future__ import annotations

import dataclasses
import math
import numbers

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A linear change from ``start`` to ``end`` over ``steps`` steps, and ``end`` after that.

    It is constant where ``start`` equals ``end``. As text it is ``2``, or ``4:1:1000`` for 4 to 1
    over 1,000 steps. Fields of this type in a loss also accept a number or that text.

    Raises:
      UserError: For a value that is not finite and for negative ``steps``.

    Example:
      >>> schedule = Schedule(4.0, 1.0, 1000)
      >>> [float(schedule(step)) for step in (0, 500, 1000, 5000)]
      [4.0, 2.5, 1.0, 1.0]
    """

    start: float
    end: float
    steps: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end) and self.steps >= 0):
            raise UserError(
                f"a schedule goes from {self.start} to {self.end} in {self.steps} steps; give "
                "finite numbers, and steps of at least 0"
            )

    @staticmethod
    def parse(text: str) -> Schedule:
        """Parse ``2`` or ``4:1:1000``; raises UserError for any other text.

        Example:
          >>> Schedule.parse("4:1:1000")
          Schedule(start=4.0, end=1.0, steps=1000)
          >>> str(Schedule.parse("2.0"))
          '2'
        """
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
        raise UserError(_error(text))

    @staticmethod
    def of(value: Schedule | float | str) -> Schedule:
        """Convert a number or text to a schedule, and return a schedule unchanged.

        Example:
          >>> Schedule.of(5) == Schedule.of("5") == constant(5.0)
          True

        Raises:
          UserError: For a value of another type and for text that ``parse`` refuses.
        """
        if isinstance(value, Schedule):
            return value
        if isinstance(value, str):
            return Schedule.parse(value)
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            try:
                return constant(float(value))
            except OverflowError:
                pass
        raise UserError(_error(value))

    @property
    def constant(self) -> bool:
        """Whether the value is the same at every step."""
        return self.start == self.end

    def __str__(self) -> str:
        # All digits, so that parse returns an equal schedule.
        start, end = (str(float(x)).removesuffix(".0") for x in (self.start, self.end))
        return start if self.constant else f"{start}:{end}:{self.steps}"

    def __call__(self, step: jax.Array | int) -> jax.Array:
        """Return the value at ``step``, a float32 scalar."""
        fraction: jax.Array | float = 1.0
        if self.steps:
            fraction = jnp.clip(jnp.asarray(step, jnp.float32) / max(self.steps, 1), 0.0, 1.0)
        return jnp.asarray(self.start + (self.end - self.start) * fraction, jnp.float32)

    def value_at(self, step: jax.Array) -> jax.Array | float:
        """Return the value at ``step``: the Python number ``start`` if constant, else float32.

        Some functions compile to fewer operations for a Python float, such as a temperature of 2.0.
        """
        return self.start if self.constant else self(step)


def constant(value: float) -> Schedule:
    """Return a schedule whose value is the same at every step."""
    return Schedule(value, value)


def check_temperature(temperature: Schedule) -> None:
    """Raise UserError unless a temperature is above 0 at every step."""
    if min(temperature.start, temperature.end) <= 0:
        raise UserError(f"temperature is {temperature}; it must be above 0")


def _error(value: object) -> str:
    return (
        f"{value!r} is not a schedule; write a number such as 2, or start:end:steps such as "
        "4:1:1000"
    )
