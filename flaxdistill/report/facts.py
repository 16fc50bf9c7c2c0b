"""The measurements of a report: learning curves of runs, and size, speed and scores of models."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from flaxdistill.train.log import LogRow


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """One model, evaluated on the held-out rows of one run."""

    name: str
    role: str
    """student, teacher, control (trained without a teacher and compared with one) or model."""
    parameters: int
    megabytes: float
    """Size of the parameters in their stored dtypes."""
    mflop: float
    """MFLOP per token of a forward pass over the longest rows, without a masked-LM head."""
    metrics: dict[str, float]
    """Medians over seeds."""
    scores: list[float]
    """The task's metric of each seed."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the median seed's score."""
    retention: float | None
    """Score divided by the teacher's score; of accuracy if the task's metric is a loss."""
    milliseconds: dict[str, float]
    """Latency by batch shape, "rows x tokens"."""

    def row(self) -> LogRow:
        """Return the model's row of the results table."""
        names = ("parameters", "megabytes", "mflop", "interval", "retention")
        values = {name: getattr(self, name) for name in names}
        present = {name: value for name, value in values.items() if value is not None}
        return {"name": self.name, "role": self.role} | self.metrics | present


@dataclasses.dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A text that student and teacher answer differently; the closer of two numbers is right."""

    text: str
    pair: str | None
    truth: str
    teacher: str
    student: str
    teacher_right: bool
    student_right: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run: its learning curves, and its student compared with its teacher."""

    name: str
    task: str
    metric: str
    data: str
    """Digest of the run's rows; runs with equal digests are comparable."""
    steps: int
    rows: list[LogRow]
    """The run's log."""
    mflop: float | None
    """MFLOP per token of a training step."""
    models: list[ModelFacts]
    """Teachers, then the run's own student."""
    layers: dict[str, list[list[float]]]
    """Similarity tables by measure: one row per student layer, one column per teacher layer."""
    compared: int
    """Held-out examples on which student and teacher were compared."""
    differ: int
    """How many of them student and teacher answer differently."""
    disagreements: list[Disagreement]
    """The clearest of these."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """A whole report."""

    version: str
    device: str
    peak: float
    """GFLOP/s of the fastest matrix product on ``device``; 0 if no speed was measured."""
    runs: list[RunFacts]

    def models(self) -> list[ModelFacts]:
        """Return every model once: as its own run measured it, or else as the first run did."""
        own = {run.models[-1].name: run.models[-1] for run in self.runs}
        models = [model for run in self.runs for model in run.models]
        return list({model.name: own.get(model.name, model) for model in models}.values())

    def groups(self) -> list[Facts]:
        """Group runs by held-out rows; scores on different rows are not comparable."""
        digests = dict.fromkeys(run.data for run in self.runs)
        return [
            dataclasses.replace(self, runs=[run for run in self.runs if run.data == digest])
            for digest in digests
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON values, with null for NaN and infinity."""
        return _finite(dataclasses.asdict(self))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
