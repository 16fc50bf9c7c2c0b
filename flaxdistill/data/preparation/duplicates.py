"""Documents that stand in a corpus more than once: found over all shards, in memory that does not grow with them."""

from __future__ import annotations

import array
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flaxdistill.data.array_file import ArrayFile, writing

SORTED = 2**20  # hashes of a shard that are sorted at once
COMPARED = 2**22  # hashes of all shards that are compared at once, or a few more

HASH, PLACE = np.dtype("<u8"), np.dtype("<i8")


@dataclass(frozen=True, eq=False)
class HashWriter:
    """Collects the hashes of a shard's documents in runs that are sorted, each hash with its document's place."""

    hashes: ArrayFile  # [D] uint64, in runs of SORTED
    places: ArrayFile  # [D] int64
    run: array.array = field(default_factory=lambda: array.array("Q"))

    def add(self, key: int) -> None:
        """Take the hash of the next document."""
        self.run.append(key)
        if len(self.run) == SORTED:
            self.flush()

    def flush(self) -> None:
        """Write the run that is still open."""
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
    """Find the documents whose hash a document before them has, in the order of ``shards``, folders of hashes.

    Writes the places of such documents into a file for each shard that has any, and returns how many each has.
    """
    with writing(out):
        out.mkdir()
    documents = sum(len(_mapped(shard)[0]) for shard in shards)
    ranges = documents // COMPARED + 1
    bounds = [2**64 * n // ranges for n in range(ranges)]
    found = [0] * len(shards)
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        runs = [
            run for number, shard in enumerate(shards) for run in _within(number, shard, low, high)
        ]
        hashes, places, owners = (np.concatenate(parts) for parts in zip(*runs, strict=True))
        # Stable, so of equal hashes the first is that of the first shard, and there of the first document.
        order = np.argsort(hashes, kind="stable")
        again = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
        again = again[np.argsort(owners[again], kind="stable")]
        numbers, starts = np.unique(owners[again], return_index=True)
        for number, here in zip(numbers, np.split(places[again], starts[1:]), strict=False):
            found[number] += len(here)
            with writing(out), open(_file(out, number), "ab") as file:
                file.write(here.tobytes())
    return found


def read_duplicates(out: Path, shard: int) -> np.ndarray:
    """Read the places of a shard's documents that stand somewhere before: sorted int64 [n]."""
    path = _file(out, shard)
    return np.sort(np.fromfile(path, PLACE)) if path.exists() else np.zeros(0, PLACE)


def _within(
    number: int, shard: Path, low: int, high: int | None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield of each run of a shard the hashes from ``low`` to below ``high``, their places and the shard's number."""
    hashes, places = _mapped(shard)
    for start in range(0, len(hashes), SORTED):
        run = hashes[start : start + SORTED]
        first = start + int(np.searchsorted(run, HASH.type(low)))
        last = start + (len(run) if high is None else int(np.searchsorted(run, HASH.type(high))))
        yield (
            np.array(hashes[first:last]),
            np.array(places[first:last]),
            np.full(last - first, number),
        )


def _mapped(shard: Path) -> tuple[np.ndarray, np.ndarray]:
    hashes, places = (
        np.load(shard / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("hashes", "places")
    )
    return hashes, places


def _file(out: Path, shard: int) -> Path:
    return out / f"{shard:05d}"
