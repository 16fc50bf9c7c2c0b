"""One plot of a report: drawn light and dark as SVG, and as PNG, small enough for a phone."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable
from typing import Any

from flaxdistill.report.facts import Facts

SIZE = (4.2, 2.9)
"""Inches at 100 dots per inch: 420 x 290 pixels on a page."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b38600", "#56b4e9", "#8a5fbf", "#7f7f7f")
"""Colour-blind safe on white and on black (Okabe and Ito, 2008)."""

DrawPlot = Callable[[Any], None]
"""Draws on matplotlib axes."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot and its texts."""

    name: str
    """Name of its file and of its element in the page."""
    title: str
    caption: str
    draw: DrawPlot
    section: str
    """Title of its section in the page."""


def palette(facts: Facts) -> dict[str, str]:
    """Map the name of every model and run to a colour, the same in all plots."""
    names = dict.fromkeys(
        [*(model.name for model in facts.models()), *(run.name for run in facts.runs)]
    )
    return {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(names)}


def svg(plot: Plot, *, dark: bool) -> bytes:
    """Draw a plot as SVG with a transparent background; the output is deterministic."""
    return _render(plot, "svg", dark=dark)


def png(plot: Plot) -> bytes:
    """Draw a plot as PNG on white, for slides and papers."""
    return _render(plot, "png", dark=False)


def _render(plot: Plot, kind: str, *, dark: bool) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    ink, grid = ("#e8e8e6", "#4a4d52") if dark else ("#22252a", "#d5d7da")
    style: Any = {
        "axes.edgecolor": grid,
        "axes.labelcolor": ink,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": grid,
        "grid.linewidth": 0.6,
        "text.color": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "font.size": 10,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "svg.hashsalt": plot.name,
        "lines.linewidth": 1.6,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=SIZE, dpi=100, layout="constrained")
        plot.draw(figure.subplots())
        file = io.BytesIO()
        options: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 200}
        figure.savefig(file, format=kind, transparent=kind == "svg", **options)
    return file.getvalue()


def add_legend(axes: Any) -> None:
    """Add a legend, unless it has more entries than fit; the page has a legend of its section."""
    handles, names = axes.get_legend_handles_labels()
    if 0 < len(handles) <= len(COLOURS):
        # matplotlib ignores labels that begin with an underscore.
        labels = [f" {name}" if name[0] == "_" else name for name in names]
        axes.legend(handles, labels, handlelength=1.2)


def set_plain_ticks(axis: Any, values: Iterable[float]) -> None:
    """Label a logarithmic axis with plain numbers at ``values`` that are not too close together."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ticks: list[float] = []
    for value in sorted(set(values)):
        if not ticks or value > 1.2 * ticks[-1]:
            ticks.append(value)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
