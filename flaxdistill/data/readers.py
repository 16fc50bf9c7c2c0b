"""Readers of file formats: each yields (place, value), and every value is checked to be text."""

import csv
import gzip
import json
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from flaxdistill.errors import UserError

LONGEST_FIELD = 2**31 - 1  # csv's own limit of 131,072 characters is less than a long article


def format_of(path: Path) -> str | None:
    """Tell a file's format, a key of ``READERS``, by its suffix; None where that says nothing."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return suffix if suffix in READERS else None


def known_formats() -> str:
    """Name the formats, as the end of an error's sentence."""
    return f"known suffixes are {', '.join(READERS)}, each also with .gz"


def read_file(path: Path, form: str, column: str) -> Iterator[str]:
    """Stream the documents of a file of one of the formats; raises UserError naming file and line."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield from checked_texts(READERS[form](file, path, column), str(path))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is not a complete gzip file ({error}); write or download it again"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from error


def checked_texts(values: Iterable[tuple[str, Any]], where: str) -> Iterator[str]:
    """Yield the texts of (place, value) pairs, blank ones left out; raises UserError for what is no text."""
    empty = True
    for place, value in values:
        if not isinstance(value, str):
            raise UserError(
                f"{place}: expected text but found {type(value).__name__} {value!r:.80}; make it a string, or set "
                "`column` to a field of text"
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise UserError(
                f"{place}: the text holds half a surrogate pair, which is no character; remove it"
            ) from error
        if value.strip():
            empty = False
            yield value
    if empty:
        raise UserError(f"{where} holds no document: every text in it is empty; leave it out or fill it")


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file, 1):
        if b"\0" in line:
            raise UserError(
                f"{path}, line {number}: NUL byte, so this is a binary file or UTF-16 text; "
                "convert it to UTF-8"
            )
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}, line {number}: byte 0x{line[error.start]:02x} is not valid UTF-8; "
                "convert the file to UTF-8"
            ) from error
        yield number, text.rstrip("\r\n") + "\n"


def _read_txt(file: BinaryIO, path: Path, column: str) -> Iterator[tuple[str, str]]:
    """Split at blank lines; a document keeps its own line breaks."""
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
        except (ValueError, RecursionError) as error:  # also a number of thousands of digits
            raise UserError(
                f"{place}: not a JSON object on one line ({error}); write one object per line"
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"{place}: expected a JSON object but found {type(row).__name__}; write one per line"
            )
        check_column(column, list(row), place)
        yield f"{place}, field {column!r}", row[column]


def _read_csv(file: BinaryIO, path: Path, column: str, **dialect) -> Iterator[tuple[str, str]]:
    csv.field_size_limit(LONGEST_FIELD)
    rows = csv.reader((line for _, line in _lines(file, path)), strict=True, **dialect)
    try:
        header = next(rows, [])
        check_column(column, header, f"{path}, line 1")
        index = header.index(column)
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if row and len(row) != len(header):
                raise UserError(
                    f"{place}: {len(row)} fields but the header has {len(header)}; "
                    "give every row one field per column"
                )
            if row:
                yield f"{place}, column {column!r}", row[index]
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not valid CSV ({error}); check its quotes") from error


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
        check_column(column, table.schema_arrow.names, str(path))
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=[column]):
            for value in batch.column(0):
                number += 1
                place = f"{path}, row {number}, column {column!r}"
                try:
                    yield place, value.as_py()
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{place}: {error.reason} (UTF-8); write the file again as text"
                    ) from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not a valid parquet file ({reason}); write or download it again"
        ) from error


def check_column(column: str, present: list[str], place: str) -> None:
    """Raise UserError, naming what there is, unless a column is present."""
    if column not in present:
        names = ", ".join(map(repr, present)) or "none"
        raise UserError(f"{place}: no column {column!r}, only {names}; set `column` to one of them")


READERS: dict[str, Callable[[Any, Path, str], Iterator[tuple[str, Any]]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_jsonl,
    ".csv": _read_csv,
    # A TSV field cannot hold a tab or a line break, so a quotation mark in it is only a quotation mark.
    ".tsv": partial(_read_csv, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".parquet": _read_parquet,
}
