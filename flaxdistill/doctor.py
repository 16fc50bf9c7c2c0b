"""What is examined before a run's first step, and after its first few: whether it can learn what it is meant to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxdistill import sharding, tree
from flaxdistill.errors import UserError
from flaxdistill.lanes import split
from flaxdistill.losses.base import Loss, Terms
from flaxdistill.pytrees import Batch, Outputs, Params
from flaxdistill.train.state import TrainState
from flaxdistill.train.step import Apply, count_terms

Report = Callable[[str], None]
Watch = Callable[[int, TrainState], None]
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
    ``every_token`` says that labels [B, T] are of tokens, and padded with them; ``loose`` that figures are summed in
    bfloat16. Raises UserError for a teacher whose answer to a row is another the second time, or among other rows.
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

        rows = min(2 * sharding.groups(mesh), batch.weight.shape[0])
        batch = prepare(jax.tree.map(lambda x: x[:rows], batch))
        wider, said = _padded(batch, every_token), ask(batch)
        again = ask(jax.tree.map(lambda x: jnp.roll(x, 1, 0), batch))
        gaps = [
            _gap(a.hidden[-1], jnp.roll(b.hidden[-1], -1, 0), batch) for a, b in zip(said, again, strict=True)
        ]
        return terms(params, said, batch), terms(params, ask(wider), wider), gaps

    program = sharding.jit(compute, mesh, out_shardings=sharding.replicated(mesh))

    def examine(state: TrainState, teacher_params: tuple[Params, ...], batch: Batch, report: Report) -> Watch:
        params, rows = (split(x, state.step.size)[0] for x in (state.params, batch))
        plain, padded, gaps = jax.device_get(program(params, teacher_params, rows))
        for number, gap in enumerate(gaps, 1):
            if not gap <= tolerance:
                raise UserError(
                    f"teacher {number} of {len(gaps)} gives two answers to the same row, apart by {gap:.1e} of the largest "
                    "number in them; what it says must depend on the row alone"
                )
        for term, value in plain.items():
            if not abs(value - padded[term]) <= tolerance * abs(value) + 1e-6:
                report(
                    f"the term {term} counts padding: it is {value:.4g} on some rows and {padded[term]:.4g} on the same "
                    f"with {COLUMNS} more columns of padding"
                )
        return _watch(_kernels(state), report)

    return examine


def _watch(before: jax.Array, report: Report) -> Watch:
    """Look once, after ``STEPS`` steps, at what has moved of a student whose kernels were ``before``.

    Tells of parameters that no loss reaches. Raises UserError for a student none of whose kernels has changed, and for a
    loss' own parameters without a gradient.
    """

    def watch(step: int, state: TrainState) -> None:
        if step != STEPS or np.max(optax.tree.get(state.opt_state, "total_notfinite", 0)):
            return
        if np.array_equal(before, _kernels(state)):
            raise UserError(
                f"no kernel of the student has changed in {STEPS} steps; raise optim.rate or the weights of the losses"
            )
        reached = jax.device_get(_reached(optax.tree.get(state.opt_state, "mu")))
        still = [path for path, moved in tree.flatten(reached).items() if not moved]
        own = [path.removeprefix("losses/") for path in still if path.startswith("losses/")]
        if own:
            raise UserError(
                f"{', '.join(own)} of the losses gets no gradient, and would stay as it was drawn; give the loss a weight "
                "above 0, or drop it"
            )
        # Named as layer_3 or mlm; a key's bias adds the same to every score of a query, which softmax ignores.
        rest = {path.split("/")[1] for path in still if not path.endswith("key/bias")}
        if rest:
            report(f"no loss reaches {', '.join(sorted(rest))} of the student, which stays as it began")

    return watch


def _kernels(state: TrainState) -> jax.Array:
    """Sum up the student's kernels; biases begin at 0, and the least step moves them."""
    leaves = tree.flatten(state.params["student"])
    return tree.sums({path: leaf for path, leaf in leaves.items() if path.endswith("/kernel")})


@jax.jit
def _reached(moments: Params) -> Params:
    """Tell of every parameter whether any of its first moments is not 0."""
    return jax.tree.map(lambda leaf: jnp.any(leaf != 0), moments)


def _gap(a: jax.Array, b: jax.Array, batch: Batch) -> jax.Array:
    """Give the largest difference at real tokens of [B, T, D], as a share of the largest number: float32 []."""
    a, b = (jnp.where(batch.real()[..., None] > 0, x.astype(jnp.float32), 0.0) for x in (a, b))
    return jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a))


def _padded(batch: Batch, every_token: bool) -> Batch:
    """Add columns of padding to prepared rows."""

    def pad(x: jax.Array, value: int = 0) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, COLUMNS)), constant_values=value)

    names = ("input_ids", "segment_ids", "positions", "token_type_ids")
    wider: dict[str, Any] = {name: pad(getattr(batch, name)) for name in names}
    return dataclasses.replace(batch, **wider, labels=pad(batch.labels, -1) if every_token else batch.labels)
