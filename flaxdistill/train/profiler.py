"""A trace of some steps, for a profiler to show what the device did in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs


def read_steps(profile: str) -> tuple[int, int]:
    """Read the first and the last step, such as 10:13; raises UserError for what names none."""
    first, colon, last = profile.partition(":")
    if not (
        colon and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) < 2**31
    ):
        raise UserError(f"profile is {profile!r}; name the first and the last step, such as 10:13")
    return int(first), int(last)


class Trace:
    """Write what happens in steps ``first`` to ``last`` into ``folder``, as xprof, TensorBoard and Perfetto read it."""

    def __init__(self, first: int, last: int, folder: Path, report: Callable[[str], None]):
        self.first, self.last, self.folder, self.report = first, last, folder, report
        self._runs = False

    def before(self, step: int, state: Any) -> None:
        """Begin where this step is the first, once the device is through with those before."""
        if step == self.first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self.folder), create_perfetto_trace=True)
            self._runs = True

    def after(self, step: int, state: Any, *, stopping: bool) -> None:
        """End where this step is the last, or the run's, once the device is through with it."""
        if self._runs and (step == self.last or stopping):
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._runs = False
            gcs.send(self.folder)
            self.report(
                f"steps {self.first} to {step} are traced: xprof {self.folder} shows them, and the perfetto_trace.json.gz "
                "in there opens in Perfetto"
            )
