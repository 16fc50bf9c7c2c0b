"""Tokens per second from stored blocks to a placed batch.

python benchmarks/input_pipeline.py [--json FILE]
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import bench
import jax
import numpy as np
from jax.sharding import Mesh

from flaxdistill.data.order import Order, rows
from flaxdistill.data.prefetch import prefetch
from flaxdistill.data.store import Blocks
from flaxdistill.pytrees import Batch
from flaxdistill.runtime.sharding import make_mesh, place_rows


def random_blocks(folder: Path, length: int, count: int) -> tuple[Blocks, ...]:
    """Create two sources of random blocks, memory-mapped as in a store: ids [N, T] uint16, segments
    uint8.
    """
    random = np.random.default_rng(0)
    blocks = []
    for number in range(2):
        ids = random.integers(0, 30522, (count // 2, length), dtype=np.uint16)
        # A few pieces per block, as documents of some hundred tokens give.
        segments = 1 + np.cumsum(random.random(ids.shape) < 1 / 200, axis=1, dtype=np.uint8)
        maps = {}
        for name, array in (("ids", ids), ("segments", segments)):
            path = folder / f"{length}-{number}-{name}.npy"
            np.save(path, array)
            maps[name] = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        blocks.append(Blocks(**maps, first_id=number * (count // 2)))
    return tuple(blocks)


def measure(
    blocks: tuple[Blocks, ...], length: int, batch: int, mesh: Mesh, seconds: float
) -> dict[str, Any]:
    """Take prefetched and placed batches for some seconds: one row of the table."""
    order = Order(sizes=tuple(map(len, blocks)), weights=(1.0, 0.5), seed=0)

    def make(step: int) -> Batch:
        return place_rows(rows(blocks, order, np.arange(step * batch, (step + 1) * batch)), mesh)

    batches = prefetch(make, 0, 10**9)
    for _ in range(20):
        jax.block_until_ready(next(batches))
    began, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < seconds:
        jax.block_until_ready(next(batches))
        count += batch
    batches.close()
    return {
        "name": f"{batch} x {length}",
        "tokens_per_second": round(count * length / taken),
        "us_per_row": round(1e6 * taken / count, 2),
    }


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="per row of the table")
    parser.add_argument("--blocks", type=int, default=200_000)
    options = parser.parse_args()
    mesh = make_mesh()
    where = bench.environment()
    print(bench.describe(where), flush=True)
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for length in (128, 512):
            blocks = random_blocks(Path(folder), length, options.blocks)
            table += [measure(blocks, length, batch, mesh, options.seconds) for batch in (64, 256)]
    columns = {"name": "", "tokens_per_second": ",.0f", "us_per_row": ".2f"}
    bench.show("from blocks to a placed batch", table, columns)
    bench.save(options, table, where, bars=("tokens_per_second",))


if __name__ == "__main__":
    main()
