"""Readers of file formats: each yields (place, values of the columns asked for)."""

from __future__ import annotations

import csv
import gzip
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from flaxdistill.data.readers.conll import read_tagged
from flaxdistill.data.readers.records import Columns, Record, check_columns, text_lines
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

LONGEST_FIELD = 2**31 - 1  # csv's own limit of 131,072 characters is less than a long article


def format_of(path: Path) -> str | None:
    """Tell a file's format, a key of ``READERS``, by its suffix; None where that says nothing."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return suffix if suffix in READERS else None


def known_formats() -> str:
    """Name the formats, as the end of an error's sentence."""
    return f"known suffixes are {', '.join(READERS)}, each also with .gz"


def read_records(path: Path, form: str, columns: Columns, header: Columns = ()) -> Iterator[Record]:
    """Stream the values of some columns, whatever they are; raises UserError naming file and line.

    ``header`` names the columns of a csv or tsv file that does not begin with a line of their names.
    """
    gcs.reach(path)  # where another machine than the one that listed it reads
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield from READERS[form](file, path, columns, header)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is not a complete gzip file ({error}); write or download it again"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from error


def _read_txt(file: BinaryIO, path: Path, columns: Columns, header: Columns) -> Iterator[Record]:
    """Split at blank lines; a document keeps its line breaks. Numbered columns are those of a word and its tag."""
    if len(columns) > 1 or re.fullmatch(r"-?\d+", columns[0]):
        yield from read_tagged(file, path, columns)
        return
    document: list[str] = []
    start = 1
    for number, line in text_lines(file, path):
        if line.strip():
            start = number if not document else start
            document.append(line)
        elif document:
            yield f"{path}, line {start}", ("".join(document).rstrip("\n"),)
            document = []
    if document:
        yield f"{path}, line {start}", ("".join(document).rstrip("\n"),)


def _read_jsonl(file: BinaryIO, path: Path, columns: Columns, header: Columns) -> Iterator[Record]:
    for number, line in text_lines(file, path):
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
        check_columns(columns, list(row), place)
        yield place, tuple(row[column] for column in columns)


def _read_json(file: BinaryIO, path: Path, columns: Columns, header: Columns) -> Iterator[Record]:
    """Read SQuAD's own layout, one object that holds ``data``, or else one object on each line."""
    try:
        whole = json.loads(file.readline())
    except (ValueError, RecursionError):  # one object over many lines, or nothing of ours
        file.seek(0)
        whole = _over_lines(file, path)
    if not (isinstance(whole, dict) and isinstance(whole.get("data"), list)):
        file.seek(0)
        yield from _read_jsonl(file, path, columns, header)
        return
    if file.read(2**16).strip():
        raise UserError(
            f"{path}, line 2: there is more behind a whole file of SQuAD's layout; give each its own file"
        )
    try:
        for article in whole["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    row = {name: asked[name] for name in ("id", "question")}
                    row["context"] = paragraph["context"]
                    place = f"{path}, question {row['id']}"
                    if "answers" in asked:
                        row["answers"] = asked["answers"]
                    elif "answers" in columns:
                        raise UserError(
                            f"{place}: there are no answers, which training and evaluation need; give them, leave "
                            "source.label out where a teacher answers, or have predict answer"
                        )
                    check_columns(columns, list(row), place)
                    yield place, tuple(row[column] for column in columns)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} begins like a file of SQuAD's layout, but misses {error}; it holds data, paragraphs, qas, and of each "
            "question id and question"
        ) from None


def _over_lines(file: BinaryIO, path: Path) -> Any:
    try:
        return json.loads(file.read())
    except (ValueError, RecursionError) as error:
        # Of what breaks in the first line, or stands in many lines, the reader of lines tells more.
        if getattr(error, "lineno", 1) == 1 or getattr(error, "msg", "") == "Extra data":
            return None
        raise UserError(
            f"{path}: not JSON ({error}); mend it, or write one object on each line"
        ) from error


def _read_csv(
    file: BinaryIO, path: Path, columns: Columns, header: Columns, **dialect
) -> Iterator[Record]:
    csv.field_size_limit(LONGEST_FIELD)
    rows = csv.reader((line for _, line in text_lines(file, path)), strict=True, **dialect)
    try:
        names = list(header) or next(rows, [])
        check_columns(columns, names, str(path) if header else f"{path}, line 1")
        indices = [names.index(column) for column in columns]
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if row and len(row) != len(names):
                raise UserError(
                    f"{place}: {len(row)} fields but the header has {len(names)}; "
                    "give every row one field per column"
                )
            if row:
                yield place, tuple(row[index] for index in indices)
    except csv.Error as error:
        raise UserError(
            f"{path}, line {rows.line_num}: not valid CSV ({error}); check its quotes"
        ) from error


def _read_parquet(
    file: BinaryIO, path: Path, columns: Columns, header: Columns
) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    if isinstance(file, gzip.GzipFile):  # parquet is read from its end, which gzip cannot seek to
        with tempfile.TemporaryFile() as plain:
            while piece := file.read(2**20):
                plain.write(piece)
            yield from _read_parquet(plain, path, columns, header)
        return
    try:
        table = parquet.ParquetFile(file)
        check_columns(columns, table.schema_arrow.names, str(path))
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=list(columns)):
            for values in zip(*(batch.column(column) for column in columns), strict=True):
                number += 1
                place = f"{path}, row {number}"
                yield (
                    place,
                    tuple(_as_python(*one, place) for one in zip(values, columns, strict=True)),
                )
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is not a valid parquet file ({reason}); write or download it again"
        ) from error


def _as_python(value: Any, column: str, place: str) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}, column {column!r}: {error.reason} (UTF-8); write the file again as text"
        ) from None
    except (
        ValueError,
        OverflowError,
        LookupError,
    ) as error:  # a year or a time zone that Python does not know
        raise UserError(
            f"{place}, column {column!r}: this {value.type} cannot be read ({error}); write the column again as text"
        ) from None


READERS: dict[str, Callable[[Any, Path, Columns, Columns], Iterator[Record]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    # A TSV field cannot hold a tab or a line break, so a quotation mark in it is only a quotation mark.
    ".tsv": partial(_read_csv, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".parquet": _read_parquet,
}
