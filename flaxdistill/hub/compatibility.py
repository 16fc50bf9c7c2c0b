"""Does a model read this vocabulary, does its head have these labels."""

from __future__ import annotations

import dataclasses

import numpy as np

from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.hub.checkpoint import Model
from flaxdistill.models.config import Head


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
    classifier = {
        name: np.asarray(leaf)[..., order] for name, leaf in model.params["classifier"].items()
    }
    config = dataclasses.replace(model.config, labels=labels)
    return dataclasses.replace(
        model, config=config, params=model.params | {"classifier": classifier}
    )


def presumed(model: Model, labels: tuple[str, ...]) -> str | None:
    """Say what classes without names are taken for; None where the model names its own, or they are 0, 1, 2, ..."""
    if not _unnamed(model.config.labels) or labels == tuple(map(str, range(len(labels)))):
        return None
    return f"{model.source} names none of its classes; they are taken for {', '.join(labels)}, in this order"


def _unnamed(labels: tuple[str, ...]) -> bool:
    """Tell whether classes are called as `transformers` calls those without names."""
    return len(labels) > 1 and all(name == f"LABEL_{i}" for i, name in enumerate(labels))
