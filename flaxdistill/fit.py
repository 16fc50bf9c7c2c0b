"""What must fit together before a run begins: sizes, vocabularies, heads and losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import jax
import numpy as np

from flaxdistill.beginning import first_params
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.experiment import Experiment, Student, Teacher
from flaxdistill.families import family as find_family
from flaxdistill.families.base import Family
from flaxdistill.hardware import platform
from flaxdistill.hub import Model
from flaxdistill.losses.vocab import MaskedLM
from flaxdistill.models.config import EncoderConfig, Head
from flaxdistill.models.encoder import make_frozen
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.schedule import constant
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.mlm import MLM

UNSETTLED = ("", " ")
"""Stand for the labels of a model that is made from sizes, until its rows have told them."""


def settle(
    e: Experiment,
    judges: Mapping[str, Model],
    start: Model | None,
    vocabulary: Vocabulary | None,
    labels: tuple[str, ...] | None,
) -> tuple[Family, EncoderConfig]:
    """Settle the student's family and config, and make sure that everything fits it.

    Where vocabulary and labels are still in text that nobody has read, None, what does not depend on them must fit already:
    reading may take hours. Raises UserError naming what does not.
    """
    like = start or next(iter(judges.values()), None)
    behind = [*judges.values(), *([start] if start else [])]
    check_pairs(e, [model.config for model in behind])
    if vocabulary:
        for model in behind:
            check_vocabulary(model, vocabulary)
    if e.teacher and vocabulary and e.teacher.offline > vocabulary.size:
        raise UserError(
            f"teacher.offline is {e.teacher.offline} and the vocabulary has {vocabulary.size} words; keep no more"
        )
    known = labels
    if labels is None:
        known = e.task.known_labels if isinstance(e.task, Labelled) else ()
        theirs = next((judge.config.labels for judge in judges.values()), ())
        labels = known if known is not None else theirs or UNSETTLED
    family, config = student_config(
        e.student,
        like,
        vocabulary.size if vocabulary else like.config.vocab_size if like else e.corpus.vocab_size,
        whole=isinstance(e.task, Labelled) and not judges,  # fine-tuned, with nobody to be smaller than
        head=e.task.head,
        labels=labels,
    )
    check_compared("the student", config, judges.values(), e.corpus.length, known)
    check_tensor(config, e.tensor, "the student")
    copied = start if e.student.start.layers != "random" else None
    teachers = tuple(zip(judges.values(), e.compared().values(), strict=True)) if e.teacher else ()
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
            f"student.{name}" for name, size in sizes.items() if size is None and name != "max_positions"
        ]
        if missing:
            raise UserError(f"{', '.join(missing)} must be given: there is no model to take the sizes from")
        base = EncoderConfig(vocab_size=vocab_size, **{n: s for n, s in sizes.items() if s is not None})
    else:
        layers = like.config.num_layers if whole else (like.config.num_layers + 1) // 2
        # Until its own head is known: the other model's may have labels that this one has not.
        base = dataclasses.replace(like.config, num_layers=layers, head="none", labels=())
        if (width := student.hidden_size) and width != base.hidden_size:
            of = base.hidden_size
            heads, inner = base.num_heads * width // of, base.intermediate_size * width // of
            sizes["num_heads"] = sizes["num_heads"] or max(heads, 1)
            sizes["intermediate_size"] = sizes["intermediate_size"] or max(inner, 1)
        base = dataclasses.replace(base, **{name: size for name, size in sizes.items() if size is not None})
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


def check_losses(e: Experiment) -> None:
    """Raise UserError for two losses of one term, and for a loss that lacks its teacher."""
    step = jax.ShapeDtypeStruct((), np.int32)
    terms = [term for loss in e.losses.values() for term in jax.eval_shape(loss.weights, step)]
    twice = sorted({term for term in terms if terms.count(term) > 1})
    if twice:
        raise UserError(
            f"two losses have a term {', '.join(twice)}, and one would hide the other; keep one of them"
        )
    known = "words" if e.task.head == "mlm" else "answers"
    for name, loss in e.losses.items():
        if loss.about not in ("states", known) or (
            known == "answers" and getattr(loss, "tokens", "") == "masked"
        ):
            says = {"words": "words that a text hides", "answers": "answers of a labelled task"}
            raise UserError(
                f"losses.{name} is about {says['words' if known == 'answers' else 'answers']}, but the task, "
                f"{type(e.task).__name__}, is about {says[known]}; drop the loss, or set another task"
            )
    if e.teacher and e.teacher.offline and known == "answers":
        raise UserError("teacher.offline keeps words of a text, and the task has other answers; set it to 0")
    predicts = any(
        isinstance(loss, MaskedLM) or getattr(loss, "mlm", constant(0)) != constant(0)
        for loss in (named.bare() for named in e.losses.values())
    )
    if isinstance(e.task, MLM) and e.task.rate == 0 and predicts:
        raise UserError(
            "task.rate is 0, which masks nothing, but a loss predicts the masked tokens; set the rate to 0.15, or drop "
            "the loss"
        )
    for name, loss in e.losses.items():
        if loss.needs_teacher and e.teacher is None:
            raise UserError(
                f"losses.{name} compares with a teacher, but the experiment has none; name one or drop the loss"
            )


def check_kernels(e: Experiment) -> None:
    """Raise UserError for an attention kernel that this device, these blocks or this dropout cannot use."""
    hows: dict[str, Teacher | Student] = {**e.compared(), "student": e.student}
    for name, how in hows.items():
        chosen = how.attention
        if chosen in ("auto", "xla"):
            continue
        backend, wanted = platform(), {"cudnn": "gpu", "splash": "tpu"}[chosen]
        if backend != wanted:
            raise UserError(f"{name}.attention {chosen} is for a {wanted} and this is a {backend}; use auto")
        if chosen == "splash" and isinstance(e.task, Labelled):
            raise UserError(
                f"{name}.attention splash takes rows of 128 tokens, and labelled rows come in many lengths; use auto"
            )
        if chosen == "splash" and e.corpus.length % 128:
            raise UserError(
                f"{name}.attention splash takes blocks of 128 tokens and corpus.length is {e.corpus.length}; use auto"
            )
        if chosen == "cudnn" and operand_dtype(how.dtype) == np.float32:
            raise UserError(f"{name}.attention cudnn takes no float32; use auto, or {name}.dtype bfloat16")
    if e.student.attention in ("cudnn", "splash") and e.student.attention_dropout:
        raise UserError(
            f"student.attention {e.student.attention} knows no dropout and student.attention_dropout is "
            f"{e.student.attention_dropout}; set it to 0, or use auto"
        )


def check_tensor(config: EncoderConfig, tensor: int, name: str) -> None:
    """Raise UserError unless an encoder's heads and inner width can be dealt out to ``tensor`` devices."""
    for what, size in (("heads", config.num_heads), ("inner width", config.intermediate_size)):
        if size % tensor:
            raise UserError(
                f"tensor {tensor} does not divide the {what} of {name}, {size}; choose another tensor, or 1"
            )


