"""The step compiled for TPU pods, without TPUs.

    pip install libtpu
    python benchmarks/tpu_compilation.py

DistilBERT's step, bfloat16, 16 x 512 tokens per chip, KL on all tokens, compiled ahead of time by
the TPU compiler. For each topology: memory per chip, FLOP of a chip relative to a chip that
computes its rows alone (see device_scaling.py), the largest buffer with a vocabulary axis, and
communication, in total and inside loops.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import bench
import device_scaling
import train_step_speed
from jax.experimental import topologies

from flaxdistill.planning.collectives import collectives
from flaxdistill.runtime import sharding

TOPOLOGIES = ("v5e:4x4", "v5p:4x4x2")
ROWS, LENGTH, CHUNK = 16, 512, 32
CASE = dataclasses.replace(train_step_speed.PRESETS["gpu"][0], length=LENGTH)


@functools.cache
def compile_step(name: str, fsdp: int, accumulate: int, *, alone: bool = False) -> Any:
    """Compile for all chips of a topology, or for one of them."""
    devices = list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    devices = devices[:1] if alone else devices
    case = dataclasses.replace(CASE, rows=ROWS * len(devices))
    mesh = sharding.make_mesh(fsdp, devices=devices)
    return device_scaling.compile_step(case, mesh, accumulate, dtype="bfloat16", chunk=CHUNK)


def measure(name: str, fsdp: int, accumulate: int) -> bench.Row:
    """Compile for one topology: one row of the table."""
    program = compile_step(name, fsdp, accumulate)
    alone = compile_step(name, 1, accumulate, alone=True)
    memory, text = program.memory_analysis(), program.as_text()
    outside, inside = (sum(sent.values()) for sent in collectives(text))
    return {
        "name": f"{name}, fsdp {fsdp}, accumulate {accumulate}",
        "chips": len(topologies.get_topology_desc(platform="tpu", topology_name=name).devices),
        "hbm_gib": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30,
        "temp_gib": memory.temp_size_in_bytes / 2**30,
        "alone_temp_gib": alone.memory_analysis().temp_size_in_bytes / 2**30,
        "flop_ratio": program.cost_analysis()["flops"] / alone.cost_analysis()["flops"],
        "vocabulary_rows": device_scaling.most_rows(
            text, CASE.student.vocab_size, besides=CASE.student.hidden_size
        ),
        "chunk_rows": CHUNK * ROWS // accumulate,
        "collectives_mib": outside / 2**20,
        "collectives_in_loops_mib": inside / 2**20,
    }


def main() -> None:
    parser = bench.parser(__doc__)
    options = parser.parse_args()
    where = bench.environment()
    print(bench.describe(where), flush=True)
    rows = []
    for name in TOPOLOGIES:
        for fsdp, accumulate in ((1, 1), (4, 1), (1, 2)):
            rows.append(measure(name, fsdp, accumulate))
            print(rows[-1], flush=True)  # a compilation takes minutes
    columns = {
        "name": "", "chips": "d", "hbm_gib": ".2f", "temp_gib": ".2f", "flop_ratio": ".3f",
        "vocabulary_rows": ",d", "chunk_rows": ",d", "collectives_mib": ",.0f", "collectives_in_loops_mib": ",.1f",
    }  # fmt: skip
    bench.show(f"BERT-base to DistilBERT, {ROWS} x {LENGTH} tokens a chip", rows, columns)
    bench.save(options, rows, where, bars=("hbm_gib",))


if __name__ == "__main__":
    main()
