"""What a report tells: of every run its curves, of every model its size, its speed and its score. JSON as it stands."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from flaxdistill.train.log import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model, judged on the held-out rows of one run.

    ``role``: student, teacher, control (one without a teacher that is compared with somebody else's), or model.
    ``megabytes`` of its parameters as they are stored; ``mflop`` of a token, forward, in rows of the longest length, a
    masked-LM's head aside. ``metrics`` are medians over seeds, ``scores`` the ranking figure of each of them, ``interval``
    its 95 % bootstrap interval. ``kept`` is the share of the teacher's. ``milliseconds`` of a batch, by "rows x tokens".
    """

    name: str
    role: str
    parameters: int
    megabytes: float
    mflop: float
    metrics: dict[str, float]
    scores: list[float]
    interval: tuple[float, float] | None
    kept: float | None
    milliseconds: dict[str, float]

    def row(self) -> Row:
        """Give what one line of a table tells."""
        own = {
            name: getattr(self, name)
            for name in ("parameters", "megabytes", "mflop", "interval", "kept")
        }
        told = {name: value for name, value in own.items() if value is not None}
        return {"name": self.name, "role": self.role} | self.metrics | told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A text on which student and teacher disagree, and which of them is right; of two numbers the closer one is."""

    text: str
    pair: str | None
    truth: str
    teacher: str
    student: str
    teacher_right: bool
    student_right: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run: how it learned, and how its student compares with its teacher.

    ``data`` is the digest of its rows. ``rows`` are its log, ``mflop`` the arithmetic of a token in its step, ``layers``
    tables of likeness of the student's layers (rows) and the teacher's. ``looked_at`` counts the held-out examples that
    ``disagreements`` are of, ``differ`` those that the two answer otherwise, the clearest of which are listed.
    """

    name: str
    task: str
    metric: str
    data: str
    steps: int
    rows: list[Row]
    mflop: float | None
    models: list[ModelFacts]
    layers: dict[str, list[list[float]]]
    looked_at: int
    differ: int
    disagreements: list[Disagreement]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """A whole report. ``peak``: GFLOP/s of the fastest matrix product on ``device``, 0 where no speed was measured."""

    version: str
    device: str
    peak: float
    runs: list[RunFacts]

    def models(self) -> list[ModelFacts]:
        """List every model once, as the first run that names it tells of it; one that was trained here by its own run."""
        own = {run.models[-1].name: run.models[-1] for run in self.runs}
        return list(
            {
                model.name: own.get(model.name, model) for run in self.runs for model in run.models
            }.values()
        )

    def groups(self) -> list[Facts]:
        """Part the runs by their rows: figures on others say nothing to each other."""
        parts = dict.fromkeys(run.data for run in self.runs)
        return [
            dataclasses.replace(self, runs=[run for run in self.runs if run.data == data])
            for data in parts
        ]

    def to_json(self) -> dict[str, Any]:
        """Give the facts as JSON values, null for a number that is none."""
        return _finite(dataclasses.asdict(self))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
