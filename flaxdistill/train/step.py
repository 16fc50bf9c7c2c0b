"""The training step: teachers forward, student forward and backward, one optimizer update."""

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
    """Make ``step(state, teacher_params, batch) -> (state, metrics)``, a pure function for ``jit``.

    Means are exact for any number of micro-batches and devices: each term is counted over the
    global batch before the first forward pass, so gradients of micro-batches add up, in float32.
    Metrics: one ``Mean`` per term, ``loss`` (the sum of weight x mean), ``grad_norm`` before
    clipping and ``tokens``, the number of real tokens. ``view`` is a linear map from the stored
    parameters to those of the student; the accumulated gradient is pulled back through it once.
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
        params, pull_back = jax.vjp(view, state.params)

        def differentiate(micro: Batch) -> tuple[Params, Terms]:
            outputs = (f(p, micro) for f, p in zip(teacher_applies, teacher_params, strict=True))
            teachers = jax.lax.stop_gradient(tuple(outputs))
            return jax.grad(objective, has_aux=True)(params, teachers, micro, scale, state.step)

        if accumulate == 1:
            gradient, totals = differentiate(batch)
        else:
            zero_terms = {term: jnp.zeros((), jnp.float32) for term in counts}
            (gradient, totals), _ = jax.lax.scan(
                lambda sums, micro: (jax.tree.map(jnp.add, sums, differentiate(micro)), None),
                jax.tree.map(jnp.zeros_like, (params, zero_terms)),
                micro_batches(batch, accumulate),
            )

        (gradient,) = pull_back(gradient)
        updates, opt_state = tx.update(gradient, state.opt_state, state.params)
        loss = sum((scale[term] * totals[term] for term in counts), jnp.zeros(()))
        metrics = {term: Mean(totals[term], counts[term]) for term in counts} | {
            "loss": Mean(loss, jnp.ones(())),
            "grad_norm": Mean(optax.tree.norm(gradient), jnp.ones(())),
            "tokens": Mean(jnp.sum(batch.real()), jnp.ones(())),
        }
        new_params = optax.apply_updates(state.params, updates)
        new_state = dataclasses.replace(
            state, step=state.step + 1, params=new_params, opt_state=opt_state
        )
        return new_state, metrics

    return step


def count_terms(losses: Mapping[str, Loss], batch: Batch) -> Terms:
    """Count the elements that each term averages over."""
    return functools.reduce(dict.__or__, (loss.count(batch) for loss in losses.values()), {})
