"""A run from sizes alone (eval_shape)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.experiment import checks, student_config, workdir
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.program import Program
from flaxdistill.hub import checkpoint
from flaxdistill.models.encoder import make_frozen, shapes_of
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.runtime.backend import platform
from flaxdistill.runtime.costs import Cost, cost
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.text_classification import Regression
from flaxdistill.train.batches import abstract_batch
from flaxdistill.train.lanes import Lane


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sketch:
    """A run known by its sizes: no weight of it exists."""

    student: checkpoint.Model
    program: Program

    @functools.cached_property
    def state(self) -> Any:
        """Give the first state, with ``ShapeDtypeStruct`` leaves."""
        copied = self.program.copied
        return jax.eval_shape(self.program.init, shapes_of(copied) if copied else {})


def sketch(e: Experiment, earlier: Mapping[str, checkpoint.Model]) -> Sketch:
    """Settle all sizes of an experiment from config files alone; ``earlier`` are the students of its earlier stages.

    Raises UserError for what does not fit together.
    """
    checks.check_losses(e)
    checks.check_kernels(e)
    if platform() == "gpu":  # whose own kernels cannot even be traced elsewhere
        e = _with_attention(e, "xla")

    known = e.task.known_labels if isinstance(e.task, Labelled) else ()

    def described(path: str) -> checkpoint.Model:
        model = earlier[path[1:]] if path.startswith("@") else workdir.describe(path)
        config = model.config
        if (
            config.labels == student_config.UNKNOWN_LABELS and known
        ):  # by an earlier stage, and named by this one
            config = dataclasses.replace(config, labels=known)
        return dataclasses.replace(model, config=config, params=shapes_of(config))

    references = {name: described(how.path) for name, how in e.reference_models().items()}
    start_path = e.start_path()
    start = described(start_path) if start_path else None
    for reference in references.values():
        checks.check_tensor(reference.config, e.tensor, reference.source)
    given = e.corpus.tokenizer
    words = load_vocabulary(given) if given and not (start or references) else None
    family, config = student_config.resolve_student(e, references, start, words, None)
    hows = e.reference_models() if e.teacher else {}
    applies, params = [], []
    for name, how in hows.items():
        applies.append(make_frozen(references[name].config, how.dtype, how.attention))
        low = operand_dtype(how.dtype)
        params.append(
            jax.tree.map(lambda leaf, low=low: leaf.update(dtype=low), references[name].params)
        )
    copied = start.config if start and e.student.start.layers != "random" else None
    program = Program(
        experiment=e,
        config=config,
        copied=copied,
        teachers=tuple(applies),
        teacher_params=tuple(params),
        prepare=_masks(e, config.vocab_size),
    )
    student = checkpoint.Model("the student", family, config, {}, Path(), "", "")
    return Sketch(student=student, program=program)


def step_cost(run: Sketch, rows: int) -> Cost:
    """Count what a step of ``rows`` rows of the longest length costs one device, all lanes together."""
    program = run.program
    return cost(
        program.step(program.teachers), run.state, program.teacher_params, _batch(program, rows)
    )


def _with_attention(e: Experiment, attention: Attention) -> Experiment:
    set_ = functools.partial(dataclasses.replace, attention=attention)
    return dataclasses.replace(
        e,
        student=set_(e.student),
        teacher=set_(e.teacher) if e.teacher else None,
        ensemble={name: set_(teacher) for name, teacher in e.ensemble.items()},
    )


def _masks(e: Experiment, size: int) -> Any:
    """Make what prepares batches, with a vocabulary of the right size and no words."""
    special = dict(pad=0, unk=1, cls=2, sep=3, mask=4)
    words = Vocabulary(
        tokenizer=None,
        size=size,
        special_ids=tuple(special.values()),
        digest="",
        config={},
        **special,
    )
    task: Any = e.task
    if getattr(task, "whole_words", False):  # which takes words, and costs nothing that counts
        task = dataclasses.replace(task, whole_words=False)

    def prepare(lane: Lane) -> Any:
        return task.make_prepare(words, lambda: np.ones(size), 2 * lane.seed)

    return prepare


def _batch(program: Program, rows: int) -> Any:
    """Describe a batch of ``rows`` of the longest rows there are, for all lanes."""
    e, length, labels = program.experiment, program.experiment.corpus.max_length, None
    if isinstance(e.task, Labelled):
        asked = {"sequence": 1, "tokens": length, "span": 2}[e.task.head]
        labels = jax.ShapeDtypeStruct(
            (1, asked), np.float32 if isinstance(e.task, Regression) else np.int32
        )
    lanes = (len(e.lanes()),) if len(e.lanes()) > 1 else ()
    row = abstract_batch(length, labels)
    return jax.tree.map(lambda x: x.update(shape=(*lanes, rows, *x.shape[1:])), row)
