"""From stored blocks to batches on devices, this process's rows only."""

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
from flaxdistill.runtime.sharding import own_rows, place_rows, round_up


def train_batches(
    blocks: tuple[Blocks, ...],
    orders: Sequence[Order],
    batch_size: int,
    mesh: Mesh,
    targets: Callable[[np.ndarray, Mapping[str, np.ndarray]], dict[str, np.ndarray]] | None = None,
) -> Callable[[int], Batch]:
    """Make ``batch(at)``: the global batch of a step, addressed by its number, so that resuming needs no replay.

    ``orders`` has one for each lane; ``targets`` reads a teacher's stored answers to rows at some indices, in the one lane.
    """

    def batch(at: int) -> Batch:
        index = at * batch_size + own_rows(batch_size, mesh)
        columns = _beside([rows(blocks, order, index) for order in orders])
        return place_rows(columns, mesh, targets(index, columns) if targets else {})

    return batch


def held_out_batches(blocks: Blocks, batch_size: int, mesh: Mesh) -> Iterator[Batch]:
    """Yield every held-out block once, the last batch filled up with rows of weight 0.

    ``batch_size`` is rounded up until all devices have as many rows.
    """
    size = round_up(batch_size, mesh)
    order = Order(sizes=(len(blocks),), weights=(1.0,), seed=0, shuffle=False)
    for first in range(0, len(blocks), size):
        yield place_rows(
            rows((blocks,), order, first + own_rows(size, mesh), limit=len(blocks)), mesh
        )


def bucketed_batches(lanes: Sequence[Buckets], mesh: Mesh) -> Callable[[int], Batch]:
    """Make ``batch(at)`` as ``train_batches`` does, of labelled rows of about one length."""

    def batch(at: int) -> Batch:
        drawn = [buckets(at) for buckets in lanes]
        length = max(length for _, length in drawn)
        share = own_rows(lanes[0].batch_size, mesh)
        return place_rows(
            _beside(
                [
                    rows(buckets.blocks, buckets.order, index[share], length=length)
                    for buckets, (index, _) in zip(lanes, drawn, strict=True)
                ]
            ),
            mesh,
        )

    return batch


def bucketed(blocks: Blocks, batch_size: int, mesh: Mesh) -> Iterator[Batch]:
    """Yield every labelled row once, shortest first, batches filled up with rows of weight 0."""
    size = round_up(batch_size, mesh)
    order = Order(sizes=(len(blocks),), weights=(1.0,), seed=0, shuffle=False)
    buckets = Buckets((blocks,), order, size)
    yield from map(bucketed_batches([buckets], mesh), range(buckets.epoch_length))


def abstract_batch(length: int, labels: Any = None) -> Batch:
    """Describe one row of ``length`` tokens with ``ShapeDtypeStruct`` leaves; without ``labels`` there is one a token."""
    tokens: Any = jax.ShapeDtypeStruct((1, length), jnp.int32)
    row: Any = jax.ShapeDtypeStruct((1,), jnp.int32)
    weight: Any = jax.ShapeDtypeStruct((1,), jnp.float32)
    labels = tokens if labels is None else labels
    return Batch(tokens, tokens, tokens, tokens, labels, tokens, weight, row, row)


def _beside(lanes: Sequence[Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    """Give the columns of one lane as they are, of several with a leading axis of lanes."""
    if len(lanes) == 1:
        return lanes[0]
    return {name: np.stack([columns[name] for columns in lanes]) for name in lanes[0]}
