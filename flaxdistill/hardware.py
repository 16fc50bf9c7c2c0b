"""Which kind of hardware programs are made for: what is here, or what a plan has in mind."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator

import jax

from flaxdistill.errors import UserError

_planned: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def check() -> None:
    """Look for the devices that JAX_PLATFORMS asks for; raises UserError where there are none."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # jax asserts where it passes over CUDA for want of a GPU
        raise UserError(
            f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}, and JAX finds no such device here; unset it, or "
            "set it to cpu"
        ) from None


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
