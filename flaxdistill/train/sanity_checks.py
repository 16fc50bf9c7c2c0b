"""What is examined before a run's first step, and after its first few: whether it can learn what it is meant to."""

from __future__ import annotations

import dataclasses
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
from flaxdistill.train import checksum
from flaxdistill.train.loop import Report, Watch
from flaxdistill.train.state import TrainState
from flaxdistill.train.step import count_terms

Examine = Callable[[TrainState, tuple[Params, ...], Batch, Report], Watch]

STEPS = 3
"""After so many steps a student must have moved; the first ones of a long warm-up are short."""

COLUMNS = 128
"""Of padding that are added to rows, which no mean over tokens may notice; what every attention kernel can take."""


def make_examine(
    student: Apply,
    teachers: tuple[Apply, ...],
    prepare: Callable[[Batch], Batch],
    losses: Mapping[str, Loss],
    mesh: jax.sharding.Mesh,
    *,
    every_token: bool,
    loose: bool,
) -> Examine:
    """Make ``examine(state, teacher_params, batch, report)`` for the begin of a run, of several lanes for their first.

    Reports terms that change when padding is added, dropout off, and gives what looks on after the first step.
    ``every_token`` says that labels [B, T] are of tokens, and padded with them; ``loose`` that products are not those of
    float32. Raises UserError for a teacher whose answer to a row is another the second time, or among other rows, and for
    one whose answer is no number.
    """
    tolerance = 3e-2 if loose else 1e-3

    def terms(params: Params, said: tuple[Outputs, ...], batch: Batch) -> Terms:
        outputs, counts = student(params["student"], batch), count_terms(losses, batch)
        scale = {term: 1.0 / jnp.maximum(count, 1.0) for term, count in counts.items()}
        totals: Terms = {}
        for name, loss in losses.items():
            totals |= loss(params["losses"][name], outputs, said, batch, scale, jnp.int32(0))[1]
        return {term: totals[term] * scale[term] for term in counts}

    def compute(params: Params, teacher_params: tuple[Params, ...], batch: Batch) -> Any:
        def ask(rows: Batch) -> tuple[Outputs, ...]:
            return tuple(apply(p, rows) for apply, p in zip(teachers, teacher_params, strict=True))

        if batch.weight.ndim == 2:  # of lanes
            params, batch = jax.tree.map(lambda x: x[0], (params, batch))
        rows = min(2 * sharding.groups(mesh), batch.weight.shape[0])
        # Not what fills up a batch: it has nothing that could differ.
        real = jax.lax.top_k(batch.weight, rows)[1]
        batch = prepare(jax.tree.map(lambda x: x[real], batch))
        wider, said = _padded(batch, every_token), ask(batch)
        again = ask(jax.tree.map(lambda x: jnp.roll(x, 1, 0), batch))
        gaps = [_gap(a, b, batch.real() > 0) for a, b in zip(said, again, strict=True)]
        return terms(params, said, batch), terms(params, ask(wider), wider), gaps

    program = sharding.jit(compute, mesh, out_shardings=sharding.replicated(mesh))

    def examine(
        state: TrainState, teacher_params: tuple[Params, ...], batch: Batch, report: Report
    ) -> Watch:
        plain, padded, gaps = jax.device_get(program(state.params, teacher_params, batch))
        for number, gap in enumerate(gaps, 1):
            if not np.isfinite(gap):
                raise UserError(
                    f"teacher {number} of {len(gaps)} answers with what is no finite number; check its weights, or set its "
                    "dtype to float32"
                )
            if not gap <= tolerance:
                raise UserError(
                    f"teacher {number} of {len(gaps)} gives two answers to the same row, apart by {gap:.1e} of the largest "
                    "number in them; what it says must depend on the row alone"
                )
        for term, value in plain.items():
            if not np.isfinite(value):
                report(f"the term {term} is {value} before the first step")
            elif not abs(value - padded[term]) <= tolerance * abs(value) + 1e-6:
                report(
                    f"the term {term} counts padding: it is {value:.4g} on some rows and {padded[term]:.4g} on the same "
                    f"with {COLUMNS} more columns of padding"
                )
        return make_watch(state, teacher_params, batch, report)

    return examine


