"""Signals that stop a run after a step instead of killing it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax

from flaxdistill.runtime import processes


class Stopped(Exception):  # noqa: N818 - not an error: the user stopped the run
    """A signal ended the run after a step, which is saved."""

    def __init__(self, stage: str, step: int, signal_number: int):
        self.stage, self.step, self.signal_number = stage, step, signal_number


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list; a second signal has its usual effect.

    With several processes, JAX handles SIGTERM and informs the others; SIGINT is sent on as
    SIGTERM.
    """
    caught: list[int] = []
    # Python runs handlers in the main thread only, and other threads cannot set them.
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    several = jax.process_count() > 1

    def handle(number: int, frame: Any) -> None:
        if several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            caught.append(number)
        for signal_number, handler in previous.items():
            signal.signal(signal_number, handler)

    numbers = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def should_stop(step: int, caught: list[int]) -> bool:
    """Return whether to stop after a step; several processes stop after the same one."""
    if jax.process_count() > 1 and processes.preempted(step):
        caught.append(signal.SIGTERM)
    return bool(caught)
