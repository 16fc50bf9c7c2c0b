"""Scores of predictions, and their bootstrap confidence intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LOWER_IS_BETTER = {"mlm", "kl", "cosine", "mse", "gap"}
"""Metrics that are better when they are lower."""


class PerExample(NamedTuple):
    """A metric as a function of statistics that are summed over examples."""

    values: np.ndarray
    """The statistics of each example, float64 [N, S]."""
    metric: Callable[[np.ndarray], np.ndarray]
    """Maps sums [..., S] over examples to the metric [...]."""


class Score(NamedTuple):
    """The result of an evaluation."""

    metrics: dict[str, float]
    """Metrics over all examples, by name."""
    per_example: Mapping[str, PerExample] = {}
    """Per-example statistics of some of the metrics."""
    per_class: Mapping[str, Mapping[str, float]] = {}
    """Precision, recall, f1 and support of each class or entity type."""


def signed_metric(metrics: Mapping[str, Any], name: str) -> float:
    """Return a metric, negated if lower is better; -inf if it is missing or nan."""
    value = metrics.get(name)
    if value is None or math.isnan(value):
        return -math.inf
    return -value if name in LOWER_IS_BETTER else value


def ratio_of_sums(numerators: np.ndarray, denominators: np.ndarray) -> PerExample:
    """Return the metric sum(numerators) / sum(denominators); both arrays are [N]."""
    return PerExample(
        np.stack([numerators, denominators], 1),
        lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1e-9),
    )


def bootstrap_interval(
    runs: Sequence[PerExample], baseline_runs: Sequence[PerExample] = ()
) -> tuple[float, float]:
    """Compute the 95 % bootstrap interval of a metric, or of its difference from a baseline.

    Several runs (seeds) of a model are averaged. The interval is (nan, nan) if the metric is nan.
    Percentiles of 9,999 resamples of the examples (Efron and Tibshirani, 1993, chapter 13) and of
    the runs. Resamples of runs have one run less than there are, so that their mean varies as much
    as that of new seeds (Rao and Wu, 1988). A difference is paired: both models are resampled on
    the same examples, which removes the examples' difficulty.
    """
    from scipy.stats import bootstrap

    models = [model for model in (runs, baseline_runs) if model]
    repeated = [model for model in models if len(model) > 1]

    def statistic(examples: np.ndarray, *run_indices: np.ndarray, axis: int = -1) -> np.ndarray:
        indices = iter(run_indices)

        def mean_metric(model: Sequence[PerExample]) -> Any:
            metrics = np.stack(
                [run.metric(run.values[examples].sum(axis - 1)) for run in model], -1
            )
            if len(model) > 1:
                metrics = np.take_along_axis(metrics, next(indices)[..., 1:], -1)
            return metrics.mean(-1)

        first, *second = (mean_metric(model) for model in models)
        return first - second[0] if second else first

    n, width = runs[0].values.shape
    if n < 2 or any(np.isnan(run.metric(run.values.sum(0))) for model in models for run in model):
        return math.nan, math.nan
    # Bounds the memory: 2**24 numbers at a time.
    batch = max(2**24 // (n * width), 1)
    with warnings.catch_warnings():
        # scipy warns if the metric of a resample is nan; the interval is then nan as well.
        warnings.simplefilter("ignore")
        bounds = bootstrap(
            (np.arange(n), *(np.arange(len(model)) for model in repeated)),
            statistic,
            n_resamples=9999,
            batch=batch,
            vectorized=True,
            method="percentile",
            rng=0,
        ).confidence_interval
    return float(bounds.low), float(bounds.high)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities along the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)
