"""The training step: teachers forward, students forward and backward, one update of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flaxdistill.losses.base import Terms
from flaxdistill.pytrees import Apply, Batch, Mean, Metrics, Params
from flaxdistill.runtime.sharding import micro_batches
from flaxdistill.train.objective import Objective, count_terms
from flaxdistill.train.state import TrainState

States = dict[str, TrainState]


def make_step(
    students: Mapping[str, Objective],
    teacher_applies: tuple[Apply, ...],
    prepare: Callable[[Batch], Batch],
    accumulate: int = 1,
) -> Callable[[States, tuple[Params, ...], Batch], tuple[States, dict[str, Metrics]]]:
    """Make ``step(states, teacher_params, batch) -> (states, metrics)``, a function for ``jit``.

    All students learn from one pass of the teachers. Means are exact for any number of
    micro-batches and devices: each term is counted over the global batch before the first forward
    pass, so gradients of micro-batches add up, in float32. Metrics of each student: one ``Mean``
    per term, ``loss`` (the sum of weight x mean), ``grad_norm`` before clipping and ``tokens``, the
    number of real tokens. The accumulated gradient is pulled back through a student's
    parametrization once.
    """

    def step(
        states: States, teacher_params: tuple[Params, ...], batch: Batch
    ) -> tuple[States, dict[str, Metrics]]:
        batch = prepare(batch)
        counts = {name: count_terms(student.losses, batch) for name, student in students.items()}
        scales = {name: s.scale(counts[name], states[name].step) for name, s in students.items()}
        views: dict[str, Any] = {
            name: jax.vjp(lambda p, s=s, name=name: s.params(states[name], p), states[name].params)
            for name, s in students.items()
        }
        params = {name: view[0] for name, view in views.items()}

        def differentiate(micro: Batch) -> tuple[Params, dict[str, Terms]]:
            outputs = (f(p, micro) for f, p in zip(teacher_applies, teacher_params, strict=True))
            teachers = jax.lax.stop_gradient(tuple(outputs))
            results = {
                name: jax.grad(student, has_aux=True)(
                    params[name], teachers, micro, scales[name], states[name].step
                )
                for name, student in students.items()
            }
            gradients = {name: gradient for name, (gradient, _) in results.items()}
            return gradients, {name: totals for name, (_, totals) in results.items()}

        if accumulate == 1:
            gradients, totals = differentiate(batch)
        else:
            (gradients, totals), _ = jax.lax.scan(
                lambda sums, micro: (jax.tree.map(jnp.add, sums, differentiate(micro)), None),
                jax.tree.map(jnp.zeros_like, (params, counts)),
                micro_batches(batch, accumulate),
            )

        tokens = Mean(jnp.sum(batch.real()), jnp.ones(()))
        new_states, metrics = {}, {}
        for name, student in students.items():
            state, pull_back = states[name], views[name][1]
            means = {term: Mean(totals[name][term], counts[name][term]) for term in counts[name]}
            (gradient,) = pull_back(gradients[name])
            new_states[name], norm, penalties = student.update(state, gradient)
            loss = sum((scales[name][t] * totals[name][t] for t in means), jnp.zeros(()))
            means |= {term: Mean(value, jnp.ones(())) for term, value in penalties.items()}
            metrics[name] = means | {
                "loss": Mean(sum(penalties.values(), loss), jnp.ones(())),
                "grad_norm": Mean(norm, jnp.ones(())),
                "tokens": tokens,
            }
        return new_states, metrics

    return step
