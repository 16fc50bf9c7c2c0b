"""The plots of a report, each small enough for a telephone: drawn light and dark as SVG, and as PNG."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flaxdistill.metrics import LOWER_IS_BETTER
from flaxdistill.report.facts import Facts, RunFacts
from flaxdistill.train.log import Row

SIZE = (4.2, 2.9)
"""Inches at 100 points each: 420 pixels of a page."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b38600", "#56b4e9", "#8a5fbf", "#7f7f7f")
"""Told apart by any eye (Okabe and Ito, 2008), on white and on black."""

NO_TERM = {
    "step",
    "split",
    "seed",
    "rate",
    "learning_rate",
    "tokens_per_second",
    "grad_norm",
    "skipped",
    "spike",
}

COSTS, LEARNING, LAYERS = "What it costs", "How it learned", "Layer by layer"

Value = Callable[[RunFacts, Row], float | None]


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot: a name for files, a title, what it shows in words, what draws it on axes, and the section it stands in."""

    name: str
    title: str
    told: str
    draw: Callable[[Any], None]
    section: str


def plots(facts: Facts) -> list[Plot]:
    """List the plots of a report, those of each group of runs after the other; none without anything to show."""
    colours, found = palette(facts), []
    groups = facts.groups()
    for number, group in enumerate(groups, 1):
        drawn = [*_size(group, colours), *_curves(group, colours), *_layers(group)]
        if number == 1:
            drawn += _latency(facts, colours)
        tail = f"-{number}" if number > 1 else ""
        found += [dataclasses.replace(plot, name=_file(plot.name + tail)) for plot in drawn]
    return found


def palette(facts: Facts) -> dict[str, str]:
    """Give every model and run of one name one colour, in all plots."""
    names = dict.fromkeys(
        [*(model.name for model in facts.models()), *(run.name for run in facts.runs)]
    )
    return {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}


def svg(plot: Plot, *, dark: bool) -> bytes:
    """Draw a plot as SVG without a background, the same bytes for the same facts."""
    return _render(plot, "svg", dark=dark)


def png(plot: Plot) -> bytes:
    """Draw a plot as PNG on white, for slides and papers."""
    return _render(plot, "png", dark=False)


def _render(plot: Plot, kind: str, *, dark: bool) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    ink, pale = ("#e8e8e6", "#4a4d52") if dark else ("#22252a", "#d5d7da")
    style: Any = {
        "axes.edgecolor": pale, "axes.labelcolor": ink, "axes.spines.right": False, "axes.spines.top": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": pale, "grid.linewidth": 0.6, "text.color": ink,
        "xtick.color": ink, "ytick.color": ink, "xtick.major.size": 0, "ytick.major.size": 0, "font.size": 10,
        "legend.frameon": False, "legend.fontsize": 9, "svg.hashsalt": plot.name, "lines.linewidth": 1.6,
        "text.parse_math": False,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        canvas = Canvas(figsize=SIZE, dpi=100, layout="constrained")
        plot.draw(canvas.subplots())
        file = io.BytesIO()
        how: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 200}
        canvas.savefig(file, format=kind, transparent=kind == "svg", **how)
    return file.getvalue()


def _file(name: str) -> str:
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
        _plain_ticks(axes.xaxis, [model.parameters / 1e6 for model in models])
        axes.set_xlabel("million parameters")
        axes.set_ylabel(metric + (" (less is better)" if metric in LOWER_IS_BETTER else ""))
        axes.margins(0.15)
        _legend(axes)

    told = "Bars are 95 % intervals over held-out examples; squares are teachers."
    yield Plot("size", f"Size and {metric}", told, draw, COSTS)


def _latency(facts: Facts, colours: Mapping[str, str]) -> Iterator[Plot]:
    models = [model for model in facts.models() if model.milliseconds]
    sizes = [
        tuple(map(int, key.split(" x "))) for key in (models[0].milliseconds if models else ())
    ]
    for rows in dict.fromkeys(rows for rows, _ in sizes):
        lengths = [length for r, length in sizes if r == rows]

        def draw(axes: Any, rows: int = rows, lengths: list[int] = lengths) -> None:
            for model in models:
                taken = [model.milliseconds[f"{rows} x {length}"] for length in lengths]
                axes.plot(
                    lengths, taken, "o-", color=colours[model.name], markersize=4, label=model.name
                )
            axes.set_xscale("log")
            _plain_ticks(axes.xaxis, lengths)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("tokens of a row")
            axes.set_ylabel("milliseconds")
            _legend(axes)

        what = "one row" if rows == 1 else f"{rows} rows"
        told = "Median of a forward pass in float32, here, a masked-LM's head aside."
        yield Plot(f"latency-{rows}", f"Time for {what}", told, draw, COSTS)


def _curves(facts: Facts, colours: Mapping[str, str]) -> Iterator[Plot]:
    """Draw everything that was logged against the step."""

    def curve(
        name: str, title: str, told: str, value: Value, unit: str = "", *, from_zero: bool = False
    ) -> Iterator[Plot]:
        lines = _lines(facts, value)
        if lines:
            unit = unit or name.replace("_", " ")
            yield Plot(
                name,
                title,
                told,
                lambda axes: _draw(axes, lines, colours, unit, from_zero),
                LEARNING,
            )

    def logged(name: str) -> Value:
        return lambda run, row: row.get(name) if "split" not in row else None

    terms = dict.fromkeys(
        name for run in facts.runs for row in run.rows if "split" not in row for name in row
    )
    for term in (term for term in terms if term not in NO_TERM):
        yield from curve(
            term,
            f"Training: {term}",
            "At the logged steps; of several seeds their mean.",
            logged(term),
        )
    metric = facts.runs[0].metric
    yield from curve(
        f"held_out-{metric}",
        f"Held out: {metric}",
        "By evaluations while training, a line for every seed.",
        lambda run, row: row.get(metric) if row.get("split") == "held_out" else None,
        metric,
    )
    yield from curve(
        "learning_rate", "Learning rate", "As scheduled.", logged("learning_rate"), from_zero=True
    )
    yield from curve("grad_norm", "Norm of the gradient", "Before clipping.", logged("grad_norm"))
    told = "Real tokens a second, where it was trained."
    yield from curve(
        "tokens_per_second", "Throughput", told, logged("tokens_per_second"), from_zero=True
    )

    def share(run: RunFacts, row: Row) -> float | None:
        speed = row.get("tokens_per_second")
        return (
            100 * speed * run.mflop / (facts.peak * 1e3)
            if speed and run.mflop and facts.peak
            else None
        )

    told = (
        f"Arithmetic of real tokens against {facts.peak:,.0f} GFLOP/s, the fastest matrix product here; it means little of "
        "a run that was trained elsewhere."
    )
    yield from curve("utilisation", "Utilisation", told, share, "per cent", from_zero=True)


Line = tuple[str, list[tuple[int, float]]]


def _lines(facts: Facts, value: Value) -> list[Line]:
    """Collect the points of every lane of every run, by the run's name."""
    found: list[Line] = []
    for run in facts.runs:
        lanes: dict[Any, list[tuple[int, float]]] = {}
        for row in run.rows:
            point = value(run, row)
            if point is not None:
                lanes.setdefault((row.get("seed"), row.get("learning_rate")), []).append(
                    (row["step"], point)
                )
        found += [(run.name, points) for points in lanes.values()]
    return found


