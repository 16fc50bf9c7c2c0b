"""Progress bars and tables for a terminal or a notebook."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "parameters": ("params", lambda n: f"{n / 1e6:.2f}M"),
    "role": ("", str),
    "megabytes": ("MB", lambda x: f"{x:.1f}"),
    "mflop": ("MFLOP/token", lambda x: f"{x:.1f}"),
    "mlm": ("MLM loss", lambda x: f"{x:.4f}"),
    "accuracy": ("acc", lambda x: f"{x:.2%}"),
    "exact": ("EM", lambda x: f"{x:.2%}"),
    "f1": ("F1", lambda x: f"{x:.2%}"),
    "precision": ("precision", lambda x: f"{x:.2%}"),
    "recall": ("recall", lambda x: f"{x:.2%}"),
    "matthews": ("Matthews", lambda x: f"{x:.4f}"),
    "pearson": ("Pearson", lambda x: f"{x:.4f}"),
    "spearman": ("Spearman", lambda x: f"{x:.4f}"),
    "mse": ("MSE", lambda x: f"{x:.4f}"),
    "interval": ("95 %", lambda bounds: f"{bounds[0]:.4f} .. {bounds[1]:.4f}"),
    "spread": ("seeds", lambda bounds: f"{bounds[0]:.4f} .. {bounds[1]:.4f}"),
    "gap": ("gap", lambda x: f"{x:.4f}"),
    "kl": ("KL", lambda x: f"{x:.4f}"),
    "agreement": ("agree", lambda x: f"{x:.2%}"),
    "cosine": ("1 - cos", lambda x: f"{x:.4f}"),
    "retention": ("retention", lambda x: f"{x:.1%}"),
    "tokens_per_second": ("tokens/s", lambda x: f"{x:,.0f}"),
}
"""Title and format of the columns of the results table, by metric."""

SQUAD2_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "HasAns_exact": ("HasAns EM", "{:.2%}".format),
    "HasAns_f1": ("HasAns F1", "{:.2%}".format),
    "NoAns_exact": ("NoAns EM", "{:.2%}".format),
    "NoAns_f1": ("NoAns F1", "{:.2%}".format),
    "best_f1": ("best F1", "{:.2%}".format),
    "best_f1_thresh": ("with null_threshold", "{:.4f}".format),
}
"""Columns for questions that may have no answer."""


def console(*, quiet: bool = False) -> Console:
    """Create a console; a quiet one prints nothing."""
    # A file or a pipe has no width, and rich would truncate tables at 80 characters.
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(quiet=quiet) if has_width else Console(width=200, quiet=quiet)


class ProgressBar:
    """One progress bar per stage, with speed, remaining time and loss terms.

    A notebook shows one line per stage that is overwritten, without widgets. Where the output is
    not a terminal, plain lines are printed.
    """

    def __init__(self, console: Console):
        self.console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        # Characters of the longest line in a notebook, which a new line must overwrite.
        self._line_length = 0

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.stop()

    def report(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def update(self, stage: str, steps: int, row: Mapping[str, Any]) -> None:
        """Show the metrics of a step, or print those of an evaluation (a row with a split)."""
        stage = stage or "student"
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=steps, metrics="")
        metrics = format_row(row)
        if "split" in row:
            self.report(f"{stage} step {row['step']} {row['split']}: {metrics}")
            return
        self._progress.update(self._tasks[stage], completed=row["step"], metrics=metrics)
        line = f"{stage} step {row['step']}/{steps} {metrics}"
        if self.console.is_jupyter and not self.console.quiet:
            self._line_length = max(self._line_length, len(line))
            print(f"\r{line:<{self._line_length}}", end="", flush=True)
        elif not self.console.is_terminal:
            self.report(line)


def format_row(row: Mapping[str, Any]) -> str:
    """Format the metrics of a row on one line."""
    parts = [f"{row['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in row else []
    parts += [f"{name} {row[name]:g}" for name in ("seed", "learning_rate") if name in row]
    omitted = {
        "step",
        "split",
        "tokens_per_second",
        "learning_rate",
        "grad_norm",
        "skipped",
        "seed",
    }
    parts += [f"{name} {value:.4f}" for name, value in row.items() if name not in omitted]
    if row.get("skipped"):
        parts.append(f"skipped {row['skipped']}")
    return "  ".join(parts)


def results_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table with a row for each model and a column for each of its metrics."""
    rows = list(rows)
    columns = present_columns(rows)
    table = Table("", *map(_right, columns.values()))
    for row in rows:
        table.add_row(escape(row["name"]), *format_cells(row, columns))
    return table


def present_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the columns for which any row has a value: name to title."""
    names = {name for row in rows for name in row}
    return {name: title for name, (title, _) in COLUMNS.items() if name in names}


def format_cells(row: Mapping[str, Any], columns: Iterable[str]) -> list[str]:
    """Format a row's values of some columns; a missing value is an empty string."""
    return [_format_cell(row, name) for name in columns]


def evaluation_tables(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """Yield the results table and, if present, tables per class and of unanswerable questions."""
    yield results_table(rows)
    if any("per_class" in row for row in rows):
        yield _per_class_table(rows)
    if squad2_rows := [row for row in rows if any(name in row for name in SQUAD2_COLUMNS)]:
        table = Table("SQuAD 2", *(_right(title) for title, _ in SQUAD2_COLUMNS.values()))
        for row in squad2_rows:
            cells = (
                format_value(row[name]) if name in row else ""
                for name, (_, format_value) in SQUAD2_COLUMNS.items()
            )
            table.add_row(escape(row["name"]), *cells)
        yield table


def _per_class_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a row for each class, or entity type, of each model."""
    metrics = ("precision", "recall", "f1")
    titles = (_right(COLUMNS[name][0]) for name in metrics)
    table = Table("", "class", *titles, _right("rows"))
    for row in rows:
        for n, (label, scores) in enumerate(row.get("per_class", {}).items()):
            cells = (COLUMNS[name][1](scores[name]) for name in metrics)
            model = "" if n else escape(row["name"])
            table.add_row(model, escape(label), *cells, f"{scores['support']:,}")
        table.add_section()
    return table


def _right(title: str) -> Column:
    return Column(title, justify="right", no_wrap=True)


def _format_cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name, "")
    return value if value == "" else COLUMNS[name][1](math.nan if value is None else value)


def layer_table(title: str, values: Iterable[Iterable[float]]) -> Table:
    """Return a table of a number per student layer (rows) and teacher layer (columns).

    Layer 0 is the embeddings.
    """
    rows = [[f"{value:.2f}" for value in row] for row in values]
    columns = (Column(f"teacher {j}", justify="right") for j in range(len(rows[0])))
    table = Table(Column(no_wrap=True), *columns, title=escape(title), title_justify="left")
    for i, row in enumerate(rows):
        table.add_row(f"student {i}", *row)
    return table


def latency_table(milliseconds: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of the milliseconds per model and batch size (rows x tokens)."""
    sizes = list(dict.fromkeys(size for latencies in milliseconds.values() for size in latencies))
    table = Table("ms", *map(_right, sizes))
    for name, latencies in milliseconds.items():
        table.add_row(escape(name), *(f"{latencies[size]:.1f}" for size in sizes))
    return table


def key_value_table(title: str, items: Mapping[str, Any]) -> Table:
    """Return a table of names and values."""
    table = Table(
        Column(no_wrap=True),
        Column(overflow="fold"),
        title=escape(title),
        show_header=False,
        title_justify="left",
    )
    for name, value in items.items():
        table.add_row(escape(name), escape(str(value)))
    return table
