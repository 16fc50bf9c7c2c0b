"""Scores of predictions and their confidence intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

LOWER_IS_BETTER = {"mlm", "kl", "cosine", "mse", "gap"}
"""Figures that are better where they are less."""


class PerExample(NamedTuple):
    """What each example adds to a figure, float64 [N, S], and the figure [...] of sums [..., S] over examples."""

    each: np.ndarray
    metric: Callable[[np.ndarray], np.ndarray]


class Score(NamedTuple):
    """Figures of all examples, of some of them the parts, and precision, recall, f1 and support of each class or kind."""

    metrics: dict[str, float]
    per_example: Mapping[str, PerExample] = {}
    per_class: Mapping[str, Mapping[str, float]] = {}


def higher_is_better(metrics: Mapping[str, Any], name: str) -> float:
    """Tell how good an evaluation is by one of its figures: more is better, -inf where there is no number."""
    value = metrics.get(name)
    if value is None or math.isnan(value):
        return -math.inf
    return -value if name in LOWER_IS_BETTER else value


def ratio(above: np.ndarray, below: np.ndarray) -> PerExample:
    return PerExample(
        np.stack([above, below], 1), lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1e-9)
    )


def interval(ours: Sequence[PerExample], theirs: Sequence[PerExample] = ()) -> tuple[float, float]:
    """Give the 95 % bootstrap interval of a figure, or of how much ours is above theirs on the same examples.

    Of several runs on each side their mean is taken; nan where there is no figure. Percentiles of 9,999 resamples of the
    examples (Efron and Tibshirani, 1993, chapter 13) and of the runs, one less than there are, so that seeds vary in it
    as much as they do (Rao and Wu, 1988); a difference is paired, so that what both find hard is no part of it.
    """
    from scipy.stats import bootstrap

    sides = [side for side in (ours, theirs) if side]
    several = [side for side in sides if len(side) > 1]

    def figure(sample: np.ndarray, *drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        runs = iter(drawn)

        def of(side: Sequence[PerExample]) -> Any:
            found = np.stack([run.metric(run.each[sample].sum(axis - 1)) for run in side], -1)
            if len(side) > 1:
                found = np.take_along_axis(found, next(runs)[..., 1:], -1)
            return found.mean(-1)

        first, *second = (of(side) for side in sides)
        return first - second[0] if second else first

    n, width = ours[0].each.shape
    if n < 2 or any(np.isnan(run.metric(run.each.sum(0))) for side in sides for run in side):
        return math.nan, math.nan
    batch = max(2**24 // (n * width), 1)  # numbers that exist at one time
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a resample without a figure makes the interval nan: that says so
        found = bootstrap(
            (np.arange(n), *(np.arange(len(side)) for side in several)),
            figure,
            n_resamples=9999,
            batch=batch,
            vectorized=True,
            method="percentile",
            rng=0,
        ).confidence_interval
    return float(found.low), float(found.high)
