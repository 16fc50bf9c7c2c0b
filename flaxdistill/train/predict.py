"""Predictions on labelled rows, collected on the host, where libraries compute the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import jax
import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.metrics import softmax
from flaxdistill.pytrees import Apply, Batch, Params
from flaxdistill.train.evaluate import out_of_memory_error

PredictLogits = Callable[[Params, Batch], tuple[jax.Array, ...]]
RowArrays = list[np.ndarray]
"""One array per row: the number of predictions N differs between rows."""


def make_predict_logits(apply: Apply) -> PredictLogits:
    """Make ``predict(params, batch) -> (logits, example_id, weight, labels)``.

    ``logits`` are those of the task head, float32 [B, N, C]. Raises UserError for a model without
    a task head.
    """

    def predict(params: Params, batch: Batch) -> tuple[jax.Array, ...]:
        logits = apply(params, batch).logits
        if logits is None:
            raise UserError(
                "the model has no task head to predict with; train one on the task first"
            )
        return logits, batch.example_id, batch.weight, batch.labels

    return predict


def collect_logits(
    predicts: Sequence[PredictLogits], params: Sequence[Params], batches: Iterable[Batch]
) -> tuple[list[RowArrays], RowArrays]:
    """Predict all rows with several models, in the order in which the rows are stored.

    Returns the logits [N, C] of every row for each model, and the labels [N] of every row. Raises
    UserError if a batch does not fit the memory of a device.
    """
    collected = []
    try:
        for batch in batches:
            outputs = [predict(p, batch) for predict, p in zip(predicts, params, strict=True)]
            collected.append(jax.device_get((*outputs[0][1:], [logits for logits, *_ in outputs])))
    except jax.errors.JaxRuntimeError as error:
        raise out_of_memory_error(error, batch.weight.shape[0]) from None
    rows = sorted(
        (int(ids[r]), labels[r], [logits[r] for logits in model_logits])
        for ids, weight, labels, model_logits in collected
        for r in np.flatnonzero(weight)
    )
    logits = [[row_logits[n] for _, _, row_logits in rows] for n in range(len(predicts))]
    return logits, [labels for _, labels, _ in rows]


def agreement_metrics(
    student_logits: RowArrays, teacher_logits: Sequence[RowArrays], labels: RowArrays
) -> dict[str, float]:
    """Compare a student with the mean probabilities of its teachers.

    Returns ``{"agreement": fraction of equal top classes}``, or for regression ``{"gap": mean
    absolute difference}``. Entries with the label -1 do not count.
    """
    teacher = [
        np.mean([_probabilities(rows[r]) for rows in teacher_logits], axis=0)
        for r in range(len(labels))
    ]
    counted = [np.ones(len(row), bool) if row.dtype.kind == "f" else row != -1 for row in labels]
    triples = list(zip(student_logits, teacher, counted, strict=True))
    if student_logits[0].shape[-1] == 1:
        gaps = [np.abs(student - mean)[mask] for student, mean, mask in triples]
        return {"gap": float(np.mean(np.concatenate(gaps)))}
    same = [(student.argmax(-1) == mean.argmax(-1))[mask] for student, mean, mask in triples]
    return {"agreement": float(np.mean(np.concatenate(same)))}


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """Return probabilities of classes; a regression output stays as it is."""
    return logits if logits.shape[-1] == 1 else softmax(logits)
