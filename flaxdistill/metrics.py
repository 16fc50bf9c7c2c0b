"""Figures by which answers are judged, by well-kept libraries on the host."""

from __future__ import annotations

import warnings

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
