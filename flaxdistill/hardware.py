"""Which kind of hardware programs are made for: what is here, or what a plan has in mind."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_planned: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """Name what programs are made for: cpu, gpu or tpu."""
    return _planned.get() or jax.default_backend()


@contextlib.contextmanager
def made_for(name: str) -> Iterator[None]:
    """Make programs for another platform than the one that is here, such as ahead of time."""
    before = _planned.set(name)
    try:
        yield
    finally:
        _planned.reset(before)
