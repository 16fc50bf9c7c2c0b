"""The step: teachers forward, student forward and backward, one update. It changes only when the mathematics does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from flaxdistill.losses.base import Loss, Terms
from flaxdistill.pytrees import Apply, Batch, Mean, Metrics, Outputs, Params
from flaxdistill.runtime.sharding import micro_batches
from flaxdistill.train.state import TrainState


def make_step(
    student_apply: Apply,
    teacher_applies: tuple[Apply, ...],
    prepare: Callable[[Batch], Batch],
    losses: Mapping[str, Loss],
    tx: optax.GradientTransformation,
    accumulate: int = 1,
    view: Callable[[Params], Params] = lambda params: params,
) -> Callable[[TrainState, tuple[Params, ...], Batch], tuple[TrainState, Metrics]]:
    """Make ``step(state, teacher_params, batch) -> (state, metrics)``, pure and ready for ``jit``.

    Means are exact whatever the split: every term's count is taken over the whole global batch before the first
    forward pass, so that gradients of micro-batches simply add up, in float32. Metrics are one Mean per term, the
    ``loss`` (sum of weight x mean), the ``grad_norm`` before clipping and the number of real ``tokens``. ``view`` is a
    linear map from the parameters to those that the student takes: gradients add up there, and are pulled back once.
    """

    def objective(
        params: Params, teachers: tuple[Outputs, ...], batch: Batch, scale: Terms, step: jax.Array
    ):
        student = student_apply(params["student"], batch)
        value = jnp.zeros((), jnp.float32)
        totals: Terms = {}
        for name, loss in losses.items():
            part, terms = loss(params["losses"][name], student, teachers, batch, scale, step)
            value, totals = value + part, totals | terms
        return value, totals

    def step(
        state: TrainState, teacher_params: tuple[Params, ...], batch: Batch
    ) -> tuple[TrainState, Metrics]:
        batch = prepare(batch)
        counts = count_terms(losses, batch)
        weights = functools.reduce(
            dict.__or__, (loss.weights(state.step) for loss in losses.values())
        )
        scale = {term: weights[term] / jnp.maximum(counts[term], 1.0) for term in counts}
        params, pull = jax.vjp(view, state.params)

        def differentiate(micro: Batch) -> tuple[Params, Terms]:
            teachers = tuple(
                apply(p, micro) for apply, p in zip(teacher_applies, teacher_params, strict=True)
            )
            teachers = jax.lax.stop_gradient(teachers)
            return jax.grad(objective, has_aux=True)(params, teachers, micro, scale, state.step)

        if accumulate == 1:
            gradient, totals = differentiate(batch)
        else:
            zeros = jax.tree.map(
                jnp.zeros_like, (params, {term: jnp.zeros((), jnp.float32) for term in counts})
            )
            (gradient, totals), _ = jax.lax.scan(
                lambda sums, micro: (jax.tree.map(jnp.add, sums, differentiate(micro)), None),
                zeros,
                micro_batches(batch, accumulate),
            )

        (gradient,) = pull(gradient)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        metrics = {term: Mean(totals[term], counts[term]) for term in counts}
        metrics["loss"] = Mean(
            sum((scale[t] * totals[t] for t in counts), jnp.zeros(())), jnp.ones(())
        )
        metrics["grad_norm"] = Mean(optax.tree.norm(gradient), jnp.ones(()))
        metrics["tokens"] = Mean(jnp.sum(batch.real()), jnp.ones(()))
        return dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
        ), metrics

    return step


def count_terms(losses: Mapping[str, Loss], batch: Batch) -> Terms:
    """Count what each term averages over."""
    return functools.reduce(dict.__or__, (loss.count(batch) for loss in losses.values()), {})
