"""Tokens per second from a block store to a placed batch: ``python benchmarks/loader.py [--json FILE]``."""

import argparse
import importlib.metadata
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flaxdistill.data.prefetch import prefetch
from flaxdistill.data.rows import Order, rows
from flaxdistill.data.store import Blocks
from flaxdistill.pytrees import Batch
from flaxdistill.sharding import make_mesh, place_rows


def random_blocks(folder: Path, length: int, count: int) -> tuple[Blocks, ...]:
    """Make two sources of random blocks, memory-mapped as a store's are: ids [., T] uint16, segments uint8."""
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
    """Take prefetched batches, placed as training places them, for some seconds: one row of the table."""
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
        "length": length,
        "batch": batch,
        "tokens_per_second": round(count * length / taken),
        "us_per_row": round(1e6 * taken / count, 2),
    }


def surroundings(mesh: Mesh) -> dict[str, Any]:
    """Tell where and with what is measured: devices, versions, commit."""
    git = [
        "git",
        "--no-optional-locks",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
    ]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")},
        "commit": commit or "unknown",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows of the table to this file")
    parser.add_argument("--seconds", type=float, default=3.0, help="per row of the table")
    parser.add_argument("--blocks", type=int, default=200_000)
    options = parser.parse_args()
    mesh = make_mesh()
    where = surroundings(mesh)
    versions = " ".join(f"{name} {version}" for name, version in where["versions"].items())
    print(f"{where['device']}, {versions}, commit {where['commit']}")
    print(f"{'length':>6} {'batch':>5} {'tokens/s':>12} {'us/row':>7}")
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for length in (128, 512):
            blocks = random_blocks(Path(folder), length, options.blocks)
            for batch in (64, 256):
                row = measure(blocks, length, batch, mesh, options.seconds)
                print(
                    "{length:6} {batch:5} {tokens_per_second:12,} {us_per_row:7.2f}".format(**row), flush=True
                )
                table.append(row | where)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
