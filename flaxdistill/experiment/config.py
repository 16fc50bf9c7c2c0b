"""The config of a run: `Experiment` and its parts, all frozen dataclasses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.errors import UserError
from flaxdistill.experiment.fields import check_type, free, path_to_str
from flaxdistill.experiment.model_configs import Student, Teacher, stage_name
from flaxdistill.losses.base import Loss
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.models.start import Start
from flaxdistill.tasks.base import Task
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.lanes import Lane
from flaxdistill.train.optimizer import AdamW
from flaxdistill.train.profiler import parse_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One run: models, data, task, losses and schedule. Lists and paths are converted."""

    teacher: Teacher | None = None
    """The model to learn from; None trains on labels or masked tokens alone."""
    ensemble: dict[str, Teacher] = dataclasses.field(default_factory=dict)
    """Further teachers, by name; losses average over all teachers."""
    student: Student = Student(start=Start(path=None))
    """The model to train."""
    corpus: Corpus = Corpus()
    """The training and held-out data."""
    task: Task = MLM()
    """What the student is trained for."""
    losses: dict[str, Loss] = dataclasses.field(
        default_factory=lambda: {"vocab": VocabKD(), "cosine": HiddenCosine()}
    )
    """The losses that are summed, by the name of their flags."""
    optim: AdamW = AdamW()
    """The optimizer and its schedule."""
    steps: int = free(1000)
    """Number of updates."""
    batch_size: int = 64
    """Sequences per update, over all devices."""
    accumulate: int = free(1)
    """Micro-batches per update: the same result with less memory."""
    fsdp: int = free(1)
    """Devices over which one copy of the parameters is split: fully sharded data parallelism."""
    tensor: int = free(1)
    """Devices that compute the same rows: each has some heads and a part of the inner width."""
    seed: int = 0
    """Seed of first weights, order of rows, masks and dropout."""
    seeds: tuple[int, ...] = ()
    """Train one student per seed, in parallel in one program."""
    learning_rates: tuple[float, ...] = ()
    """Train one student per learning rate (and seed), in place of optim.learning_rate."""
    select: Literal["last", "best"] = "last"
    """The student that a run returns: the last, or that of the best evaluation."""
    reference: str | None = None
    """A reference model: what evaluations compare with when there is no teacher."""
    profile: str = free("")
    """Steps to trace with the profiler, such as 10:13."""
    wandb: str = free("")
    """A project of Weights & Biases that receives the log too."""
    sanity_checks: bool = free(True)
    """Check teachers, losses and student before the first step and after a few."""
    log_every: int = free(10)
    """Steps between two log rows."""
    eval_every: int = free(500)
    """Steps between two evaluations of the held-out rows."""
    save_every: int = free(500)
    """Steps between two checkpoints."""
    eval_batch_size: int = free(64)
    """Sequences per batch of an evaluation."""
    data_dir: str | None = free(None)
    """Where prepared data is cached; None: next to the run."""
    engine: Engine = free(Engine())
    """What prepares the data."""

    def __post_init__(self) -> None:
        path_to_str(self, "reference")
        path_to_str(self, "data_dir")
        for name in ("seeds", "learning_rates"):
            if isinstance(values := getattr(self, name), list | range):
                object.__setattr__(self, name, tuple(values))
        if isinstance(self.ensemble, list | tuple):
            object.__setattr__(
                self, "ensemble", {str(i): t for i, t in enumerate(self.ensemble, 2)}
            )
        _check_types(self)
        _check_counts(self)
        _check_lanes(self)
        _check_teachers(self)
        _check_objective(self)

    def lanes(self) -> tuple[Lane, ...]:
        """List the students that train in parallel: every learning rate with every seed."""
        return tuple(
            Lane(seed, learning_rate)
            for learning_rate in self.learning_rates or (self.optim.learning_rate,)
            for seed in self.seeds or (self.seed,)
        )

    def reference_models(self) -> dict[str, Teacher]:
        """Return the models that evaluations compare with, by role.

        These are the teacher and its ensemble or, without a teacher, the reference in float32.
        """
        if self.teacher:
            others = {f"ensemble.{name}": teacher for name, teacher in self.ensemble.items()}
            return {"teacher": self.teacher, **others}
        return {"reference": Teacher(self.reference, dtype="float32")} if self.reference else {}

    def start_path(self) -> str | None:
        """Return the path of the student's first weights or sizes, or None."""
        path = self.student.start.path
        return self.teacher.path if path == "teacher" and self.teacher else path

    def earlier_stages(self) -> list[str]:
        """List the stages whose students this experiment reads."""
        teachers = (self.teacher, *self.ensemble.values())
        paths = (self.start_path(), self.reference, *(t.path for t in teachers if t))
        return [name for name in map(stage_name, paths) if name is not None]

    def model_path(self) -> str | None:
        """Return the path of the model that sets the student's vocabulary and sizes, or None."""
        return self.start_path() or (self.teacher.path if self.teacher else self.reference)


