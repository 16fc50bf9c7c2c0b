"""What must fit together before a run starts: losses, kernels, sizes and vocabularies."""

from __future__ import annotations

from collections.abc import Collection

import jax
import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Student, Teacher
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.compatibility import check_head
from flaxdistill.models.architecture import Architecture
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.pytrees import Feature
from flaxdistill.runtime.backend import platform

OUTPUTS = {Feature.VOCAB: "masked-LM logits", Feature.LOGITS: "the logits of a labelled task"}
"""Error texts for the outputs of heads."""


def check_losses(e: Experiment) -> None:
    """Raise UserError for losses that do not fit each other, the task or the teacher."""
    step = jax.ShapeDtypeStruct((), np.int32)
    terms = [term for loss in e.losses.values() for term in jax.eval_shape(loss.weights, step)]
    duplicates = sorted({term for term in terms if terms.count(term) > 1})
    if duplicates:
        raise UserError(
            f"two losses have a term {', '.join(duplicates)}, and one would hide the other; "
            "remove one of them"
        )
    _check_outputs(e)
    if not e.task.masks and any(loss.needs_masks for loss in e.losses.values()):
        raise UserError(
            "task.rate is 0, which masks nothing, but a loss predicts the masked tokens; set the "
            "rate to 0.15, or remove the loss"
        )
    for name, loss in e.losses.items():
        if loss.needs_teacher and e.teacher is None:
            raise UserError(
                f"losses.{name} compares with a teacher, but the experiment has none; add one or "
                "remove the loss"
            )


def _check_outputs(e: Experiment) -> None:
    """Raise UserError for a loss, or a cache, of outputs that the task's head does not have."""
    provided = e.task.head.feature
    for name, loss in e.losses.items():
        others = (loss.needs & set(OUTPUTS)) - {provided}
        if loss.needs_masks and provided is not Feature.VOCAB:
            others = frozenset({Feature.VOCAB})
        if others:
            needed = " and ".join(OUTPUTS[other] for other in others)
            raise UserError(
                f"losses.{name} needs {needed}, but the task, {type(e.task).__name__}, gives "
                f"{OUTPUTS.get(provided, provided.value)}; remove the loss, or set another task"
            )
    reason = e.task.uncacheable()
    if e.teacher and e.teacher.cache_top_k and reason:
        raise UserError(reason)


def check_kernels(e: Experiment) -> None:
    """Raise UserError for an attention kernel that does not fit the device, rows or dropout."""
    models: dict[str, Teacher | Student] = {**e.reference_models(), "student": e.student}
    for name, model in models.items():
        kernel = model.attention
        if kernel in ("auto", "xla"):
            continue
        backend, required = platform(), {"cudnn": "gpu", "splash": "tpu"}[kernel]
        if backend != required:
            raise UserError(
                f"{name}.attention {kernel} needs a {required}, and this is a {backend}; use auto"
            )
        if kernel == "splash" and e.task.rows:
            raise UserError(
                f"{name}.attention splash needs rows whose length is a multiple of 128, and "
                "labelled rows have many lengths; use auto"
            )
        if kernel == "splash" and e.corpus.max_length % 128:
            raise UserError(
                f"{name}.attention splash needs rows whose length is a multiple of 128, and "
                f"corpus.max_length is {e.corpus.max_length}; use auto"
            )
        if kernel == "cudnn" and operand_dtype(model.dtype) == np.float32:
            raise UserError(
                f"{name}.attention cudnn does not support float32; use auto, or set {name}.dtype "
                "to bfloat16"
            )
    if e.student.attention in ("cudnn", "splash") and e.student.attention_dropout:
        raise UserError(
            f"student.attention {e.student.attention} does not support dropout, and "
            f"student.attention_dropout is {e.student.attention_dropout}; set it to 0, or use auto"
        )


def check_tensor(config: Architecture, tensor: int, name: str) -> None:
    """Raise UserError unless a model's layers can be split over ``tensor`` devices."""
    for size_name, size in config.tensor_sizes.items():
        if size % tensor:
            raise UserError(
                f"tensor {tensor} does not divide the {size_name} of {name}, {size}; choose "
                "another tensor, or 1"
            )


def check_compared(
    name: str,
    config: Architecture,
    references: Collection[Checkpoint],
    length: int,
    labels: tuple[str, ...] | None,
) -> None:
    """Raise UserError unless a model and its reference models read the same rows and labels."""
    positions = min(
        [config.max_positions] + [reference.config.max_positions for reference in references]
    )
    if length > positions:
        raise UserError(
            f"corpus.max_length {length} exceeds the {positions} positions of the models; use "
            f"{positions} or less"
        )
    for reference in references:
        check_head(reference, type(config.head), labels)
        if reference.config.vocab_size != config.vocab_size:
            raise UserError(
                f"{name} has {config.vocab_size} word embeddings and {reference.source} has "
                f"{reference.config.vocab_size}; start the student from that model, or remove one "
                "of the two"
            )


def check_pairs(e: Experiment, configs: Collection[Architecture]) -> None:
    """Raise UserError for pairs of texts if a model has one token type for both."""
    pairs = e.task.rows and any(source.pair for source in e.corpus.sources)
    if pairs and not all(config.reads_pairs for config in configs):
        raise UserError(
            "the rows hold pairs of texts, and a model has one token type (type_vocab_size 1); "
            "use another model, or leave out source.pair"
        )
