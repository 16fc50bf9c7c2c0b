"""Checks that a model fits a vocabulary and the labels of a dataset."""

from __future__ import annotations

import dataclasses

from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.models.head import Head


def check_vocabulary(checkpoint: Checkpoint, vocabulary: Vocabulary) -> None:
    """Raise UserError unless a model has the vocabulary that the blocks are encoded with."""
    own = load_vocabulary(str(checkpoint.directory))
    if own.digest != vocabulary.digest:
        raise UserError(
            f"{checkpoint.source} has a vocabulary of {own.size} tokens, but the corpus is encoded "
            f"with another one of {vocabulary.size}: leave corpus.tokenizer unset to use the "
            "model's, or choose models that share one"
        )
    if checkpoint.config.vocab_size < vocabulary.size:
        raise UserError(
            f"{checkpoint.source} has {checkpoint.config.vocab_size} token embeddings but a "
            f"vocabulary of {vocabulary.size}; its tokenizer and weights do not belong together"
        )


def check_head(
    checkpoint: Checkpoint, head: type[Head], labels: tuple[str, ...] | None = ()
) -> None:
    """Raise UserError unless a model has this head and, for a classifier, these labels in order.

    With ``labels=None`` the labels are not checked.
    """
    if type(checkpoint.config.head) is not head:
        family = checkpoint.family
        kind = family.class_name(head) if family else type(checkpoint.config).__name__
        raise UserError(
            f"{checkpoint.source} has no {head.name} head; choose a {kind} checkpoint of it"
        )
    own = checkpoint.config.labels
    # A single output is a number, whatever its label.
    same_size = len(own) == len(labels or ())
    compatible = same_size and (len(own) == 1 or _has_default_labels(own))
    if labels is not None and own != labels and not compatible:
        raise UserError(
            f"{checkpoint.source} has the labels {', '.join(own)} and the data has "
            f"{', '.join(labels)}, in this order; write the labels in the data, and their order in "
            "task.labels, as in the model, or train a teacher on this data"
        )


def reorder_labels(checkpoint: Checkpoint, labels: tuple[str, ...]) -> Checkpoint:
    """Return a model with its classes in the order of ``labels``.

    The model itself is returned if its labels are other ones.
    """
    own = checkpoint.config.labels
    if own == labels or sorted(own) != sorted(labels):
        return checkpoint
    config = checkpoint.config
    return dataclasses.replace(
        checkpoint,
        config=dataclasses.replace(config, head=dataclasses.replace(config.head, labels=labels)),
        params=config.head.reorder(checkpoint.params, labels),
    )


def describe_assumed_labels(checkpoint: Checkpoint, labels: tuple[str, ...]) -> str | None:
    """Describe the label names that are assumed for a model that has none.

    Returns None if the model has label names, or if ``labels`` are 0, 1, 2, ...
    """
    if not _has_default_labels(checkpoint.config.labels):
        return None
    if labels == tuple(map(str, range(len(labels)))):
        return None
    return (
        f"{checkpoint.source} has no label names; its classes are assumed to be "
        f"{', '.join(labels)}, in this order"
    )


def _has_default_labels(labels: tuple[str, ...]) -> bool:
    """Return whether labels are the default names of transformers, LABEL_0, LABEL_1, ...."""
    return len(labels) > 1 and all(name == f"LABEL_{i}" for i, name in enumerate(labels))
