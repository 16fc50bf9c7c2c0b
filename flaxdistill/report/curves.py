"""Learning curves of a report: everything that a run logs, plotted against the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flaxdistill.report.facts import Facts, RunFacts
from flaxdistill.report.rendering import Plot, add_legend
from flaxdistill.train.log import LogRow

TRAINING = "Training"

NOT_LOSS_TERMS = {
    "step",
    "split",
    "seed",
    "learning_rate",
    "tokens_per_second",
    "grad_norm",
    "skipped",
    "spike",
}

Value = Callable[[RunFacts, LogRow], float | None]
"""Returns the value of a logged row, or None if the row has none."""

Line = tuple[str, list[tuple[int, float]]]
"""Name of a run, and points (step, value) of one of its lanes."""


def learning_curves(facts: Facts, colours: Mapping[str, str]) -> Iterator[Plot]:
    """Plot losses, the held-out metric, learning rate, gradient norm, throughput, utilisation."""

    def curve(
        name: str,
        title: str,
        caption: str,
        value: Value,
        unit: str = "",
        *,
        from_zero: bool = False,
    ) -> Iterator[Plot]:
        lines = _lines(facts, value)
        if lines:
            label = unit or name.replace("_", " ")

            def draw(axes: Any) -> None:
                _draw(axes, lines, colours, label, from_zero)

            yield Plot(name, title, caption, draw, TRAINING)

    logged_rows = [row for run in facts.runs for row in run.rows if "split" not in row]
    for term in dict.fromkeys(name for row in logged_rows for name in row):
        if term not in NOT_LOSS_TERMS:
            caption = "At the logged steps; the mean over parallel lanes."
            yield from curve(term, f"Training: {term}", caption, _logged(term))
    metric = facts.runs[0].metric
    caption = "Evaluations during training, one line per seed."
    yield from curve(
        f"held_out-{metric}", f"Held out: {metric}", caption, _held_out(metric), metric
    )
    rate = _logged("learning_rate")
    yield from curve("learning_rate", "Learning rate", "As scheduled.", rate, from_zero=True)
    yield from curve("grad_norm", "Gradient norm", "Before clipping.", _logged("grad_norm"))
    caption = "Tokens per second without padding, on the machine that trained it."
    speed = _logged("tokens_per_second")
    yield from curve("tokens_per_second", "Throughput", caption, speed, from_zero=True)
    caption = (
        f"FLOPs of tokens without padding, in percent of {facts.peak:,.0f} GFLOP/s, the fastest "
        "matrix product measured here. Not meaningful for a run trained on another machine."
    )
    utilisation = _utilisation(facts.peak)
    yield from curve("utilisation", "Utilisation", caption, utilisation, "percent", from_zero=True)


def _logged(name: str) -> Value:
    return lambda run, row: row.get(name) if "split" not in row else None


def _held_out(metric: str) -> Value:
    return lambda run, row: row.get(metric) if row.get("split") == "held_out" else None


def _utilisation(peak: float) -> Value:
    def value(run: RunFacts, row: LogRow) -> float | None:
        speed = row.get("tokens_per_second")
        return 100 * speed * run.mflop / (peak * 1e3) if speed and run.mflop and peak else None

    return value


def _lines(facts: Facts, value: Value) -> list[Line]:
    """Collect one line per lane of every run."""
    lines: list[Line] = []
    for run in facts.runs:
        lanes: dict[Any, list[tuple[int, float]]] = {}
        for row in run.rows:
            y = value(run, row)
            if y is not None:
                # Training rows are means over lanes; evaluations name their lane.
                lane = (row.get("seed"), row.get("learning_rate")) if "split" in row else None
                lanes.setdefault(lane, []).append((row["step"], y))
        lines += [(run.name, points) for points in lanes.values()]
    return lines


def _draw(
    axes: Any, lines: list[Line], colours: Mapping[str, str], unit: str, from_zero: bool
) -> None:
    labelled = set()
    for name, points in lines:
        several = sum(other == name for other, _ in lines) > 1
        axes.plot(
            *zip(*points, strict=True),
            "o-" if len(points) < 12 else "-",
            color=colours[name],
            markersize=3,
            alpha=0.6 if several else 1.0,
            label=None if name in labelled else name,
        )
        labelled.add(name)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    add_legend(axes)
