"""A profiler trace of some training steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs
from flaxdistill.runtime.files import error_summary


def parse_steps(profile: str) -> tuple[int, int]:
    """Parse the first and the last step, such as ``10:13``; raise UserError for anything else."""
    first, colon, last = profile.partition(":")
    if not (
        colon and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) < 2**31
    ):
        raise UserError(f"profile is {profile!r}; name the first and the last step, such as 10:13")
    return int(first), int(last)


class Trace:
    """Trace steps ``first`` to ``last`` into ``folder``, for xprof, TensorBoard and Perfetto.

    Only one process of a run may do that: JAX names the files by host and second.
    """

    def __init__(self, first: int, last: int, folder: Path, report: Callable[[str], None]):
        self.first, self.last, self.folder, self.report = first, last, folder, report
        self._active = False

    def before(self, step: int, state: Any) -> None:
        """Start the trace before the first step, once the device has finished earlier ones."""
        if step == self.first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self.folder), create_perfetto_trace=True)
            self._active = True

    def after(self, step: int, state: Any, *, stopping: bool) -> None:
        """Stop the trace after the last step, or when the run stops, once the device is done."""
        if self._active and (step == self.last or stopping):
            jax.block_until_ready(state)
            self._active = False
            try:
                jax.profiler.stop_trace()
                gcs.upload(self.folder)
            except (OSError, RuntimeError, ValueError) as error:
                # A failed trace must not end the training.
                self.report(f"the trace was not written to {self.folder} ({error_summary(error)})")
                return
            self.report(
                f"wrote a trace of steps {self.first} to {step}: view it with xprof {self.folder}, "
                "or open its perfetto_trace.json.gz in Perfetto"
            )
