"""The student's family, sizes and head, from its config and the model that it follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.experiment.checks import check_compared, check_pairs, check_tensor
from flaxdistill.experiment.config import Experiment, Student
from flaxdistill.experiment.init_params import init_params
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.compatibility import check_vocabulary
from flaxdistill.hub.families import family as find_family
from flaxdistill.hub.families.base import Family
from flaxdistill.models.config import EncoderConfig, Head
from flaxdistill.models.encoder import make_frozen
from flaxdistill.tasks.base import Labelled

UNKNOWN_LABELS = ("", " ")
"""Placeholder for the labels of a model that is described before its rows are read."""


def resolve_student(
    e: Experiment,
    references: Mapping[str, Checkpoint],
    start: Checkpoint | None,
    vocabulary: Vocabulary | None,
    labels: tuple[str, ...] | None,
) -> tuple[Family, EncoderConfig]:
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
        known_labels = e.task.known_labels if isinstance(e.task, Labelled) else ()
        labels = known_labels
        if labels is None:
            reference_labels = next((model.config.labels for model in references.values()), ())
            labels = reference_labels or UNKNOWN_LABELS
    vocab_size = template.config.vocab_size if template else e.corpus.vocab_size
    family, config = student_config(
        e.student,
        template,
        vocabulary.size if vocabulary else vocab_size,
        # A fine-tuned model without a reference keeps all layers.
        all_layers=isinstance(e.task, Labelled) and not references,
        head=e.task.head,
        labels=labels,
    )
    check_compared("the student", config, references.values(), e.corpus.max_length, known_labels)
    check_tensor(config, e.tensor, "the student")
    _check_params(e, references, start, config)
    return family, config


def _check_params(
    e: Experiment,
    references: Mapping[str, Checkpoint],
    start: Checkpoint | None,
    config: EncoderConfig,
) -> None:
    """Raise UserError for a start or losses that do not fit the models, without computing."""
    copied = start if e.student.start.layers != "random" else None
    teachers = (
        tuple(zip(references.values(), e.reference_models().values(), strict=True))
        if e.teacher
        else ()
    )
    applies = tuple(
        make_frozen(model.config, teacher.dtype, teacher.attention) for model, teacher in teachers
    )
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
    head: Head = "mlm",
    labels: tuple[str, ...] = (),
) -> tuple[Family, EncoderConfig]:
    """Return the student's family and config; sizes of None are those of ``template``.

    The number of layers is half of the template's, or all of them with ``all_layers``. Raises
    UserError for sizes that neither the config nor a template sets.
    """
    family = find_family(student.family or (template.family.model_type if template else "bert"))
    base = (
        _scaled(student, template.config, all_layers=all_layers)
        if template
        else _from_sizes(student, vocab_size)
    )
    token_types = (base.type_vocab_size or 2) if family.token_type_ids else 0
    config = dataclasses.replace(
        base,
        type_vocab_size=token_types,
        dropout=student.dropout,
        attention_dropout=student.attention_dropout,
        head=head,
        labels=labels,
        pooler=head == "sequence",
        pooler_activation=family.pooler_activation if head == "sequence" else "tanh",
    )
    # Refuses now what could not be exported after the last step.
    family.write_config(config)
    return family, config


def _sizes(student: Student) -> dict[str, int | None]:
    names = ("num_layers", "hidden_size", "num_heads", "intermediate_size", "max_positions")
    return {name: getattr(student, name) for name in names}


def _from_sizes(student: Student, vocab_size: int) -> EncoderConfig:
    sizes = _sizes(student)
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
    return EncoderConfig(vocab_size=vocab_size, **given_sizes)


def _scaled(student: Student, template: EncoderConfig, *, all_layers: bool) -> EncoderConfig:
    sizes: dict[str, Any] = _sizes(student)
    layers = template.num_layers if all_layers else (template.num_layers + 1) // 2
    # The template's head may have labels that the student does not have.
    base = dataclasses.replace(template, num_layers=layers, head="none", labels=())
    if (width := student.hidden_size) and width != base.hidden_size:
        heads = base.num_heads * width // base.hidden_size
        inner = base.intermediate_size * width // base.hidden_size
        sizes["num_heads"] = sizes["num_heads"] or max(heads, 1)
        sizes["intermediate_size"] = sizes["intermediate_size"] or max(inner, 1)
    return dataclasses.replace(
        base, **{name: size for name, size in sizes.items() if size is not None}
    )
