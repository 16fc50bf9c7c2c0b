"""Writing the rows of labelled examples into the files of one source."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.array_file import ArrayFile, write_errors
from flaxdistill.data.labelled_rows import Row, RowBuilder
from flaxdistill.data.preparation.packing import id_dtype
from flaxdistill.data.sources import Example
from flaxdistill.data.store import COLUMNS_KEY
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError

BATCH_EXAMPLES = 1000
"""Examples that are tokenized at once."""


@dataclass(frozen=True, eq=False)
class RowWriter:
    """Builds and writes the rows of examples."""

    folder: Path
    row_builder: RowBuilder
    labels: list[str]
    vocabulary: Vocabulary
    length: int

    def write(
        self, name: str, examples: Iterator[Example], counts: np.ndarray, *, held_out: bool = False
    ) -> dict[str, Any]:
        """Write the rows of examples into files called ``name``; return their manifest entry.

        Adds the occurrences of each token id to ``counts``, int64 [V]. Held-out examples must have
        labels, and their scoring records are stored.
        """
        records: list[str] = []
        number = labelled = 0

        def build_rows() -> Iterator[Row]:
            nonlocal number, labelled
            while batch := list(itertools.islice(examples, BATCH_EXAMPLES)):
                if held_out:
                    records.extend(self._scoring_records(batch))
                labelled += sum(example.label is not None for example in batch)
                for windows in self.row_builder.rows(
                    batch, self.labels, self.vocabulary, self.length
                ):
                    example_number = {"example": np.array(number, np.int32)}
                    yield from (
                        row._replace(extra={**row.extra, **example_number}) for row in windows
                    )
                    number += 1

        entry = self._write_rows(name, build_rows(), counts)
        if records:
            entry["examples"] = self._write_records(name, records)
        return entry | {"read": number, "labelled": labelled}

    def _scoring_records(self, batch: Sequence[Example]) -> Iterator[str]:
        for example in batch:
            if example.label is None:
                raise UserError(
                    f"{example.place}: the label is missing; evaluation needs one for every row"
                )
            if self.row_builder.scoring_record:
                yield json.dumps(self.row_builder.scoring_record(example))

    def _write_records(self, name: str, records: list[str]) -> dict[str, Any]:
        path = self.folder / f"{name}-examples.jsonl"
        with write_errors(path):
            path.write_text("\n".join(records) + "\n")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}

    def _write_rows(self, name: str, rows: Iterable[Row], counts: np.ndarray) -> dict[str, Any]:
        """Write ids, segments and every column into a file each; return their manifest entry."""
        rows = iter(rows)
        first = next(rows, None)
        if first is None:
            return {"rows": 0, "tokens": 0, "real_tokens": 0, "cut": 0}
        real = truncated = 0
        with contextlib.ExitStack() as files:

            def open_file(suffix: str, row: tuple[int, ...], dtype: Any) -> ArrayFile:
                path = self.folder / f"{name}{suffix}.npy"
                return files.enter_context(ArrayFile(path, row, np.dtype(dtype)))

            ids = open_file("", (self.length,), id_dtype(self.vocabulary.size))
            segments = open_file("-segments", (self.length,), np.uint8)
            columns = {
                column: open_file(f"-{column}", array.shape, array.dtype)
                for column, array in first.columns().items()
            }
            for row in itertools.chain([first], rows):
                n = len(row.ids)
                padded = np.full((1, self.length), self.vocabulary.pad, ids.dtype)
                padded[0, :n] = row.ids
                ids.append(padded)
                segments.append((np.arange(self.length) < n)[None].astype(np.uint8))
                for column, array in row.columns().items():
                    columns[column].append(array[None])
                counts += np.bincount(row.ids, minlength=len(counts))
                real += n
                truncated += n == self.length
        return {
            "rows": ids.rows,
            "tokens": ids.rows * self.length,
            "real_tokens": real,
            "cut": truncated,
            "ids": ids.manifest_entry(),
            "segments": segments.manifest_entry(),
            COLUMNS_KEY: {column: file.manifest_entry() for column, file in columns.items()},
        }
