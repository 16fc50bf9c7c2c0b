"""Packs documents into the block files of one source."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.array_file import ArrayFile
from flaxdistill.data.preparation.packing import id_dtype, pack, segment_dtype
from flaxdistill.data.tokenizer import Vocabulary


@dataclass(frozen=True, eq=False)
class BlockWriter:
    """Packs documents into two growing files and counts what it writes."""

    # Plain arrays, because training reads single rows in random order: from ArrayRecord that costs 32 us
    # a row, a gather from a memory-mapped array 0.6 us.
    ids: ArrayFile  # [rows, T]
    segments: ArrayFile  # [rows, T]
    vocabulary: Vocabulary
    counts: np.ndarray  # occurrences of each token id so far, padding left out: int64 [V]

    def write(
        self, batches: Iterable[Sequence[np.ndarray]], at_most: int | None = None
    ) -> dict[str, int]:
        """Append documents, beginning with a block of their own; returns what the manifest says of them."""
        v, length = self.vocabulary, self.ids.row[0]
        rows = real_tokens = 0
        for ids, segments in pack(
            batches, length=length, cls=v.cls, sep=v.sep, pad=v.pad, vocab_size=v.size
        ):
            if at_most is not None:
                ids, segments = ids[: at_most - rows], segments[: at_most - rows]
            real = ids[segments > 0]
            rows += len(ids)
            real_tokens += len(real)
            self.counts[:] += np.bincount(real, minlength=v.size)
            self.ids.append(ids)
            self.segments.append(segments)
        return {"rows": rows, "tokens": rows * length, "real_tokens": real_tokens}

    def append(self, folder: Path, name: str) -> None:
        """Append the blocks, and their counts, that another writer has left in a folder under a name."""
        self.ids.append_file(folder / f"{name}.npy")
        self.segments.append_file(folder / f"{name}-segments.npy")
        self.counts[:] += np.load(folder / f"{name}-counts.npy", allow_pickle=False)

    def entries(self) -> dict[str, Any]:
        """Describe both files for the manifest, once they are closed."""
        return {"ids": self.ids.entry(), "segments": self.segments.entry()}


@contextlib.contextmanager
def block_writer(
    folder: Path, name: str, vocabulary: Vocabulary, length: int
) -> Iterator[BlockWriter]:
    """Write blocks of ``length`` tokens into ``NAME.npy`` and ``NAME-segments.npy`` of a folder."""
    with (
        ArrayFile(folder / f"{name}.npy", (length,), id_dtype(vocabulary.size)) as ids,
        ArrayFile(folder / f"{name}-segments.npy", (length,), segment_dtype(length)) as segments,
    ):
        yield BlockWriter(ids, segments, vocabulary, counts=np.zeros(vocabulary.size, np.int64))
