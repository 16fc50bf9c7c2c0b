"""Predictions, or hidden states, for a stream of texts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxdistill.data.labelled_rows import Row
from flaxdistill.data.sources import Example
from flaxdistill.data.store import Blocks
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.hub import frozen
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.compatibility import check_vocabulary
from flaxdistill.models.architecture import Compute
from flaxdistill.models.head import AnswerOptions, Request
from flaxdistill.ops.dense import DType
from flaxdistill.pytrees import Apply, Batch, Params
from flaxdistill.runtime import sharding
from flaxdistill.tasks.text_classification import Classification
from flaxdistill.train import batches as train_batches
from flaxdistill.train.predict import collect_logits

WINDOW = 64
"""Batches of texts that are sorted by length together. The first window is one batch, for a fast first answer."""  # noqa: E501

Answer = dict[str, Any]
Preprocess = Callable[[list[Example]], list[Request]]
Predict = Callable[[Iterable[Example]], Iterator[tuple[Example, Answer]]]
States = Callable[[Iterable[Example]], Iterator[tuple[Example, np.ndarray]]]
Outputs = Callable[[Apply, Params, Batch], tuple[jax.Array, ...]]
"""(apply, parameters, batch) to outputs [B, ...], example ids, weights and labels."""


class _Inputs(NamedTuple):
    """How texts become rows and batches."""

    vocabulary: Vocabulary
    length: int
    batch_size: int


def make_predict(
    checkpoint: Checkpoint,
    *,
    length: int | None = None,
    batch_size: int = 32,
    dtype: DType = "float32",
    top: int = 5,
    unanswerable: bool = False,
    null_threshold: float = 0.0,
) -> Predict:
    """Return ``predict(examples)``, which yields every example with its answer, in order.

    Memory use does not depend on the number of examples, and later calls reuse the compiled
    programs. The content of an answer depends on the head, see its ``requests``. Texts
    are truncated to ``length`` tokens, by default 512 or the model's maximum. Raises UserError for
    a model without a head; ``predict`` raises it for a value that is not text.
    """
    if top < 1:
        raise UserError(f"--top is {top}; it must be at least 1")
    if not math.isfinite(null_threshold):
        raise UserError(
            f"--null-threshold is {null_threshold}; it is a difference of scores, such as 0"
        )
    if null_threshold and not unanswerable:
        raise UserError(
            f"--null-threshold is {null_threshold}, but without --unanswerable every question gets "
            "an answer; give both"
        )
    inputs = _check_inputs(checkpoint, length, batch_size)
    top = min(top, checkpoint.config.vocab_size)
    head, options = checkpoint.config.head, AnswerOptions(top, unanswerable, null_threshold)

    def preprocess(examples: list[Example]) -> list[Request]:
        _check_pairs(checkpoint, examples)
        return head.requests(examples, inputs.vocabulary, inputs.length, options)

    preprocess([])  # refuses now what no text can change

    def outputs(apply: Apply, params: Params, batch: Batch) -> tuple[jax.Array, ...]:
        predictions = head.predict(apply(params, batch), batch, options)
        return predictions, batch.example_id, batch.weight, batch.labels

    forward = _make_forward(checkpoint, outputs, dtype, batch_size)
    window = WINDOW
    return lambda examples: _stream(examples, preprocess, forward, inputs, window)


def make_states(
    checkpoint: Checkpoint,
    *,
    length: int | None = None,
    batch_size: int = 32,
    dtype: DType = "float32",
) -> States:
    """Return ``states(examples)``, which yields each example with its last hidden states, in order.

    States are float32 [T, D] with one row per token, [CLS] and [SEP] included and padding excluded.
    The model may have any head or none. Raises UserError as ``make_predict`` does.
    """
    inputs = _check_inputs(checkpoint, length, batch_size)
    builder = Classification().row_builder()

    def request(rows: list[Row]) -> Request:
        # astype copies: the collected arrays are views of whole batches.
        return Request(rows, lambda states: states[0][: len(rows[0].ids)].astype(np.float32))

    def preprocess(examples: list[Example]) -> list[Request]:
        _check_pairs(checkpoint, examples)
        return [
            request(rows) for rows in builder.rows(examples, [], inputs.vocabulary, inputs.length)
        ]

    def outputs(apply: Apply, params: Params, batch: Batch) -> tuple[jax.Array, ...]:
        return apply(params, batch).hidden[-1], batch.example_id, batch.weight, batch.labels

    forward = _make_forward(checkpoint, outputs, dtype, batch_size)
    # A window of one batch: states need much more memory than answers.
    return lambda examples: _stream(examples, preprocess, forward, inputs, 1)


def _check_inputs(checkpoint: Checkpoint, length: int | None, batch_size: int) -> _Inputs:
    if batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; it must be at least 1")
    limit = checkpoint.config.max_positions
    if length is not None and not 8 <= length <= limit:
        raise UserError(f"--length is {length}; {checkpoint.source} reads 8 to {limit} tokens")
    vocabulary = load_vocabulary(checkpoint.directory)
    check_vocabulary(checkpoint, vocabulary)
    return _Inputs(vocabulary, length or min(512, limit), batch_size)


def _check_pairs(checkpoint: Checkpoint, examples: list[Example]) -> None:
    if not checkpoint.config.reads_pairs and (
        pair := next((e for e in examples if e.paired), None)
    ):
        raise UserError(
            f"{pair.place}: there is a second text, and {checkpoint.source} has one token type "
            "(type_vocab_size 1), so it cannot tell the two apart; leave out the pair, or use "
            "another model"
        )


def _make_forward(
    checkpoint: Checkpoint, outputs: Outputs, dtype: DType, batch_size: int
) -> Callable[[Blocks], list[np.ndarray]]:
    """Return a function that computes the outputs of every row of some blocks, in order."""
    mesh = sharding.make_mesh()
    apply, params = frozen.freeze(checkpoint, mesh, compute=Compute(dtype=dtype))
    step = sharding.jit(partial(outputs, apply), mesh, out_shardings=sharding.replicated(mesh))

    def forward(blocks: Blocks) -> list[np.ndarray]:
        if not len(blocks):
            return []
        size = min(batch_size, 1 << (len(blocks) - 1).bit_length())
        batches = train_batches.batches_by_length(blocks, size, mesh)
        (rows,), _ = collect_logits([step], [params], batches)
        if not all(np.isfinite(row).all() for row in rows):
            raise UserError(
                f"{checkpoint.source} predicts NaN or infinite values: its training diverged or "
                "its weights are damaged; train it again with a lower learning rate"
            )
        return rows

    return forward


def _stream(
    examples: Iterable[Example],
    preprocess: Preprocess,
    forward: Callable[[Blocks], list[np.ndarray]],
    inputs: _Inputs,
    window: int,
) -> Iterator[tuple[Example, Any]]:
    """Yield every example with its answer.

    A thread tokenizes the next window during a forward pass.
    """

    def prepare(window: list[Example]) -> tuple[list[Request], Blocks]:
        requests = preprocess(window)
        rows = [row for request in requests for row in request.rows]
        return requests, make_blocks(rows, inputs.vocabulary, inputs.length)

    windows = _windows(iter(examples), inputs.batch_size, window)
    with ThreadPoolExecutor(max_workers=1) as pool:
        current = next(windows, None)
        future = pool.submit(prepare, current) if current else None
        while current and future:
            requests, blocks = future.result()
            following = next(windows, None)
            future = pool.submit(prepare, following) if following else None
            rows = iter(forward(blocks))
            for example, request in zip(current, requests, strict=True):
                logits = list(itertools.islice(rows, len(request.rows)))
                yield example, request.postprocess(logits)
            current = following


def _windows(examples: Iterator[Example], batch_size: int, window: int) -> Iterator[list[Example]]:
    size = batch_size
    while chunk := list(itertools.islice(examples, size)):
        yield chunk
        size = batch_size * window


def make_blocks(rows: list[Row], vocabulary: Vocabulary, length: int) -> Blocks:
    """Stack rows of tokens in memory like the blocks of a store; they are padded to ``length``."""
    ids = np.full((len(rows), length), vocabulary.pad, np.int32)
    for n, row in enumerate(rows):
        ids[n, : len(row.ids)] = row.ids
    lengths = np.array([len(row.ids) for row in rows], np.int32)
    segments = (np.arange(length) < lengths[:, None]).astype(np.uint8)
    columns = {
        "second": np.array([row.second for row in rows], np.int32),
        "labels": np.stack([row.labels for row in rows]) if rows else np.zeros((0, 1), np.int32),
    }
    if rows and "label_positions" in rows[0].extra:
        columns["label_positions"] = np.stack([row.extra["label_positions"] for row in rows])
    return Blocks(ids, segments, 0, columns)