def make_watch(state: TrainState, teacher_params: Any, batch: Any, report: Report) -> Watch:
    """Make ``watch(step, state)``, which looks at a run once, ``STEPS`` steps after ``state`` or when numbers are finite.

    Tells of parameters that no loss reaches. Raises UserError for a student none of whose kernels has changed, and for a
    loss' own parameters without a gradient.
    """
    before, due = _kernels(state), int(np.max(state.step)) + STEPS

    def watch(step: int, state: TrainState) -> None:
        nonlocal due
        if step != due:
            return
        if np.max(optax.tree.get(state.opt_state, "notfinite_count", 0)):
            due += STEPS
            return
        reached = jax.device_get(_reached(optax.tree.get(state.opt_state, "mu")))
        still = [path for path, moved in param_paths.flatten(reached).items() if not moved]
        own = [path.removeprefix("losses/") for path in still if path.startswith("losses/")]
        if own:
            raise UserError(
                f"{', '.join(own)} of the losses gets no gradient, and would stay as it was drawn; give the loss a weight "
                "above 0, or drop it"
            )
        student = [path for path in param_paths.flatten(reached) if path.startswith("student/")]
        if set(student) <= set(still):
            report(
                f"no gradient has reached the student in {STEPS} steps: are there labels in the rows?"
            )
        elif np.array_equal(before, _kernels(state)):
            raise UserError(
                f"no kernel of the student has changed in {STEPS} steps; raise optim.learning_rate or the weights of the losses"
            )
        elif rest := _parts(student, still):
            report(f"no loss reaches {', '.join(rest)} of the student, which stays as it began")

    return watch


def _parts(paths: Sequence[str], still: Sequence[str]) -> list[str]:
    """Name the largest parts of a student all of whose parameters are ``still``, such as mlm or layer_3/attention."""

    def moves(part: str) -> bool:
        # A key's bias adds the same to every score of a query, which softmax ignores.
        inside = [
            path for path in paths if path.startswith(f"{part}/") and not path.endswith("key/bias")
        ]
        return bool(set(inside) - set(still)) or not inside

    parts = {"/".join(path.split("/")[:n]) for path in paths for n in range(2, path.count("/") + 1)}
    whole = {part for part in parts if not moves(part)}
    return sorted(
        part.removeprefix("student/") for part in whole if part.rpartition("/")[0] not in whole
    )


def _kernels(state: TrainState) -> jax.Array:
    """Sum up the student's kernels; biases begin at 0, and the least step moves them."""
    leaves = param_paths.flatten(state.params["student"])
    return checksum.sums({path: leaf for path, leaf in leaves.items() if path.endswith("/kernel")})


@jax.jit
def _reached(moments: Params) -> Params:
    """Tell of every parameter whether any of its first moments is not 0."""
    return jax.tree.map(lambda leaf: jnp.any(leaf != 0), moments)


def _gap(ours: Outputs, rolled: Outputs, real: jax.Array) -> jax.Array:
    """Give the largest difference in what a teacher says of some rows, as a share of the largest number: float32 []."""
    gaps = []
    for x, y in zip(_said(ours), _said(rolled), strict=True):
        a, b = (z.astype(jnp.float32) for z in (x, jnp.roll(y, -1, 0)))
        if a.shape[:2] == real.shape:
            a, b = (jnp.where(real[..., None], z, 0.0) for z in (a, b))
        gaps.append(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a)))
    return jnp.max(jnp.stack(gaps))


def _said(outputs: Outputs) -> list[jax.Array]:
    """Give the last hidden states, those before the words' head, and logits [B, ...] if there are any."""
    said = [outputs.hidden[-1], outputs.vocab.hidden]
    return said if outputs.logits is None else [*said, outputs.logits]


def _padded(batch: Batch, every_token: bool) -> Batch:
    """Add columns of padding to prepared rows."""

    def pad(x: jax.Array, value: int = 0) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, COLUMNS)), constant_values=value)

    names = ("input_ids", "segment_ids", "positions", "token_type_ids")
    wider: dict[str, Any] = {name: pad(getattr(batch, name)) for name in names}
    return dataclasses.replace(
        batch, **wider, labels=pad(batch.labels, -1) if every_token else batch.labels
    )
