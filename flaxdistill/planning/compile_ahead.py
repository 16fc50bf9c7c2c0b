"""Steps made from sizes alone: compiled ahead of time for TPUs that are not here, or reckoned."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax

from flaxdistill.errors import UserError, out_of_memory
from flaxdistill.experiment.abstract import Sketch, _batch, step_cost
from flaxdistill.planning.chips import Topology
from flaxdistill.planning.collectives import KINDS, collectives
from flaxdistill.runtime import sharding

QUICKLY = {"exec_time_optimization_effort": -1.0}
"""The compiler takes a small part of its time, and programs are nearly as large; they would be slower, and are not run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
    """What one chip holds, computes and sends in a step. Bytes; ``flops`` of products alone.

    ``weights``: what of all that is held every micro-batch reads.
    ``sent``: what collectives result in, by kind, outside of loops and in all turns of loops. Of what is not ``compiled``
    the temporaries are those of a program in which nothing is fused.
    """

    held: float
    weights: float
    temporaries: float
    flops: float
    sent: tuple[dict[str, int], dict[str, int]]
    compiled: bool


def compile_ahead(
    run: Sketch, topology: Topology, options: Mapping[str, Any] = QUICKLY
) -> Need | str:
    """Compile the step for TPUs that are not here; gives what the compiler says where they are too small.

    Raises UserError without the TPU compiler, and for a shape that does not exist.
    """
    e, program = run.program.experiment, run.program
    mesh = sharding.make_mesh(e.fsdp, e.tensor, devices(topology))
    sharding.check_batch(e.batch_size, e.accumulate, mesh)
    shardings = sharding.state_shardings(run.state, mesh, len(e.lanes()))
    rows = sharding.rows_sharding(mesh, lanes=len(e.lanes()) > 1)
    batch = jax.tree.map(lambda x: x.update(sharding=rows), _batch(program, e.batch_size))
    step: Any = sharding.jit_step(program.step(program.teachers), shardings, mesh)
    try:
        with jax.set_mesh(mesh):
            lowered = step.lower(_placed(run.state, shardings), _teachers(run, mesh), batch)
            compiled = lowered.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):
            raise
        used = re.search(r"[Uu]sed ([\d.]+\w+) of ([\d.]+\w+)", str(error))
        return f"{used[1]} of {used[2]}" if used else str(error).partition("\n")[0][:200]
    memory = compiled.memory_analysis()
    return Need(
        held=memory.argument_size_in_bytes,
        weights=_weights(run, mesh, shardings),
        temporaries=memory.temp_size_in_bytes,
        flops=_alone(run, topology)[0],
        sent=collectives(compiled.as_text()),
        compiled=True,
    )


def estimate(run: Sketch, topology: Topology) -> Need:
    """Reckon what compiling would tell: an upper bound of temporaries, and what data parallelism has to send."""
    e = run.program.experiment
    mesh = sharding.imagine_mesh(topology.size, e.fsdp, e.tensor)
    sharding.check_batch(e.batch_size, e.accumulate, mesh)
    flops, peak = _alone(run, topology)
    shardings = sharding.state_shardings(run.state, mesh, len(e.lanes()))
    read = _weights(run, mesh, shardings)
    held = read + _shares(run.state, shardings) - _shares(run.state.params, shardings.params)
    whole = (
        sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(run.state.params))
        / e.tensor
    )
    sent = dict.fromkeys(KINDS, 0)
    if topology.size > e.tensor * e.fsdp:
        sent["all-reduce"] = int(whole / e.fsdp)
    # Forward and backward of each micro-batch gather the weights, and gradients are shared out again.
    if e.fsdp > 1:
        sent["all-gather"] = int(whole * 2 * e.accumulate)
        sent["reduce-scatter"] = int(whole * e.accumulate)
    return Need(
        held=held,
        weights=read,
        temporaries=peak,
        flops=flops,
        sent=(sent, dict.fromkeys(KINDS, 0)),
        compiled=False,
    )


def devices(topology: Topology) -> list[Any]:
    """Describe the chips of a TPU topology to the compiler."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # which would look for the chips
    from jax.experimental import topologies

    shape = "x".join(map(str, topology.shape))
    several = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{topology.chip.name}:{shape}", **several
        )
    except Exception as error:
        raise UserError(
            f"the TPU compiler knows no {topology} here ({str(error).splitlines()[0][:200]}); pip install "
            "'flaxdistill[tpu]', or name another topology"
        ) from None
    return list(found.devices)


def _alone(run: Sketch, topology: Topology) -> tuple[float, float]:
    """Count what a chip computes and holds of its rows alone; those that share a row share what it takes."""
    e = run.program.experiment
    found = step_cost(run, e.batch_size // (topology.size // e.tensor))
    return found.flops / e.tensor, found.peak / e.tensor


def _teachers(run: Sketch, mesh: Any) -> tuple[Any, ...]:
    """Give teachers' shapes with where they lie on a mesh, as ``judging.freeze`` places them."""
    found = []
    hows = run.program.experiment.reference_models().values()
    for params, how in zip(run.program.teacher_params, hows, strict=False):
        split = sharding.state_shardings({"model": params}, mesh)["model"]
        whole = jax.tree.map(lambda _: sharding.replicated(mesh), params)
        found.append(_placed(params, split if how.sharded else whole))
    return tuple(found)


def _weights(run: Sketch, mesh: Any, shardings: Any) -> int:
    """Count the bytes of a chip's shares of the student and of its teachers."""
    teachers = _teachers(run, mesh)
    theirs = _shares(teachers, jax.tree.map(lambda x: x.sharding, teachers))
    return theirs + _shares(run.state.params, shardings.params)


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, place: x.update(sharding=place), shapes, shardings)


def _shares(shapes: Any, shardings: Any) -> int:
    """Count the bytes of one chip's shares."""
    return sum(
        math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize
        for x, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    )
