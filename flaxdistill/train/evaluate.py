"""Evaluation of the losses on held-out rows, without gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError, out_of_memory
from flaxdistill.losses.base import Loss, Terms
from flaxdistill.pytrees import Apply, Batch, Mean, Metrics, Params
from flaxdistill.train.objective import count_terms

EvaluateBatch = Callable[[Params, tuple[Params, ...], Batch], Metrics]


def make_evaluate(
    student_apply: Apply,
    teacher_applies: tuple[Apply, ...],
    prepare: Callable[[Batch], Batch],
    losses: Mapping[str, Loss],
) -> EvaluateBatch:
    """Make ``evaluate(params, teacher_params, batch) -> metrics`` for the losses of a step.

    Held-out rows have epoch 0, so ``prepare`` draws the same masks in every evaluation and run.
    """

    def evaluate(params: Params, teacher_params: tuple[Params, ...], batch: Batch) -> Metrics:
        batch = prepare(batch)
        counts = count_terms(losses, batch)
        scale = {term: jnp.ones((), jnp.float32) for term in counts}
        student = student_apply(params["student"], batch)
        teachers = tuple(
            apply(p, batch) for apply, p in zip(teacher_applies, teacher_params, strict=True)
        )
        step = jnp.zeros((), jnp.int32)
        totals: Terms = {}
        for name, loss in losses.items():
            loss_params = params["losses"].get(name, {})
            _, terms = loss(loss_params, student, teachers, batch, scale, step)
            totals |= terms
        return {term: Mean(totals[term], counts[term]) for term in counts}

    return evaluate


def evaluate_batches(
    evaluate: EvaluateBatch,
    params: Params,
    teacher_params: tuple[Params, ...],
    batches: Iterable[Batch],
) -> dict[str, float]:
    """Evaluate all batches and divide once; the host waits only at the end.

    Raises UserError if a batch does not fit the memory of a device.
    """
    sums: Metrics = {}
    try:
        for batch in batches:
            metrics = evaluate(params, teacher_params, batch)
            sums = jax.tree.map(jnp.add, sums, metrics) if sums else metrics
        return {term: float(mean.value()) for term, mean in jax.device_get(sums).items()}
    except jax.errors.JaxRuntimeError as error:
        raise out_of_memory_error(error, batch.weight.shape[0]) from None


def out_of_memory_error(error: jax.errors.JaxRuntimeError, rows: int) -> UserError:
    """Return the message for an evaluation batch that is too large; re-raise any other error."""
    if not out_of_memory(error):
        raise error
    return UserError(
        f"the device is out of memory while evaluating {rows} rows at a time; "
        f"try --eval-batch-size {max(rows // 2, 1)}"
    )
