"""Logs of a run: ``metrics.jsonl``, TensorBoard and, optionally, Weights & Biases."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.runtime import gcs, gcs_paths
from flaxdistill.train.wandb_log import Tracker

LogRow = dict[str, Any]
"""One line of ``metrics.jsonl``: ``step``, numbers by name, and ``split`` for an evaluation."""

RECENT = 20
"""Number of recent logged losses that a new loss is compared with."""


class Log:
    """Appends rows to ``metrics.jsonl`` and to TensorBoard event files in one directory.

    On resume, rows after ``step`` are removed, so the file has no gap and no repetition. Only a
    log with ``writes`` (the first process) writes. ``project`` names a Weights & Biases project
    that receives the same values.
    """

    def __init__(self, directory: Path, *, step: int, writes: bool = True, project: str = ""):
        self.path = directory / "metrics.jsonl"
        self.events = directory / "tensorboard"
        self.writes = writes
        self._losses: deque[float] = deque(maxlen=RECENT)
        if not writes:
            return
        # First, because it may fail.
        self._tracker = Tracker(project, directory) if project else None
        rows = [row for row in read_rows(self.path) if row["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, self.path)
        self._losses.extend(row["loss"] for row in rows if row.get("loss") is not None)
        from tensorboardX import SummaryWriter

        self._events = SummaryWriter(str(self.events), purge_step=step + 1)
        self._file = self.path.open("a")

    def write(self, row: LogRow) -> None:
        """Write one row and flush the file."""
        if not self.writes:
            return
        # JSON has no NaN; its readers expect null.
        finite = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        prefix = row.get("split", "train")
        if "seed" in row:  # the evaluation of one of several lanes
            prefix += f"/seed {row['seed']} learning_rate {row['learning_rate']:g}"
        values = {f"{prefix}/{name}": value for name, value in scalars(row).items()}
        for name, value in values.items():
            self._events.add_scalar(name, value, row["step"])
        if self._tracker:
            self._tracker.write(row["step"], values)

    def spike(self, loss: float) -> dict[str, float]:
        """Record a loss and compare it with the recent ones.

        Returns ``{"spike": loss / median}`` if the loss exceeds the median by more than six
        standard deviations and by more than half, else ``{}``. The deviation is estimated from
        the median absolute deviation, which a few outliers do not change.
        """
        recent = np.array(self._losses)
        if math.isfinite(loss):
            self._losses.append(loss)
        if len(recent) < RECENT:
            return {}
        median = float(np.median(recent))
        deviation = 1.4826 * float(np.median(np.abs(recent - median)))
        threshold = max(median + 6 * deviation, 1.5 * median)
        return {"spike": loss / median} if loss > threshold > 0 else {}

    def upload(self) -> None:
        """Send both files to the bucket of the run, if it has one.

        Called before a checkpoint is saved, because the logs must not be older than a checkpoint.
        """
        if self.writes and gcs_paths.url(self.path):
            self._events.flush()
            gcs.upload(self.path)
            # The newest event file is the one of this start.
            gcs.upload(max(self.events.iterdir(), key=os.path.getmtime))

    def close(self) -> None:
        """Upload and close all files."""
        if not self.writes:
            return
        try:
            self.upload()
        finally:
            self._file.close()
            self._events.close()
            if self._tracker:
                self._tracker.close()


def read_rows(path: Path) -> list[LogRow]:
    """Read a metrics file up to the first invalid line, such as one cut short by a crash."""
    rows: list[LogRow] = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not (isinstance(row, dict) and isinstance(row.get("step"), int) and _is_row(row)):
            break
        rows.append(row)
    return rows


def _is_row(row: LogRow) -> bool:
    """Whether all values but ``split`` are numbers, or null for a number that is not finite."""
    values = [value for name, value in row.items() if name != "split"]
    return isinstance(row.get("split", ""), str) and all(
        value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
        for value in values
    )


def last_row(rows: Iterable[LogRow], split: str | None = None) -> LogRow:
    """Return the last row of a split (None for training), or ``{}``."""
    newest: LogRow = {}
    for row in rows:
        if row.get("split") == split:
            newest = row
    return newest


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the measured numbers of a row, without the step and text."""
    return {
        name: value
        for name, value in row.items()
        if name != "step" and isinstance(value, (int, float))
    }
