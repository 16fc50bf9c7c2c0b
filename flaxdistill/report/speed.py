"""Latency of models on this machine, FLOPs of their forward pass, and the machine's peak FLOP/s."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from flaxdistill.hub import frozen
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.models.architecture import Compute, make_frozen, shapes_of
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.pytrees import Batch, Params
from flaxdistill.runtime import sharding
from flaxdistill.runtime.costs import cost
from flaxdistill.train.batches import abstract_batch

BATCHES = (1, 8, 32)
LENGTHS = (16, 64, 128, 512)


def timed_shapes(max_length: int) -> list[tuple[int, int]]:
    """Return the batch shapes (rows, tokens) to time, up to ``max_length`` tokens."""
    lengths = sorted(
        {length for length in LENGTHS if length < max_length} | {min(max_length, LENGTHS[-1])}
    )
    return [(rows, length) for rows in BATCHES for length in lengths]


def forward_mflop(model: Checkpoint, length: int) -> float:
    """Return the MFLOP per token of a forward pass over a row of ``length`` tokens."""
    apply = make_frozen(model.config, Compute(dtype="float32", attention="xla"))
    flops = cost(
        lambda params, batch: _head_output(apply(params, batch)),
        shapes_of(model.config),
        abstract_batch(length),
    ).flops
    return flops / length / 1e6


def milliseconds(
    models: Mapping[str, Checkpoint], shapes: Sequence[tuple[int, int]], *, times: int
) -> dict[str, dict[str, float]]:
    """Time forward passes in float32 and return the median by model and "rows x tokens".

    Models take turns, ``times`` rounds per shape, so that a change of the machine's load affects
    all of them.
    """
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    medians: dict[str, dict[str, float]] = {name: {} for name in models}
    forwards: dict[str, Callable[[Batch], None]] = {}
    for name, model in models.items():
        apply, params = frozen.freeze(model, mesh, compute=Compute(dtype="float32"))
        compiled = sharding.jit(
            lambda params, batch, apply=apply: _head_output(apply(params, batch)), mesh
        )
        forwards[name] = functools.partial(_run, compiled, params)
    for rows, length in shapes:
        batch = timed_batch(rows, length)
        seconds: dict[str, list[float]] = {name: [] for name in forwards}
        for forward in forwards.values():
            forward(batch)  # The first call compiles.
        for _ in range(times):
            for name, forward in forwards.items():
                start = time.perf_counter()
                forward(batch)
                seconds[name].append(time.perf_counter() - start)
        for name, samples in seconds.items():
            medians[name][f"{rows} x {length}"] = 1e3 * statistics.median(samples)
    return medians


def _run(compiled: Callable[..., jax.Array], params: Params, batch: Batch) -> None:
    jax.block_until_ready(compiled(params, batch))


def timed_batch(rows: int, length: int) -> Batch:
    """Make a batch without padding; token ids do not affect the time."""
    return Batch.of(jnp.zeros((rows, length), jnp.int32))


def peak(size: int = 2048) -> float:
    """Measure the GFLOP/s of a matrix product in the dtype of ``auto``, the best of ten runs."""
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


def _head_output(outputs):
    """Return the logits, or the last hidden states of a model without logits (masked LM)."""
    return outputs.hidden[-1] if outputs.logits is None else outputs.logits
