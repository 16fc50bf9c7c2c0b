"""The likeliest words at a masked position of a text, by a masked-LM."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.data.length_buckets import BUCKET_LENGTHS
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError, out_of_memory
from flaxdistill.hub import frozen
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.ops.vocab import at_labels, vocab_top
from flaxdistill.pytrees import Apply, Batch, Params
from flaxdistill.runtime import sharding

FillMask = Callable[[list[np.ndarray], list[int]], list[np.ndarray]]
"""(token ids of texts, position to mask in each) to the likeliest token ids of each."""


def make_fill_mask(
    checkpoint: Checkpoint, vocabulary: Vocabulary, number: int, length: int, batch_size: int
) -> FillMask:
    """Return ``fill_mask(texts, positions)``, the ``number`` likeliest words at each position.

    The result has an int32 [number] array per text. The model reads the masked text and, as a
    second text, the unmasked one, so that replacements preserve the meaning (Jiao et al., 2020,
    data_augmentation.py). ``texts`` are token ids without special tokens, two of which fit
    ``length``. Only alphabetic words that are a single token are predicted.
    """
    mesh = sharding.make_mesh()
    apply, params = frozen.freeze(checkpoint, mesh)
    excluded = _excluded_tokens(checkpoint, vocabulary)
    number = min(number, int(np.sum(~excluded)))
    predict = sharding.jit(
        functools.partial(_predict, apply, jnp.asarray(excluded), number),
        mesh,
        out_shardings=sharding.replicated(mesh),
    )
    size = sharding.round_up(batch_size, mesh)
    special = vocabulary.special_count(pair=True)
    types = 2 if checkpoint.config.reads_pairs else 1

    def fill_mask(texts: list[np.ndarray], positions: list[int]) -> list[np.ndarray]:
        token_ids: list[np.ndarray] = [np.zeros(0, np.int64)] * len(texts)
        edges = [edge for edge in BUCKET_LENGTHS if edge < length] + [length]
        buckets = np.searchsorted(edges, [2 * len(text) + special for text in texts])
        for bucket, edge in enumerate(edges):
            members = np.flatnonzero(buckets == bucket)
            for first in range(0, len(members), size):
                indices = members[first : first + size]
                rows = [(texts[n], positions[n]) for n in indices]
                columns = _columns(rows, edge, size, types, vocabulary)
                try:
                    batch = sharding.place_rows(columns, mesh)
                    predictions = jax.device_get(predict(params, batch))
                except jax.errors.JaxRuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    raise UserError(
                        f"the device is out of memory with {size} masked texts at a time; try "
                        f"--batch-size {max(size // 2, 1)}"
                    ) from None
                for n, row in zip(indices, predictions, strict=False):
                    token_ids[n] = row
        return token_ids

    return fill_mask


def _excluded_tokens(checkpoint: Checkpoint, vocabulary: Vocabulary) -> np.ndarray:
    """Mark special tokens, word pieces and tokens that are not alphabetic: bool [V]."""
    excluded = vocabulary.continues()
    excluded[list(vocabulary.special_ids)] = True
    words = (vocabulary.tokenizer.id_to_token(token) or "" for token in range(vocabulary.size))
    excluded |= np.array([not word.isalpha() for word in words])
    padding = checkpoint.config.vocab_size - len(excluded)
    excluded = np.pad(excluded, (0, padding), constant_values=True)
    if np.all(excluded):
        raise UserError(
            f"{checkpoint.source} has no alphabetic whole word in its vocabulary, so it cannot "
            "replace words; choose another masked-LM"
        )
    return excluded


def _predict(
    apply: Apply, excluded: jax.Array, number: int, params: Params, batch: Batch
) -> jax.Array:
    # Logits are computed at one position per row, not at every token.
    head = at_labels(apply(params, batch).vocab, batch)
    bias = jnp.where(excluded, -jnp.inf, head.bias.astype(jnp.float32))
    return vocab_top(dataclasses.replace(head, bias=bias), number, 1.0).token_ids[:, 0]


def _columns(
    rows: list[tuple[np.ndarray, int]], length: int, size: int, types: int, vocabulary: Vocabulary
) -> dict[str, np.ndarray]:
    """Return the columns of a batch of ``size`` rows, filled up with rows of weight 0."""
    ids = np.full((size, length), vocabulary.pad, np.int32)
    segments, token_types = np.zeros_like(ids), np.zeros_like(ids)
    label_positions = np.zeros((size, 1), np.int32)
    # A filler row needs a token to attend to.
    segments[len(rows) :, 0] = 1
    for n, (text, position) in enumerate(rows):
        row, second = vocabulary.join(text, text)
        row[position + 1] = vocabulary.mask
        ids[n, : len(row)] = row
        segments[n, : len(row)] = 1
        token_types[n, second : len(row)] = types - 1
        label_positions[n] = position + 1
    zeros = np.zeros(size, np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape) * segments
    return {
        "input_ids": ids,
        "segment_ids": segments,
        "positions": positions.astype(np.int32),
        "token_type_ids": token_types,
        "labels": np.full_like(label_positions, -1),
        "label_positions": label_positions,
        "weight": (np.arange(size) < len(rows)).astype(np.float32),
        "example_id": zeros,
        "epoch": zeros,
    }
