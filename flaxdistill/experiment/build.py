"""From an Experiment to live objects: the one file where data, models, losses and optimiser meet."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.data.length_buckets import Buckets
from flaxdistill.data.order import Order
from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.preparation.text import prepare
from flaxdistill.data.store import Store
from flaxdistill.data.tokenizer import load_vocabulary
from flaxdistill.experiment import checks, workdir
from flaxdistill.experiment.checks import check_kernels, check_losses, check_tensor
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.evaluator import freeze_teachers, make_evaluator
from flaxdistill.experiment.program import Program
from flaxdistill.experiment.serialization import to_json
from flaxdistill.experiment.student_config import resolve_student
from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.compatibility import presumed
from flaxdistill.hub.download import resolve
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.pytrees import Batch
from flaxdistill.runtime import gcs, gcs_paths, processes, sharding
from flaxdistill.runtime.backend import platform
from flaxdistill.tasks.base import Labelled
from flaxdistill.train import batches, sanity_checks, teacher_cache
from flaxdistill.train.checkpoint import Checkpoints
from flaxdistill.train.lanes import Lane
from flaxdistill.train.log import Log
from flaxdistill.train.loop import Run
from flaxdistill.train.profiler import Trace, read_steps

Report = Callable[[str], None]


def build(experiment: Experiment, path: Path, *, data: Path, report: Report) -> Run:
    """Make everything a run needs and make ``path`` its own; restores the newest checkpoint there.

    Blocks are kept in ``data`` where the experiment does not say.

    Raises UserError, before anything is written into ``path`` but prepared blocks, for whatever does not fit together.
    """
    e = experiment
    check(e)
    mesh = sharding.make_mesh(e.fsdp, e.tensor)
    references = {
        name: read(reference.path, path, report) for name, reference in e.reference_models().items()
    }
    for other in references.values():
        check_tensor(other.config, e.tensor, other.source)
    teacher, model = references.get("teacher"), next(iter(references.values()), None)
    start_path = e.start_path()
    same = e.teacher and start_path == e.teacher.path
    start = teacher if same else read(start_path, path, report) if start_path else None
    behind = references | ({"start": start} if start else {})
    inputs = {name: other.digest for name, other in behind.items()}
    like = start or model
    given = e.corpus.tokenizer or (str(like.directory) if like else None)
    resolve_student(
        e, references, start, load_vocabulary(given) if given else None, None
    )  # before any text is read
    with processes.in_turn("blocks"):
        store = prepare_blocks(
            e, data, like, report, lambda name: _check_blocks(path, e, inputs, name)
        )
    inputs = {"blocks": store.path.name} | inputs
    vocabulary = store.vocabulary()
    family, config = resolve_student(e, references, start, vocabulary, store.labels)
    for line in filter(None, (presumed(other, store.labels) for other in references.values())):
        report(line)

    reference_applies, reference_params = freeze_teachers(
        references.values(), e.reference_models().values(), mesh
    )
    teacher_applies, teacher_params = (reference_applies, reference_params) if teacher else ((), ())
    copied = start if start and e.student.start.layers != "random" else None

    # Even numbers for masks, odd ones for dropout: the two must never share a key.
    def prepare_in(lane: Lane) -> Callable[[Batch], Batch]:
        return e.task.make_prepare(vocabulary, store.counts, 2 * lane.seed)

    lanes = e.lanes()
    prepare_in(lanes[0])  # refuses now what would else be refused in the first step
    program = Program(
        experiment=e,
        config=config,
        copied=copied.config if copied else None,
        teachers=teacher_applies,
        teacher_params=teacher_params,
        prepare=prepare_in,
    )
    start_params = copied.params if copied else {}
    shapes = jax.eval_shape(program.init, start_params)
    shardings = sharding.state_shardings(shapes, mesh, len(lanes))
    weights = tuple(source.weight for source in e.corpus.sources)
    orders = [Order(tuple(map(len, store.train)), weights, lane.seed) for lane in lanes]

    # Stored answers take a teacher's place in the step; losses are made to the measure of the teacher itself.
    answering, answering_params, targets = teacher_applies, teacher_params, None
    if teacher and e.teacher and e.teacher.cache_top_k:
        kept = checks.cache_spec(
            e.losses,
            e.task,
            e.teacher.cache_top_k,
            student=config.num_layers,
            teacher=teacher.config.num_layers,
        )
        compute = teacher_cache.make_compute(teacher_applies[0], prepare_in(lanes[0]), kept)
        targets = teacher_cache.store_targets(
            gcs_paths.here(e.data_dir) if e.data_dir else data,
            _behind_targets(e, store, teacher, kept),
            compute,
            teacher_params[0],
            store.train,
            orders[0],
            mesh,
            needed=e.steps * e.batch_size,
            batch_size=e.eval_batch_size,
            report=report,
        )
        answering, answering_params = (teacher_cache.make_recall(kept),), ({},)

    examine: sanity_checks.Examine | None = None
    if e.sanity_checks and targets:  # the teacher is no part of the step
        examine = sanity_checks.make_watch
    elif e.sanity_checks:
        low = {
            operand_dtype(how)
            for how in (e.student.dtype, *(t.dtype for t in e.reference_models().values()))
        }
        examine = sanity_checks.make_examine(
            program.student,
            teacher_applies,
            prepare_in(lanes[0]),
            e.losses,
            mesh,
            every_token=e.task.head == "tokens",
            loose=platform() != "cpu" or jnp.bfloat16 in low,
        )
    with processes.in_turn("lock"):
        lock = workdir.lock(path, e, family, config, inputs, vocabulary, alone=processes.first())
    with contextlib.ExitStack() as undo:
        undo.callback(lock.close)
        checkpoints = Checkpoints(path)
        state = checkpoints.restore(shapes, shardings, report)
        if processes.first():
            workdir.record(path, e, family, config, inputs)
        latest = int(np.max(state.step)) if state else 0
        if state is None:
            if workdir.is_workdir(path) and (path / "metrics.jsonl").exists():
                report(f"{path} has no complete checkpoint; starts again from step 0")
            state = jax.jit(program.init, out_shardings=shardings)(start_params)
        else:
            report(f"goes on from step {latest} of {e.steps}")
        if e.profile and not latest < read_steps(e.profile)[0] <= e.steps:
            report(
                f"no step is traced: profile is {e.profile}, and steps {latest + 1} to {e.steps} are taken"
            )
        train_batch = (
            batches.bucketed_batches(
                [Buckets(store.train, order, e.batch_size) for order in orders], mesh
            )
            if isinstance(e.task, Labelled)
            else batches.train_batches(
                store.train,
                orders,
                e.batch_size,
                mesh,
                targets=targets.read if targets else None,
            )
        )
        reference = make_evaluator(e, config, references.values(), reference_applies, store, mesh)
        run = Run(
            mesh=mesh,
            step=sharding.jit_step(program.step(answering), shardings, mesh),
            keep=jax.jit(program.keep, donate_argnums=0, out_shardings=shardings),
            evaluate=lambda params: reference(params, reference_params).metrics,
            lanes=lanes,
            metric=e.task.metric,
            state=state,
            teacher_params=answering_params,
            examine=examine if latest < sanity_checks.STEPS else None,
            train_batch=train_batch,
            rates=[e.optim.schedule(e.steps, lane.learning_rate) for lane in lanes],
            lock=lock,
            checkpoints=checkpoints,
            log=Log(path, step=latest, writes=processes.first(), project=e.wandb),
            trace=Trace(*read_steps(e.profile), path / "profile", report) if e.profile else None,
            steps=e.steps,
            log_every=e.log_every,
            eval_every=e.eval_every,
            save_every=e.save_every,
        )
        undo.pop_all()
    return run


def check(e: Experiment) -> None:
    """Raise UserError for what can be known to be wrong before any model or text is read."""
    sharding.check_batch(e.batch_size, e.accumulate, sharding.make_mesh(e.fsdp, e.tensor))
    check_losses(e)
    if e.teacher and e.teacher.cache_top_k:
        checks.vocab_loss(e.losses, e.task)
    check_kernels(e)
    for path in (*(other.path for other in e.reference_models().values()), e.start_path()):
        if path and not path.startswith("@") and not workdir.is_workdir(gcs.local(path, gcs.RUN)):
            resolve(path)
    e.corpus.check()


def _check_blocks(path: Path, e: Experiment, inputs: dict[str, str], name: str) -> None:
    """Raise UserError where a run that goes on would do so with other blocks than its own, before they are written."""
    if workdir.is_workdir(path):
        workdir.check(path, e, inputs | {"blocks": name})


def prepare_blocks(
    e: Experiment,
    data: Path,
    model: Model | None,
    report: Report,
    check: Callable[[str], None] = lambda name: None,
) -> Store:
    """Prepare the corpus of an experiment, with the vocabulary of ``model`` where the config names none.

    ``check`` is asked before blocks of a name are written.
    """
    corpus, folder = e.corpus, gcs_paths.here(e.data_dir) if e.data_dir else data
    if isinstance(e.task, Labelled):
        if corpus.tokenizer is None and model is not None:
            corpus = dataclasses.replace(corpus, tokenizer=str(model.directory))
        return prepare_examples(
            corpus,
            e.task.row_builder(),
            folder,
            taught=e.teacher is not None,
            report=report,
            check=check,
        )
    if corpus.tokenizer is None and model is not None:
        # An earlier stage that trained its vocabulary on this very corpus has left blocks that fit as they are,
        # unless the text has changed since.
        if workdir.trained_on(model, corpus):
            store = prepare(corpus, folder, engine=e.engine, report=report)
            if store.vocabulary().digest == load_vocabulary(model.directory).digest:
                return store
        corpus = dataclasses.replace(corpus, tokenizer=str(model.directory))
    return prepare(corpus, folder, engine=e.engine, report=report, check=check)


def read(path: str, run: Path, report: Report = lambda line: None) -> Model:
    """Read a model by path, Hub id or, for a run in a row of stages, ``@stage``."""
    if path.startswith("@"):
        earlier = run.absolute().parent / path[1:]
        gcs.refresh(earlier)
        path = str(earlier)
    model = workdir.read_model(path)
    if model.note:
        report(f"{model.source}: {model.note}")
    return model


def _behind_targets(
    e: Experiment, store: Store, teacher: Model, what: teacher_cache.CacheSpec
) -> dict[str, Any]:
    """Name all that a teacher's stored answers depend on: rows, masks, teacher, and what is kept."""
    return {
        "blocks": store.path.name,
        "weights": [source.weight for source in e.corpus.sources],
        "seed": e.lanes()[0].seed,
        "task": to_json(e.task),
        "teacher": teacher.digest,
        "dtype": operand_dtype(e.teacher.dtype if e.teacher else "auto").name,
        "wanted": dataclasses.asdict(what),
    }
