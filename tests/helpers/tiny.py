"""A literal corpus and a tiny encoder for tests."""

from __future__ import annotations

import numpy as np

from flaxdistill.models.bert import Bert
from flaxdistill.tasks.mlm import MaskedLMHead

WORDS = 60
LENGTH = 24


def tiny_config(**changes) -> Bert:
    """Return the config of a BERT of width 16."""
    sizes = dict(
        vocab_size=WORDS,
        hidden_size=16,
        num_layers=2,
        num_heads=4,
        intermediate_size=32,
        max_positions=LENGTH,
    )
    return Bert(**({"head": MaskedLMHead()} | sizes | changes))


def batch_of(rows: int, *, first: int = 0, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Return rows of packed sequences, some of which end in padding.

    Ids from 5 are words; 2 and 3 are [CLS] and [SEP].
    """
    ids, segments, positions = (np.zeros((rows, length), np.int32) for _ in range(3))
    for row in range(rows):
        rng = np.random.default_rng(first + row)
        start, segment = 0, 0
        while length - start >= 3 and segment < 3:
            n = int(rng.integers(3, length - start + 1))
            segment += 1
            ids[row, start : start + n] = [2, *rng.integers(5, WORDS, n - 2), 3]
            segments[row, start : start + n] = segment
            positions[row, start : start + n] = np.arange(n)
            start += n
    return {
        "input_ids": ids,
        "segment_ids": segments,
        "positions": positions,
        "token_type_ids": np.zeros_like(ids),
        "labels": np.zeros((rows, 0), np.int32),
        "weight": np.ones(rows, np.float32),
        "example_id": np.arange(first, first + rows, dtype=np.int32),
        "epoch": np.zeros(rows, np.int32),
    }
