"""Another loss under a different name, or of one teacher among several."""

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
    """Wrap a loss and prefix its terms, so that one class of loss can be used twice.

    Each copy has its own layers, weight or teacher. Terms are called ``{name}_{term}``.

    Example:
      Two teachers of an ensemble, each with its own layer map and weight:

      >>> large = Named(name="large", teacher=0, loss=HiddenMSE(layers="-1:24", weight=1.0))
      >>> small = Named(name="small", teacher=1, loss=HiddenMSE(layers="-1:12", weight=0.5))
      >>> {term: float(weight) for term, weight in small.weights(step=0).items()}
      {'small_hidden': 0.5}
    """

    name: str = "other"
    """The prefix of the terms, an identifier."""
    loss: Loss = dataclasses.field(default_factory=HiddenMSE)
    """The loss that computes the terms."""
    teacher: int | None = None
    """The teacher that the loss compares with: 0 for the experiment's teacher, 1, 2, ... for those
    of its ensemble in order, None for all of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name.isidentifier():
            raise UserError(
                f"name is {self.name!r}; it is the prefix of the loss's terms and must be an "
                "identifier such as deep"
            )
        if self.teacher is not None and self.teacher < 0:
            raise UserError(
                f"teacher is {self.teacher}; 0 is the experiment's teacher and 1 the first of its "
                "ensemble"
            )

    @property
    def kind(self) -> Any:  # type: ignore[override]
        """That of the wrapped loss."""
        return self.loss.kind

    @property
    def needs_teacher(self) -> Any:  # type: ignore[override]
        """That of the wrapped loss."""
        return self.loss.needs_teacher

    @property
    def needs(self) -> Any:  # type: ignore[override]
        """That of the wrapped loss."""
        return self.loss.needs

    @property
    def needs_masks(self) -> Any:  # type: ignore[override]
        """That of the wrapped loss."""
        return self.loss.needs_masks

    def unwrap(self) -> Loss:
        return self.loss.unwrap()

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        return self.loss.reads(student, teacher)

    def weights(self, step: jax.Array) -> Terms:
        return self._prefixed(self.loss.weights(step))

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        if self.teacher is not None and self.teacher >= len(teachers):
            raise UserError(
                f"loss {self.name} compares with teacher {self.teacher}, counted from 0, but the "
                f"experiment has {len(teachers)}; add teachers to ensemble"
            )
        return self.loss.init(key, student, self._selected(teachers))

    def count(self, batch: Batch) -> Terms:
        return self._prefixed(self.loss.count(batch))

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        inner_scale = {term: scale[f"{self.name}_{term}"] for term in self.loss.count(batch)}
        objective, totals = self.loss(
            params, student, self._selected(teachers), batch, inner_scale, step
        )
        return objective, self._prefixed(totals)

    def _prefixed(self, terms: Terms) -> Terms:
        return {f"{self.name}_{term}": value for term, value in terms.items()}

    def _selected(self, teachers: tuple[Outputs, ...]) -> tuple[Outputs, ...]:
        return teachers if self.teacher is None else teachers[self.teacher : self.teacher + 1]
