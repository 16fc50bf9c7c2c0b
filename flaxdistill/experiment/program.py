"""The functions of a run, made from sizes alone: its first state, its step, and what it keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.init_params import first_params
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import make_apply, untied
from flaxdistill.pytrees import Apply, Batch, Metrics, Outputs, Params
from flaxdistill.train.lanes import Lane, each
from flaxdistill.train.state import TrainState, keep_best, make_state
from flaxdistill.train.step import make_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What a run computes, lanes and all; nothing is allocated before one of its functions runs.

    ``config`` is the student's, ``copied`` that of the model its first weights come from, ``prepare`` what a lane's task
    does to rows. ``teacher_params`` may be ``ShapeDtypeStruct`` leaves.
    """

    experiment: Experiment
    config: EncoderConfig
    copied: EncoderConfig | None
    teachers: tuple[Apply, ...]
    teacher_params: tuple[Params, ...]
    prepare: Callable[[Lane], Callable[[Batch], Batch]]

    def student(self, params: Params, batch: Batch) -> Outputs:
        """Run the student without dropout."""
        how = self.experiment.student
        return make_apply(self.config, how.dtype, how.attention, remat=how.remat)(
            params, batch, None
        )

    def init(self, start_params: Params) -> TrainState:
        """Make the first state; weights to start from are an argument, lest a compiled function hold them."""
        e = self.experiment

        def one(lane: Lane) -> TrainState:
            params = first_params(
                e,
                lane.seed,
                self.config,
                self.copied,
                start_params,
                self.teachers,
                self.teacher_params,
            )
            return make_state(
                params, e.optim.build(e.steps, lane.learning_rate), keep=e.select == "best"
            )

        return each(one, e.lanes())

    def step(
        self, teachers: tuple[Apply, ...]
    ) -> Callable[[TrainState, tuple[Params, ...], Batch], tuple[TrainState, Metrics]]:
        """Make the step of all lanes; ``teachers`` are those of the run, or what stands in for them."""
        e = self.experiment
        stepped, view = (
            untied(self.config) if e.accumulate > 1 else (self.config, lambda params: params)
        )
        encode = make_apply(stepped, e.student.dtype, e.student.attention, remat=e.student.remat)
        drops = self.config.dropout > 0 or self.config.attention_dropout > 0

        def step(
            state: TrainState, teacher_params: tuple[Params, ...], batch: Batch
        ) -> tuple[TrainState, Metrics]:
            def one(lane: Lane, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
                update = make_step(
                    lambda params, rows: encode(
                        params, rows, rows.prng_keys(2 * lane.seed + 1) if drops else None
                    ),
                    teachers,
                    self.prepare(lane),
                    e.losses,
                    e.optim.build(e.steps, lane.learning_rate),
                    e.accumulate,
                    view,
                )
                return update(state, teacher_params, batch)

            return each(one, e.lanes(), state, batch)

        return step

    def keep(self, state: TrainState, scores: jax.Array) -> TrainState:
        """Keep the student of every lane whose evaluation is worth more than any before."""
        return each(
            lambda _, state, worth: keep_best(state, worth), self.experiment.lanes(), state, scores
        )
