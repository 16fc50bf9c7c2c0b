"""Results of a run: medians over seeds, the best learning rate, one summary row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from flaxdistill.experiment import run_models, workdir
from flaxdistill.metrics import LOWER_IS_BETTER, signed_metric
from flaxdistill.models.architecture import count_parameters
from flaxdistill.train.lanes import Lane
from flaxdistill.train.log import LogRow, read_rows, scalars


def best_learning_rate(rows: Sequence[LogRow], metric: str) -> float | None:
    """Return the learning rate whose seeds have the best median; None if the rows name no rate."""
    rates = dict.fromkeys(row.get("learning_rate") for row in rows)
    return max(
        rates,
        key=lambda rate: _signed_median(
            [row for row in rows if row.get("learning_rate") == rate], metric
        ),
    )


def median_over_seeds(rows: Sequence[LogRow], metric: str) -> LogRow:
    """Return the median of each metric over the seeds of the best learning rate; NaN is worst.

    ``spread`` holds the lowest and the highest ``metric`` of several seeds, ``learning_rate`` the
    best of several rates.
    """
    if len(rows) == 1:
        return rows[0]
    learning_rate = best_learning_rate(rows, metric)
    seeds = [row for row in rows if row.get("learning_rate") == learning_rate]
    names = dict.fromkeys(
        name for row in seeds for name in scalars(row) if name not in Lane._fields
    )
    medians = {name: _signed_median(seeds, name) for name in names}
    result: LogRow = {
        name: -value if name in LOWER_IS_BETTER else value
        for name, value in medians.items()
        if math.isfinite(value)
    }
    values = [row[metric] for row in seeds if math.isfinite(signed_metric(row, metric))]
    result |= {"learning_rate": learning_rate} if len(seeds) < len(rows) else {}
    return result | ({"spread": (min(values), max(values))} if len(values) > 1 else {})


def _signed_median(rows: Sequence[LogRow], metric: str) -> float:
    """Return the median of a metric, negated where lower is better."""
    return statistics.median(signed_metric(row, metric) for row in rows)


def summarize(path: Path) -> LogRow:
    """Summarize a run: parameters, median tokens per second, held-out metrics.

    The metrics of several seeds are their medians.
    """
    speeds = [
        row["tokens_per_second"]
        for row in read_rows(path / "metrics.jsonl")
        if "tokens_per_second" in row
    ]
    summary = {"parameters": count_parameters(workdir.read_config(path)[1])}
    summary |= {"tokens_per_second": statistics.median(speeds)} if speeds else {}
    metric = workdir.read_experiment(path).task.metric
    return summary | median_over_seeds(run_models.lane_evaluations(path), metric)
