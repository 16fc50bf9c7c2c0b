"""Writing documents as packed blocks into the files of one source."""

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
    """Packs documents into two growing files and counts their tokens."""

    # Plain arrays, because training reads single rows in random order: a row costs 32 us from
    # ArrayRecord, and 0.6 us from a memory-mapped array.
    ids: ArrayFile  # [rows, T]
    segments: ArrayFile  # [rows, T]
    vocabulary: Vocabulary
    counts: np.ndarray  # occurrences of each token id so far, without padding: int64 [V]

    def write(
        self, batches: Iterable[Sequence[np.ndarray]], max_blocks: int | None = None
    ) -> dict[str, int]:
        """Append documents, starting with a new block; return their manifest entries."""
        v, length = self.vocabulary, self.ids.row[0]
        rows = real_tokens = 0
        for ids, segments in pack(
            batches, length=length, cls=v.cls, sep=v.sep, pad=v.pad, vocab_size=v.size
        ):
            if max_blocks is not None:
                ids, segments = ids[: max_blocks - rows], segments[: max_blocks - rows]
            real = ids[segments > 0]
            rows += len(ids)
            real_tokens += len(real)
            self.counts[:] += np.bincount(real, minlength=v.size)
            self.ids.append(ids)
            self.segments.append(segments)
        return {"rows": rows, "tokens": rows * length, "real_tokens": real_tokens}

    def append(self, folder: Path, name: str) -> None:
        """Append the blocks and counts that another writer stored in a folder as ``name``."""
        self.ids.append_file(folder / f"{name}.npy")
        self.segments.append_file(folder / f"{name}-segments.npy")
        self.counts[:] += np.load(folder / f"{name}-counts.npy", allow_pickle=False)

    def manifest_entries(self) -> dict[str, Any]:
        """Describe both closed files for the manifest."""
        return {"ids": self.ids.manifest_entry(), "segments": self.segments.manifest_entry()}


@contextlib.contextmanager
def block_writer(
    folder: Path, name: str, vocabulary: Vocabulary, length: int
) -> Iterator[BlockWriter]:
    """Write blocks of ``length`` tokens to ``NAME.npy`` and ``NAME-segments.npy`` of a folder."""
    with (
        ArrayFile(folder / f"{name}.npy", (length,), id_dtype(vocabulary.size)) as ids,
        ArrayFile(folder / f"{name}-segments.npy", (length,), segment_dtype(length)) as segments,
    ):
        yield BlockWriter(ids, segments, vocabulary, counts=np.zeros(vocabulary.size, np.int64))
