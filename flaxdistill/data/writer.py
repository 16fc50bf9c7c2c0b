"""The files of a store as they grow: blocks of one source, and arrays with their entries in the manifest."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from flaxdistill.data.pack import id_dtype, pack, segment_dtype
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError

APPENDED = 2**22  # numbers of another file that are held at once


@dataclass(frozen=True, eq=False)
class BlockWriter:
    """Packs documents into two growing files and counts what it writes."""

    # Plain arrays, because training reads single rows in random order: from ArrayRecord that costs 32 us
    # a row, a gather from a memory-mapped array 0.6 us.
    ids: ArrayFile  # [rows, T]
    segments: ArrayFile  # [rows, T]
    vocabulary: Vocabulary
    counts: np.ndarray  # occurrences of each token id so far, padding left out: int64 [V]

    def write(self, batches: Iterable[Sequence[np.ndarray]], at_most: int | None = None) -> dict[str, int]:
        """Append documents, beginning with a block of their own; returns what the manifest says of them."""
        v, length = self.vocabulary, self.ids.row[0]
        rows = real_tokens = 0
        for ids, segments in pack(batches, length=length, cls=v.cls, sep=v.sep, pad=v.pad, vocab_size=v.size):
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
def block_writer(folder: Path, name: str, vocabulary: Vocabulary, length: int) -> Iterator[BlockWriter]:
    """Write blocks of ``length`` tokens into ``NAME.npy`` and ``NAME-segments.npy`` of a folder."""
    with (
        ArrayFile(folder / f"{name}.npy", (length,), id_dtype(vocabulary.size)) as ids,
        ArrayFile(folder / f"{name}-segments.npy", (length,), segment_dtype(length)) as segments,
    ):
        yield BlockWriter(ids, segments, vocabulary, counts=np.zeros(vocabulary.size, np.int64))


class ArrayFile:
    """A .npy file [rows, *row] that grows by rows, so that memory stays flat."""

    def __init__(self, path: Path, row: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.row, self.dtype, self.rows = path, row, dtype, 0

    def __enter__(self) -> Self:
        with writing(self.path):
            self.file = open(self.path, "wb")
            self._header()
        return self

    def append(self, array: np.ndarray) -> None:
        """Add rows [n, *row] of the file's own dtype."""
        with writing(self.path):
            self.file.write(np.ascontiguousarray(array).data)
        self.rows += len(array)

    def append_file(self, path: Path) -> None:
        """Add the rows of another .npy file of the same dtype, a few at a time."""
        size = max(1, math.prod(self.row))
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            while len(piece := np.fromfile(file, self.dtype, max(1, APPENDED // size) * size)):
                self.append(piece.reshape(-1, *self.row))

    def __exit__(self, *error: object) -> None:
        with writing(self.path), self.file:
            if error[0] is None:
                self.file.seek(0)
                self._header()
                self.file.flush()
                os.fsync(self.file.fileno())

    def _header(self) -> None:
        # numpy leaves room in the header for the first axis to grow, so the final one fits over the first.
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.row)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def entry(self) -> dict[str, Any]:
        """Describe the closed file for the manifest."""
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "file": self.path.name,
            "shape": [self.rows, *self.row],
            "dtype": self.dtype.name,
            "bytes": self.path.stat().st_size,
            "sha256": digest,
        }


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says about a file that cannot be written into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be written ({error.strerror or error}): "
            "make room or choose another folder"
        ) from error
