"""The plots of a report, each small enough for a telephone: drawn light and dark as SVG, and as PNG."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable
from typing import Any

from flaxdistill.metrics import LOWER
from flaxdistill.report.facts import Facts, RunFacts
from flaxdistill.train.log import Row

SIZE = (4.2, 2.9)
"""Inches at 100 points each: 420 pixels of a page."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b38600", "#56b4e9", "#8a5fbf", "#7f7f7f")
"""Told apart by any eye (Okabe and Ito, 2008), on white and on black."""

NO_TERM = {"step", "split", "seed", "rate", "learning_rate", "tokens_per_second", "grad_norm", "skipped"}


@dataclasses.dataclass(frozen=True)
class Figure:
    """One plot: a name for files, a title, what it shows in words, and what draws it on axes."""

    name: str
    title: str
    told: str
    draw: Callable[[Any], None]
    group: str


def figures(facts: Facts) -> list[Figure]:
    """List the plots of a report, leaving out those with nothing to show."""
    return [*_size(facts), *_latency(facts), *_curves(facts), *_layers(facts)]


def svg(figure: Figure, *, dark: bool) -> bytes:
    """Draw a plot as SVG without a background, the same bytes for the same facts."""
    return _render(figure, "svg", dark=dark)


def png(figure: Figure) -> bytes:
    """Draw a plot as PNG on white, for slides and papers."""
    return _render(figure, "png", dark=False)


def _render(figure: Figure, kind: str, *, dark: bool) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    ink, pale = ("#e8e8e6", "#4a4d52") if dark else ("#22252a", "#d5d7da")
    style: Any = {
        "axes.edgecolor": pale, "axes.labelcolor": ink, "axes.spines.right": False, "axes.spines.top": False,
        "axes.grid": True, "axes.axisbelow": True, "grid.color": pale, "grid.linewidth": 0.6, "text.color": ink,
        "xtick.color": ink, "ytick.color": ink, "xtick.major.size": 0, "ytick.major.size": 0, "font.size": 10,
        "legend.frameon": False, "legend.fontsize": 9, "svg.hashsalt": figure.name, "lines.linewidth": 1.6,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        canvas = Canvas(figsize=SIZE, dpi=100, layout="constrained")
        axes = canvas.subplots()
        figure.draw(axes)
        file = io.BytesIO()
        how: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 200}
        canvas.savefig(file, format=kind, transparent=kind == "svg", **how)
    return file.getvalue()


def _colours(facts: Facts) -> dict[str, str]:
    """Give every model and run of one name one colour, in all plots."""
    names = dict.fromkeys([*(model.name for _, model in facts.models()), *(run.name for run in facts.runs)])
    return {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}


def _size(facts: Facts) -> Iterable[Figure]:
    colours = _colours(facts)
    for data in dict.fromkeys(run.data for run in facts.runs):
        shown = [(run, model) for run, model in facts.models() if run.data == data]
        figure = shown[0][0].figure
        if len(shown) < 2:
            continue

        def draw(axes: Any, shown: list = shown, figure: str = figure) -> None:
            for _, model in shown:
                x, y = model.parameters / 1e6, model.figures[figure]
                if model.interval:
                    axes.plot([x, x], model.interval, color=colours[model.name], alpha=0.5, linewidth=3)
                axes.plot(
                    [x], [y], "o" if model.role != "teacher" else "s", color=colours[model.name], markersize=8,
                    label=model.name,
                )  # fmt: skip
            axes.set_xscale("log")
            _plain_ticks(axes.xaxis, [model.parameters / 1e6 for _, model in shown])
            axes.set_xlabel("million parameters")
            axes.set_ylabel(figure + (" (less is better)" if figure in LOWER else ""))
            axes.margins(0.15)
            _legend(axes)

        number = "" if data == facts.runs[0].data else f"-{data[:6]}"
        told = "Bars are 95 % intervals over held-out examples; squares are teachers."
        yield Figure(f"size{number}", f"Size and {figure}", told, draw, "What it costs")


def _latency(facts: Facts) -> Iterable[Figure]:
    colours = _colours(facts)
    models = [model for _, model in facts.models() if model.milliseconds]
    sizes = [tuple(map(int, key.split(" x "))) for key in (models[0].milliseconds if models else ())]
    for rows in dict.fromkeys(rows for rows, _ in sizes):
        lengths = [length for r, length in sizes if r == rows]

        def draw(axes: Any, rows: int = rows, lengths: list[int] = lengths) -> None:
            for model in models:
                taken = [model.milliseconds[f"{rows} x {length}"] for length in lengths]
                axes.plot(lengths, taken, "o-", color=colours[model.name], markersize=4, label=model.name)
            axes.set_xscale("log")
            _plain_ticks(axes.xaxis, lengths)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("tokens of a row")
            axes.set_ylabel("milliseconds")
            _legend(axes)

        told = f"Median time of a forward pass in float32 on {facts.device}."
        yield Figure(f"latency-{rows}", f"Time for {_rows(rows)}", told, draw, "What it costs")


