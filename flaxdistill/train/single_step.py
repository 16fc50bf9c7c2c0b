"""The step of one student."""

from __future__ import annotations

from collections.abc import Callable

from flaxdistill.pytrees import Apply, Batch, Metrics, Params
from flaxdistill.train.objective import Objective
from flaxdistill.train.state import TrainState
from flaxdistill.train.step import make_step

SingleStep = Callable[[TrainState, tuple[Params, ...], Batch], tuple[TrainState, Metrics]]


def make_single_step(
    student: Objective,
    teacher_applies: tuple[Apply, ...],
    prepare: Callable[[Batch], Batch],
    accumulate: int = 1,
) -> SingleStep:
    """Make ``step(state, teacher_params, batch) -> (state, metrics)``, see ``make_step``."""
    students_step = make_step({"student": student}, teacher_applies, prepare, accumulate)

    def step(
        state: TrainState, teacher_params: tuple[Params, ...], batch: Batch
    ) -> tuple[TrainState, Metrics]:
        states, metrics = students_step({"student": state}, teacher_params, batch)
        return states["student"], metrics["student"]

    return step
