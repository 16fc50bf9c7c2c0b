"""Figures by which answers are judged, by well-kept libraries on the host, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxdistill.metrics import PerExample, Score, ratio


def classes(
    predicted: np.ndarray, labels: np.ndarray, number: int, names: Sequence[str] = ()
) -> Score:
    """Compare int [N] of ``number`` classes: accuracy, F1 (of class 1 where there are two, else a mean), Matthews.

    Classes with ``names`` are told one by one too. Of more than 100 classes only the accuracy has parts: the others take
    two numbers a class for each example.
    """
    from sklearn.metrics import accuracy_score, classification_report, f1_score, matthews_corrcoef

    report: dict[str, Any] = {}
    if names:
        # By number: a class may be called as one of the report's own rows, "accuracy".
        report = classification_report(
            labels, predicted, labels=range(number), output_dict=True, zero_division=0
        )
    per_class = {name: _kind(report[str(n)]) for n, name in enumerate(names)}
    metrics = {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(
            f1_score(
                labels, predicted, average="binary" if number == 2 else "macro", zero_division=0
            )
        ),
        "matthews": float(matthews_corrcoef(labels, predicted)),
    }
    same = (predicted == labels)[:, None].astype(float)
    accuracy = {"accuracy": ratio(same[:, 0], np.ones(len(labels)))}
    if number > 100:
        return Score(metrics, accuracy, per_class)
    said, right = np.eye(number)[predicted], np.eye(number)[labels]

    def f1(sums: np.ndarray) -> np.ndarray:
        both, seen = sums[..., :number], sums[..., number:]
        each = 2 * both / np.maximum(seen, 1.0)
        if number == 2:
            return each[..., 1]
        return each.sum(-1) / np.maximum(
            (seen > 0).sum(-1), 1
        )  # a class that nobody names has no say

    def matthews(sums: np.ndarray) -> np.ndarray:
        p, t, c = sums[..., :number], sums[..., number : 2 * number], sums[..., -1]
        n = p.sum(-1)
        spread = np.sqrt((n**2 - (p * p).sum(-1)) * (n**2 - (t * t).sum(-1)))
        return np.where(
            spread > 0, (c * n - (p * t).sum(-1)) / np.where(spread > 0, spread, 1.0), 0.0
        )

    return Score(
        metrics,
        accuracy
        | {
            "f1": PerExample(np.concatenate([said * right, said + right], 1), f1),
            "matthews": PerExample(np.concatenate([said, right, same], 1), matthews),
        },
        per_class,
    )


def _kind(row: Mapping[str, float]) -> dict[str, float]:
    return {
        "precision": float(row["precision"]),
        "recall": float(row["recall"]),
        "f1": float(row["f1-score"]),
        "support": int(row["support"]),
    }
