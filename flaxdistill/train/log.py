"""Where numbers go: one JSON line a step, TensorBoard, Weights & Biases where asked to, and the terminal."""

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

Row = dict[str, Any]

RECENT = 20
"""Logged losses that a new one is compared with."""


class Log:
    """Append rows to ``metrics.jsonl`` and to TensorBoard event files in one directory.

    A row has ``step``; evaluations also have ``split``. Rows past ``step`` are cut when a run resumes there, so that the
    file reads as if nothing had happened. Only the first process writes. ``project`` names one at Weights & Biases that sees
    the same.
    """

    def __init__(self, directory: Path, *, step: int, writes: bool = True, project: str = ""):
        self.path, self.events, self.writes = (
            directory / "metrics.jsonl",
            directory / "tensorboard",
            writes,
        )
        self._losses: deque[float] = deque(maxlen=RECENT)
        if not writes:
            return
        self._tracker = Tracker(project, directory) if project else None  # first: it may refuse
        rows = [row for row in read_rows(self.path) if row["step"] <= step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, self.path)
        self._losses.extend(row["loss"] for row in rows if row.get("loss") is not None)
        from tensorboardX import SummaryWriter

        self._events = SummaryWriter(str(self.events), purge_step=step + 1)
        self._file = self.path.open("a")

    def write(self, row: Row) -> None:
        """Write one row through to the disk."""
        if not self.writes:
            return
        # JSON knows no NaN; null is what its readers expect.
        plain = {
            k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()
        }
        self._file.write(json.dumps(plain) + "\n")
        self._file.flush()
        place = row.get("split", "train")
        if "seed" in row:  # a lane's own
            place += f"/seed {row['seed']} rate {row['rate']:g}"
        values = {f"{place}/{name}": value for name, value in numbers(row).items()}
        for name, value in values.items():
            self._events.add_scalar(name, value, row["step"])
        if self._tracker:
            self._tracker.write(row["step"], values)

    def spike(self, loss: float) -> dict[str, float]:
        """Compare a loss with the last ones and remember it: {"spike": how many of their medians} if it stands out, or {}.

        It does by six standard deviations and by half; deviations are told from the median's, which a few do not move.
        """
        last = np.array(self._losses)
        if math.isfinite(loss):
            self._losses.append(loss)
        if len(last) < RECENT:
            return {}
        median = float(np.median(last))
        deviation = 1.4826 * float(np.median(np.abs(last - median)))
        return (
            {"spike": loss / median} if loss > max(median + 6 * deviation, 1.5 * median) > 0 else {}
        )

    def keep(self) -> None:
        """Send both files where the run lives, if that is a bucket; before a checkpoint, which they must not fall behind."""
        if self.writes and gcs_paths.of(self.path):
            self._events.flush()
            gcs.send(self.path)
            gcs.send(max(self.events.iterdir(), key=os.path.getmtime))  # that of this start

    def close(self) -> None:
        """Close all of them."""
        if not self.writes:
            return
        try:
            self.keep()
        finally:
            self._file.close()
            self._events.close()
            if self._tracker:
                self._tracker.close()


def read_rows(path: Path) -> list[Row]:
    """Read a metrics file up to the first line that is no row, as a crash may leave at its end."""
    rows: list[Row] = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not (isinstance(row, dict) and isinstance(row.get("step"), int) and _is_row(row)):
            break
        rows.append(row)
    return rows


def _is_row(row: Row) -> bool:
    """Tell whether all values but the name of the split are numbers, or null for one that is not finite."""
    values = [value for name, value in row.items() if name != "split"]
    return isinstance(row.get("split", ""), str) and all(
        value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
        for value in values
    )


def last(rows: Iterable[Row], split: str | None = None) -> Row:
    """Find the newest row of a split (None is training); {} where there is none."""
    found: Row = {}
    for row in rows:
        if row.get("split") == split:
            found = row
    return found


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Keep what is measured: no step, no text."""
    return {
        name: value
        for name, value in row.items()
        if name != "step" and isinstance(value, (int, float))
    }
