"""What a report tells: of every run its curves, of every model its size, its speed and its score. JSON as it stands."""

from __future__ import annotations

import dataclasses
from typing import Any

from flaxdistill.train.log import Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model, judged on the held-out rows of one run.

    ``megabytes`` of its parameters as they are stored; ``mflop`` of a token, forward, in rows of the longest length.
    ``figures`` are medians over seeds, ``scores`` the ranking figure of each of them, ``interval`` its 95 % bootstrap
    interval. ``kept`` is the share of the teacher's. ``milliseconds`` of a batch, by "rows x tokens".
    """

    name: str
    role: str  # teacher, student or control
    parameters: int
    megabytes: float
    mflop: float
    figures: dict[str, float]
    scores: list[float]
    interval: tuple[float, float] | None
    kept: float | None
    milliseconds: dict[str, float]

    def row(self) -> Row:
        """Give what one line of a table tells."""
        own = {
            "parameters": self.parameters,
            "megabytes": self.megabytes,
            "interval": self.interval,
            "kept": self.kept,
        }
        return (
            {"name": self.name}
            | self.figures
            | {name: value for name, value in own.items() if value is not None}
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A text on which student and teacher disagree; ``truth`` is '' where nobody has given it."""

    text: str
    pair: str | None
    truth: str
    teacher: str
    student: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run: how it learned, and how its student compares with its teacher.

    ``rows`` are the run's own, ``mflop`` the arithmetic of a token in its step, ``layers`` tables of likeness of the
    student's layers (rows) and the teacher's. ``looked_at`` counts the held-out examples that ``disagreements`` are of,
    ``differ`` those that the two answer otherwise, the clearest of which are listed.
    """

    name: str
    task: str
    figure: str
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
    """A whole report. ``peak``: GFLOP/s of the fastest matrix product on ``device``, where speeds were measured."""

    version: str
    device: str
    peak: float
    runs: list[RunFacts]

    def models(self) -> list[tuple[RunFacts, ModelFacts]]:
        """List every model once, with the first run that names it."""
        seen: dict[tuple[str, str], tuple[RunFacts, ModelFacts]] = {}
        for run in self.runs:
            for model in run.models:
                seen.setdefault((run.data, model.name), (run, model))
        return list(seen.values())

    def to_json(self) -> dict[str, Any]:
        """Give the facts as JSON values."""
        return dataclasses.asdict(self)
