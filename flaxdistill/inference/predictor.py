"""Answers of a model to a stream of texts, or its states: a window at a time, the next one cut into tokens meanwhile."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxdistill.data.labelled_rows import Row
from flaxdistill.data.sources import Example
from flaxdistill.data.store import Blocks
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.hub import frozen
from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.compatibility import check_vocabulary
from flaxdistill.inference.answers import Answer, Asking, Question, make_asking
from flaxdistill.losses.vocab import at_labels
from flaxdistill.ops.dense import DType
from flaxdistill.ops.vocab import vocab_top
from flaxdistill.pytrees import Apply, Batch, Params
from flaxdistill.runtime import sharding
from flaxdistill.tasks.text_classification import Classification
from flaxdistill.train import batches as feed
from flaxdistill.train import predict as answers

WINDOW = 64
"""Batches of texts that are sorted by length together; the first window has one, so that the first answers come soon."""


Predict = Callable[[Iterable[Example]], Iterator[tuple[Example, Answer]]]
States = Callable[[Iterable[Example]], Iterator[tuple[Example, np.ndarray]]]


def make_predict(
    model: Model,
    *,
    length: int | None = None,
    batch_size: int = 32,
    dtype: DType = "float32",
    top: int = 5,
    unanswerable: bool = False,
    null_threshold: float = 0.0,
) -> Predict:
    """Make ``predict(examples)``, which yields every example with a model's answer, in their order.

    Its memory does not grow with their number, and what is compiled serves all calls. What an answer holds is its head's:
    ``questions.make_asking``. Rows are cut to ``length`` tokens, by default 512 or what the model can read. Raises UserError
    for a model without a head; the function does in its turn for what is no text.
    """
    if top < 1:
        raise UserError(f"--top is {top}; it must be at least 1")
    if not math.isfinite(null_threshold):
        raise UserError(
            f"--null-threshold is {null_threshold}; it is a difference of scores, such as 0"
        )
    if null_threshold and not unanswerable:
        raise UserError(
            f"--null-threshold is {null_threshold}, but without --unanswerable no question is left without an answer; give "
            "both"
        )
    vocabulary, length = _reading(model, length, batch_size)
    top = min(top, model.config.vocab_size)
    asking = make_asking(
        model.config,
        vocabulary,
        length,
        top=top,
        unanswerable=unanswerable,
        null_threshold=null_threshold,
    )

    def say(apply: Apply, params: Params, batch: Batch) -> tuple[jax.Array, ...]:
        if model.config.head != "mlm":
            return answers.make_predict(apply)(params, batch)
        # One place a row, so that its logits cost a vocabulary for each row and not for each token.
        said = apply(params, batch).vocab
        found = vocab_top(
            at_labels(said, dataclasses.replace(batch, label_positions=batch.labels)), top, 1.0
        )
        return (
            jnp.stack([found.token_ids, found.log_probs], -1),
            batch.example_id,
            batch.weight,
            batch.labels,
        )

    return _make(model, dtype, asking, say, vocabulary, length, batch_size, WINDOW)


def make_states(
    model: Model, *, length: int | None = None, batch_size: int = 32, dtype: DType = "float32"
) -> States:
    """Make ``states(examples)``, which yields every example with the last layer's states of its tokens, in their order.

    float32 [T, D], for [CLS] and [SEP] too and without padding; of a model with any head or none. Raises UserError as
    ``make_predict`` does.
    """
    vocabulary, length = _reading(model, length, batch_size)
    reading = Classification().row_builder()

    def question(rows: list[Row]) -> Question:
        # A copy: what is collected are views of whole batches.
        return Question(rows, lambda said: said[0][: len(rows[0].ids)].astype(np.float32))

    def asking(examples: list[Example]) -> list[Question]:
        return [question(rows) for rows in reading.rows(examples, [], vocabulary, length)]

    def say(apply: Apply, params: Params, batch: Batch) -> tuple[jax.Array, ...]:
        return apply(params, batch).hidden[-1], batch.example_id, batch.weight, batch.labels

    return _make(model, dtype, asking, say, vocabulary, length, batch_size, 1)


def _reading(model: Model, length: int | None, batch_size: int) -> tuple[Vocabulary, int]:
    """Give a model's vocabulary, and how many tokens of a text it is to read."""
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; it must be at least 1")
    longest = model.config.max_positions
    if length is not None and not 8 <= length <= longest:
        raise UserError(f"--length is {length}; {model.source} reads 8 to {longest} tokens")
    vocabulary = load_vocabulary(model.directory)
    check_vocabulary(model, vocabulary)
    return vocabulary, length or min(512, longest)


def _make(
    model: Model,
    dtype: DType,
    asking: Asking,
    say: Callable[[Apply, Params, Batch], tuple[jax.Array, ...]],
    vocabulary: Vocabulary,
    length: int,
    batch_size: int,
    window: int,
) -> Callable[[Iterable[Example]], Iterator[tuple[Example, Any]]]:
    mesh = sharding.make_mesh()
    apply, params = frozen.freeze(model, mesh, dtype=dtype)
    speak = sharding.jit(partial(say, apply), mesh, out_shardings=sharding.replicated(mesh))

    def cut(piece: list[Example]) -> tuple[list[Question], Blocks]:
        questions = asking(piece)
        return questions, blocks_of(
            [row for question in questions for row in question.rows], vocabulary, length
        )

    def predict(examples: Iterable[Example]) -> Iterator[tuple[Example, Any]]:
        windows = _windows(iter(examples), batch_size, window)
        with ThreadPoolExecutor(max_workers=1) as pool:
            piece = next(windows, None)
            ahead = pool.submit(cut, piece) if piece else None
            while piece and ahead:
                questions, blocks = ahead.result()
                following = next(windows, None)
                ahead = pool.submit(cut, following) if following else None
                size = min(batch_size, 1 << (max(len(blocks), 1) - 1).bit_length())
                batches = feed.bucketed(blocks, size, mesh) if len(blocks) else ()
                (said,), _ = answers.collect([speak], [params], batches)
                if not all(np.isfinite(row).all() for row in said):
                    raise UserError(
                        f"{model.source} answers with what is no number: its training diverged or its weights are "
                        "damaged; train it anew, with a lower rate"
                    )
                rows = iter(said)
                for example, question in zip(piece, questions, strict=True):
                    yield example, question.answer(list(itertools.islice(rows, len(question.rows))))
                piece = following

    return predict


def _windows(examples: Iterator[Example], batch_size: int, window: int) -> Iterator[list[Example]]:
    size = batch_size
    while piece := list(itertools.islice(examples, size)):
        yield piece
        size = batch_size * window


def blocks_of(rows: list[Row], vocabulary: Vocabulary, length: int) -> Blocks:
    """Put rows of tokens side by side in memory, as a store has them on a disk; padded to ``length``."""
    ids = np.full((len(rows), length), vocabulary.pad, np.int32)
    for n, row in enumerate(rows):
        ids[n, : len(row.ids)] = row.ids
    lengths = np.array([len(row.ids) for row in rows], np.int32)
    segments = (np.arange(length) < lengths[:, None]).astype(np.uint8)
    second = np.array([row.second for row in rows], np.int32)
    labels = np.stack([row.labels for row in rows]) if rows else np.zeros((0, 1), np.int32)
    return Blocks(ids, segments, 0, {"second": second, "labels": labels})
