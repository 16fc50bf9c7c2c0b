"""From an `Experiment` to the live objects of its training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.data.length_buckets import Buckets
from flaxdistill.data.order import Order
from flaxdistill.experiment import workdir
from flaxdistill.experiment.checks import check_kernels, check_losses
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.evaluator import make_evaluator
from flaxdistill.experiment.inputs import Inputs, prepare_inputs, read_models
from flaxdistill.experiment.model_configs import stage_name
from flaxdistill.experiment.program import Program
from flaxdistill.experiment.teachers import (
    FrozenModels,
    StepTeachers,
    cached_loss,
    freeze_models,
    make_step_teachers,
)
from flaxdistill.hub.download import resolve
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.pytrees import Batch, Params
from flaxdistill.runtime import gcs, processes, sharding
from flaxdistill.runtime.backend import platform
from flaxdistill.train import batches, sanity_checks
from flaxdistill.train.checkpoint import Checkpoints
from flaxdistill.train.lanes import Lane
from flaxdistill.train.log import Log
from flaxdistill.train.loop import LoopInputs, ReportLine, SanityCheck
from flaxdistill.train.profiler import Trace, parse_steps
from flaxdistill.train.state import TrainState


def build(experiment: Experiment, path: Path, *, data: Path, report: ReportLine) -> LoopInputs:
    """Build everything that a run needs, lock ``path`` for it and restore its newest checkpoint.

    Prepared data is cached in ``data`` unless the experiment names a folder. Raises UserError for
    whatever does not fit together, before anything but prepared data is written.
    """
    e = experiment
    check(e)
    mesh = sharding.make_mesh(e.fsdp, e.tensor)
    models = read_models(e, path, report)
    inputs = prepare_inputs(e, models, path, data=data, report=report)
    references = freeze_models(models.references.values(), e.reference_models().values(), mesh)
    program = make_program(e, inputs, references)
    layout = make_layout(program, inputs, mesh)
    orders = make_orders(e, inputs)
    teachers = make_step_teachers(program, inputs, orders[0], mesh, data=data, report=report)
    sanity_check = choose_sanity_checks(program, teachers, mesh)
    lock = lock_workdir(e, path, inputs)
    with contextlib.ExitStack() as on_error:
        on_error.callback(lock.close)
        restored = restore(program, layout, path, inputs, report)
        run = LoopInputs(
            mesh=mesh,
            step=sharding.jit_step(program.step(teachers.applies), layout.shardings, mesh),
            update_best=jax.jit(
                program.update_best, donate_argnums=0, out_shardings=layout.shardings
            ),
            evaluate=make_evaluate(program, inputs, references, mesh),
            lanes=e.lanes(),
            metric=e.task.metric,
            state=restored.state,
            teacher_params=teachers.params,
            sanity_check=sanity_check if restored.step < sanity_checks.PROGRESS_STEPS else None,
            train_batch=make_train_batch(e, inputs, teachers, orders, mesh),
            schedules=[e.optim.schedule(e.steps, lane.learning_rate) for lane in e.lanes()],
            lock=lock,
            checkpoints=restored.checkpoints,
            log=Log(path, step=restored.step, writes=processes.is_main(), project=e.wandb),
            trace=make_trace(e, path, report),
            steps=e.steps,
            log_every=e.log_every,
            eval_every=e.eval_every,
            save_every=e.save_every,
        )
        on_error.pop_all()
    return run


def check(e: Experiment) -> None:
    """Raise UserError for errors that show before any model or text is read."""
    sharding.check_batch(e.batch_size, e.accumulate, sharding.make_mesh(e.fsdp, e.tensor))
    check_losses(e)
    if e.teacher and e.teacher.cache_top_k:
        cached_loss(e.losses)
    check_kernels(e)
    for path in (*(model.path for model in e.reference_models().values()), e.start_path()):
        if not path or stage_name(path) is not None:
            continue
        if not workdir.is_workdir(gcs.local_copy(path, gcs.RUN_FILES)):
            resolve(path)
    e.corpus.check()


def make_program(e: Experiment, inputs: Inputs, references: FrozenModels) -> Program:
    """Return the functions of the run; the task refuses here what its first step would refuse."""
    vocabulary, counts = inputs.vocabulary, inputs.store.counts

    # Even numbers seed masks, odd ones dropout: the two must never share a key.
    def prepare(lane: Lane) -> Callable[[Batch], Batch]:
        return e.task.make_prepare(vocabulary, counts, 2 * lane.seed)

    prepare(e.lanes()[0])
    start = inputs.models.start
    teachers = references if inputs.models.teacher else FrozenModels()
    return Program(
        experiment=e,
        config=inputs.config,
        copied=start.config if start and e.student.start.layers != "random" else None,
        teachers=teachers.applies,
        teacher_params=teachers.params,
        prepare=prepare,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateLayout:
    """Shapes and shardings of a `TrainState`, and the weights that its first student copies."""

    shapes: Any
    shardings: Any
    start_params: Params


def make_layout(program: Program, inputs: Inputs, mesh: jax.sharding.Mesh) -> StateLayout:
    """Compute the layout of the program's state."""
    start = inputs.models.start
    start_params = start.params if start and program.copied else {}
    shapes = jax.eval_shape(program.init, start_params)
    shardings = sharding.state_shardings(
        shapes, mesh, program.config.sharding, len(program.experiment.lanes())
    )
    return StateLayout(shapes=shapes, shardings=shardings, start_params=start_params)


