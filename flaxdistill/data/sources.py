"""Text sources: files, folders, published datasets and the docstrings of the dependencies."""

import hashlib
import heapq
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flaxdistill.data.readers.datasets import dataset_parts, tfds_parts
from flaxdistill.data.readers.file_paths import check_format, find_files
from flaxdistill.data.readers.formats import describe_skipped, read_records
from flaxdistill.data.readers.parquet import declared_classes
from flaxdistill.data.readers.records import Columns, Record, check_text
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

LIBRARIES = {"hf": dataset_parts, "tfds": tfds_parts}
"""Readers of published datasets, by the prefix of a source's path."""

AUGMENTATION_FILE = ".augmentation.json"
"""File that ``augment`` writes into its folder; hidden, so the folder can be used as a source."""


@dataclass(frozen=True)
class Shard:
    """A part of a source that can be streamed repeatedly, in the same order."""

    name: str  # unique within its source
    fingerprint: str  # changes when the documents may have changed
    documents: Callable[[], Iterator]  # yields non-empty strings, or Examples; can be pickled
    classes: tuple[str, ...] = ()  # label names that a dataset declares, in its order
    note: str = ""  # what is left out, to be reported
    size: int = 2**26  # bytes of its file; without a file, enough to start a process for it


@dataclass(frozen=True)
class Example:
    """One example as it was written, before its values are interpreted."""

    place: str  # for error messages
    text: Any
    pair: Any = None
    label: Any = None
    paired: bool = False  # whether a second text is required


@dataclass(frozen=True)
class Source:
    """A source of texts or labelled rows.

    Files are .txt, .jsonl, .json, .csv, .tsv or .parquet, each also with .gz. A smaller ``rows``
    selects a subset of a larger one, whatever the files and their order.
    """

    path: str
    """File, directory or glob, "hf:NAME[:CONFIG]", "tfds:NAME[/CONFIG]", or "docstrings"."""

    _: KW_ONLY

    column: str = "text"
    """Column of the text."""

    pair: str | None = None
    """Column of the second text, for tasks on text pairs."""

    label: str | None = None
    """Column of the label; None for unlabelled rows."""

    header: str = ""
    """Column names, such as "id,label,text", of a csv or tsv file without a header line."""

    split: str = "train"
    """Split of an hf: or tfds: dataset."""

    weight: float = 1.0
    """Passes over this source per epoch."""

    rows: int | None = None
    """Use only this many rows or documents, chosen by text hash and held in memory; None: all."""

    def __post_init__(self):
        if isinstance(self.path, os.PathLike):
            object.__setattr__(self, "path", os.fspath(self.path))
        if self.rows is not None and self.rows < 1:
            raise UserError(
                f"Source {self.path!r} has rows {self.rows}, which must be at least 1; "
                "omit rows to read all"
            )
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise UserError(
                f"Source {self.path!r} has weight {self.weight}, which must be a finite number "
                "above 0; remove the source to give it no weight"
            )

    def check(self) -> None:
        """Raise UserError for a missing file or unknown format; datasets are not checked."""
        if self._is_files():
            for _, path in find_files(self.path):
                check_format(path)

    def is_augmented(self) -> bool:
        """Return whether files of this source were written by ``augment``."""
        folders = {path.parent for _, path in find_files(self.path)} if self._is_files() else ()
        return any(gcs.download(folder / AUGMENTATION_FILE).is_file() for folder in folders)

    def _is_files(self) -> bool:
        return self.path != "docstrings" and self.path.partition(":")[0] not in LIBRARIES

    def shards(self) -> list[Shard]:
        """List the shards of this source, sorted by name; files are read once to fingerprint them.

        Raises UserError for missing files and, while streaming, for malformed ones.
        """
        return self._shards((self.column,), partial(_texts, self.column))

    def labelled(self) -> list[Shard]:
        """List the shards as ``shards`` does; their documents are Examples."""
        if self.path == "docstrings" and (self.label or self.pair):
            raise UserError(
                "docstrings have no labels and no second texts; use another source, or remove "
                "label and pair if a teacher labels them"
            )
        columns = tuple(column for column in (self.column, self.pair, self.label) if column)
        return self._shards(columns, partial(_examples, bool(self.pair), bool(self.label)))

    def _shards(self, columns: Columns, read: Callable[..., Iterator]) -> list[Shard]:
        shards = self._all_shards(columns, read)
        return shards if self.rows is None else [_subset_shard(self.rows, shards, self.path)]

    def _all_shards(self, columns: Columns, read: Callable[..., Iterator]) -> list[Shard]:
        if self.path == "docstrings":
            return [_docstrings_shard(read)]
        library, _, name = self.path.partition(":")
        if library in LIBRARIES:
            return [
                Shard(
                    part.name,
                    _hash(part.identity),
                    partial(read, part.records, part.place),
                    part.classes,
                )
                for part in LIBRARIES[library](name, columns, self.split)
            ]
        header = tuple(name.strip() for name in self.header.split(",")) if self.header else ()
        return [
            _file_shard(name, path, columns, header, read) for name, path in find_files(self.path)
        ]


