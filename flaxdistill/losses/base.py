"""What every loss is: counts first, then totals, divided once by the step."""

from __future__ import annotations

import abc
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from flaxdistill.pytrees import Batch, Outputs, Params

Terms = dict[str, jax.Array]
"""One float32 scalar per named term."""

Tokens = Literal["real", "masked", "content", "first", "all"]
"""Which tokens a term looks at: all but padding; those with a label; all but padding and the first and last of each sequence
([CLS], [SEP]); the first of each sequence; all, padding too, as some published code does."""


class Loss(abc.ABC):
    """One idea of the literature as a pure function with its own knobs; subclasses are frozen dataclasses.

    The step asks ``count`` first (masks and labels only), sums counts over the whole global batch, sets
    ``scale = weight / count`` per term and then calls the loss on each micro-batch, so that a mean is exact whatever
    the split. ``kind`` says what the contract tests may assume: ``match`` is least where student equals teacher,
    ``supervised`` reads labels, ``projected`` compares through parameters of its own.
    """

    kind: ClassVar[Literal["match", "supervised", "projected"]]
    needs_teacher: ClassVar[bool] = False  # whether the loss says nothing without one
    about: ClassVar[Literal["states", "words", "answers"]] = (
        "states"  # words and answers need the head that gives them
    )

    @abc.abstractmethod
    def weights(self, step: jax.Array) -> Terms:
        """Give the weight of each term at a step; 0 for a term that is only reported."""

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        """Make the loss's own parameters from ``ShapeDtypeStruct`` outputs; raises UserError where shapes cannot meet."""
        return {}

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        """Name what it reads of a teacher, by numbers of layers: ``vocab``, ``hidden_0``, ``queries_12``, ``values_12``."""
        return frozenset()

    def bare(self) -> Loss:
        """Give the loss that does the work: another one for a loss that only gives it a name."""
        return self

    @abc.abstractmethod
    def count(self, batch: Batch) -> Terms:
        """Count what each term averages over in this batch."""

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
        """Compute the objective (the sum of scale x total, differentiable) and each term's total (reported)."""


def token_mask(batch: Batch, tokens: Tokens) -> jax.Array:
    """Mark the tokens a term looks at. float32 [B, T]; for ``masked`` [B, K], along the labelled positions."""
    if tokens == "masked":
        return jnp.where(batch.labels >= 0, batch.weight[:, None], 0.0)
    if tokens == "all":
        return jnp.broadcast_to(batch.weight[:, None], batch.input_ids.shape)
    if tokens == "first":
        return jnp.where(batch.positions == 0, batch.real(), 0.0)
    return batch.real() if tokens == "real" else batch.content()
