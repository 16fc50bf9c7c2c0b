"""What libraries say beside our own sentences, kept back while we are at work."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

LOUD = ("absl", "asyncio", "gcsfs", "google.auth")


def silence() -> None:
    """Keep back for good what libraries log; some of it comes only as a process ends."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it sets its own level as it is imported
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what orbax tells of every step it takes and, on a full disk, hundreds of times beside our one sentence."""
    loggers = [logging.getLogger(name) for name in LOUD]
    levels = [logger.level for logger in loggers]
    silence()
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
