"""The functions of a run, made from sizes alone: first state, step and choice of the best."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax

from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.init_params import init_params
from flaxdistill.models.architecture import Architecture, make_apply, make_frozen
from flaxdistill.models.parametrization import Chain, Parametrization, Untied
from flaxdistill.pytrees import Apply, Batch, Metrics, Outputs, Params
from flaxdistill.train.lanes import Lane, map_lanes
from flaxdistill.train.objective import Objective
from flaxdistill.train.single_step import SingleStep, make_single_step
from flaxdistill.train.state import TrainState, make_state, update_best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What a run computes, for all lanes; nothing is allocated before one of its functions runs.

    ``config`` is the student's and ``copied`` that of the model whose weights it starts from.
    ``teacher_params`` may have ``ShapeDtypeStruct`` leaves. ``prepare`` returns what the task does
    to the rows of a lane, such as masking.
    """

    experiment: Experiment
    config: Architecture
    copied: Architecture | None
    teachers: tuple[Apply, ...]
    teacher_params: tuple[Params, ...]
    prepare: Callable[[Lane], Callable[[Batch], Batch]]

    @property
    def parametrization(self) -> Chain:
        """What the student trains in place of its parameters."""
        return Chain(self.experiment.student.parametrize)

    def student(self, state: TrainState, batch: Batch) -> Outputs:
        """Run the student of one lane without dropout."""
        apply = make_frozen(self.config, self.experiment.student.compute)
        frozen = state.frozen.get("student", {})
        return apply(self.parametrization(state.params["student"], frozen, state.step), batch)

    def fold(self, state: TrainState) -> Params:
        """Return the parameters of one lane, with those of the student to evaluate."""
        frozen = state.frozen.get("student", {})
        _, student = self.parametrization.fold(
            self.config, state.params["student"], frozen, state.step
        )
        return state.params | {"student": student}

    def init(self, start_params: Params) -> TrainState:
        """Initialize the state; the weights to start from are an argument, not a constant."""
        e = self.experiment

        def init_lane(lane: Lane) -> TrainState:
            params, frozen = init_params(
                e,
                lane.seed,
                self.config,
                self.copied,
                start_params,
                self.teachers,
                self.teacher_params,
            )
            tx = e.optim.build(e.steps, lane.learning_rate, self.config.undecayed)
            return make_state(params, tx, frozen=frozen, track_best=e.select == "best")

        return map_lanes(init_lane, e.lanes())

    def step(self, teachers: tuple[Apply, ...]) -> SingleStep:
        """Return the step of all lanes with these teachers, or with what replays their outputs."""
        e = self.experiment
        config: Architecture = self.config
        parametrization: Parametrization = self.parametrization
        if e.accumulate > 1:
            config = self.config.untied()
            parametrization = Untied(self.config, parametrization)
        encode = make_apply(config, e.student.compute)
        dropout = any(self.config.dropout_rates)

        def step_lane(
            teacher_params: tuple[Params, ...], lane: Lane, state: TrainState, batch: Batch
        ) -> tuple[TrainState, Metrics]:
            def student(params: Params, rows: Batch) -> Outputs:
                keys = rows.prng_keys(2 * lane.seed + 1) if dropout else None
                return encode(params, rows, keys)

            objective = Objective(
                apply=student,
                losses=e.losses,
                tx=e.optim.build(e.steps, lane.learning_rate, self.config.undecayed),
                parametrization=parametrization,
            )
            step = make_single_step(objective, teachers, self.prepare(lane), e.accumulate)
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
