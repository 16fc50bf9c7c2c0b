"""Evaluation: the losses' contract without a gradient, summed over held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError, out_of_memory
from flaxdistill.losses.base import Loss, Terms
from flaxdistill.pytrees import Apply, Batch, Mean, Metrics, Params
from flaxdistill.train.step import count_terms

Evaluate = Callable[[Params, tuple[Params, ...], Batch], Metrics]


def make_evaluate(
    student_apply: Apply,
    teacher_applies: tuple[Apply, ...],
    prepare: Callable[[Batch], Batch],
    losses: Mapping[str, Loss],
) -> Evaluate:
    """Make ``evaluate(params, teacher_params, batch) -> metrics`` over the same losses the step takes.

    ``prepare`` draws from (its seed, example, epoch 0), so that masks are the same at every evaluation and in every run.
    """

    def evaluate(params: Params, teacher_params: tuple[Params, ...], batch: Batch) -> Metrics:
        batch = prepare(batch)
        counts = count_terms(losses, batch)
        scale = {term: jnp.ones((), jnp.float32) for term in counts}
        student = student_apply(params["student"], batch)
        teachers = tuple(
            apply(p, batch) for apply, p in zip(teacher_applies, teacher_params, strict=True)
        )
        totals: Terms = {}
        for name, loss in losses.items():
            totals |= loss(
                params["losses"].get(name, {}),
                student,
                teachers,
                batch,
                scale,
                jnp.zeros((), jnp.int32),
            )[1]
        return {term: Mean(totals[term], counts[term]) for term in counts}

    return evaluate


def run(
    evaluate: Evaluate, params: Params, teacher_params: tuple[Params, ...], batches: Iterable[Batch]
) -> dict[str, float]:
    """Evaluate all batches and divide once; the host waits for nothing before the end.

    Raises UserError where a batch does not fit the memory of a device.
    """
    sums: Metrics = {}
    try:
        for batch in batches:
            metrics = evaluate(params, teacher_params, batch)
            sums = jax.tree.map(jnp.add, sums, metrics) if sums else metrics
        return {term: float(mean.value()) for term, mean in jax.device_get(sums).items()}
    except jax.errors.JaxRuntimeError as error:
        raise no_room(error, batch.weight.shape[0]) from None


def no_room(error: jax.errors.JaxRuntimeError, rows: int) -> UserError:
    """Say that so many rows do not fit the memory of a device; an error of another kind is raised as it is."""
    if not out_of_memory(error):
        raise error
    return UserError(
        f"the device is out of memory while evaluating {rows} rows at a time; try --eval-batch-size {max(rows // 2, 1)}"
    )
