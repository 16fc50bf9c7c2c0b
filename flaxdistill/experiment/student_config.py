"""The student's family, sizes and head, from its config and the model that it follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.experiment.checks import check_compared, check_pairs, check_tensor
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.init_params import init_params
from flaxdistill.experiment.model_configs import Student
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.compatibility import check_vocabulary
from flaxdistill.hub.families import family as find_family
from flaxdistill.hub.families import family_of
from flaxdistill.hub.families.base import Family
from flaxdistill.models.architecture import Architecture, make_frozen
from flaxdistill.models.bert import Bert
from flaxdistill.models.head import NO_HEAD, Head
from flaxdistill.models.parametrization import Chain

UNKNOWN_LABELS = ("", " ")
"""Placeholder for the labels of a model that is described before its rows are read."""


def resolve_student(
    e: Experiment,
    references: Mapping[str, Checkpoint],
    start: Checkpoint | None,
    vocabulary: Vocabulary | None,
    labels: tuple[str, ...] | None,
) -> tuple[Family | None, Architecture]:
    """Return the student's family and config, after checking that all models fit together.

    ``vocabulary`` and ``labels`` are None until the text is read, which may take hours: then only
    what does not depend on them is checked. Raises UserError naming what does not fit.
    """
    template = start or next(iter(references.values()), None)
    models = [*references.values(), *([start] if start else [])]
    check_pairs(e, [model.config for model in models])
    if vocabulary:
        for model in models:
            check_vocabulary(model, vocabulary)
    if e.teacher and vocabulary and e.teacher.cache_top_k > vocabulary.size:
        raise UserError(
            f"teacher.cache_top_k is {e.teacher.cache_top_k} and the vocabulary has "
            f"{vocabulary.size} tokens; use at most {vocabulary.size}"
        )
    known_labels = labels
    if labels is None:
        labels = known_labels = e.task.known_labels
        if labels is None:
            reference_labels = next((model.config.labels for model in references.values()), ())
            labels = reference_labels or UNKNOWN_LABELS
    vocab_size = template.config.vocab_size if template else e.corpus.vocab_size
    family, config = student_config(
        e.student,
        template,
        vocabulary.size if vocabulary else vocab_size,
        # A fine-tuned model without a reference keeps all layers.
        all_layers=e.task.rows is not None and not references,
        head=e.task.head(labels=labels),
    )
    check_compared("the student", config, references.values(), e.corpus.max_length, known_labels)
    check_tensor(config, e.tensor, "the student")
    _check_params(e, references, start, config)
    return family, config


def _check_params(
    e: Experiment,
    references: Mapping[str, Checkpoint],
    start: Checkpoint | None,
    config: Architecture,
) -> None:
    """Raise UserError for a start or losses that do not fit the models, without computing."""
    copied = start if e.student.start.layers != "random" else None
    teachers = (
        tuple(zip(references.values(), e.reference_models().values(), strict=True))
        if e.teacher
        else ()
    )
    applies = tuple(make_frozen(model.config, teacher.compute) for model, teacher in teachers)
    jax.eval_shape(
        lambda start_params, teacher_params: init_params(
            e,
            0,
            config,
            copied.config if copied else None,
            start_params,
            applies,
            teacher_params,
        ),
        copied.params if copied else {},
        tuple(model.params for model, _ in teachers),
    )


def student_config(
    student: Student,
    template: Checkpoint | None,
    vocab_size: int,
    *,
    all_layers: bool = False,
    head: Head = NO_HEAD,
) -> tuple[Family | None, Architecture]:
    """Return the student's family and architecture; sizes of None are those of ``template``.

    The number of layers is half of the template's, or all of them with ``all_layers``. The family
    is None for an architecture that none holds. Raises UserError for sizes that neither the config
    nor a template sets, and for a family that cannot hold the student.
    """
    if student.architecture is not None:
        config = dataclasses.replace(
            student.architecture,
            vocab_size=template.config.vocab_size if template else vocab_size,
            pad_id=template.config.pad_id if template else student.architecture.pad_id,
            head=head,
        )
        family = find_family(student.family) if student.family else family_of(config)
    else:
        name = template.family.model_type if template and template.family else "bert"
        family = find_family(student.family or name)
        config = family.student(
            template.config.resized(sizes_of(student), all_layers=all_layers)
            if template
            else _from_sizes(student, vocab_size),
            head,
            dropout=student.dropout,
            attention_dropout=student.attention_dropout,
        )
    if family:
        # Refuses now what could not be exported after the last step.
        family.check(Chain(student.parametrize).folded(config))
    return family, config


def sizes_of(student: Student) -> dict[str, int | None]:
    """Return the sizes that a config can set; None for those that it leaves out."""
    names = ("num_layers", "hidden_size", "num_heads", "intermediate_size", "max_positions")
    return {name: getattr(student, name) for name in names}


def _from_sizes(student: Student, vocab_size: int) -> Bert:
    sizes = sizes_of(student)
    missing = [
        f"student.{name}"
        for name, size in sizes.items()
        if size is None and name != "max_positions"
    ]
    if missing:
        raise UserError(
            f"{', '.join(missing)} must be given: there is no model to take the sizes from"
        )
    given_sizes: dict[str, Any] = {name: size for name, size in sizes.items() if size is not None}
    return Bert(vocab_size=vocab_size, **given_sizes)
