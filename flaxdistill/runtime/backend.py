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
    """Look for the devices that JAX_PLATFORMS asks for; raises UserError, with JAX's reason, where none can be used."""
    try:
        jax.devices()
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # jax asserts where it passes over CUDA for want of a GPU
        asked = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error).partition(" (set JAX_PLATFORMS")[0]
        raise UserError(
            f"JAX_PLATFORMS is {asked!r}, and JAX can use no such device here{f' ({reason})' if reason else ''}; "
            "free it, or set JAX_PLATFORMS to cpu"
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
