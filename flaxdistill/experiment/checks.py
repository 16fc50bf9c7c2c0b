"""What must fit together before a run begins: sizes, vocabularies, heads and losses."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jax
import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.experiment.config import Experiment, Student, Teacher
from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.compatibility import check_head
from flaxdistill.losses.base import Loss
from flaxdistill.losses.schedule import constant
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.config import EncoderConfig
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.runtime.backend import platform
from flaxdistill.tasks.base import Labelled, Task
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.teacher_cache import CacheSpec


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
    if e.teacher and e.teacher.cache_top_k and known == "answers":
        raise UserError(
            "teacher.cache_top_k keeps words of a text, and the task has other answers; set it to 0"
        )
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
    hows: dict[str, Teacher | Student] = {**e.reference_models(), "student": e.student}
    for name, how in hows.items():
        chosen = how.attention
        if chosen in ("auto", "xla"):
            continue
        backend, wanted = platform(), {"cudnn": "gpu", "splash": "tpu"}[chosen]
        if backend != wanted:
            raise UserError(
                f"{name}.attention {chosen} is for a {wanted} and this is a {backend}; use auto"
            )
        if chosen == "splash" and isinstance(e.task, Labelled):
            raise UserError(
                f"{name}.attention splash takes rows of 128 tokens, and labelled rows come in many lengths; use auto"
            )
        if chosen == "splash" and e.corpus.max_length % 128:
            raise UserError(
                f"{name}.attention splash takes blocks of 128 tokens and corpus.max_length is {e.corpus.max_length}; use auto"
            )
        if chosen == "cudnn" and operand_dtype(how.dtype) == np.float32:
            raise UserError(
                f"{name}.attention cudnn takes no float32; use auto, or {name}.dtype bfloat16"
            )
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


def check_compared(
    name: str,
    config: EncoderConfig,
    references: Collection[Model],
    length: int,
    labels: tuple[str, ...] | None,
) -> None:
    """Raise UserError unless a model and those it is compared with can all read the rows, and answer the same way."""
    longest = min(
        [config.max_positions] + [reference.config.max_positions for reference in references]
    )
    if length > longest:
        raise UserError(
            f"corpus.max_length {length} exceeds the {longest} positions of the models; use {longest} or less"
        )
    for reference in references:
        check_head(reference, config.head, labels)
        if reference.config.vocab_size != config.vocab_size:
            raise UserError(
                f"{name} has {config.vocab_size} word embeddings and {reference.source} has {reference.config.vocab_size}; let it "
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


def vocab_loss(losses: Mapping[str, Loss], task: Task) -> VocabKD:
    """Find the loss that reads the words; raises UserError for losses, or masks, that cannot live from stored answers."""
    if isinstance(task, MLM) and task.scope != "row":
        raise UserError(
            f"teacher.cache_top_k answers to masks that depend on a row alone, and task.scope is {task.scope}; use row, or "
            "set teacher.cache_top_k to 0"
        )
    found = [
        loss for loss in (named.bare() for named in losses.values()) if isinstance(loss, VocabKD)
    ]
    if len(found) != 1 or not found[0].temperature.constant:
        raise UserError(
            "teacher.cache_top_k keeps words at one temperature: it needs one VocabKD loss whose temperature never moves; set "
            "it to 0 for others"
        )
    if found[0].divergence != "kl":
        raise UserError(
            f"teacher.cache_top_k keeps the likeliest words, which make no {found[0].divergence}; use the divergence kl, or "
            "set teacher.cache_top_k to 0"
        )
    return found[0]


def cache_spec(
    losses: Mapping[str, Loss], task: Task, k: int, *, student: int, teacher: int
) -> CacheSpec:
    """Settle what the losses need of a teacher, by both numbers of layers; raises UserError as ``vocab_loss`` does."""
    vocab = vocab_loss(losses, task)
    reads = {name: loss.reads(student, teacher) for name, loss in losses.items()}
    for name, loss in losses.items():
        if loss.needs_teacher and not reads[name]:
            raise UserError(
                f"losses.{name} does not say what it reads of a teacher, so that teacher.cache_top_k cannot keep it; give its "
                "class a reads(), or set teacher.cache_top_k to 0"
            )
    return CacheSpec(
        k=k,
        temperature=vocab.temperature.start,
        masked=vocab.tokens == "masked",
        states=tuple(sorted(frozenset().union(*reads.values()) - {"vocab"})),
        layers=teacher,
    )
