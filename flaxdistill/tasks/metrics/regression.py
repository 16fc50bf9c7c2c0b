"""Metrics of regression."""

from __future__ import annotations

import math
import warnings

import numpy as np

from flaxdistill.metrics import PerExample, Score


def regression_metrics(predicted: np.ndarray, labels: np.ndarray) -> Score:
    """Compare floats [N]: Pearson and Spearman correlation, and mean squared error.

    A correlation is nan if either side is constant.
    """
    from scipy.stats import pearsonr, rankdata, spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant predictions: the result is nan
        several = len(labels) > 1
        metrics = {
            "pearson": float(pearsonr(predicted, labels).statistic) if several else math.nan,
            "spearman": float(spearmanr(predicted, labels).statistic) if several else math.nan,
            "mse": float(np.mean(np.square(predicted - labels))),
        }
    # Ranks among all examples: ranking each resample anew would cost much and change little.
    ranks = [rankdata(side) for side in (predicted, labels)]
    return Score(
        metrics,
        {"pearson": _correlation(predicted, labels), "spearman": _correlation(ranks[0], ranks[1])},
    )


def _correlation(x: np.ndarray, y: np.ndarray) -> PerExample:
    x, y = (side.astype(np.float64) - side.mean(dtype=np.float64) for side in (x, y))

    def metric(sums: np.ndarray) -> np.ndarray:
        n, sx, sy, xx, yy, xy = np.moveaxis(sums, -1, 0)
        norm = np.sqrt(np.maximum((n * xx - sx * sx) * (n * yy - sy * sy), 0.0))
        return np.where(norm > 0, (n * xy - sx * sy) / np.where(norm > 0, norm, 1.0), np.nan)

    return PerExample(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1), metric)
