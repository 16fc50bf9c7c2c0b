"""Figures by which answers are judged, by well-kept libraries on the host."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


def classes(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compare class numbers int [N]: accuracy, F1 (of class 1 where there are two, else the mean over classes), Matthews."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    binary = max(predicted.max(), labels.max()) < 2
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, average="binary" if binary else "macro", zero_division=0)),
        "matthews": float(matthews_corrcoef(labels, predicted)),
    }


def entities(predicted: list[list[str]], tags: list[list[str]]) -> dict[str, float]:
    """Compare BIO tags of sentences as the CoNLL script does: F1, precision, recall of whole entities, F1 of each kind."""
    from seqeval.metrics import classification_report

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kind that is never predicted has no precision: 0 says so
        report: dict[str, Any] = classification_report(tags, predicted, output_dict=True, zero_division=0)
    total = report.pop("micro avg")
    kinds = {name: float(row["f1-score"]) for name, row in report.items() if not name.endswith(" avg")}
    right = np.concatenate([np.array(a) == np.array(b) for a, b in zip(predicted, tags, strict=True)])
    return {
        "f1": float(total["f1-score"]),
        "precision": float(total["precision"]),
        "recall": float(total["recall"]),
        "accuracy": float(np.mean(right)),
    } | {f"f1_{name}": value for name, value in kinds.items()}


def numbers(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compare numbers float [N]: Pearson's and Spearman's correlation (nan where one side is constant), mean square."""
    from scipy.stats import pearsonr, spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant answer has no correlation: nan says so
        return {
            "pearson": float(pearsonr(predicted, labels).statistic),
            "spearman": float(spearmanr(predicted, labels).statistic),
            "mse": float(np.mean(np.square(predicted - labels))),
        }