def _draw(
    axes: Any, lines: list[Line], colours: Mapping[str, str], unit: str, from_zero: bool
) -> None:
    told = set()
    for name, points in lines:
        marks = "o-" if len(points) < 12 else "-"
        several = sum(other == name for other, _ in lines) > 1
        axes.plot(
            *zip(*points, strict=True), marks, color=colours[name], markersize=3, alpha=0.6 if several else 1.0,
            label=None if name in told else name,
        )  # fmt: skip
        told.add(name)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    _legend(axes)


def _layers(facts: Facts) -> Iterator[Plot]:
    for number, run in enumerate(facts.runs, 1):
        for name, table in run.layers.items():

            def draw(axes: Any, table: list[list[float]] = table) -> None:
                axes.grid(visible=False)
                axes.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
                for i, row in enumerate(table):
                    for j, cell in enumerate(row if len(row) <= 13 else ()):
                        ink = "white" if cell < 0.6 else "black"
                        axes.text(
                            j, i, f"{cell:.2f}", ha="center", va="center", color=ink, fontsize=8
                        )
                axes.set_xticks(range(len(table[0])))
                axes.set_yticks(range(len(table)))
                axes.set_xlabel("teacher's layer (0: embeddings)")
                axes.set_ylabel("student's layer")

            title = "CKA" if name == "cka" else "HiddenCosine"
            told = (
                "1: the same up to rotation and scale."
                if name == "cka"
                else "Mean over tokens; 1: the same direction."
            )
            yield Plot(f"{name}-{run.name}-{number}", f"{title}, {run.name}", told, draw, LAYERS)


def _legend(axes: Any) -> None:
    """Name the lines, unless there are so many that they need the room; the page names them all."""
    handles, names = axes.get_legend_handles_labels()
    if 0 < len(handles) <= len(COLOURS):
        # matplotlib leaves out names that begin with an underscore.
        axes.legend(
            handles, [f" {name}" if name[0] == "_" else name for name in names], handlelength=1.2
        )


def _plain_ticks(axis: Any, values: Iterable[float]) -> None:
    """Write numbers on a logarithmic axis as they are, at the values themselves unless they are too close."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or value > 1.2 * kept[-1]:
            kept.append(value)
    axis.set_major_locator(FixedLocator(kept))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