def source_fields(data: str | None, **fields: str | None) -> dict[str, Any]:
    """Return the fields that are not None; raise UserError if there are any without ``data``."""
    values = {name: value for name, value in fields.items() if value is not None}
    if values and not data:
        raise UserError(
            f"--{next(iter(values))} describes --data, which is missing; "
            "add --data with a file, hf:NAME or tfds:NAME"
        )
    return values


def _texts(
    column: str, records: Callable[[], Iterator[Record]], source: str, has_columns: bool = True
) -> Iterator[str]:
    """Yield the texts of a source without blank ones."""
    suffix = f", column {column!r}" if has_columns else ""
    empty = True
    for place, (text,) in records():
        check_text(text, place + suffix)
        if text.strip():
            empty = False
            yield text
    if empty:
        raise UserError(
            f"{source} holds no document: every text in it is empty; remove it or add text"
        )


def _examples(
    pair: bool,
    label: bool,
    records: Callable[[], Iterator[Record]],
    source: str,
    has_columns: bool = True,
) -> Iterator[Example]:
    for place, (text, *more) in records():
        yield Example(place, text, more[0] if pair else None, more[-1] if label else None, pair)


# Subsets of rows


def _subset_shard(rows: int, shards: list[Shard], path: str) -> Shard:
    classes = next((shard.classes for shard in shards if shard.classes), ())
    fingerprint = _hash([rows, *(shard.fingerprint for shard in shards)])
    documents = partial(_lowest_hashes, rows, shards, path)
    note = "; ".join(shard.note for shard in shards if shard.note)
    size = sum(shard.size for shard in shards)
    return Shard(f"{rows}-rows", fingerprint, documents, classes, note, size)


def _lowest_hashes(rows: int, shards: list[Shard], path: str) -> Iterator:
    documents = (document for shard in shards for document in shard.documents())
    chosen = heapq.nsmallest(rows, documents, key=_subset_key)
    if len(chosen) < rows:
        raise UserError(
            f"Source {path!r} holds {len(chosen)} rows, but its field rows is {rows}; "
            "lower it, or omit it to read all"
        )
    yield from chosen


def _subset_key(document: str | Example) -> tuple[bytes, str]:
    # The label only orders rows with the same text.
    text, label = (
        (document, "")
        if isinstance(document, str)
        else ((document.text, document.pair), document.label)
    )
    return hashlib.sha256(repr(text).encode()).digest(), repr(label)


# Shards of files and of docstrings


def _file_shard(
    name: str, path: Path, columns: Columns, header: Columns, read: Callable[..., Iterator]
) -> Shard:
    suffix = check_format(path)
    try:
        size = path.stat().st_size
        if size == 0:
            raise UserError(f"{path} is empty (0 bytes); remove it or write it again")
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check its permissions"
        ) from error
    # Plain text has no columns, so another column leaves its documents unchanged.
    parts = [
        content,
        path.name.lower().endswith(".gz"),
        suffix,
        columns if suffix != ".txt" else (),
        header,
    ]
    records = partial(read_records, path, suffix, columns, header)
    return Shard(
        name,
        _hash(parts),
        partial(read, records, str(path), suffix != ".txt"),
        declared_classes(path, columns[-1]) if suffix == ".parquet" else (),
        describe_skipped(path, suffix, header),
        size,
    )


def _docstrings_shard(read: Callable[..., Iterator]) -> Shard:
    from flaxdistill.data.readers.docstrings import read_docstrings

    documents = read_docstrings()
    records = partial(_document_records, documents)
    source = "The documentation of the dependencies"
    return Shard("docstrings", _hash(documents), partial(read, records, source, False))


def _document_records(documents: list[str]) -> Iterator[Record]:
    return (("docstrings", (text,)) for text in documents)


def _hash(parts: Iterable) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
