"""Logging of libraries, silenced so that a user sees only this package's messages."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

LOGGERS = ("absl", "asyncio", "gcsfs", "google.auth")


def silence() -> None:
    """Silence libraries until the process ends; some log only at exit."""
    # huggingface_hub sets its own level when it is imported.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Silence libraries within a block.

    orbax logs every step it takes and, on a full disk, hundreds of lines next to our one sentence.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    silence()
    previous_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            previous_hook(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
