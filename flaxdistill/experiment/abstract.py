"""A run known from sizes alone: shapes instead of weights, for plans and checks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.experiment import checks, run_models, student_config
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import stage_name
from flaxdistill.experiment.program import Program
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.models.architecture import make_frozen, shapes_of
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.pytrees import Batch
from flaxdistill.runtime.backend import platform
from flaxdistill.runtime.costs import Cost, cost
from flaxdistill.runtime.sharding import Rules
from flaxdistill.train.batches import abstract_batch
from flaxdistill.train.lanes import Lane


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractRun:
    """A run of which no weight exists: a student without parameters and a program."""

    student: Checkpoint
    program: Program
    teacher_rules: tuple[Rules, ...]
    """The sharding rules of each teacher."""

    @functools.cached_property
    def state(self) -> Any:
        """The first state, with ``ShapeDtypeStruct`` leaves."""
        copied = self.program.copied
        return jax.eval_shape(self.program.init, shapes_of(copied) if copied else {})


def abstract_run(e: Experiment, earlier: Mapping[str, Checkpoint]) -> AbstractRun:
    """Resolve all sizes of an experiment from config files alone.

    ``earlier`` maps earlier stages to their students. Raises UserError for what does not fit.
    """
    checks.check_losses(e)
    checks.check_kernels(e)
    if platform() == "gpu":  # GPU kernels cannot be traced on other platforms
        e = _with_attention(e, "xla")
    references = {
        role: _describe(e, reference.path, earlier)
        for role, reference in e.reference_models().items()
    }
    start_path = e.start_path()
    start = _describe(e, start_path, earlier) if start_path else None
    for reference in references.values():
        checks.check_tensor(reference.config, e.tensor, reference.source)
    tokenizer = e.corpus.tokenizer if not (start or references) else None
    vocabulary = load_vocabulary(tokenizer) if tokenizer else None
    family, config = student_config.resolve_student(e, references, start, vocabulary, None)
    applies, params = _abstract_teachers(e, references)
    program = Program(
        experiment=e,
        config=config,
        copied=start.config if start and e.student.start.layers != "random" else None,
        teachers=applies,
        teacher_params=params,
        prepare=_abstract_prepare(e, config.vocab_size),
    )
    student = Checkpoint("the student", family, config, {}, Path(), "", "")
    return AbstractRun(
        student=student,
        program=program,
        teacher_rules=tuple(model.config.sharding for model in references.values()),
    )


def step_cost(run: AbstractRun, rows: int) -> Cost:
    """Count the cost of a step of ``rows`` rows of full length on one device, for all lanes."""
    program = run.program
    step = program.step(program.teachers)
    return cost(step, run.state, program.teacher_params, batch_shapes(program, rows))


def batch_shapes(program: Program, rows: int) -> Batch:
    """Return the shapes of a batch of ``rows`` rows of full length, for all lanes."""
    e, length, labels = program.experiment, program.experiment.corpus.max_length, None
    if e.task.rows:
        size = program.config.head.num_predictions(length)
        labels = jax.ShapeDtypeStruct((1, size), e.task.rows.label_dtype)
    lanes = (len(e.lanes()),) if len(e.lanes()) > 1 else ()
    row = abstract_batch(length, labels)
    return jax.tree.map(lambda x: x.update(shape=(*lanes, rows, *x.shape[1:])), row)


def _describe(e: Experiment, path: str, earlier: Mapping[str, Checkpoint]) -> Checkpoint:
    """Describe a model by path or stage, with shapes as its parameters."""
    stage = stage_name(path)
    model = run_models.describe(path) if stage is None else earlier[stage]
    config = model.config
    labels = e.task.known_labels
    # An earlier stage that has not read its rows learns the labels that this one names.
    if config.labels == student_config.UNKNOWN_LABELS and labels:
        head = dataclasses.replace(config.head, labels=labels)
        config = dataclasses.replace(config, head=head)
    return dataclasses.replace(model, config=config, params=shapes_of(config))


def _abstract_teachers(e: Experiment, references: Mapping[str, Checkpoint]) -> tuple[Any, Any]:
    """Return the forward passes of the teachers and the shapes of their weights."""
    applies, params = [], []
    for role, teacher in e.reference_models().items() if e.teacher else ():
        model, dtype = references[role], operand_dtype(teacher.dtype)
        applies.append(make_frozen(model.config, teacher.compute))
        params.append(
            jax.tree.map(lambda leaf, dtype=dtype: leaf.update(dtype=dtype), model.params)
        )
    return tuple(applies), tuple(params)


def _with_attention(e: Experiment, attention: Attention) -> Experiment:
    replace = functools.partial(dataclasses.replace, attention=attention)
    return dataclasses.replace(
        e,
        student=replace(e.student),
        teacher=replace(e.teacher) if e.teacher else None,
        ensemble={name: replace(teacher) for name, teacher in e.ensemble.items()},
    )


def _abstract_prepare(e: Experiment, vocab_size: int) -> Any:
    """Return the task's preparation of batches for a vocabulary of this size without tokens."""
    special = dict(pad=0, unk=1, cls=2, sep=3, mask=4)
    vocabulary = Vocabulary(
        tokenizer=None,
        encoder=None,
        size=vocab_size,
        special_ids=tuple(special.values()),
        digest="",
        config={},
        **special,
    )
    task: Any = e.task
    if getattr(task, "whole_words", False):  # needs tokens, and costs nothing that counts
        task = dataclasses.replace(task, whole_words=False)

    def prepare(lane: Lane) -> Any:
        return task.make_prepare(vocabulary, lambda: np.ones(vocab_size), 2 * lane.seed)

    return prepare
