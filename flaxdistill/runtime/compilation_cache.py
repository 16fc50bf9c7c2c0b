"""JAX's persistent compilation cache, shared by the runs of a user."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import jax

from flaxdistill.runtime.backend import check_devices
from flaxdistill.runtime.gcs_paths import cache_dir


def enable() -> None:
    """Cache compiled programs below the user's cache folder, unless JAX is configured otherwise.

    Each kind of processor has a separate folder, because home folders are shared between machines
    and a CPU program uses every instruction set of the processor it was compiled for. Raises
    UserError if JAX can use no device that JAX_PLATFORMS names.
    """
    check_devices()
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / f"compiled-{_processor()}"))


def _processor() -> str:
    """Return a short hash of the processor's architecture and instruction sets."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = [line for line in lines if line.startswith("flags")]
    description = "".join([platform.machine(), platform.processor(), *flags[:1]])
    return hashlib.sha256(description.encode()).hexdigest()[:8]
