"""Which words a masked-LM puts in a hidden place of a text."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.data.length_buckets import EDGES
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError, out_of_memory
from flaxdistill.hub import frozen
from flaxdistill.hub.checkpoint import Model
from flaxdistill.losses.vocab import at_labels
from flaxdistill.ops.vocab import vocab_top
from flaxdistill.pytrees import Apply, Batch, Params
from flaxdistill.runtime import sharding

Fillers = Callable[[list[np.ndarray], list[int]], list[np.ndarray]]


def make_fillers(
    model: Model, vocabulary: Vocabulary, number: int, longest: int, batch_size: int
) -> Fillers:
    """Make ``fillers(texts, places)``: the ``number`` likeliest words at one hidden place of each text, ids int32 [number].

    The model reads the text with the hidden place and, as a second text, the whole one, so that words keep its meaning
    (Jiao et al., 2020, in data_augmentation.py). ``texts`` are tokens without special ones, at most ``(longest - 3) // 2``.
    Words are those of letters that are one token.
    """
    mesh = sharding.make_mesh()
    apply, params = frozen.freeze(model, mesh)
    barred = vocabulary.continues()
    barred[list(vocabulary.special_ids)] = True
    words = (vocabulary.tokenizer.id_to_token(word) or "" for word in range(vocabulary.size))
    barred |= np.array([not word.isalpha() for word in words])
    barred = np.pad(barred, (0, model.config.vocab_size - len(barred)), constant_values=True)
    if np.all(barred):
        raise UserError(
            f"{model.source} has no whole word of letters in its vocabulary, which could take another's place"
        )
    ask = sharding.jit(
        functools.partial(_ask, apply, jnp.asarray(barred), min(number, int(np.sum(~barred)))),
        mesh,
        out_shardings=sharding.replicated(mesh),
    )
    size = sharding.round_up(batch_size, mesh)
    types = min(2, model.config.type_vocab_size or 1)

    def fillers(texts: list[np.ndarray], places: list[int]) -> list[np.ndarray]:
        found: list[np.ndarray] = [np.zeros(0, np.int64)] * len(texts)
        edges = [edge for edge in EDGES if edge < longest] + [longest]
        bucket = np.searchsorted(edges, [2 * len(text) + 3 for text in texts])
        for which, edge in enumerate(edges):
            here = np.flatnonzero(bucket == which)
            for first in range(0, len(here), size):
                chosen = here[first : first + size]
                rows = [(texts[n], places[n]) for n in chosen]
                columns = _columns(rows, edge, size, types, vocabulary)
                try:
                    said = jax.device_get(ask(params, sharding.place_rows(columns, mesh)))
                except jax.errors.JaxRuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    raise UserError(
                        f"the device is out of memory with {size} masked texts at a time; try --batch-size "
                        f"{max(size // 2, 1)}"
                    ) from None
                for n, row in zip(chosen, said, strict=False):
                    found[n] = row
        return found

    return fillers


def _ask(apply: Apply, barred: jax.Array, number: int, params: Params, batch: Batch) -> jax.Array:
    # One place a row, so that its logits cost a vocabulary for each row and not for each token.
    batch = dataclasses.replace(batch, label_positions=batch.labels)
    head = at_labels(apply(params, batch).vocab, batch)
    bias = jnp.where(barred, -jnp.inf, head.bias.astype(jnp.float32))
    return vocab_top(dataclasses.replace(head, bias=bias), number, 1.0).token_ids[:, 0]


def _columns(
    rows: list[tuple[np.ndarray, int]], length: int, size: int, types: int, vocabulary: Vocabulary
) -> dict[str, np.ndarray]:
    ids = np.full((size, length), vocabulary.pad, np.int32)
    segments, second = np.zeros_like(ids), np.zeros_like(ids)
    at = np.zeros((size, 1), np.int32)
    segments[len(rows) :, 0] = 1  # a filler row attends to something
    for n, (text, place) in enumerate(rows):
        row = [vocabulary.cls, *text, vocabulary.sep, *text, vocabulary.sep]
        row[place + 1] = vocabulary.mask
        ids[n, : len(row)] = row
        segments[n, : len(row)] = 1
        second[n, len(text) + 2 : len(row)] = types - 1
        at[n] = place + 1
    nothing = np.zeros(size, np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape) * segments
    return {
        "input_ids": ids,
        "segment_ids": segments,
        "positions": positions.astype(np.int32),
        "token_type_ids": second,
        "labels": at,
        "weight": (np.arange(size) < len(rows)).astype(np.float32),
        "example_id": nothing,
        "epoch": nothing,
    }
