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

APPENDED = 2**22  # numbers of another file that are held at once


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
