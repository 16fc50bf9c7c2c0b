"""A .npy file that grows by rows."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from flaxdistill.errors import UserError

COPY_ITEMS = 2**22
"""Numbers that ``append_file`` holds in memory at once."""


class ArrayFile:
    """A .npy file [rows, *row] that grows by rows, with constant memory."""

    def __init__(self, path: Path, row: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.row, self.dtype, self.rows = path, row, dtype, 0

    def __enter__(self) -> Self:
        with write_errors(self.path):
            self.file = open(self.path, "wb")
            self._write_header()
        return self

    def append(self, array: np.ndarray) -> None:
        """Append rows [n, *row] of the file's dtype."""
        with write_errors(self.path):
            self.file.write(np.ascontiguousarray(array).data)
        self.rows += len(array)

    def append_file(self, path: Path) -> None:
        """Append the rows of another .npy file of the same dtype, a few at a time."""
        size = max(1, math.prod(self.row))
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            while len(items := np.fromfile(file, self.dtype, max(1, COPY_ITEMS // size) * size)):
                self.append(items.reshape(-1, *self.row))

    def __exit__(self, *error: object) -> None:
        with write_errors(self.path), self.file:
            if error[0] is None:
                self.file.seek(0)
                self._write_header()
                self.file.flush()
                os.fsync(self.file.fileno())

    def _write_header(self) -> None:
        # numpy reserves space for the first axis to grow, so the final header fits over the first.
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.row)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def manifest_entry(self) -> dict[str, Any]:
        """Describe the closed file for the manifest: name, shape, dtype, bytes and sha256."""
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
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing ``path`` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be written ({error.strerror or error}): "
            "free space or choose another folder"
        ) from error
