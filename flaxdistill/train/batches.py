"""Batches on devices from stored blocks; each process reads only its own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flaxdistill.data.length_buckets import Buckets
from flaxdistill.data.order import Order, rows
from flaxdistill.data.store import Blocks
from flaxdistill.pytrees import Batch
from flaxdistill.runtime.sharding import local_rows, place_rows, round_up

ReadTargets = Callable[[np.ndarray, Mapping[str, np.ndarray]], dict[str, np.ndarray]]
"""``read(row_indices, columns)`` returns the cached teacher outputs of these rows."""


def train_batches(
    blocks: tuple[Blocks, ...],
    orders: Sequence[Order],
    batch_size: int,
    mesh: Mesh,
    read_targets: ReadTargets | None = None,
) -> Callable[[int], Batch]:
    """Make ``batch(step)``, the global batch of a step, so that resuming needs no replay.

    ``orders`` has one order per lane. ``read_targets`` works with one lane only.
    """

    def batch(step: int) -> Batch:
        index = step * batch_size + local_rows(batch_size, mesh)
        columns = _stack_lanes([rows(blocks, order, index) for order in orders])
        return place_rows(columns, mesh, read_targets(index, columns) if read_targets else {})

    return batch


def bucketed_train_batches(buckets: Sequence[Buckets], mesh: Mesh) -> Callable[[int], Batch]:
    """Make ``batch(step)`` of labelled rows of similar length, from the buckets of each lane."""

    def batch(step: int) -> Batch:
        draws = [lane(step) for lane in buckets]
        length = max(length for _, length in draws)
        own = local_rows(buckets[0].batch_size, mesh)
        columns = [
            rows(lane.blocks, lane.order, index[own], length=length)
            for lane, (index, _) in zip(buckets, draws, strict=True)
        ]
        return place_rows(_stack_lanes(columns), mesh)

    return batch


def held_out_batches(blocks: Blocks, batch_size: int, mesh: Mesh) -> Iterator[Batch]:
    """Yield every held-out block once, in order; rows of weight 0 fill the last batch.

    ``batch_size`` is rounded up to a multiple of the device groups.
    """
    size = round_up(batch_size, mesh)
    order = Order(sizes=(len(blocks),), weights=(1.0,), seed=0, shuffle=False)
    for first in range(0, len(blocks), size):
        index = first + local_rows(size, mesh)
        yield place_rows(rows((blocks,), order, index, limit=len(blocks)), mesh)


def batches_by_length(blocks: Blocks, batch_size: int, mesh: Mesh) -> Iterator[Batch]:
    """Yield every labelled row once, shortest first; rows of weight 0 fill the batches."""
    size = round_up(batch_size, mesh)
    order = Order(sizes=(len(blocks),), weights=(1.0,), seed=0, shuffle=False)
    buckets = Buckets((blocks,), order, size)
    yield from map(bucketed_train_batches([buckets], mesh), range(buckets.epoch_length))


def abstract_batch(length: int, labels: Any = None) -> Batch:
    """Describe one row of ``length`` tokens by ``ShapeDtypeStruct`` leaves.

    Without ``labels`` there is one int32 label per token.
    """
    tokens: Any = jax.ShapeDtypeStruct((1, length), jnp.int32)
    row: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    weight: Any = jax.ShapeDtypeStruct((1,), jnp.float32)
    labels = tokens if labels is None else labels
    return Batch(tokens, tokens, tokens, tokens, labels, tokens, weight, row, row)


def _stack_lanes(lanes: Sequence[Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    """Stack the columns of several lanes along a leading axis; leave those of one lane as is."""
    if len(lanes) == 1:
        return lanes[0]
    return {name: np.stack([columns[name] for columns in lanes]) for name in lanes[0]}
