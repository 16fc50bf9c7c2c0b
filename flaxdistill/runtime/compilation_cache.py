"""Where compiled programs are kept from one run to the next."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import jax

from flaxdistill.runtime.backend import check
from flaxdistill.runtime.gcs_paths import cache


def keep() -> None:
    """Let jax keep what it compiles below the user's cache folder, unless its own settings say where.

    One folder for each kind of processor: a program for a CPU uses all that this one can do, and homes are shared.
    Raises UserError where JAX_PLATFORMS asks for devices that are not here.
    """
    check()
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    info = Path("/proc/cpuinfo")
    flags = (
        [line for line in info.read_text().splitlines() if line.startswith("flags")]
        if info.exists()
        else []
    )
    kind = hashlib.sha256(
        "".join([platform.machine(), platform.processor(), *flags[:1]]).encode()
    ).hexdigest()[:8]
    jax.config.update("jax_compilation_cache_dir", str(cache() / f"compiled-{kind}"))
