"""Where text comes from: files, folders, `datasets` ids and the documentation of our dependencies."""

import csv
import glob
import gzip
import hashlib
import itertools
import json
import math
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from flaxdistill.errors import UserError

ROWS_PER_SHARD = 100_000  # of a `datasets` id, which has no files of its own to go by
LONGEST_FIELD = 2**31 - 1  # csv's own limit of 131,072 characters is less than a long article


@dataclass(frozen=True)
class Shard:
    """A piece of a source that can be streamed on its own, again and again, in the same order."""

    name: str  # unique within its source
    fingerprint: str  # changes when the documents may have changed
    documents: Callable[[], Iterator[str]]  # non-empty strings; can be pickled


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place text comes from."""

    path: str  # file, glob or directory (also .gz); "hf:NAME" or "hf:NAME:CONFIG"; or "docstrings"
    column: str = "text"  # the field that holds the text (jsonl, csv, tsv, parquet, datasets)
    split: str = "train"  # split of a datasets id
    weight: float = 1.0  # how many passes over this source one epoch makes

    def __post_init__(self):
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise UserError(
                f"Source {self.path!r} has weight {self.weight}, which must be a finite number above 0; "
                "leave the source out to give it no weight."
            )

    def shards(self) -> list[Shard]:
        """The pieces of this source, sorted by name; files are read once to fingerprint them.

        Raises ``UserError`` here for what is missing and, while streaming, for what is malformed.
        """
        if self.path == "docstrings":
            return [_docstrings_shard()]
        if self.path.startswith("hf:"):
            return _dataset_shards(self.path.removeprefix("hf:"), self.column, self.split)
        return [_file_shard(name, path, self.column) for name, path in _find_files(self.path)]


# Finding files


def _find_files(pattern: str) -> list[tuple[str, Path]]:
    """(name, path) of every file, sorted by name; the name is relative to the folder searched."""
    root = Path(pattern).expanduser()
    if root.is_dir():
        visible = (path for path in root.rglob("*") if "/." not in f"/{path.relative_to(root).as_posix()}")
        found = [path for path in visible if path.is_file() and _format(path)]
        if not found:
            raise UserError(f"Directory {pattern} holds no file that can be read; {_known_formats()}.")
    elif root.exists():
        root, found = root.parent, [root]
    elif glob.has_magic(pattern):
        found = [Path(path) for path in glob.glob(str(root), recursive=True) if Path(path).is_file()]
        root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), root.parts))
        if not found:
            raise UserError(
                f"Glob {pattern} matches no file in {root.absolute()}; check the pattern and the folder."
            )
    else:
        raise UserError(
            f"Text file {pattern} does not exist (looked for {root.absolute()}); check the path, or quote a "
            "glob such as 'texts/*.jsonl'."
        )
    return sorted((path.relative_to(root).as_posix(), path) for path in found)


def _format(path: Path) -> str | None:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return suffix if suffix in READERS else None


def _known_formats() -> str:
    return f"known suffixes are {', '.join(READERS)}, each also with .gz"


def _file_shard(name: str, path: Path, column: str) -> Shard:
    form = _format(path)
    if form is None:
        raise UserError(f"{path} has a suffix that says nothing about its format; {_known_formats()}.")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty (0 bytes); remove it or write it again.")
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error
    # Plain text has no columns, so asking for another one leaves its documents as they are.
    parts = [content, path.name.lower().endswith(".gz"), form] + ([column] if form != ".txt" else [])
    return Shard(name, _hash(parts), partial(_read_file, path, form, column))


def _hash(parts: Iterable) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()


# Reading files: each format yields (where, value) and _documents checks the values


def _read_file(path: Path, form: str, column: str) -> Iterator[str]:
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield from _documents(READERS[form](file, path, column), str(path))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is not a complete gzip file ({error}); write or download it again."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}).") from error


def _documents(values: Iterable[tuple[str, Any]], where: str) -> Iterator[str]:
    empty = True
    for place, value in values:
        if not isinstance(value, str):
            raise UserError(f"{place}: expected text but found {type(value).__name__} {value!r:.80}.")
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise UserError(
                f"{place}: the text holds half a surrogate pair, which is no character."
            ) from error
        if value.strip():
            empty = False
            yield value
    if empty:
        raise UserError(f"{where} holds no document: every text in it is empty; leave it out or fill it.")


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, 1):
        if b"\0" in line:
            raise UserError(
                f"{path}, line {number}: NUL byte, so this is a binary file or UTF-16 text; "
                "convert it to UTF-8."
            )
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number}: byte 0x{line[error.start]:02x} is not valid UTF-8; "
                "convert the file to UTF-8."
            ) from error
        yield number, text.rstrip("\r\n") + "\n"


def _read_txt(file: BinaryIO, path: Path, column: str) -> Iterator[tuple[str, str]]:
    """Documents are separated by blank lines; a document keeps its own line breaks."""
    document: list[str] = []
    start = 1
    for number, line in _lines(file, path):
        if line.strip():
            start = number if not document else start
            document.append(line)
        elif document:
            yield f"{path}, line {start}", "".join(document).rstrip("\n")
            document = []
    if document:
        yield f"{path}, line {start}", "".join(document).rstrip("\n")


def _read_jsonl(file: BinaryIO, path: Path, column: str) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(file, path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(
                f"{place}: not a JSON object on one line ({error}); write one object per line."
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"{place}: expected a JSON object but found {type(row).__name__}; write one per line."
            )
        _check_column(column, list(row), place)
        yield f"{place}, field {column!r}", row[column]


def _read_csv(file: BinaryIO, path: Path, column: str, **dialect) -> Iterator[tuple[str, str]]:
    csv.field_size_limit(LONGEST_FIELD)
    rows = csv.reader((line for _, line in _lines(file, path)), strict=True, **dialect)
    try:
        header = next(rows, [])
        _check_column(column, header, f"{path}, line 1")
        index = header.index(column)
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if row and len(row) != len(header):
                raise UserError(
                    f"{place}: {len(row)} fields but the header has {len(header)}; "
                    "give every row one field per column."
                )
            if row:
                yield f"{place}, column {column!r}", row[index]
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num}: not valid CSV ({error}); check its quotes."
        ) from error


def _read_parquet(file: BinaryIO, path: Path, column: str) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    if isinstance(file, gzip.GzipFile):  # parquet is read from its end, which gzip cannot seek to
        with tempfile.TemporaryFile() as plain:
            while piece := file.read(2**20):
                plain.write(piece)
            yield from _read_parquet(plain, path, column)
        return
    try:
        table = parquet.ParquetFile(file)
        _check_column(column, table.schema_arrow.names, str(path))
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=[column]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield f"{path}, row {number}, column {column!r}", value
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not a valid parquet file ({reason}); write or download it again."
        ) from error


def _check_column(column: str, present: list[str], place: str) -> None:
    if column not in present:
        names = ", ".join(map(repr, present)) or "none"
        raise UserError(f"{place}: no column {column!r}, only {names}; set `column` to one of them.")


READERS = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    # A TSV field cannot hold a tab or a line break, so a quotation mark in it is only a quotation mark.
    ".tsv": partial(_read_csv, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".parquet": _read_parquet,
}


# What is not a file


def _docstrings_shard() -> Shard:
    from flaxdistill.data.docstrings import read_docstrings

    documents = read_docstrings()
    return Shard("docstrings", _hash(documents), partial(_documents_of, documents))


def _documents_of(documents: list[str]) -> Iterator[str]:
    return _documents((("docstrings", text) for text in documents), "The documentation of the dependencies")


def _dataset_shards(name: str, column: str, split: str) -> list[Shard]:
    dataset = _load_dataset(name, split)
    _check_column(column, dataset.column_names, f"Dataset {name}, split {split!r}")
    label = re.sub(r"[^\w.-]+", "-", f"{name}-{split}").strip("-")
    starts = range(0, max(len(dataset), 1), ROWS_PER_SHARD)
    return [
        Shard(
            f"{label}-{index:05d}",
            _hash([dataset._fingerprint, column, start, ROWS_PER_SHARD]),
            partial(_read_dataset, dataset.select_columns([column]), name, column, start),
        )
        for index, start in enumerate(starts)
    ]


def _load_dataset(name: str, split: str):
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"Source hf:{name} needs the `datasets` library; run pip install 'flaxdistill[hf]'."
        ) from error
    path, _, config = name.partition(":")
    if re.match(r"[./~]", path) and not Path(path).expanduser().is_dir():
        raise UserError(f"Source hf:{name} names the directory {path}, which does not exist.")
    try:
        path = str(Path(path).expanduser()) if path.startswith("~") else path
        return datasets.load_dataset(path, config or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        # The reason may come wrapped: "an error occurred while generating the dataset".
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            f"Dataset {path} (config {config or 'default'!r}, split {split!r}) cannot be loaded: {reason}; "
            "check the name and the network, or use a local folder as hf:/path/to/folder."
        ) from error


def _read_dataset(dataset, name: str, column: str, start: int) -> Iterator[str]:
    rows = range(start, min(start + ROWS_PER_SHARD, len(dataset)))
    values = (
        (f"Dataset {name}, row {row}, column {column!r}", value)
        for first in rows[::256]
        for row, value in enumerate(dataset[first : min(first + 256, rows.stop)][column], first)
    )
    return _documents(values, f"Dataset {name}")
