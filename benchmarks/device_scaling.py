"""What one of n devices computes, stores and sends in a step, without running it.

    python benchmarks/device_scaling.py

The step on a fixed global batch, float32, is compiled from shapes alone for 1, 2, 4 and 8 virtual
CPU devices: data parallel, with parameters split over all devices (fsdp), and with every row split
over two devices (tensor). XLA counts the body of a loop once, so FLOP are comparable only if trip
counts are equal: the vocabulary loss uses the same number of chunks for every n, and percentages
are relative to one device with the same number of micro-batches. For the same reason FLOP are not
those of the whole step. Bytes sent inside loops have a column of their own.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import bench
import jax
import numpy as np
import train_step_speed
from train_step_speed import CLIP, MLM_SETTINGS, RATE, Case

from flaxdistill.losses.base import Loss
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.models.architecture import Compute, make_apply, shapes_of
from flaxdistill.models.parametrization import Chain, Untied
from flaxdistill.ops.dense import DType, operand_dtype
from flaxdistill.planning.collectives import collectives
from flaxdistill.runtime import sharding
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.batches import abstract_batch
from flaxdistill.train.objective import Objective
from flaxdistill.train.optimizer import AdamW
from flaxdistill.train.single_step import make_single_step
from flaxdistill.train.state import make_state

CHUNKS = 4
# Devices, and how many of them fsdp and tensor take.
MESHES = (
    (1, 1, 1),
    (2, 1, 1),
    (2, 2, 1),
    (4, 1, 1),
    (4, 4, 1),
    (8, 1, 1),
    (8, 8, 1),
    (2, 1, 2),
    (8, 2, 2),
)
PRESETS = {
    "base": dataclasses.replace(
        train_step_speed.PRESETS["cpu"][0], name="BERT-base to DistilBERT", rows=64
    ),
    "quick": dataclasses.replace(
        train_step_speed.PRESETS["cpu-quick"][0], name="2 x 64 to 1 x 64", rows=16
    ),
}


def compile_step(
    case: Case,
    mesh: jax.sharding.Mesh,
    accumulate: int,
    *,
    chunk: int = 0,
    losses: dict[str, Loss] | None = None,
    dtype: DType = "float32",
) -> Any:
    """Compile a step of a case on a mesh without allocating anything; the default losses are the
    triple loss.
    """
    stepped, view = case.student, Chain()
    if accumulate > 1:
        stepped, view = case.student.untied(), Untied(case.student)
    compute = Compute(dtype=dtype)
    student, teacher = make_apply(stepped, compute), make_apply(case.teacher, compute)
    losses = losses or {"vocab": VocabKD(tokens=case.tokens, chunk=chunk), "cosine": HiddenCosine()}
    tx = AdamW(learning_rate=RATE, clip=CLIP).build(1000)
    step = make_single_step(
        Objective(lambda params, batch: student(params, batch, None), losses, tx, view),
        (lambda params, batch: teacher(params, batch, None),),
        MLM().make_masks(counts=np.ones(case.teacher.vocab_size), seed=0, **MLM_SETTINGS),
        accumulate,
    )
    row = abstract_batch(case.length)
    outputs = [
        jax.eval_shape(lambda p, b, apply=apply: apply(p, b, None), shapes_of(config), row)
        for apply, config in ((student, stepped), (teacher, case.teacher))
    ]
    own = {
        name: jax.eval_shape(
            lambda loss=loss: loss.init(jax.random.key(0), outputs[0], (outputs[1],))
        )
        for name, loss in losses.items()
    }
    params = {"student": shapes_of(case.student), "losses": own}
    state = jax.eval_shape(lambda params: make_state(params, tx), params)
    shardings = sharding.state_shardings(state, mesh, case.student.sharding)
    copies, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    state = jax.tree.map(lambda x, place: x.update(sharding=place), state, shardings)
    low = operand_dtype(dtype)
    theirs = jax.tree.map(lambda x: x.update(dtype=low, sharding=copies), shapes_of(case.teacher))
    batch = jax.tree.map(lambda x: x.update(shape=(case.rows, *x.shape[1:]), sharding=rows), row)
    with jax.set_mesh(mesh):
        return sharding.jit_step(step, shardings, mesh).lower(state, (theirs,), batch).compile()


def most_rows(text: str, vocabulary: int, *, besides: int) -> int:
    """Return the rows of the largest buffer with a vocabulary axis, except kernels of ``besides``
    columns.
    """
    found = {
        tuple(map(int, filter(None, sizes.split(","))))
        for sizes in re.findall(r"\w\[([\d,]+)\]", text)
    }
    rows = {math.prod(sizes) // vocabulary for sizes in found if vocabulary in sizes}
    return max(rows - {besides}, default=0)


def measure(case: Case) -> Iterator[bench.Row]:
    """Compile for every number of devices: one row each, data parallel and fsdp."""
    for accumulate in (1, 2):
        whole = None
        for n, fsdp, tensor in MESHES:
            mesh = sharding.make_mesh(fsdp, tensor, jax.devices()[:n])
            sharding.check_batch(case.rows, accumulate, mesh)
            program = compile_step(case, mesh, accumulate, chunk=case.length // CHUNKS)
            flops, memory = program.cost_analysis()["flops"], program.memory_analysis()
            whole = whole or flops
            outside, inside = (sum(sent.values()) for sent in collectives(program.as_text()))
            yield {
                "name": f"{n} devices, fsdp {fsdp}, tensor {tensor}, accumulate {accumulate}",
                "gflop": flops / 1e9,
                "share": flops / whole,
                "argument_gib": memory.argument_size_in_bytes / 2**30,
                "temp_gib": memory.temp_size_in_bytes / 2**30,
                "collectives_mib": outside / 2**20,
                "collectives_in_loops_mib": inside / 2**20,
            }


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="base")
    options = parser.parse_args()
    case, where = PRESETS[options.preset], bench.environment()
    print(bench.describe(where), flush=True)
    rows = list(measure(case))
    columns = {
        "name": "", "gflop": ",.3f", "share": ".1%", "argument_gib": ".4f", "temp_gib": ".4f",
        "collectives_mib": ",.2f", "collectives_in_loops_mib": ",.2f",
    }  # fmt: skip
    bench.show(f"{case.name}, {case.rows} x {case.length} tokens: a device's part", rows, columns)
    bench.save(options, rows, where, bars=("argument_gib", "temp_gib"))


if __name__ == "__main__":
    main()
