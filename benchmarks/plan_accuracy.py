"""Is what `plan` says so? ``pip install libtpu`` and ``python benchmarks/plan_accuracy.py --teacher DIR``.

DistilBERT's step for v5e, whole batches, with rows around what a chip can hold: the plan's verdict, from a program compiled
quickly, against whether the compiler succeeds when it takes all its time. Beside it what is reckoned without a compiler, as
for GPUs, as a share of what was compiled. DIR needs a config.json of BERT-base and no weights.
"""

from __future__ import annotations

import dataclasses
import os
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import bench

from flaxdistill.cli import overrides
from flaxdistill.experiment.abstract import sketch
from flaxdistill.planning.chips import read_topology
from flaxdistill.planning.compile_ahead import compile_ahead, estimate
from flaxdistill.runtime.backend import made_for


def measure(teacher: str, rows: int, topology: str) -> bench.Row:
    """Ask both about so many rows a chip."""
    where = read_topology(topology)
    (e,) = overrides.read("distilbert", (), prog="plan", own=overrides.Running).experiments.values()
    assert e.teacher
    e = dataclasses.replace(
        e,
        teacher=dataclasses.replace(e.teacher, path=teacher),
        batch_size=rows * where.size,
        accumulate=1,
    )
    with made_for("tpu"):
        run = sketch(e, {})
        reckoned = estimate(run, where)
        started = time.perf_counter()
        told = compile_ahead(run, where)
        quick = time.perf_counter() - started
        found = compile_ahead(run, where, {})
        whole = time.perf_counter() - started - quick
    row: bench.Row = {
        "name": f"{rows} rows a chip of {where}",
        "plan": "does not fit" if isinstance(told, str) else "fits",
        "compiler": "does not fit" if isinstance(found, str) else "fits",
        "seconds_ratio": quick / whole,
    }
    for name, need in (("plan", told), ("compiler", found)):
        row[f"{name}_gib"] = (
            need if isinstance(need, str) else f"{(need.held + need.temporaries) / 2**30:.2f}"
        )
    if not isinstance(found, str):
        row["compiled_of_reckoned"] = found.temporaries / reckoned.temporaries
    return row


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=(16, 84, 132, 160))
    parser.add_argument("--topology", default="v5e:2x2")
    options = parser.parse_args()
    where = bench.surroundings()
    print(bench.describe(where), flush=True)
    rows = []
    for n in options.rows:
        rows.append(measure(options.teacher, n, options.topology))
        print(rows[-1], flush=True)  # a compilation takes minutes
    columns = {
        "name": "", "plan": "", "compiler": "", "plan_gib": "", "compiler_gib": "", "seconds_ratio": ".2f",
        "compiled_of_reckoned": ".2f",
    }  # fmt: skip
    bench.show("BERT-base to DistilBERT, 512 tokens, bfloat16", rows, columns)
    bench.keep(options, rows, where)


if __name__ == "__main__":
    main()
