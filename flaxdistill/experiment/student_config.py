"""The sizes of a student, from config and teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.experiment.checks import check_compared, check_pairs, check_tensor
from flaxdistill.experiment.config import Experiment, Student
from flaxdistill.experiment.init_params import first_params
from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.compatibility import check_vocabulary
from flaxdistill.hub.families import family as find_family
from flaxdistill.hub.families.base import Family
from flaxdistill.models.config import EncoderConfig, Head
from flaxdistill.models.encoder import make_frozen
from flaxdistill.tasks.base import Labelled

UNKNOWN_LABELS = ("", " ")
"""Stand for the labels of a model that is made from sizes, until its rows have told them."""


def resolve_student(
    e: Experiment,
    references: Mapping[str, Model],
    start: Model | None,
    vocabulary: Vocabulary | None,
    labels: tuple[str, ...] | None,
) -> tuple[Family, EncoderConfig]:
    """Settle the student's family and config, and make sure that everything fits it.

    Where vocabulary and labels are still in text that nobody has read, None, what does not depend on them must fit already:
    reading may take hours. Raises UserError naming what does not.
    """
    like = start or next(iter(references.values()), None)
    behind = [*references.values(), *([start] if start else [])]
    check_pairs(e, [model.config for model in behind])
    if vocabulary:
        for model in behind:
            check_vocabulary(model, vocabulary)
    if e.teacher and vocabulary and e.teacher.cache_top_k > vocabulary.size:
        raise UserError(
            f"teacher.cache_top_k is {e.teacher.cache_top_k} and the vocabulary has {vocabulary.size} words; keep no more"
        )
    known = labels
    if labels is None:
        known = e.task.known_labels if isinstance(e.task, Labelled) else ()
        theirs = next((reference.config.labels for reference in references.values()), ())
        labels = known if known is not None else theirs or UNKNOWN_LABELS
    family, config = student_config(
        e.student,
        like,
        vocabulary.size if vocabulary else like.config.vocab_size if like else e.corpus.vocab_size,
        whole=isinstance(e.task, Labelled)
        and not references,  # fine-tuned, with nobody to be smaller than
        head=e.task.head,
        labels=labels,
    )
    check_compared("the student", config, references.values(), e.corpus.max_length, known)
    check_tensor(config, e.tensor, "the student")
    copied = start if e.student.start.layers != "random" else None
    teachers = (
        tuple(zip(references.values(), e.reference_models().values(), strict=True))
        if e.teacher
        else ()
    )
    jax.eval_shape(
        lambda start_params, teacher_params: first_params(
            e,
            0,
            config,
            copied.config if copied else None,
            start_params,
            tuple(make_frozen(model.config, how.dtype, how.attention) for model, how in teachers),
            teacher_params,
        ),
        copied.params if copied else {},
        tuple(model.params for model, _ in teachers),
    )
    return family, config


def student_config(
    student: Student,
    like: Model | None,
    vocab_size: int,
    *,
    whole: bool = False,
    head: Head = "mlm",
    labels: tuple[str, ...] = (),
) -> tuple[Family, EncoderConfig]:
    """Settle the student's family, sizes and head; raises UserError naming what neither the config nor a model says.

    Where its number of layers is not given, it has half of the model's it is like, or, as a ``whole``, all.
    """
    names = ("num_layers", "hidden_size", "num_heads", "intermediate_size", "max_positions")
    sizes = {name: getattr(student, name) for name in names}
    family = find_family(student.family or (like.family.model_type if like else "bert"))
    if like is None:
        missing = [
            f"student.{name}"
            for name, size in sizes.items()
            if size is None and name != "max_positions"
        ]
        if missing:
            raise UserError(
                f"{', '.join(missing)} must be given: there is no model to take the sizes from"
            )
        base = EncoderConfig(
            vocab_size=vocab_size, **{n: s for n, s in sizes.items() if s is not None}
        )
    else:
        layers = like.config.num_layers if whole else (like.config.num_layers + 1) // 2
        # Until its own head is known: the other model's may have labels that this one has not.
        base = dataclasses.replace(like.config, num_layers=layers, head="none", labels=())
        if (width := student.hidden_size) and width != base.hidden_size:
            of = base.hidden_size
            heads, inner = base.num_heads * width // of, base.intermediate_size * width // of
            sizes["num_heads"] = sizes["num_heads"] or max(heads, 1)
            sizes["intermediate_size"] = sizes["intermediate_size"] or max(inner, 1)
        base = dataclasses.replace(
            base, **{name: size for name, size in sizes.items() if size is not None}
        )
    types = (base.type_vocab_size or 2) if family.token_type_ids else 0
    config = dataclasses.replace(
        base,
        type_vocab_size=types,
        dropout=student.dropout,
        attention_dropout=student.attention_dropout,
        head=head,
        labels=labels,
        pooler=head == "sequence",
        pooler_activation=family.pooler_activation if head == "sequence" else "tanh",
    )
    family.write_config(config)  # refuses now what could not be exported after the last step
    return family, config
