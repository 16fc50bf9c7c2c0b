"""The plots of a report: size against score, latency, learning curves and layer similarity."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flaxdistill.metrics import LOWER_IS_BETTER
from flaxdistill.report.curves import learning_curves
from flaxdistill.report.facts import Facts
from flaxdistill.report.rendering import Plot, add_legend, palette, set_plain_ticks

COSTS, LAYERS = "Size and latency", "Layer similarity"


def plots(facts: Facts) -> list[Plot]:
    """List the plots of a report, one group of comparable runs after the other."""
    colours, result = palette(facts), []
    for number, group in enumerate(facts.groups(), 1):
        group_plots = [
            *_size(group, colours),
            *learning_curves(group, colours),
            *_layer_similarity(group),
        ]
        if number == 1:
            group_plots += _latency(facts, colours)
        suffix = f"-{number}" if number > 1 else ""
        result += [
            dataclasses.replace(plot, name=_file_name(plot.name + suffix)) for plot in group_plots
        ]
    return result


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _size(facts: Facts, colours: Mapping[str, str]) -> Iterator[Plot]:
    models, metric = facts.models(), facts.runs[0].metric
    if len(models) < 2:
        return

    def draw(axes: Any) -> None:
        for model in models:
            x, colour = model.parameters / 1e6, colours[model.name]
            if model.interval:
                axes.plot([x, x], model.interval, color=colour, alpha=0.5, linewidth=3)
            marker = "s" if model.role == "teacher" else "o"
            axes.plot(
                [x], [model.metrics[metric]], marker, color=colour, markersize=8, label=model.name
            )
        axes.set_xscale("log")
        set_plain_ticks(axes.xaxis, [model.parameters / 1e6 for model in models])
        axes.set_xlabel("million parameters")
        axes.set_ylabel(metric + (" (lower is better)" if metric in LOWER_IS_BETTER else ""))
        axes.margins(0.15)
        add_legend(axes)

    caption = "Bars: 95 % intervals over held-out examples. Squares: teachers."
    yield Plot("size", f"Size and {metric}", caption, draw, COSTS)


def _latency(facts: Facts, colours: Mapping[str, str]) -> Iterator[Plot]:
    models = [model for model in facts.models() if model.milliseconds]
    shapes = [
        tuple(map(int, shape.split(" x "))) for shape in (models[0].milliseconds if models else ())
    ]
    for rows in dict.fromkeys(rows for rows, _ in shapes):
        lengths = [length for r, length in shapes if r == rows]

        def draw(axes: Any, rows: int = rows, lengths: list[int] = lengths) -> None:
            for model in models:
                times = [model.milliseconds[f"{rows} x {length}"] for length in lengths]
                axes.plot(
                    lengths, times, "o-", color=colours[model.name], markersize=4, label=model.name
                )
            axes.set_xscale("log")
            set_plain_ticks(axes.xaxis, lengths)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("tokens per row")
            axes.set_ylabel("milliseconds")
            add_legend(axes)

        batch = "1 row" if rows == 1 else f"{rows} rows"
        caption = "Median of forward passes in float32 on this machine, without a masked-LM head."
        yield Plot(f"latency-{rows}", f"Latency of {batch}", caption, draw, COSTS)


def _layer_similarity(facts: Facts) -> Iterator[Plot]:
    titles = {"cka": "CKA"}
    captions = {"cka": "1: equal up to rotation and scale."}
    for number, run in enumerate(facts.runs, 1):
        for measure, table in run.layers.items():

            def draw(axes: Any, table: list[list[float]] = table) -> None:
                _draw_heat_map(axes, table)

            title = f"{titles.get(measure, 'Cosine')}, {run.name}"
            caption = captions.get(measure, "Mean over tokens. 1: the same direction.")
            yield Plot(f"{measure}-{run.name}-{number}", title, caption, draw, LAYERS)


def _draw_heat_map(axes: Any, table: list[list[float]]) -> None:
    axes.grid(visible=False)
    axes.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
    for i, row in enumerate(table):
        # Numbers of wider tables would overlap.
        for j, value in enumerate(row if len(row) <= 13 else ()):
            ink = "white" if value < 0.6 else "black"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(len(table[0])))
    axes.set_yticks(range(len(table)))
    axes.set_xlabel("teacher layer (0: embeddings)")
    axes.set_ylabel("student layer")
