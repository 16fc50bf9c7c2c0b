"""A loss of the user's in a stored run, whose class this process does not know."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss, Terms
from flaxdistill.pytrees import Batch, Outputs, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignLoss(Loss):
    """The stored fields of a loss. Evaluation, export and prediction need no more of it."""

    kind = "supervised"
    needs_teacher = True

    stored: dict[str, Any]
    """Its class and its fields, as the run stores them."""

    def weights(self, step: jax.Array) -> Terms:
        raise self._unknown()

    def count(self, batch: Batch) -> Terms:
        raise self._unknown()

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        raise self._unknown()

    def _unknown(self) -> UserError:
        return UserError(
            f"the loss {self.stored.get('class')!r:.80} is not a class of flaxdistill; give the "
            "config that defines it with --config, or import it"
        )
