"""A loss under a name of its own, or of one teacher among several."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss, Terms
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.pytrees import Batch, Outputs, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(Loss):
    """Take another loss under a name, so that one objective serves twice: with other layers, weights or teachers.

    Its terms are called ``name_term``. ``teacher``: None for all of them, averaged; 0 for the experiment's own, 1, 2, ...
    for those of its ensemble in order, each with a term, a temperature and a map of layers of its own.
    """

    name: str = "other"
    loss: Loss = dataclasses.field(default_factory=HiddenMSE)
    teacher: int | None = None

    def __post_init__(self):
        if not self.name.isidentifier():
            raise UserError(
                f"name is {self.name!r}; a loss is called by a plain word, of which its terms' names begin"
            )
        if self.teacher is not None and self.teacher < 0:
            raise UserError(
                f"teacher is {self.teacher}; 0 is the experiment's own, 1 the first of its ensemble"
            )

    @property
    def kind(self) -> Any:  # type: ignore[override]  # as the loss itself
        return self.loss.kind

    @property
    def needs_teacher(self) -> Any:  # type: ignore[override]  # as the loss itself
        return self.loss.needs_teacher

    @property
    def about(self) -> Any:  # type: ignore[override]  # as the loss itself
        return self.loss.about

    @property
    def tokens(self) -> str:
        """Say which tokens it looks at, where it has such a knob."""
        return getattr(self.loss, "tokens", "")

    def bare(self) -> Loss:
        return self.loss.bare()

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        return self.loss.reads(student, teacher)

    def weights(self, step: jax.Array) -> Terms:
        return self._ours(self.loss.weights(step))

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        if self.teacher is not None and self.teacher >= len(teachers):
            raise UserError(
                f"loss {self.name} is of teacher {self.teacher} and there are {len(teachers)}, counted from 0; name more in "
                "ensemble"
            )
        return self.loss.init(key, student, self._chosen(teachers))

    def count(self, batch: Batch) -> Terms:
        return self._ours(self.loss.count(batch))

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        theirs = {term: scale[f"{self.name}_{term}"] for term in self.loss.count(batch)}
        objective, totals = self.loss(params, student, self._chosen(teachers), batch, theirs, step)
        return objective, self._ours(totals)

    def _ours(self, terms: Terms) -> Terms:
        return {f"{self.name}_{term}": value for term, value in terms.items()}

    def _chosen(self, teachers: tuple[Outputs, ...]) -> tuple[Outputs, ...]:
        return teachers if self.teacher is None else teachers[self.teacher : self.teacher + 1]
