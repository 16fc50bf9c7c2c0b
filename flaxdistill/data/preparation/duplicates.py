"""Exact duplicates of documents over all shards, found with constant memory."""

from __future__ import annotations

import array
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flaxdistill.data.array_file import ArrayFile, write_errors

RUN_LENGTH = 2**20
"""Hashes of a shard that are sorted at once."""

COMPARED = 2**22
"""Hashes of all shards that are compared at once, approximately."""

HASH, PLACE = np.dtype("<u8"), np.dtype("<i8")


@dataclass(frozen=True, eq=False)
class HashWriter:
    """Writes the document hashes of a shard in sorted runs, each with its document's index."""

    hashes: ArrayFile  # [D] uint64, in runs of RUN_LENGTH
    places: ArrayFile  # [D] int64
    run: array.array = field(default_factory=lambda: array.array("Q"))

    def add(self, key: int) -> None:
        """Add the hash of the next document."""
        self.run.append(key)
        if len(self.run) == RUN_LENGTH:
            self.flush()

    def flush(self) -> None:
        """Write the current run."""
        hashes = np.array(self.run, HASH)
        order = np.argsort(hashes, kind="stable")
        self.places.append((order + self.hashes.rows).astype(PLACE))
        self.hashes.append(hashes[order])
        del self.run[:]


@contextlib.contextmanager
def hash_writer(folder: Path) -> Iterator[HashWriter]:
    """Write the hashes of a shard into a folder."""
    with (
        ArrayFile(folder / "hashes.npy", (), HASH) as hashes,
        ArrayFile(folder / "places.npy", (), PLACE) as places,
    ):
        writer = HashWriter(hashes, places)
        yield writer
        writer.flush()


def find_duplicates(shards: Sequence[Path], out: Path) -> list[int]:
    """Find the documents whose hash an earlier document has; ``shards`` are folders of hashes.

    Writes the indices of these documents into a file per shard that has any, and returns their
    number for every shard.
    """
    with write_errors(out):
        out.mkdir()
    documents = sum(len(_map_hashes(shard)[0]) for shard in shards)
    ranges = documents // COMPARED + 1
    bounds = [2**64 * n // ranges for n in range(ranges)]
    counts = [0] * len(shards)
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        runs = [
            run
            for number, shard in enumerate(shards)
            for run in _runs_within(number, shard, low, high)
        ]
        hashes, places, owners = (np.concatenate(parts) for parts in zip(*runs, strict=True))
        # A stable sort: the first of equal hashes is that of the first document of the first shard.
        order = np.argsort(hashes, kind="stable")
        repeated = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
        repeated = repeated[np.argsort(owners[repeated], kind="stable")]
        numbers, starts = np.unique(owners[repeated], return_index=True)
        for number, indices in zip(numbers, np.split(places[repeated], starts[1:]), strict=False):
            counts[number] += len(indices)
            with write_errors(out), open(_shard_file(out, number), "ab") as file:
                file.write(indices.tobytes())
    return counts


def read_duplicates(out: Path, shard: int) -> np.ndarray:
    """Read the indices of a shard's documents that repeat an earlier one: sorted int64 [n]."""
    path = _shard_file(out, shard)
    return np.sort(np.fromfile(path, PLACE)) if path.exists() else np.zeros(0, PLACE)


def _runs_within(
    number: int, shard: Path, low: int, high: int | None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield hashes in [low, high), their document indices and shard numbers for every run."""
    hashes, places = _map_hashes(shard)
    for start in range(0, len(hashes), RUN_LENGTH):
        run = hashes[start : start + RUN_LENGTH]
        first = start + int(np.searchsorted(run, HASH.type(low)))
        last = start + (len(run) if high is None else int(np.searchsorted(run, HASH.type(high))))
        yield (
            np.array(hashes[first:last]),
            np.array(places[first:last]),
            np.full(last - first, number),
        )


def _map_hashes(shard: Path) -> tuple[np.ndarray, np.ndarray]:
    hashes, places = (
        np.load(shard / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("hashes", "places")
    )
    return hashes, places


def _shard_file(out: Path, shard: int) -> Path:
    return out / f"{shard:05d}"
