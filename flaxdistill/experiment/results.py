"""Medians over seeds, the best rate, one row for a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from flaxdistill.experiment import results, workdir
from flaxdistill.hub.families.base import count
from flaxdistill.metrics import LOWER_IS_BETTER, higher_is_better
from flaxdistill.train.lanes import Lane
from flaxdistill.train.log import Row, numbers, read_rows


def best_rate(rows: Sequence[Row], metric: str) -> float | None:
    """Find the learning rate whose seeds have the best median; None of rows that tell no rate."""
    rates = dict.fromkeys(row.get("learning_rate") for row in rows)
    return max(
        rates,
        key=lambda rate: _middle([row for row in rows if row.get("learning_rate") == rate], metric),
    )


def median(rows: Sequence[Row], metric: str) -> Row:
    """Give the median of every figure over the seeds of the best learning rate; one without a number counts as the worst.

    ``spread`` holds the lowest and the highest of ``metric`` over several seeds; ``rate`` is there where there are several.
    """
    if len(rows) == 1:
        return rows[0]
    rate = best_rate(rows, metric)
    seeds = [row for row in rows if row.get("learning_rate") == rate]
    names = dict.fromkeys(
        name for row in seeds for name in numbers(row) if name not in Lane._fields
    )
    middles = {name: _middle(seeds, name) for name in names}
    found: Row = {
        name: -m if name in LOWER_IS_BETTER else m
        for name, m in middles.items()
        if math.isfinite(m)
    }
    values = [row[metric] for row in seeds if math.isfinite(higher_is_better(row, metric))]
    found |= {"learning_rate": rate} if len(seeds) < len(rows) else {}
    return found | ({"spread": (min(values), max(values))} if len(values) > 1 else {})


def _middle(rows: Sequence[Row], metric: str) -> float:
    """Give what a figure is worth in the median."""
    return statistics.median(higher_is_better(row, metric) for row in rows)


def summary(path: Path) -> Row:
    """Summarise one run: parameters, tokens a second in the median, held-out figures; of several seeds their median."""
    speeds = [
        row["tokens_per_second"]
        for row in read_rows(path / "metrics.jsonl")
        if "tokens_per_second" in row
    ]
    facts = {"parameters": count(workdir.read_config(path)[1])}
    facts |= {"tokens_per_second": statistics.median(speeds)} if speeds else {}
    metric = workdir.read_experiment(path).task.metric
    return facts | results.median(workdir.evaluations(path), metric)
