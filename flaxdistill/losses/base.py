"""The contract of a loss, and the masks of the tokens that losses average over."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError
from flaxdistill.losses.schedule import Schedule
from flaxdistill.pytrees import Batch, Feature, Outputs, Params

Terms = dict[str, jax.Array]
"""One float32 scalar per named term."""

Tokens = Literal["real", "masked", "content", "first", "all"]
"""The tokens that a term averages over: ``real``, all except padding; ``masked``, those with a
label; ``content``, all except padding and the first and last token of each sequence ([CLS] and
[SEP]); ``first``, the first token of each sequence ([CLS]); ``all``, padding too, as some published
code does."""


class Loss(abc.ABC):
    """A loss of one or more named terms, each a weighted mean over tokens, rows or token pairs.

    A subclass is a frozen dataclass whose fields are the hyperparameters; all methods are pure. For
    every update the training step

    1. calls ``count`` once on the global batch, before it is split into micro-batches,
    2. sets ``scale[term] = weights(step)[term] / count[term]``,
    3. calls the loss on each micro-batch and sums the objectives.

    Each mean is therefore exact, however the batch is split over micro-batches and devices.

    Fields of type ``Schedule`` accept a number or text too: ``VocabKD(kl=5.0, mlm="1:2:1000")``. A
    subclass with its own ``__post_init__`` must call ``super().__post_init__()`` first.
    """

    kind: ClassVar[Literal["match", "supervised", "projected"]]
    """What the contract tests may assume. ``match``: the loss is minimal where the student equals
    the teacher. ``supervised``: it reads labels. ``projected``: it compares through its own
    parameters."""

    needs_teacher: ClassVar[bool] = False
    """Whether the loss cannot be computed without a teacher."""

    needs: ClassVar[frozenset[Feature]] = frozenset({Feature.HIDDEN})
    """The outputs that the loss reads, of the student and of the teachers that it compares with."""

    needs_masks: ClassVar[bool] = False
    """Whether the loss reads masked tokens, which only masked-language-model tasks have."""

    def __post_init__(self) -> None:
        """Convert numbers and text in fields of type ``Schedule``."""
        fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(self)  # type: ignore[arg-type]
        for field in fields:
            if field.type not in (Schedule, "Schedule"):
                continue
            try:
                schedule = Schedule.of(getattr(self, field.name))
            except UserError as error:
                raise UserError(f"{type(self).__name__}.{field.name}: {error}") from None
            object.__setattr__(self, field.name, schedule)

    @abc.abstractmethod
    def weights(self, step: jax.Array) -> Terms:
        """Return the weight of each term at a step; 0 for a term that is only reported."""

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        """Create the parameters of the loss; {} for a loss without any.

        Args:
          key: A PRNG key.
          student: Outputs with ``ShapeDtypeStruct`` leaves.
          teachers: The same of each teacher.

        Raises:
          UserError: For shapes that the loss cannot compare.
        """
        return {}

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        """Name the teacher outputs that the loss reads, given both numbers of layers.

        Names are ``vocab``, and ``hidden_3``, ``query_3``, ``key_3`` and ``value_3`` with the
        number of a layer; ``hidden_0`` is the embeddings.
        """
        return frozenset()

    def unwrap(self) -> Loss:
        """Return the wrapped loss of ``Named``, and any other loss itself."""
        return self

    @abc.abstractmethod
    def count(self, batch: Batch) -> Terms:
        """Count what each term averages over in a batch."""

    @abc.abstractmethod
    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        """Return the objective and the total of each term.

        The objective is the sum of ``scale[term] * total[term]``, differentiable in ``params`` and
        ``student``. Totals are for reports only.
        """


def token_mask(batch: Batch, tokens: Tokens) -> jax.Array:
    """Mark the tokens that a term averages over: float32 [B, T], or [B, K] for ``masked``."""
    if tokens == "masked":
        return jnp.where(batch.labels >= 0, batch.weight[:, None], 0.0)
    if tokens == "all":
        return jnp.broadcast_to(batch.weight[:, None], batch.input_ids.shape)
    if tokens == "first":
        return jnp.where(batch.positions == 0, batch.real(), 0.0)
    return batch.real() if tokens == "real" else batch.content()
