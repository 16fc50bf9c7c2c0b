"""How fast models answer on this machine: milliseconds of a batch, in turns, and what a product could do at best."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from flaxdistill.hub import frozen
from flaxdistill.hub.checkpoint import Model
from flaxdistill.models.encoder import make_frozen, shapes_of
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.pytrees import Batch, Params
from flaxdistill.runtime import sharding
from flaxdistill.runtime.costs import cost
from flaxdistill.train.batches import abstract_batch

BATCHES = (1, 8, 32)
LENGTHS = (16, 64, 128, 512)


def shapes(longest: int) -> list[tuple[int, int]]:
    """Choose batches to be timed, rows x tokens, for models that read ``longest`` tokens."""
    lengths = sorted(
        {length for length in LENGTHS if length < longest} | {min(longest, LENGTHS[-1])}
    )
    return [(rows, length) for rows in BATCHES for length in lengths]


def forward_mflop(model: Model, length: int) -> float:
    """Count the arithmetic of a token: MFLOP of a forward pass over a row of ``length`` tokens."""
    apply = make_frozen(model.config, "float32", "xla")
    row = abstract_batch(length)
    return (
        cost(lambda p, b: _answer(apply(p, b)), shapes_of(model.config), row).flops / length / 1e6
    )


def milliseconds(
    models: Mapping[str, Model], sizes: Sequence[tuple[int, int]], *, times: int
) -> dict[str, dict[str, float]]:
    """Time forward passes in float32, all models in turns: the median of ``times`` by model and "rows x tokens"."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    calls: dict[str, Callable[[Batch], None]] = {}
    for name, model in models.items():
        apply, params = frozen.freeze(model, mesh, dtype="float32")
        run = sharding.jit(lambda p, b, apply=apply: _answer(apply(p, b)), mesh)
        calls[name] = functools.partial(_timed, run, params)
    for rows, length in sizes:
        batch = batch_of(rows, length)
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            call(batch)  # which compiles
        for _ in range(times):
            for name, call in calls.items():
                start = time.perf_counter()
                call(batch)
                taken[name].append(time.perf_counter() - start)
        for name, seconds in taken.items():
            found[name][f"{rows} x {length}"] = 1e3 * statistics.median(seconds)
    return found


def _timed(run: Callable[..., jax.Array], params: Params, batch: Batch) -> None:
    jax.block_until_ready(run(params, batch))


def batch_of(rows: int, length: int) -> Batch:
    """Make rows of real tokens, what they say being all the same to a clock."""
    empty = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), abstract_batch(length))
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    return dataclasses.replace(empty, segment_ids=jnp.ones_like(positions), positions=positions)


def peak(size: int = 2048) -> float:
    """Measure the fastest matrix product there is here, GFLOP/s of ``auto``'s operands, the best of ten."""
    x = jnp.ones((size, size), operand_dtype("auto"))
    multiply = sharding.jit(
        lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32),
        sharding.make_mesh(devices=jax.devices()[:1]),
    )
    multiply(x).block_until_ready()
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        multiply(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def _answer(outputs):
    """Give what a head says, or of a masked-LM the states that its words are read from."""
    return outputs.hidden[-1] if outputs.logits is None else outputs.logits
