"""What a terminal or a notebook shows: progress while training, tables after."""

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
    "kept": ("kept", lambda x: f"{x:.1%}"),
    "tokens_per_second": ("tokens/s", lambda x: f"{x:,.0f}"),
}


UNANSWERED: dict[str, tuple[str, Callable[[Any], str]]] = {
    "HasAns_exact": ("HasAns EM", "{:.2%}".format),
    "HasAns_f1": ("HasAns F1", "{:.2%}".format),
    "NoAns_exact": ("NoAns EM", "{:.2%}".format),
    "NoAns_f1": ("NoAns F1", "{:.2%}".format),
    "best_f1": ("best F1", "{:.2%}".format),
    "best_f1_thresh": ("with null_threshold", "{:.4f}".format),
}
"""Figures of questions that may have no answer."""


def console(*, quiet: bool = False) -> Console:
    """Make a console for what is printed, or is not to be printed."""
    # A file or a pipe has no width, and rich would cut tables at 80 characters.
    wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(quiet=quiet) if wide else Console(width=200, quiet=quiet)


class Bar:
    """One progress bar a stage, with speed, time left and the terms of the loss.

    In a notebook one line a stage that is written over, without widgets; elsewhere plain lines.
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
            TextColumn("{task.fields[terms]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}
        self._longest = 0  # characters of a line to be written over

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.stop()

    def report(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def show(self, stage: str, steps: int, row: Mapping[str, Any]) -> None:
        """Show a row of metrics."""
        stage = stage or "student"
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=steps, terms="")
        if "split" in row:
            self.report(f"{stage} step {row['step']} {row['split']}: {terms(row)}")
        else:
            self._progress.update(self._tasks[stage], completed=row["step"], terms=terms(row))
            line = f"{stage} step {row['step']}/{steps} {terms(row)}"
            if self.console.is_jupyter and not self.console.quiet:
                self._longest = max(self._longest, len(line))
                print(f"\r{line:<{self._longest}}", end="", flush=True)
            elif not self.console.is_terminal:
                self.report(line)


def terms(row: Mapping[str, Any]) -> str:
    """Write the numbers of a row on one line."""
    parts = [f"{row['tokens_per_second']:,.0f} tokens/s"] if "tokens_per_second" in row else []
    hidden = (
        "step",
        "split",
        "tokens_per_second",
        "learning_rate",
        "grad_norm",
        "skipped",
        "seed",
        "learning_rate",
    )
    parts += [f"{name} {row[name]:g}" for name in ("seed", "learning_rate") if name in row]
    parts += [f"{name} {value:.4f}" for name, value in row.items() if name not in hidden]
    return "  ".join(parts + ([f"skipped {row['skipped']}"] if row.get("skipped") else []))


def results(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Make the closing table of models side by side."""
    rows = list(rows)
    columns = shown(rows)
    table = Table("", *(Column(title, justify="right", no_wrap=True) for title in columns.values()))
    for row in rows:
        table.add_row(escape(row["name"]), *cells(row, columns))
    return table


def shown(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Choose the columns that any row has something for: titles by name."""
    found = {name for row in rows for name in row}
    return {name: title for name, (title, _) in COLUMNS.items() if name in found}


def cells(row: Mapping[str, Any], columns: Iterable[str]) -> list[str]:
    """Write a row's values for some columns, nothing where it has none."""
    return [_cell(row, name) for name in columns]


def evaluations(rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """Make the table of models side by side and, where there are such, of each class and of no answer."""
    yield results(rows)
    if any("per_class" in row for row in rows):
        yield _kinds(rows)
    if told := [row for row in rows if any(name in row for name in UNANSWERED)]:
        table = Table(
            "SQuAD 2",
            *(Column(head, justify="right", no_wrap=True) for head, _ in UNANSWERED.values()),
        )
        for row in told:
            written = (
                write(row[name]) if name in row else "" for name, (_, write) in UNANSWERED.items()
            )
            table.add_row(escape(row["name"]), *written)
        yield table


def _kinds(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table of every class, or kind of entity, of models side by side."""
    shares = ("precision", "recall", "f1")
    titles = (Column(COLUMNS[name][0], justify="right", no_wrap=True) for name in shares)
    table = Table("", "class", *titles, Column("rows", justify="right", no_wrap=True))
    for row in rows:
        for n, (name, kind) in enumerate(row.get("per_class", {}).items()):
            told = (COLUMNS[share][1](kind[share]) for share in shares)
            table.add_row(
                "" if n else escape(row["name"]), escape(name), *told, f"{kind['support']:,}"
            )
        table.add_section()
    return table


def _cell(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name, "")
    return value if value == "" else COLUMNS[name][1](math.nan if value is None else value)


def heat(title: str, values: Iterable[Iterable[float]]) -> Table:
    """Make a table of a number for each layer of a student (rows) and of a teacher (columns); 0 is the embeddings."""
    rows = [[f"{value:.2f}" for value in row] for row in values]
    columns = (Column(f"teacher {j}", justify="right") for j in range(len(rows[0])))
    table = Table(Column(no_wrap=True), *columns, title=escape(title), title_justify="left")
    for i, row in enumerate(rows):
        table.add_row(f"student {i}", *row)
    return table


def speeds(milliseconds: Mapping[str, Mapping[str, float]]) -> Table:
    """Make a table of the milliseconds that each model takes for batches of rows x tokens."""
    sizes = list(dict.fromkeys(size for taken in milliseconds.values() for size in taken))
    table = Table("ms", *(Column(size, justify="right", no_wrap=True) for size in sizes))
    for name, taken in milliseconds.items():
        table.add_row(escape(name), *(f"{taken[size]:.1f}" for size in sizes))
    return table


def listing(title: str, items: Mapping[str, Any]) -> Table:
    """Make a table of names and values."""
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