def check_vocabulary(model: Model, vocabulary: Vocabulary) -> None:
    """Raise UserError unless a model reads the vocabulary that the blocks are written in."""
    theirs = load_vocabulary(str(model.directory))
    if theirs.digest != vocabulary.digest:
        raise UserError(
            f"{model.source} has a vocabulary of {theirs.size} words and the corpus is written in another one of "
            f"{vocabulary.size}: leave corpus.tokenizer unset to use the model's, or choose models that share one"
        )
    if model.config.vocab_size < vocabulary.size:
        raise UserError(
            f"{model.source} has {model.config.vocab_size} word embeddings for a vocabulary of {vocabulary.size}; its "
            "tokenizer and weights do not belong together"
        )


def check_head(model: Model, head: Head, labels: tuple[str, ...] | None = ()) -> None:
    """Raise UserError where a model has no logits that mean what they must: of words, or of classes with their names.

    Of labels that are not known yet, None, nothing is asked.
    """
    if model.config.head != head:
        named = "masked-LM" if head == "mlm" else head
        kind = model.family.architectures[head]
        raise UserError(f"{model.source} has no {named} head; choose a {kind} checkpoint of it")
    theirs = model.config.labels
    # One output is a number, whatever it is called.
    fits = len(theirs) == len(labels or ()) and (len(theirs) == 1 or _unnamed(theirs))
    if labels is not None and theirs != labels and not fits:
        raise UserError(
            f"{model.source} chooses between {', '.join(theirs)} and the data between {', '.join(labels)}, in this order; "
            "write the labels in the data, and their order in task.labels, as the model has them, or train a teacher on "
            "this data"
        )


def reordered(model: Model, labels: tuple[str, ...]) -> Model:
    """Give a model whose classes stand in the order of ``labels``, if these are its own in another order."""
    theirs = model.config.labels
    if theirs == labels or sorted(theirs) != sorted(labels):
        return model
    order = [theirs.index(label) for label in labels]
    classifier = {name: np.asarray(leaf)[..., order] for name, leaf in model.params["classifier"].items()}
    config = dataclasses.replace(model.config, labels=labels)
    return dataclasses.replace(model, config=config, params=model.params | {"classifier": classifier})


def presumed(model: Model, labels: tuple[str, ...]) -> str | None:
    """Say what classes without names are taken for; None where the model names its own, or they are 0, 1, 2, ..."""
    if not _unnamed(model.config.labels) or labels == tuple(map(str, range(len(labels)))):
        return None
    return f"{model.source} names none of its classes; they are taken for {', '.join(labels)}, in this order"


def _unnamed(labels: tuple[str, ...]) -> bool:
    """Tell whether classes are called as `transformers` calls those without names."""
    return len(labels) > 1 and all(name == f"LABEL_{i}" for i, name in enumerate(labels))


def check_compared(
    name: str,
    config: EncoderConfig,
    judges: Collection[Model],
    length: int,
    labels: tuple[str, ...] | None,
) -> None:
    """Raise UserError unless a model and those it is compared with can all read the rows, and answer the same way."""
    longest = min([config.max_positions] + [judge.config.max_positions for judge in judges])
    if length > longest:
        raise UserError(
            f"corpus.length {length} exceeds the {longest} positions of the models; use {longest} or less"
        )
    for judge in judges:
        check_head(judge, config.head, labels)
        if judge.config.vocab_size != config.vocab_size:
            raise UserError(
                f"{name} has {config.vocab_size} word embeddings and {judge.source} has {judge.config.vocab_size}; let it "
                "start from that model, or drop one of the two"
            )


def check_pairs(e: Experiment, configs: Collection[EncoderConfig]) -> None:
    """Raise UserError for pairs of texts that a model with one token type cannot tell apart."""
    pairs = isinstance(e.task, Labelled) and any(source.pair for source in e.corpus.sources)
    if pairs and any(config.type_vocab_size == 1 for config in configs):
        raise UserError(
            "the rows hold pairs of texts, and a model has one token type (type_vocab_size 1); use another model, or leave "
            "source.pair out"
        )
