"""Steps made from sizes alone: compiled ahead of time for TPUs that are not here, or reckoned."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxdistill import fit, hub, sharding, workdir
from flaxdistill.chips import Topology
from flaxdistill.collectives import KINDS, collectives
from flaxdistill.costs import Cost, cost
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError, out_of_memory
from flaxdistill.experiment import Experiment
from flaxdistill.feed import abstract_batch
from flaxdistill.hardware import platform
from flaxdistill.lanes import Lane
from flaxdistill.models.encoder import make_frozen, shapes_of
from flaxdistill.ops.attention import Attention
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.program import Program
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.sequence import Regression

QUICKLY = {"exec_time_optimization_effort": -1.0}
"""The compiler takes a small part of its time, and programs are nearly as large; they would be slower, and are not run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sketch:
    """A run known by its sizes: no weight of it exists."""

    student: hub.Model
    program: Program

    @functools.cached_property
    def state(self) -> Any:
        """Give the first state, with ``ShapeDtypeStruct`` leaves."""
        copied = self.program.copied
        return jax.eval_shape(self.program.init, shapes_of(copied) if copied else {})


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


def sketch(e: Experiment, earlier: Mapping[str, hub.Model]) -> Sketch:
    """Settle all sizes of an experiment from config files alone; ``earlier`` are the students of its earlier stages.

    Raises UserError for what does not fit together.
    """
    fit.check_losses(e)
    fit.check_kernels(e)
    if platform() == "gpu":  # whose own kernels cannot even be traced elsewhere
        e = _with_attention(e, "xla")

    known = e.task.known_labels if isinstance(e.task, Labelled) else ()

    def described(path: str) -> hub.Model:
        model = earlier[path[1:]] if path.startswith("@") else workdir.describe(path)
        config = model.config
        if config.labels == fit.UNSETTLED and known:  # by an earlier stage, and named by this one
            config = dataclasses.replace(config, labels=known)
        return dataclasses.replace(model, config=config, params=shapes_of(config))

    judges = {name: described(how.path) for name, how in e.compared().items()}
    start_path = e.start_path()
    start = described(start_path) if start_path else None
    for judge in judges.values():
        fit.check_tensor(judge.config, e.tensor, judge.source)
    given = e.corpus.tokenizer
    words = load_vocabulary(given) if given and not (start or judges) else None
    family, config = fit.settle(e, judges, start, words, None)
    hows = e.compared() if e.teacher else {}
    applies, params = [], []
    for name, how in hows.items():
        applies.append(make_frozen(judges[name].config, how.dtype, how.attention))
        low = operand_dtype(how.dtype)
        params.append(jax.tree.map(lambda leaf, low=low: leaf.update(dtype=low), judges[name].params))
    copied = start.config if start and e.student.start.layers != "random" else None
    program = Program(
        experiment=e,
        config=config,
        copied=copied,
        teachers=tuple(applies),
        teacher_params=tuple(params),
        prepare=_masks(e, config.vocab_size),
    )
    student = hub.Model("the student", family, config, {}, Path(), "", "")
    return Sketch(student=student, program=program)


def compile_ahead(run: Sketch, topology: Topology, options: Mapping[str, Any] = QUICKLY) -> Need | str:
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


def reckon(run: Sketch, topology: Topology) -> Need:
    """Reckon what compiling would tell: an upper bound of temporaries, and what data parallelism has to send."""
    e = run.program.experiment
    mesh = sharding.imagine_mesh(topology.size, e.fsdp, e.tensor)
    sharding.check_batch(e.batch_size, e.accumulate, mesh)
    flops, peak = _alone(run, topology)
    shardings = sharding.state_shardings(run.state, mesh, len(e.lanes()))
    read = _weights(run, mesh, shardings)
    held = read + _shares(run.state, shardings) - _shares(run.state.params, shardings.params)
    whole = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(run.state.params)) / e.tensor
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


def step_cost(run: Sketch, rows: int) -> Cost:
    """Count what a step of ``rows`` rows of the longest length costs one device, all lanes together."""
    program = run.program
    return cost(program.step(program.teachers), run.state, program.teacher_params, _batch(program, rows))


def _alone(run: Sketch, topology: Topology) -> tuple[float, float]:
    """Count what a chip computes and holds of its rows alone; those that share a row share what it takes."""
    e = run.program.experiment
    found = step_cost(run, e.batch_size // (topology.size // e.tensor))
    return found.flops / e.tensor, found.peak / e.tensor


def _with_attention(e: Experiment, attention: Attention) -> Experiment:
    set_ = functools.partial(dataclasses.replace, attention=attention)
    return dataclasses.replace(
        e,
        student=set_(e.student),
        teacher=set_(e.teacher) if e.teacher else None,
        ensemble={name: set_(teacher) for name, teacher in e.ensemble.items()},
    )


def _masks(e: Experiment, size: int) -> Any:
    """Make what prepares batches, with a vocabulary of the right size and no words."""
    special = dict(pad=0, unk=1, cls=2, sep=3, mask=4)
    words = Vocabulary(
        tokenizer=None, size=size, special_ids=tuple(special.values()), digest="", config={}, **special
    )
    task: Any = e.task
    if getattr(task, "whole_words", False):  # which takes words, and costs nothing that counts
        task = dataclasses.replace(task, whole_words=False)

    def prepare(lane: Lane) -> Any:
        return task.make_prepare(words, lambda: np.ones(size), 2 * lane.seed)

    return prepare


def _batch(program: Program, rows: int) -> Any:
    """Describe a batch of ``rows`` of the longest rows there are, for all lanes."""
    e, length, labels = program.experiment, program.experiment.corpus.length, None
    if isinstance(e.task, Labelled):
        asked = {"sequence": 1, "tokens": length, "span": 2}[e.task.head]
        labels = jax.ShapeDtypeStruct((1, asked), np.float32 if isinstance(e.task, Regression) else np.int32)
    lanes = (len(e.lanes()),) if len(e.lanes()) > 1 else ()
    row = abstract_batch(length, labels)
    return jax.tree.map(lambda x: x.update(shape=(*lanes, rows, *x.shape[1:])), row)


def _teachers(run: Sketch, mesh: Any) -> tuple[Any, ...]:
    """Give teachers' shapes with where they lie on a mesh, as ``judging.freeze`` places them."""
    found = []
    hows = run.program.experiment.compared().values()
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
