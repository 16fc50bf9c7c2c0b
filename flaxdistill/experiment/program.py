"""The functions of a run, made from sizes alone: first state, step and choice of the best."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax

from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.init_params import init_params
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import make_apply, untied
from flaxdistill.pytrees import Apply, Batch, Metrics, Outputs, Params
from flaxdistill.train.lanes import Lane, map_lanes
from flaxdistill.train.state import TrainState, make_state, update_best
from flaxdistill.train.step import make_step

Step = Callable[[TrainState, tuple[Params, ...], Batch], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What a run computes, for all lanes; nothing is allocated before one of its functions runs.

    ``config`` is the student's and ``copied`` that of the model whose weights it starts from.
    ``teacher_params`` may have ``ShapeDtypeStruct`` leaves. ``prepare`` returns what the task does
    to the rows of a lane, such as masking.
    """

    experiment: Experiment
    config: EncoderConfig
    copied: EncoderConfig | None
    teachers: tuple[Apply, ...]
    teacher_params: tuple[Params, ...]
    prepare: Callable[[Lane], Callable[[Batch], Batch]]

    def student(self, params: Params, batch: Batch) -> Outputs:
        """Run the student without dropout."""
        student = self.experiment.student
        apply = make_apply(self.config, student.dtype, student.attention, remat=student.remat)
        return apply(params, batch, None)

    def init(self, start_params: Params) -> TrainState:
        """Initialize the state; the weights to start from are an argument, not a constant."""
        e = self.experiment

        def init_lane(lane: Lane) -> TrainState:
            params = init_params(
                e,
                lane.seed,
                self.config,
                self.copied,
                start_params,
                self.teachers,
                self.teacher_params,
            )
            tx = e.optim.build(e.steps, lane.learning_rate)
            return make_state(params, tx, track_best=e.select == "best")

        return map_lanes(init_lane, e.lanes())

    def step(self, teachers: tuple[Apply, ...]) -> Step:
        """Return the step of all lanes with these teachers, or with what replays their outputs."""
        e = self.experiment
        config, view = (
            untied(self.config) if e.accumulate > 1 else (self.config, lambda params: params)
        )
        encode = make_apply(config, e.student.dtype, e.student.attention, remat=e.student.remat)
        dropout = self.config.dropout > 0 or self.config.attention_dropout > 0

        def step_lane(
            teacher_params: tuple[Params, ...], lane: Lane, state: TrainState, batch: Batch
        ) -> tuple[TrainState, Metrics]:
            def student(params: Params, rows: Batch) -> Outputs:
                keys = rows.prng_keys(2 * lane.seed + 1) if dropout else None
                return encode(params, rows, keys)

            step = make_step(
                student,
                teachers,
                self.prepare(lane),
                e.losses,
                e.optim.build(e.steps, lane.learning_rate),
                e.accumulate,
                view,
            )
            return step(state, teacher_params, batch)

        def step(
            state: TrainState, teacher_params: tuple[Params, ...], batch: Batch
        ) -> tuple[TrainState, Metrics]:
            return map_lanes(functools.partial(step_lane, teacher_params), e.lanes(), state, batch)

        return step

    def update_best(self, state: TrainState, scores: jax.Array) -> TrainState:
        """Store the student of every lane whose evaluation scores above all before."""
        return map_lanes(
            lambda _, state, score: update_best(state, score),
            self.experiment.lanes(),
            state,
            scores,
        )
