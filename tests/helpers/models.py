"""Random models of every head and family, and texts for them."""

from __future__ import annotations

import dataclasses

import numpy as np

from flaxdistill.hub import checkpoint, families
from flaxdistill.models.head import NoHead
from flaxdistill.param_paths import flatten, unflatten
from flaxdistill.tasks.question_answering import SpanHead
from flaxdistill.tasks.text_classification import TextHead
from flaxdistill.tasks.token_classification import TokensHead
from helpers.cli import write_model

TEXTS = [
    "the cat sees a dog",
    "a",
    "dogs, cats and the bee",
    "",
    "cab bad the the the the",
    "a dog!",
]


WORDS = ("the", "cat", "dog", "a", "sees", ",", "!", ".")


KINDS = {
    "sequence": {"head": TextHead(labels=("bad", "good", "so-so")), "pooler": True},
    "number": {"head": TextHead(labels=("score",)), "pooler": True},
    "tokens": {"head": TokensHead(labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))},
    "plain": {"head": TokensHead(labels=("NOUN", "VERB", "DET"))},
    "span": {"head": SpanHead()},
    "mlm": {},
}

HEADS = {
    "MaskedLM": {},
    "": {"head": NoHead(), "pooler": True},
    "SequenceClassification": KINDS["sequence"],
    "TokenClassification": {"head": TokensHead(labels=("O", "B-PER"))},
    "QuestionAnswering": {"head": SpanHead()},
}


def random_model(folder, family: str, **changes) -> checkpoint.Checkpoint:
    """Write a random model of a family, and read it."""
    model = checkpoint.read_model(
        str(write_model(folder / "initial", initializer_range=0.5, **changes))
    )
    rng = np.random.default_rng(0)
    # Biases are initialized to 0, and the outputs would not show that one is left out.
    flat = {
        path: rng.normal(0.0, 0.5, leaf.shape).astype(leaf.dtype) if path.endswith("bias") else leaf
        for path, leaf in flatten(model.params).items()
    }
    config = model.config
    if family != "bert":
        # A DistilBERT has a pooler only below this head.
        pooler = config.head.pools
        omitted = ("embeddings/token_type", *(() if pooler else ("pooler",)))
        flat = {path: leaf for path, leaf in flat.items() if not path.startswith(omitted)}
        config = dataclasses.replace(
            config,
            type_vocab_size=0,
            pooler=pooler,
            pooler_activation="relu" if pooler else "tanh",
        )
    checkpoint.write_model(
        folder / family,
        family=families.family(family),
        config=config,
        params=unflatten(flat),
        tokenizer=model.directory,
    )
    return checkpoint.read_model(str(folder / family))
