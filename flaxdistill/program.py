"""The functions of a run, made from sizes alone: its first state, its step, and what it keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from flaxdistill.experiment import Experiment
from flaxdistill.feed import abstract_batch
from flaxdistill.lanes import Lane, each
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import make_apply, make_init, shapes_of, untied
from flaxdistill.pytrees import Batch, Outputs, Params
from flaxdistill.student import start_from
from flaxdistill.train.state import TrainState, keep_best, make_state
from flaxdistill.train.step import Apply, Metrics, make_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What a run computes, lanes and all; nothing is allocated before one of its functions runs.

    ``config`` is the student's, ``copied`` that of the model its first weights come from, ``prepare`` what a lane's task
    does to rows of ``length`` tokens. ``teacher_params`` may be ``ShapeDtypeStruct`` leaves.
    """

    experiment: Experiment
    config: EncoderConfig
    copied: EncoderConfig | None
    teachers: tuple[Apply, ...]
    teacher_params: tuple[Params, ...]
    prepare: Callable[[Lane], Callable[[Batch], Batch]]
    length: int

    def student(self, params: Params, batch: Batch) -> Outputs:
        """Run the student without dropout."""
        how = self.experiment.student
        return make_apply(self.config, how.dtype, how.attention, remat=how.remat)(params, batch, None)

    def init(self, start_params: Params) -> TrainState:
        """Make the first state; weights to start from are an argument, lest a compiled function hold them."""
        e = self.experiment

        def one(lane: Lane) -> TrainState:
            student = make_init(self.config)(jax.random.key(lane.seed))
            if self.copied is not None:
                student = start_from(e.student.start, self.copied, start_params, self.config, student)
            tx = e.optim.build(e.steps, lane.rate)
            return make_state({"student": student, "losses": self._losses(lane)}, tx, keep=e.keep == "best")

        return each(one, e.lanes())

    def step(
        self, teachers: tuple[Apply, ...]
    ) -> Callable[[TrainState, tuple[Params, ...], Batch], tuple[TrainState, Metrics]]:
        """Make the step of all lanes; ``teachers`` are those of the run, or what stands in for them."""
        e = self.experiment
        stepped, view = untied(self.config) if e.accumulate > 1 else (self.config, lambda params: params)
        encode = make_apply(stepped, e.student.dtype, e.student.attention, remat=e.student.remat)
        drops = self.config.dropout > 0 or self.config.attention_dropout > 0

        def step(
            state: TrainState, teacher_params: tuple[Params, ...], batch: Batch
        ) -> tuple[TrainState, Metrics]:
            def one(lane: Lane, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
                update = make_step(
                    lambda params, rows: encode(
                        params, rows, rows.keys(2 * lane.seed + 1) if drops else None
                    ),
                    teachers,
                    self.prepare(lane),
                    e.losses,
                    e.optim.build(e.steps, lane.rate),
                    e.accumulate,
                    view,
                )
                return update(state, teacher_params, batch)

            return each(one, e.lanes(), state, batch)

        return step

    def keep(self, state: TrainState, worths: jax.Array) -> TrainState:
        """Keep the student of every lane whose evaluation is worth more than any before."""
        return each(lambda _, state, worth: keep_best(state, worth), self.experiment.lanes(), state, worths)

    def _losses(self, lane: Lane) -> Params:
        batch, losses = abstract_batch(self.length), self.experiment.losses
        student = jax.eval_shape(self.student, shapes_of(self.config), batch)
        outputs = tuple(
            jax.eval_shape(apply, params, batch)
            for apply, params in zip(self.teachers, self.teacher_params, strict=True)
        )
        keys = jax.random.split(jax.random.fold_in(jax.random.key(lane.seed), 1), len(losses))
        return {
            name: loss.init(key, student, outputs)
            for key, (name, loss) in zip(keys, losses.items(), strict=True)
        }
