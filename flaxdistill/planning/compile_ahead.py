"""Memory, FLOPs and communication of a step per chip: compiled ahead of time, or estimated."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax

from flaxdistill.errors import UserError, out_of_memory
from flaxdistill.experiment.abstract import AbstractRun, batch_shapes, step_cost
from flaxdistill.planning.chips import Topology
from flaxdistill.planning.collectives import KINDS, collectives
from flaxdistill.runtime import sharding

FAST_COMPILE = {"exec_time_optimization_effort": -1.0}
"""Compiler options that take a small part of the usual time.

The program would run more slowly, but it is not run, and its memory is nearly the same.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepUsage:
    """What one chip stores, computes and sends per step. Sizes are in bytes."""

    resident: float
    """Training state and teachers, which stay in memory between steps."""
    weights: float
    """The part of ``resident`` that every micro-batch reads: weights of student and teachers."""
    temporaries: float
    """Intermediate values. If not ``compiled``, an upper bound that assumes no fusion."""
    flops: float
    """FLOPs of matrix products."""
    communication: tuple[dict[str, int], dict[str, int]]
    """Result bytes by kind of collective, outside loops and inside them (times trip count)."""
    compiled: bool
    """True if measured on a compiled program, False if estimated from shapes."""


def compile_ahead(
    run: AbstractRun, topology: Topology, options: Mapping[str, Any] = FAST_COMPILE
) -> StepUsage | str:
    """Compile the step for TPUs that this machine does not have.

    Returns the compiler's message ("18G of 16G") if the program does not fit in memory. Raises
    UserError if the TPU compiler is missing or the topology does not exist.
    """
    e, program = run.program.experiment, run.program
    mesh = sharding.make_mesh(e.fsdp, e.tensor, devices(topology))
    sharding.check_batch(e.batch_size, e.accumulate, mesh)
    shardings = sharding.state_shardings(
        run.state, mesh, run.program.config.sharding, len(e.lanes())
    )
    rows = sharding.batch_sharding(mesh, lanes=len(e.lanes()) > 1)
    batch = jax.tree.map(lambda x: x.update(sharding=rows), batch_shapes(program, e.batch_size))
    step: Any = sharding.jit_step(program.step(program.teachers), shardings, mesh)
    try:
        with jax.set_mesh(mesh):
            lowered = step.lower(
                _with_shardings(run.state, shardings), _teacher_shapes(run, mesh), batch
            )
            compiled = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
            raise
        used = re.search(r"[Uu]sed ([\d.]+\w+) of ([\d.]+\w+)", str(error))
        return f"{used[1]} of {used[2]}" if used else str(error).partition("\n")[0][:200]
    memory = compiled.memory_analysis()
    return StepUsage(
        resident=memory.argument_size_in_bytes,
        weights=_weight_bytes(run, mesh, shardings),
        temporaries=memory.temp_size_in_bytes,
        flops=_per_chip_cost(run, topology)[0],
        communication=collectives(compiled.as_text()),
        compiled=True,
    )


def estimate(run: AbstractRun, topology: Topology) -> StepUsage:
    """Estimate the usage from shapes.

    Temporaries are an upper bound. Communication is that of data and FSDP parallelism.
    """
    e = run.program.experiment
    mesh = sharding.abstract_mesh(topology.size, e.fsdp, e.tensor)
    sharding.check_batch(e.batch_size, e.accumulate, mesh)
    flops, peak = _per_chip_cost(run, topology)
    shardings = sharding.state_shardings(
        run.state, mesh, run.program.config.sharding, len(e.lanes())
    )
    weights = _weight_bytes(run, mesh, shardings)
    optimizer = _shard_bytes(run.state, shardings) - _shard_bytes(
        run.state.params, shardings.params
    )
    student = (
        sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(run.state.params))
        / e.tensor
    )
    communication = dict.fromkeys(KINDS, 0)
    if topology.size > e.tensor * e.fsdp:
        communication["all-reduce"] = int(student / e.fsdp)
    # Each micro-batch gathers the weights for its forward and backward pass and scatters gradients.
    if e.fsdp > 1:
        communication["all-gather"] = int(student * 2 * e.accumulate)
        communication["reduce-scatter"] = int(student * e.accumulate)
    return StepUsage(
        resident=weights + optimizer,
        weights=weights,
        temporaries=peak,
        flops=flops,
        communication=(communication, dict.fromkeys(KINDS, 0)),
        compiled=False,
    )


def devices(topology: Topology) -> list[Any]:
    """Return the compiler's device descriptions of a TPU topology."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # Without it libtpu searches for local chips.
    from jax.experimental import topologies

    shape = "x".join(map(str, topology.shape))
    options = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{topology.chip.name}:{shape}", **options
        )
    except Exception as error:
        raise UserError(
            f"the TPU compiler does not accept {topology} ({str(error).splitlines()[0][:200]}); "
            "pip install 'flaxdistill[tpu]', or use another topology"
        ) from None
    return list(description.devices)


def _per_chip_cost(run: AbstractRun, topology: Topology) -> tuple[float, float]:
    """Return FLOPs and peak bytes of a chip; tensor parallelism divides both."""
    e = run.program.experiment
    step = step_cost(run, e.batch_size // (topology.size // e.tensor))
    return step.flops / e.tensor, step.peak / e.tensor


def _teacher_shapes(run: AbstractRun, mesh: Any) -> tuple[Any, ...]:
    """Return teachers' shapes with shardings on a mesh, as ``hub.frozen.freeze`` places them."""
    shapes = []
    teachers = run.program.experiment.reference_models().values()
    for params, teacher, rules in zip(
        run.program.teacher_params, teachers, run.teacher_rules, strict=False
    ):
        sharded = sharding.state_shardings({"model": params}, mesh, rules)["model"]
        replicated = jax.tree.map(lambda _: sharding.replicated(mesh), params)
        shapes.append(_with_shardings(params, sharded if teacher.sharded else replicated))
    return tuple(shapes)


def _weight_bytes(run: AbstractRun, mesh: Any, shardings: Any) -> int:
    """Return the bytes of one chip's shards of student and teachers."""
    teachers = _teacher_shapes(run, mesh)
    teacher_bytes = _shard_bytes(teachers, jax.tree.map(lambda x: x.sharding, teachers))
    return teacher_bytes + _shard_bytes(run.state.params, shardings.params)


def _with_shardings(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, place: x.update(sharding=place), shapes, shardings)


def _shard_bytes(shapes: Any, shardings: Any) -> int:
    """Return the bytes of one chip's shards."""
    return sum(
        math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize
        for x, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    )
