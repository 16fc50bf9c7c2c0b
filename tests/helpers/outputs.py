"""A literal labelled batch, and random Outputs of models for it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.pytrees import Attention, Batch, Outputs, VocabProjection

WIDTH = 4
HEADS = 2
WORDS = 11

SEQUENCES = ((4, 3), (8,), (3,), (5,), (2, 6), (7,), (3, 3), (1,))
"""Lengths of the sequences packed into each row of 8 tokens."""
LABELS = (
    {1: 7, 2: 0},
    {0: 3, 3: 10, 7: 1},
    {},
    {4: 6},
    {0: 2, 5: 2},
    {1: 1, 2: 2, 3: 3},
    {4: 9},
    {},
)
"""The label at each masked position of a row."""
WEIGHT = (1, 1, 1, 1, 1, 0, 1, 1)
COUNTS = {"real": 38, "content": 19, "masked": 9, "first": 10, "all": 56}
"""Number of tokens in the batch by kind, counted by hand.

The row of weight 0 is not counted: it has 7 tokens, 5 of content and 3 labels.
"""


def labelled_batch() -> Batch:
    """Return rows that are packed, padded, full, unlabelled or of weight 0; ids are random."""
    rows, length, K = len(SEQUENCES), 8, 3
    segments, positions = (np.zeros((rows, length), np.int32) for _ in range(2))
    labels, label_positions = np.full((rows, K), -1, np.int32), np.zeros((rows, K), np.int32)
    for row, lengths in enumerate(SEQUENCES):
        ends = np.cumsum(lengths)
        for segment, (end, n) in enumerate(zip(ends, lengths, strict=True), 1):
            segments[row, end - n : end], positions[row, end - n : end] = segment, np.arange(n)
        for k, (position, label) in enumerate(LABELS[row].items()):
            labels[row, k], label_positions[row, k] = label, position
    return Batch(
        input_ids=np.random.default_rng(0).integers(1, WORDS, (rows, length), dtype=np.int32),
        segment_ids=segments,
        positions=positions,
        token_type_ids=np.zeros_like(segments),
        labels=labels,
        label_positions=label_positions,
        weight=np.asarray(WEIGHT, np.float32),
        example_id=np.arange(rows, dtype=np.int32),
        epoch=np.zeros(rows, np.int32),
    )


def random_outputs(
    seed: int, rows: int, length: int, *, width: int = WIDTH, layers: int = 2, dtype=np.float32
) -> Outputs:
    """Return normally distributed Outputs; kernel and bias are float32."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape, np.float32).astype(jnp.dtype(dtype))

    def layer():
        return tuple(draw(rows, length, HEADS, width // HEADS) for _ in range(layers))

    hidden = tuple(draw(rows, length, width) for _ in range(layers + 1))
    queries, keys, values = layer(), layer(), layer()

    return Outputs(
        hidden=hidden,
        attention=tuple(Attention(*layer) for layer in zip(queries, keys, values, strict=True)),
        pooled=draw(rows, width),
        vocab=VocabProjection(
            draw(rows, length, width),
            *(rng.standard_normal(s, np.float32) for s in ((WORDS, width), (WORDS,))),
        ),
        # One question per label, with the words as classes.
        logits=draw(rows, 3, WORDS),
    )


def per_row(function, outputs: Outputs, *others: Outputs) -> Outputs:
    """Map the leaves with a row axis; the vocabulary's kernel and bias come from ``outputs``."""
    head = outputs.vocab
    bare = [dataclasses.replace(o, vocab=o.vocab.hidden) for o in (outputs, *others)]
    mapped = jax.tree.map(function, *bare)
    return dataclasses.replace(mapped, vocab=VocabProjection(mapped.vocab, head.kernel, head.bias))
