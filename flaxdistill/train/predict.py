"""Evaluation of labelled rows: answers are collected on the host, where libraries score them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.pytrees import Apply, Batch, Params
from flaxdistill.train.evaluate import no_room

Predict = Callable[[Params, Batch], tuple[jax.Array, ...]]
Rows = list[np.ndarray]
"""One array a row, because rows may be asked different numbers of questions."""


def make_predict(apply: Apply) -> Predict:
    """Make ``predict(params, batch)``: a task head's logits float32 [B, N, C], and whose they are: id, weight, labels."""

    def predict(params: Params, batch: Batch) -> tuple[jax.Array, ...]:
        logits = apply(params, batch).logits
        if logits is None:
            raise UserError(
                "the model has no task head to predict with; train one on the task first"
            )
        return logits, batch.example_id, batch.weight, batch.labels

    return predict


def collect(
    predicts: Sequence[Predict], params: Sequence[Params], batches: Iterable[Batch]
) -> tuple[list[Rows], Rows]:
    """Ask several models about all rows: logits [N, C] of each, and labels [N], in the order the rows are stored in.

    Raises UserError where a batch does not fit the memory of a device.
    """
    found = []
    try:
        for batch in batches:
            said = [predict(p, batch) for predict, p in zip(predicts, params, strict=True)]
            found.append(jax.device_get((*said[0][1:], [logits for logits, *_ in said])))
    except jax.errors.JaxRuntimeError as error:
        raise no_room(error, batch.weight.shape[0]) from None
    rows = sorted(
        (int(ids[r]), labels[r], [logits[r] for logits in said])
        for ids, weight, labels, said in found
        for r in np.flatnonzero(weight)
    )
    return [[row[2][n] for row in rows] for n in range(len(predicts))], [row[1] for row in rows]


def agreement(ours: Rows, theirs: Sequence[Rows], labels: Rows) -> dict[str, float]:
    """Compare answers with those of other models, averaged: how often the likeliest is the same; of numbers the mean gap."""
    mean = [np.mean([_shares(rows[r]) for rows in theirs], axis=0) for r in range(len(labels))]
    asked = [np.ones(len(row), bool) if row.dtype.kind == "f" else row != -1 for row in labels]
    if ours[0].shape[-1] == 1:
        gaps = [np.abs(a - b)[n] for a, b, n in zip(ours, mean, asked, strict=True)]
        return {"gap": float(np.mean(np.concatenate(gaps)))}
    same = [(a.argmax(-1) == b.argmax(-1))[n] for a, b, n in zip(ours, mean, asked, strict=True)]
    return {"agreement": float(np.mean(np.concatenate(same)))}


def _shares(logits: np.ndarray) -> np.ndarray:
    """Give the probabilities of answers; a number stays as it is."""
    if logits.shape[-1] == 1:
        return logits
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)
