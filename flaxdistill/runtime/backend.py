"""The platform that programs are compiled for: this machine's, or the one a plan assumes."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator

import jax

from flaxdistill.errors import UserError

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def check_devices() -> None:
    """Raise UserError, with JAX's reason, unless JAX can use a device that JAX_PLATFORMS names."""
    try:
        jax.devices()
    # JAX raises AssertionError where it skips CUDA because there is no GPU.
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = str(error).partition(" (set JAX_PLATFORMS")[0]
        raise UserError(
            f"JAX_PLATFORMS is {platforms!r}, and JAX can use no such device here"
            f"{f' ({reason})' if reason else ''}; free the device, or set JAX_PLATFORMS to cpu"
        ) from None


def platform() -> str:
    """Return the platform that programs are compiled for: cpu, gpu or tpu."""
    return _target.get() or jax.default_backend()


@contextlib.contextmanager
def target_platform(name: str) -> Iterator[None]:
    """Compile for another platform than this machine's inside the block."""
    token = _target.set(name)
    try:
        yield
    finally:
        _target.reset(token)