def _curves(facts: Facts) -> Iterable[Figure]:
    terms = dict.fromkeys(
        name
        for run in facts.runs
        for row in run.rows
        if "split" not in row
        for name in row
        if name not in NO_TERM
    )
    for term in terms:
        yield _curve(facts, term, f"Training: {term}", "The mean over the steps between two log lines.")
    for figure in dict.fromkeys(run.figure for run in facts.runs):
        yield _curve(facts, figure, f"Held out: {figure}", "By evaluations while training.", split="held_out")
    yield _curve(facts, "learning_rate", "Learning rate", "As scheduled.", small=True)
    yield _curve(facts, "grad_norm", "Norm of the gradient", "Before clipping.")
    yield _curve(
        facts,
        "tokens_per_second",
        "Throughput",
        "Real tokens a second, where the run was trained.",
        small=True,
    )
    if facts.peak:
        yield _utilisation(facts)


def _utilisation(facts: Facts) -> Figure:
    told = (
        f"Arithmetic of real tokens against {facts.peak:,.0f} GFLOP/s, the fastest matrix product here; it means little of "
        "a run that was trained elsewhere."
    )

    def share(run: RunFacts, row: Row) -> float | None:
        speed = row.get("tokens_per_second")
        return 100 * speed * run.mflop / (facts.peak * 1e3) if speed and run.mflop else None

    return Figure(
        "utilisation",
        "Utilisation",
        told,
        lambda axes: _lines(axes, facts, share, "per cent", True),
        _LEARNING,
    )


_LEARNING = "How it learned"


def _curve(
    facts: Facts, name: str, title: str, told: str, *, split: str | None = None, small: bool = False
) -> Figure:
    def value(run: RunFacts, row: Row) -> float | None:
        return row.get(name) if row.get("split") == split else None

    file = (f"{split}-{name}" if split else name).replace("/", "-")
    return Figure(file, title, told, lambda axes: _lines(axes, facts, value, name, small), _LEARNING)


def _lines(
    axes: Any, facts: Facts, value: Callable[[RunFacts, Row], float | None], name: str, bottom: bool
) -> None:
    """Draw a line for every lane of every run, those of one run in one colour."""
    colours = _colours(facts)
    for run in facts.runs:
        lanes: dict[Any, list[tuple[int, float]]] = {}
        for row in run.rows:
            found = value(run, row)
            if found is not None:
                lanes.setdefault((row.get("seed"), row.get("rate")), []).append((row["step"], found))
        for number, points in enumerate(lanes.values()):
            axes.plot(
                *zip(*points, strict=True), "o-" if len(points) < 12 else "-", color=colours[run.name], markersize=3,
                alpha=1.0 if len(lanes) == 1 else 0.6, label=None if number else run.name,
            )  # fmt: skip
    if bottom:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel(name.replace("_", " "))
    _legend(axes)


def _layers(facts: Facts) -> Iterable[Figure]:
    for run in facts.runs:
        for name, table in run.layers.items():

            def draw(axes: Any, table: list[list[float]] = table) -> None:
                axes.grid(visible=False)
                axes.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
                for i, row in enumerate(table):
                    for j, cell in enumerate(row):
                        ink = "white" if cell < 0.6 else "black"
                        if len(row) <= 13:
                            axes.text(j, i, f"{cell:.2f}", ha="center", va="center", color=ink, fontsize=8)
                axes.set_xticks(range(len(table[0])))
                axes.set_yticks(range(len(table)))
                axes.set_xlabel("teacher's layer (0: embeddings)")
                axes.set_ylabel("student's layer")

            title = "CKA" if name == "cka" else "Cosine"
            told = (
                "1: the same up to rotation and scale."
                if name == "cka"
                else "Mean over tokens; 1: the same direction."
            )
            yield Figure(
                f"{name}-{run.name}".replace("/", "-"), f"{title}, {run.name}", told, draw, "Layer by layer"
            )


def _legend(axes: Any) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc="best", handlelength=1.2)


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


def _rows(number: int) -> str:
    return "one row" if number == 1 else f"{number} rows"