def make_orders(e: Experiment, inputs: Inputs) -> list[Order]:
    """Return the order of the training rows for each lane."""
    sizes = tuple(map(len, inputs.store.train))
    weights = tuple(source.weight for source in e.corpus.sources)
    return [Order(sizes, weights, lane.seed) for lane in e.lanes()]


def choose_sanity_checks(
    program: Program, teachers: StepTeachers, mesh: jax.sharding.Mesh
) -> SanityCheck | None:
    """Return the sanity checks of the run; with a cache the teacher is not part of the step."""
    e = program.experiment
    if not e.sanity_checks:
        return None
    progress_check = functools.partial(
        sanity_checks.make_progress_check,
        undecayed=program.config.undecayed,
        no_gradient=program.config.no_gradient,
    )
    if teachers.targets:
        return progress_check
    dtypes = (e.student.dtype, *(model.dtype for model in e.reference_models().values()))
    return sanity_checks.make_sanity_check(
        program.student,
        program.teachers,
        program.prepare(e.lanes()[0]),
        e.losses,
        mesh,
        per_token=e.task.head.per_token,
        low_precision=platform() != "cpu" or jnp.bfloat16 in map(operand_dtype, dtypes),
        progress_check=progress_check,
    )


def lock_workdir(e: Experiment, path: Path, inputs: Inputs) -> Any:
    """Lock the folder of the run, in the main process first; returns the file that holds it."""
    with processes.main_first("lock"):
        return workdir.lock(
            path,
            e,
            inputs.family,
            inputs.config,
            inputs.digests,
            inputs.vocabulary,
            is_main=processes.is_main(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """The state that training starts or resumes from, its step and the folder of checkpoints."""

    checkpoints: Checkpoints
    state: TrainState
    step: int


def restore(
    program: Program, layout: StateLayout, path: Path, inputs: Inputs, report: ReportLine
) -> Restored:
    """Restore the newest checkpoint in ``path``, or initialize the state if there is none."""
    e = program.experiment
    checkpoints = Checkpoints(path)
    state = checkpoints.restore(layout.shapes, layout.shardings, report)
    if processes.is_main():
        workdir.write_experiment(path, e, inputs.family, inputs.config, inputs.digests)
    step = int(np.max(state.step)) if state else 0
    if state is None:
        if workdir.is_workdir(path) and (path / "metrics.jsonl").exists():
            report(f"{path} has no complete checkpoint; training restarts from step 0")
        # Start weights are an argument, so that the compiled program does not hold them.
        init = jax.jit(program.init, out_shardings=layout.shardings)
        state = init(layout.start_params)
    else:
        report(f"resumes from step {step} of {e.steps}")
    if e.profile and not step < parse_steps(e.profile)[0] <= e.steps:
        report(
            f"no step is traced: profile is {e.profile}, and steps {step + 1} to {e.steps} remain"
        )
    return Restored(checkpoints=checkpoints, state=state, step=step)


def make_trace(e: Experiment, path: Path, report: ReportLine) -> Trace | None:
    """Return the trace that the experiment asks for, in the main process."""
    if not (e.profile and processes.is_main()):
        return None
    return Trace(*parse_steps(e.profile), path / "profile", report)


def make_train_batch(
    e: Experiment,
    inputs: Inputs,
    teachers: StepTeachers,
    orders: list[Order],
    mesh: jax.sharding.Mesh,
) -> Callable[[int], Batch]:
    """Return the function from a step to its batch; labelled rows are grouped by length."""
    rows = inputs.store.train
    if e.task.rows:
        lanes = [Buckets(rows, order, e.batch_size) for order in orders]
        return batches.bucketed_train_batches(lanes, mesh)
    targets = teachers.targets.read if teachers.targets else None
    return batches.train_batches(rows, orders, e.batch_size, mesh, read_targets=targets)


def make_evaluate(
    program: Program, inputs: Inputs, references: FrozenModels, mesh: jax.sharding.Mesh
) -> Callable[[TrainState], dict[str, float]]:
    """Return the evaluation of one lane's student on the held-out rows."""
    evaluate = make_evaluator(
        program.experiment,
        program.parametrization.folded(inputs.config),
        inputs.models.references.values(),
        references.applies,
        inputs.store,
        mesh,
    )
    fold = jax.jit(program.fold) if program.parametrization.parts else program.fold
    return lambda state: evaluate(fold(state), references.params).metrics
