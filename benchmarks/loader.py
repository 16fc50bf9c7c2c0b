"""Tokens per second from a block store to a placed batch: `python benchmarks/loader.py [--json FILE]`."""

import argparse
import json
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from flaxdistill.data.prefetch import prefetch
from flaxdistill.data.rows import Order, rows
from flaxdistill.data.store import Blocks


def random_blocks(folder: Path, length: int, count: int, files: int = 4) -> tuple[Blocks, ...]:
    """Two sources of random blocks, memory-mapped as a store's are: ids [., length] uint16, segments uint8."""
    random = np.random.default_rng(0)
    maps: dict[str, list[np.ndarray]] = {"ids": [], "segments": []}
    for number in range(2 * files):
        ids = random.integers(0, 30522, (count // (2 * files), length), dtype=np.uint16)
        # A few pieces per block, as documents of some hundred tokens give.
        segments = 1 + np.cumsum(random.random(ids.shape) < 1 / 200, axis=1, dtype=np.uint8)
        for name, array in (("ids", ids), ("segments", segments)):
            path = folder / f"{length}-{number}-{name}.npy"
            np.save(path, array)
            maps[name].append(np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray))
    halves = (slice(0, files), slice(files, None))
    return tuple(
        Blocks(
            ids=tuple(maps["ids"][half]), segments=tuple(maps["segments"][half]), first_id=number * count // 2
        )
        for number, half in enumerate(halves)
    )


def measure(blocks: tuple[Blocks, ...], length: int, batch: int, seconds: float) -> dict[str, float]:
    """One row of the table: prefetched and placed batches for some seconds."""
    order = Order(sizes=tuple(map(len, blocks)), weights=(1.0, 0.5), seed=0)

    def make(step: int) -> dict[str, jax.Array]:
        return jax.device_put(rows(blocks, order, np.arange(step * batch, (step + 1) * batch)))

    batches = prefetch(make, 0, 10**9)
    for _ in range(20):
        jax.block_until_ready(next(batches))
    began, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - began) < seconds:
        jax.block_until_ready(next(batches))
        count += batch
    batches.close()
    return {
        "length": length,
        "batch": batch,
        "tokens_per_second": round(count * length / taken),
        "us_per_row": round(1e6 * taken / count, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows of the table to this file")
    parser.add_argument("--seconds", type=float, default=3.0, help="per row of the table")
    parser.add_argument("--blocks", type=int, default=200_000)
    options = parser.parse_args()
    table = []
    print(f"{'length':>6} {'batch':>5} {'tokens/s':>12} {'us/row':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for length in (128, 512):
            blocks = random_blocks(Path(folder), length, options.blocks)
            for batch in (64, 256):
                table.append(measure(blocks, length, batch, options.seconds))
                print("{length:6} {batch:5} {tokens_per_second:12,} {us_per_row:7.2f}".format(**table[-1]))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
