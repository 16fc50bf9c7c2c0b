"""Is the verdict of `plan` right?

    pip install libtpu
    python benchmarks/plan_accuracy.py --teacher DIR

DistilBERT's step for v5e, with batch sizes around what a chip can hold: the verdict of `plan`, from
a quick compilation, against whether a full compilation succeeds. It also gives the estimate without
a compiler, as for GPUs, relative to the compiled program. DIR needs a config.json of BERT-base and
no weights.
"""

from __future__ import annotations

import dataclasses
import os
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import bench

from flaxdistill.cli import overrides
from flaxdistill.experiment.abstract import abstract_run
from flaxdistill.planning.chips import read_topology
from flaxdistill.planning.compile_ahead import compile_ahead, estimate
from flaxdistill.runtime.backend import target_platform


def measure(teacher: str, rows: int, topology: str) -> bench.Row:
    """Compare both for a number of rows per chip."""
    where = read_topology(topology)
    (e,) = overrides.read(
        "distilbert", (), prog="plan", command_flags=overrides.RunFlags
    ).experiments.values()
    assert e.teacher
    e = dataclasses.replace(
        e,
        teacher=dataclasses.replace(e.teacher, path=teacher),
        batch_size=rows * where.size,
        accumulate=1,
    )
    with target_platform("tpu"):
        run = abstract_run(e, {})
        estimated = estimate(run, where)
        started = time.perf_counter()
        plan_result = compile_ahead(run, where)
        quick = time.perf_counter() - started
        found = compile_ahead(run, where, {})
        whole = time.perf_counter() - started - quick
    row: bench.Row = {
        "name": f"{rows} rows a chip of {where}",
        "plan": "does not fit" if isinstance(plan_result, str) else "fits",
        "compiler": "does not fit" if isinstance(found, str) else "fits",
        "seconds_ratio": quick / whole,
    }
    for name, need in (("plan", plan_result), ("compiler", found)):
        row[f"{name}_gib"] = (
            need if isinstance(need, str) else f"{(need.resident + need.temporaries) / 2**30:.2f}"
        )
    if not isinstance(found, str):
        row["compiled_of_estimated"] = found.temporaries / estimated.temporaries
    return row


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=(16, 84, 132, 160))
    parser.add_argument("--topology", default="v5e:2x2")
    options = parser.parse_args()
    where = bench.environment()
    print(bench.describe(where), flush=True)
    rows = []
    for n in options.rows:
        rows.append(measure(options.teacher, n, options.topology))
        print(rows[-1], flush=True)  # a compilation takes minutes
    columns = {
        "name": "", "plan": "", "compiler": "", "plan_gib": "", "compiler_gib": "", "seconds_ratio": ".2f",
        "compiled_of_estimated": ".2f",
    }  # fmt: skip
    bench.show("BERT-base to DistilBERT, 512 tokens, bfloat16", rows, columns)
    bench.save(options, rows, where)


if __name__ == "__main__":
    main()