def _check_types(e: Experiment) -> None:
    """Raise UserError for values that the checks below cannot read."""
    if e.teacher is not None:
        check_type("teacher", e.teacher, Teacher, 'a Teacher, such as Teacher("path")')
    several = 'a dict of teachers, such as {"second": Teacher("path")}'
    check_type("ensemble", e.ensemble, Mapping, several)
    for name, teacher in e.ensemble.items():
        check_type(f"ensemble.{name}", teacher, Teacher, 'a Teacher, such as Teacher("path")')
    check_type("student", e.student, Student, "a Student, such as Student(num_layers=3)")
    check_type("student.start", e.student.start, Start, 'a Start, such as Start("path")')
    check_type("corpus", e.corpus, Corpus, "a Corpus, such as Corpus(sources=...)")
    check_type("task", e.task, Task, "a task, such as MLM() or Classification()")
    check_type("losses", e.losses, Mapping, 'a dict of losses, such as {"vocab": VocabKD()}')
    for name, loss in e.losses.items():
        check_type(f"losses.{name}", loss, Loss, "a loss, such as VocabKD()")
    check_type("optim", e.optim, AdamW, "an optimizer, such as AdamW(learning_rate=5e-4)")
    check_type("seeds", e.seeds, tuple, "a list of seeds, such as [0, 1, 2]")
    check_type("learning_rates", e.learning_rates, tuple, "a list of rates, such as [1e-4, 3e-4]")
    for rate in e.learning_rates:
        check_type("learning_rates", rate, int | float, "numbers, such as [1e-4, 3e-4]")
    check_type("profile", e.profile, str, "the first and the last step, such as 10:13")


def _check_counts(e: Experiment) -> None:
    counts = ("steps", "batch_size", "accumulate", "fsdp", "tensor")
    for name in (*counts, "log_every", "eval_every", "save_every", "eval_batch_size"):
        value = getattr(e, name)
        check_type(name, value, int, "a whole number")
        if not 1 <= value < 2**31:
            raise UserError(f"{name} is {value}; it must be at least 1 and below 2^31")
    for seed in (e.seed, *e.seeds):
        check_type("seed", seed, int, "a whole number")
        if not 0 <= seed < 2**30:  # PRNG keys are made from 2 * seed and 2 * seed + 1, in int32
            raise UserError(f"seed is {seed}; it must be at least 0 and below 2^30")
    if e.profile:
        parse_steps(e.profile)


def _check_lanes(e: Experiment) -> None:
    for name, values in (("seeds", e.seeds), ("learning_rates", e.learning_rates)):
        if len(set(values)) < len(values):
            listed = ", ".join(map(str, values))
            raise UserError(f"{name} is {listed}; list each value once")
    if not all(0 < rate < math.inf for rate in e.learning_rates):
        listed = ", ".join(map(str, e.learning_rates))
        raise UserError(f"learning_rates is {listed}; each must be above 0 and finite")
    several = max(len(e.seeds), len(e.learning_rates)) > 1
    if several and e.teacher and e.teacher.cache_top_k:
        raise UserError(
            "teacher.cache_top_k caches in the order of one seed; set it to 0, or leave out seeds "
            "and learning_rates"
        )


def _check_teachers(e: Experiment) -> None:
    if e.student.start.path == "teacher" and e.teacher is None:
        raise UserError(
            "student.start.path is the teacher, but there is none; give a path, or None for "
            "random weights"
        )
    if e.teacher and e.reference:
        raise UserError(
            f"reference is {e.reference}, but evaluations compare with the teacher; remove the "
            "reference"
        )
    if e.ensemble and e.teacher is None:
        raise UserError("ensemble needs a teacher, but there is none; make one of them the teacher")
    if e.ensemble and any(t.cache_top_k for t in (e.teacher, *e.ensemble.values()) if t):
        raise UserError(
            "teacher.cache_top_k caches one teacher only; set it to 0, or remove the ensemble"
        )
    if e.teacher and not any(loss.needs_teacher for loss in e.losses.values()):
        raise UserError(
            "there is a teacher, but no loss compares with it; add one such as VocabKD(), or make "
            "the teacher the reference"
        )


def _check_objective(e: Experiment) -> None:
    if e.task.rows and not any(source.label for source in e.corpus.sources):
        raise UserError(
            "the task has labels, but no source has a label column; name it in "
            "corpus.sources.0.label"
        )
    if not e.losses:
        raise UserError('losses is empty; a run needs at least one, such as {"vocab": VocabKD()}')
