"""What a student of a step minimizes, and with what it is updated."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from flaxdistill.losses.base import Loss, Terms
from flaxdistill.pytrees import Apply, Batch, Outputs, Params
from flaxdistill.train.state import TrainState


class Parametrization(Protocol):
    """The map from trained to model parameters, a ``models.parametrization.Parametrization``."""

    def __call__(self, trained: Params, frozen: Params, step: jax.Array) -> Params:
        """Return the parameters of the model."""

    def penalty(self, trained: Params, frozen: Params, step: jax.Array) -> Terms:
        """Return the terms that are added to the objective."""


class Unchanged:
    """All parameters are trained as they are."""

    def __call__(self, trained: Params, frozen: Params, step: jax.Array) -> Params:
        return trained

    def penalty(self, trained: Params, frozen: Params, step: jax.Array) -> Terms:
        """Return no terms."""
        return {}


UNCHANGED = Unchanged()


@dataclasses.dataclass(frozen=True)
class Objective:
    """One student of a step: its forward pass, losses and optimizer."""

    apply: Apply
    """``apply(params, batch)``, with dropout."""
    losses: Mapping[str, Loss]
    tx: optax.GradientTransformation
    parametrization: Parametrization = UNCHANGED
    """The map from ``state.params["student"]`` and ``state.frozen`` to what ``apply`` reads."""

    def __call__(
        self,
        params: Params,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        """Return the objective of a micro-batch, and the total of each term."""
        student = self.apply(params["student"], batch)
        value = jnp.zeros((), jnp.float32)
        totals: Terms = {}
        for name, loss in self.losses.items():
            part, terms = loss(params["losses"][name], student, teachers, batch, scale, step)
            value, totals = value + part, totals | terms
        return value, totals

    def params(self, state: TrainState, trained: Params) -> Params:
        """Return the parameters of the student and of the losses, from those that are trained."""
        frozen = state.frozen.get("student", {})
        student = self.parametrization(trained["student"], frozen, state.step)
        return trained | {"student": student}

    def update(self, state: TrainState, gradient: Params) -> tuple[TrainState, jax.Array, Terms]:
        """Add the gradient of the penalties, and update.

        Returns the new state, the norm of the gradient and the penalties.
        """

        def penalty(trained: Params) -> tuple[jax.Array, Terms]:
            frozen = state.frozen.get("student", {})
            terms = self.parametrization.penalty(trained["student"], frozen, state.step)
            return sum(terms.values(), jnp.zeros((), jnp.float32)), terms

        penalty_gradient, penalties = jax.grad(penalty, has_aux=True)(state.params)
        if penalties:
            gradient = jax.tree.map(jnp.add, gradient, penalty_gradient)
        updates, opt_state = self.tx.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state)
        return new, optax.tree.norm(gradient), penalties

    def scale(self, counts: Terms, step: jax.Array) -> Terms:
        """Return weight / count of each term."""
        weights = functools.reduce(
            dict.__or__, (loss.weights(step) for loss in self.losses.values())
        )
        return {term: weights[term] / jnp.maximum(counts[term], 1.0) for term in counts}


def count_terms(losses: Mapping[str, Loss], batch: Batch) -> Terms:
    """Count the elements that each term averages over."""
    return functools.reduce(dict.__or__, (loss.count(batch) for loss in losses.values()), {})
