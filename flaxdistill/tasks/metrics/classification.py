"""Metrics of classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxdistill.metrics import PerExample, Score, ratio_of_sums

MAX_PER_EXAMPLE_CLASSES = 100
"""Most classes for which F1 and Matthews have per-example statistics, two numbers per class."""


def classification_metrics(
    predicted: np.ndarray, labels: np.ndarray, number: int, names: Sequence[str] = ()
) -> Score:
    """Compare int [N] arrays of ``number`` classes: accuracy, F1 and Matthews correlation.

    F1 is that of class 1 for two classes, else the mean over classes. Classes with ``names`` get
    their own precision, recall and F1.
    """
    from sklearn.metrics import accuracy_score, classification_report, f1_score, matthews_corrcoef

    per_class: dict[str, dict[str, float]] = {}
    if names:
        # By number, because a class may be named like a row of the report, such as "accuracy".
        report = classification_report(
            labels, predicted, labels=range(number), output_dict=True, zero_division=0
        )
        per_class = {name: class_metrics(report[str(n)]) for n, name in enumerate(names)}
    average: Any = "binary" if number == 2 else "macro"
    metrics = {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, average=average, zero_division=0)),
        "matthews": float(matthews_corrcoef(labels, predicted)),
    }
    return Score(metrics, _per_example(predicted, labels, number), per_class)


def class_metrics(report: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of one class from a row of a classification report."""
    return {
        "precision": float(report["precision"]),
        "recall": float(report["recall"]),
        "f1": float(report["f1-score"]),
        "support": int(report["support"]),
    }


def _per_example(predicted: np.ndarray, labels: np.ndarray, number: int) -> dict[str, PerExample]:
    correct = (predicted == labels)[:, None].astype(float)
    accuracy = {"accuracy": ratio_of_sums(correct[:, 0], np.ones(len(labels)))}
    if number > MAX_PER_EXAMPLE_CLASSES:
        return accuracy
    predicted_one_hot, label_one_hot = np.eye(number)[predicted], np.eye(number)[labels]

    def f1(sums: np.ndarray) -> np.ndarray:
        true_positives, occurrences = sums[..., :number], sums[..., number:]
        per_class = 2 * true_positives / np.maximum(occurrences, 1.0)
        if number == 2:
            return per_class[..., 1]
        # A class that is neither predicted nor a label does not count.
        return per_class.sum(-1) / np.maximum((occurrences > 0).sum(-1), 1)

    def matthews(sums: np.ndarray) -> np.ndarray:
        p, t, c = sums[..., :number], sums[..., number : 2 * number], sums[..., -1]
        n = p.sum(-1)
        norm = np.sqrt((n**2 - (p * p).sum(-1)) * (n**2 - (t * t).sum(-1)))
        covariance = c * n - (p * t).sum(-1)
        return np.where(norm > 0, covariance / np.where(norm > 0, norm, 1.0), 0.0)

    f1_values = [predicted_one_hot * label_one_hot, predicted_one_hot + label_one_hot]
    return accuracy | {
        "f1": PerExample(np.concatenate(f1_values, 1), f1),
        "matthews": PerExample(
            np.concatenate([predicted_one_hot, label_one_hot, correct], 1), matthews
        ),
    }
