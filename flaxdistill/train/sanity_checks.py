"""Checks before the first step and after a few: can this run learn what it is meant to?"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxdistill import param_paths
from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss, Terms
from flaxdistill.pytrees import Apply, Batch, Outputs, Params
from flaxdistill.runtime import sharding
from flaxdistill.train.checksum import checksums
from flaxdistill.train.loop import ProgressCheck, ReportLine, SanityCheck
from flaxdistill.train.objective import count_terms
from flaxdistill.train.state import TrainState

PROGRESS_STEPS = 3
"""Steps after which a student must have changed; the first steps of a long warmup are tiny."""

EXTRA_PADDING = 128
"""Columns of padding that are added; a width that every attention kernel accepts."""


def make_sanity_check(
    student: Callable[[TrainState, Batch], Outputs],
    teachers: tuple[Apply, ...],
    prepare: Callable[[Batch], Batch],
    losses: Mapping[str, Loss],
    mesh: jax.sharding.Mesh,
    *,
    per_token: bool,
    low_precision: bool,
    progress_check: SanityCheck,
) -> SanityCheck:
    """Make ``check(state, teacher_params, batch, report)`` for the start of a run.

    It reports loss terms that change when padding is added, and returns ``progress_check``.
    Raises UserError for a teacher whose outputs for a row are not finite, or change with the
    other rows of the batch or when computed again. Dropout is off; of several lanes the first is
    checked. ``per_token``: labels [B, T] belong to tokens and are padded with them.
    ``low_precision`` allows for matrix products below float32 precision.
    """
    tolerance = 3e-2 if low_precision else 1e-3

    def mean_terms(state: TrainState, teacher_outputs: tuple[Outputs, ...], batch: Batch) -> Terms:
        outputs, counts = student(state, batch), count_terms(losses, batch)
        scale = {term: 1.0 / jnp.maximum(count, 1.0) for term, count in counts.items()}
        step = jnp.int32(0)
        totals: Terms = {}
        for name, loss in losses.items():
            loss_params = state.params["losses"][name]
            totals |= loss(loss_params, outputs, teacher_outputs, batch, scale, step)[1]
        return {term: totals[term] * scale[term] for term in counts}

    def measure(state: TrainState, teacher_params: tuple[Params, ...], batch: Batch) -> Any:
        """Return the mean terms without and with extra padding, and one gap per teacher."""

        def run_teachers(rows: Batch) -> tuple[Outputs, ...]:
            return tuple(apply(p, rows) for apply, p in zip(teachers, teacher_params, strict=True))

        if batch.weight.ndim == 2:  # several lanes
            state, batch = jax.tree.map(lambda x: x[0], (state, batch))
        size = min(2 * sharding.data_parallel_size(mesh), batch.weight.shape[0])
        # Filler rows come last: their outputs are all alike.
        index = jax.lax.top_k(batch.weight, size)[1]
        batch = prepare(jax.tree.map(lambda x: x[index], batch))
        padded, outputs = _pad(batch, per_token), run_teachers(batch)
        rolled = run_teachers(jax.tree.map(lambda x: jnp.roll(x, 1, 0), batch))
        gaps = [_gap(a, b, batch.real() > 0) for a, b in zip(outputs, rolled, strict=True)]
        return (
            mean_terms(state, outputs, batch),
            mean_terms(state, run_teachers(padded), padded),
            gaps,
        )

    program = sharding.jit(measure, mesh, out_shardings=sharding.replicated(mesh))

    def check(
        state: TrainState, teacher_params: tuple[Params, ...], batch: Batch, report: ReportLine
    ) -> ProgressCheck:
        terms, padded_terms, gaps = jax.device_get(
            program(_without_optimizer(state), teacher_params, batch)
        )
        _check_teachers(gaps, tolerance)
        _report_terms(terms, padded_terms, tolerance, report)
        return progress_check(state, teacher_params, batch, report)

    return check


def make_progress_check(
    state: TrainState,
    teacher_params: Any,
    batch: Any,
    report: ReportLine,
    *,
    undecayed: str,
    no_gradient: str,
) -> ProgressCheck:
    """Make ``check(step, state)``, which checks a run once, ``PROGRESS_STEPS`` after ``state``.

    The check is postponed while gradients are not finite. It reports parameters without a
    gradient, except those that match ``no_gradient``. Raises UserError if no kernel of the student
    has changed, or if a loss's own parameters have no gradient. Parameters that match
    ``undecayed`` are no kernels: they start at 0 or 1, so the smallest step changes them.
    """
    initial_kernels = _kernel_checksums(state, undecayed)
    due = int(np.max(state.step)) + PROGRESS_STEPS

    def check(step: int, state: TrainState) -> None:
        nonlocal due
        if step != due:
            return
        if np.max(optax.tree.get(state.opt_state, "notfinite_count", 0)):
            due += PROGRESS_STEPS
            return
        moments = optax.tree.get(state.opt_state, "mu")
        trained = param_paths.flatten(jax.device_get(_any_nonzero(moments)))
        untrained = [path for path, nonzero in trained.items() if not nonzero]
        loss_paths = [p.removeprefix("losses/") for p in untrained if p.startswith("losses/")]
        if loss_paths:
            raise UserError(
                f"{', '.join(loss_paths)} of the losses gets no gradient and would keep its "
                "initial values; give the loss a weight above 0, or remove it"
            )
        student_paths = [path for path in trained if path.startswith("student/")]
        if set(student_paths) <= set(untrained):
            report(
                f"no gradient has reached the student in {PROGRESS_STEPS} steps; "
                "check that the rows have labels"
            )
        elif np.array_equal(initial_kernels, _kernel_checksums(state, undecayed)):
            raise UserError(
                f"no kernel of the student has changed in {PROGRESS_STEPS} steps; "
                "raise optim.learning_rate or the weights of the losses"
            )
        elif parts := _untrained_parts(student_paths, untrained, no_gradient):
            report(f"no loss trains {', '.join(parts)} of the student: initial values remain")

    return check


def _without_optimizer(state: TrainState) -> TrainState:
    return dataclasses.replace(state, opt_state=(), best={})


def _check_teachers(gaps: Sequence[np.ndarray], tolerance: float) -> None:
    for number, gap in enumerate(gaps, 1):
        if not np.isfinite(gap):
            raise UserError(
                f"the outputs of teacher {number} of {len(gaps)} are not finite; "
                "check its weights, or set its dtype to float32"
            )
        if not gap <= tolerance:
            raise UserError(
                f"teacher {number} of {len(gaps)} gives different outputs for the same row, apart "
                f"by {gap:.1e} of their largest value; its outputs must depend on the row alone"
            )


def _report_terms(
    terms: Mapping[str, np.ndarray],
    padded_terms: Mapping[str, np.ndarray],
    tolerance: float,
    report: ReportLine,
) -> None:
    for term, value in terms.items():
        if not np.isfinite(value):
            report(f"the term {term} is {value} before the first step")
        elif not abs(value - padded_terms[term]) <= tolerance * abs(value) + 1e-6:
            report(
                f"the term {term} counts padding: it is {value:.4g} on some rows, and "
                f"{padded_terms[term]:.4g} with {EXTRA_PADDING} more columns of padding"
            )


def _untrained_parts(paths: Sequence[str], untrained: Sequence[str], no_gradient: str) -> list[str]:
    """Name the largest parts of a student without any gradient, such as layer_3/attention."""

    def is_trained(part: str) -> bool:
        inside = [
            path
            for path in paths
            if path.startswith(f"{part}/") and not re.fullmatch(no_gradient, path)
        ]
        return bool(set(inside) - set(untrained)) or not inside

    parts = {"/".join(path.split("/")[:n]) for path in paths for n in range(2, path.count("/") + 1)}
    without = {part for part in parts if not is_trained(part)}
    return sorted(
        part.removeprefix("student/") for part in without if part.rpartition("/")[0] not in without
    )


def _kernel_checksums(state: TrainState, undecayed: str) -> jax.Array:
    """Compute checksums of the kernels."""
    leaves = param_paths.flatten(state.params["student"])
    return checksums(
        {path: leaf for path, leaf in leaves.items() if not re.fullmatch(undecayed, path)}
    )


@jax.jit
def _any_nonzero(tree: Params) -> Params:
    return jax.tree.map(lambda leaf: jnp.any(leaf != 0), tree)


def _gap(outputs: Outputs, rolled: Outputs, real: jax.Array) -> jax.Array:
    """Return the largest difference of two outputs relative to the largest value, float32 []."""
    gaps = []
    for x, y in zip(_compared_arrays(outputs), _compared_arrays(rolled), strict=True):
        a, b = (z.astype(jnp.float32) for z in (x, jnp.roll(y, -1, 0)))
        if a.shape[:2] == real.shape:
            a, b = (jnp.where(real[..., None], z, 0.0) for z in (a, b))
        gaps.append(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a)))
    return jnp.max(jnp.stack(gaps))


def _compared_arrays(outputs: Outputs) -> list[jax.Array]:
    """Return the last hidden states, and the inputs of the vocabulary head or logits."""
    vocab = [] if outputs.vocab is None else [outputs.vocab.hidden]
    logits = [] if outputs.logits is None else [outputs.logits]
    return [outputs.hidden[-1], *vocab, *logits]


def _pad(batch: Batch, per_token: bool) -> Batch:
    """Add columns of padding to prepared rows."""

    def pad(x: jax.Array, value: int = 0) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, EXTRA_PADDING)), constant_values=value)

    names = ("input_ids", "segment_ids", "positions", "token_type_ids")
    wider: dict[str, Any] = {name: pad(getattr(batch, name)) for name in names}
    return dataclasses.replace(
        batch, **wider, labels=pad(batch.labels, -1) if per_token else batch.labels
    )
