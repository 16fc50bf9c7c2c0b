"""The one config type: what a run is, as frozen dataclasses; JSON out and in."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.models.student_init import Start
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import DType
from flaxdistill.tasks.base import Labelled, Task
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.lanes import Lane
from flaxdistill.train.optimizer import AdamW
from flaxdistill.train.profiler import read_steps


def Stage(name: str) -> str:  # noqa: N802 - reads as the noun it is in a config
    """Point a path at what an earlier stage of the same config trains."""
    return "@" + name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model to learn from."""

    path: str  # a directory, a Hub id (user/name or user/name@revision) or Stage("name")
    dtype: DType = "auto"  # of its weights and its arithmetic
    attention: Attention = "auto"
    sharded: bool = (
        False  # over fsdp and tensor, as the student is; else every device has all of its weights
    )
    cache_top_k: int = (
        0  # words kept of its answers, which are then computed once; 0: it runs in every step
    )

    def __post_init__(self):
        if not self.path.strip("@"):
            raise UserError(f"teacher.path is {self.path!r}; give a directory, a Hub id or @stage")
        if self.cache_top_k < 0:
            raise UserError(
                f"teacher.cache_top_k is {self.cache_top_k}; it is a number of words, such as 64, or 0"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Student:
    """The model to train.

    A size left None is that of the model it starts from or learns from, and half of its layers (all of them where a
    labelled task is learnt without teacher and reference); where ``hidden_size`` is another than that model's, heads keep
    their width and ``intermediate_size`` its proportion.
    """

    start: Start = Start()
    family: str | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    num_heads: int | None = None
    intermediate_size: int | None = None
    max_positions: int | None = None
    dropout: float = 0.1
    attention_dropout: float = 0.1
    dtype: DType = "auto"  # of its arithmetic; weights are float32
    attention: Attention = "auto"
    remat: bool = (
        False  # compute layers again in the backward pass: a third more arithmetic, far less memory
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run. ``losses`` are the objects that run, by the name their flags have."""

    teacher: Teacher | None = None
    ensemble: dict[str, Teacher] = dataclasses.field(
        default_factory=dict
    )  # further teachers; losses average over all
    student: Student = Student(start=Start(path=None))
    corpus: Corpus = Corpus()
    task: Task = MLM()
    losses: dict[str, Loss] = dataclasses.field(
        default_factory=lambda: {"vocab": VocabKD(), "cosine": HiddenCosine()}
    )
    optim: AdamW = AdamW()
    steps: int = 1000
    batch_size: int = 64  # rows of one update, over all devices
    accumulate: int = 1  # micro-batches of one update; the result is the same, the memory is less
    fsdp: int = 1  # devices that share one copy of the parameters; the others share the rows
    tensor: int = 1  # devices that share every row: each has some heads and some of the inner width
    seed: int = 0
    seeds: tuple[
        int, ...
    ] = ()  # lanes: the same run with each of these seeds, side by side as one program
    learning_rates: tuple[
        float, ...
    ] = ()  # lanes: and with each of these in place of optim.learning_rate
    select: Literal["last", "best"] = (
        "last"  # the student that a run gives: its last, or that of its best evaluation
    )
    reference: str | None = None  # a model that evaluations compare with where there is no teacher
    profile: str = ""  # steps of which a profiler's trace is written, such as 10:13
    wandb: str = ""  # a project at Weights & Biases that sees the log too
    sanity_checks: bool = (
        True  # examine teachers, losses and student before the first step and after a few
    )
    log_every: int = 10
    eval_every: int = 500
    save_every: int = 500
    eval_batch_size: int = 64
    data_dir: str | None = None  # where prepared blocks are kept; None: beside the run
    engine: Engine = Engine()  # what prepares them

    def __post_init__(self):
        counts = (
            "steps",
            "batch_size",
            "accumulate",
            "fsdp",
            "tensor",
            "log_every",
            "eval_every",
            "save_every",
        )
        for name in (*counts, "eval_batch_size"):
            if not 1 <= getattr(self, name) < 2**31:
                raise UserError(
                    f"{name} is {getattr(self, name)}; it must be at least 1 and below 2^31"
                )
        for seed in (self.seed, *self.seeds):
            if not 0 <= seed < 2**30:
                raise UserError(
                    f"seed is {seed}; it must be at least 0 and below 2^30, twice which a key can tell apart"
                )
        if self.profile:
            read_steps(self.profile)
        for name, values in (("seeds", self.seeds), ("learning_rates", self.learning_rates)):
            if len(set(values)) < len(values):
                raise UserError(f"{name} is {', '.join(map(str, values))}; name each of them once")
        if not all(0 < rate < math.inf for rate in self.learning_rates):
            raise UserError(
                f"learning_rates is {', '.join(map(str, self.learning_rates))}; each must be above 0"
            )
        if (
            max(len(self.seeds), len(self.learning_rates)) > 1
            and self.teacher
            and self.teacher.cache_top_k
        ):
            raise UserError(
                "teacher.cache_top_k keeps answers in the order of one seed; set it to 0, or leave seeds and rates out"
            )
        if self.student.start.path == "teacher" and self.teacher is None:
            raise UserError(
                "student.start.path is the teacher, but there is none; give a path, or None for random weights"
            )
        if self.teacher and self.reference:
            raise UserError(
                f"reference is {self.reference}, but evaluations compare with the teacher where there is one; drop the reference"
            )
        if self.ensemble and self.teacher is None:
            raise UserError(
                "ensemble names further teachers, but there is no teacher; make one of them the teacher"
            )
        if self.ensemble and any(
            teacher.cache_top_k for teacher in (self.teacher, *self.ensemble.values()) if teacher
        ):
            raise UserError(
                "teacher.cache_top_k keeps the answers of one teacher; set it to 0, or drop the ensemble"
            )
        if self.teacher and not any(loss.needs_teacher for loss in self.losses.values()):
            raise UserError(
                "there is a teacher, but no loss compares with it; add one such as VocabKD(), or make the teacher the reference"
            )
        if isinstance(self.task, Labelled) and not any(
            source.label for source in self.corpus.sources
        ):
            raise UserError(
                "the task has labels, but no source has a column of them; name it in corpus.sources.0.label"
            )
        if not self.losses:
            raise UserError(
                'losses is empty; a run needs at least one, such as {"vocab": VocabKD()}'
            )

    def lanes(self) -> tuple[Lane, ...]:
        """List what is trained side by side: every rate with every seed."""
        return tuple(
            Lane(seed, rate)
            for rate in self.learning_rates or (self.optim.learning_rate,)
            for seed in self.seeds or (self.seed,)
        )

    def reference_models(self) -> dict[str, Teacher]:
        """Name the models that the student is compared with: teacher and ensemble, or the reference in float32."""
        if self.teacher:
            others = {f"ensemble.{name}": teacher for name, teacher in self.ensemble.items()}
            return {"teacher": self.teacher, **others}
        return (
            {"reference": Teacher(path=self.reference, dtype="float32")} if self.reference else {}
        )

    def start_path(self) -> str | None:
        """Give the path that the student's first weights or sizes come from, or None."""
        path = self.student.start.path
        return self.teacher.path if path == "teacher" and self.teacher else path

    def earlier(self) -> list[str]:
        """Name the stages that this one learns from."""
        others = (self.teacher, *self.ensemble.values())
        paths = [
            self.start_path(),
            self.reference,
            *(teacher.path for teacher in others if teacher),
        ]
        return [path[1:] for path in paths if path and path.startswith("@")]

    def model_path(self) -> str | None:
        """Give the path of the model whose vocabulary, and whose sizes, are the student's, or None."""
        return self.start_path() or (self.teacher.path if self.teacher else self.reference)
