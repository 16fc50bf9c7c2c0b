"""Readers of file formats: each yields (place, values of the selected columns)."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from flaxdistill.data.readers.conll import read_tagged
from flaxdistill.data.readers.parquet import read_parquet
from flaxdistill.data.readers.records import Columns, Record, check_columns, text_lines
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

MAX_FIELD_SIZE = 2**31 - 1
"""Characters of a CSV field; the default of 131,072 is less than a long article."""


MAX_SHORT = 0.1
"""The largest fraction of the rows of a tsv file that may be left out for missing fields; of a few
rows, two may be."""


def format_of(path: Path) -> str | None:
    """Return the format of a file, a key of ``READERS``, from its suffix; None if unknown."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return suffix if suffix in READERS else None


def known_formats() -> str:
    """List the formats, as the end of an error message."""
    return f"known suffixes are {', '.join(READERS)}, each also with .gz"


def read_records(
    path: Path, suffix: str, columns: Columns, header: Columns = ()
) -> Iterator[Record]:
    """Stream the values of some columns; raise UserError naming file and line.

    ``header`` names the columns of a csv or tsv file without a header line.
    """
    gcs.download(path)  # another machine than this one may have listed the files
    try:
        with _open(path) as file:
            yield from READERS[suffix](file, path, columns, header)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is not a complete gzip file ({error}); write or download it again"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from error


def _open(path: Path) -> Any:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _read_txt(file: BinaryIO, path: Path, columns: Columns, header: Columns) -> Iterator[Record]:
    """Split at blank lines; a document keeps its line breaks. Numbered columns select CoNLL."""
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
        except (ValueError, RecursionError) as error:  # also for a number of thousands of digits
            raise UserError(
                f"{place}: not a JSON object on one line ({error}); write one object per line"
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"{place}: expected a JSON object but found {type(row).__name__}; "
                "write one per line"
            )
        check_columns(columns, list(row), place)
        if "answers" in columns:
            row["answers"] = known_answers(row)
        yield place, tuple(row[column] for column in columns)


def _read_json(file: BinaryIO, path: Path, columns: Columns, header: Columns) -> Iterator[Record]:
    """Read one object in SQuAD's layout, which has ``data``, or one object per line."""
    try:
        content = json.loads(file.readline())
    except (ValueError, RecursionError):  # one object over many lines, or another layout
        file.seek(0)
        content = _load_multiline(file, path)
    if not (isinstance(content, dict) and isinstance(content.get("data"), list)):
        file.seek(0)
        yield from _read_jsonl(file, path, columns, header)
        return
    if file.read(2**16).strip():
        raise UserError(
            f"{path}, line 2: more text follows a whole file in SQuAD's layout; "
            "write one file per object"
        )
    yield from _read_squad(content, path, columns)


def _read_squad(content: dict[str, Any], path: Path, columns: Columns) -> Iterator[Record]:
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    row = {name: question[name] for name in ("id", "question")}
                    row["context"] = paragraph["context"]
                    place = f"{path}, question {row['id']}"
                    if "answers" in question:
                        row["answers"] = known_answers(question)
                    elif "answers" in columns:
                        raise UserError(
                            f"{place}: there are no answers, which training and evaluation need; "
                            "add them, omit source.label to train on a teacher's answers, "
                            "or use predict"
                        )
                    check_columns(columns, list(row), place)
                    yield place, tuple(row[column] for column in columns)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} begins like a file of SQuAD's layout, but misses {error}; it needs data, "
            "paragraphs, qas, and for each question an id and a question"
        ) from None


def known_answers(row: Mapping[str, Any]) -> Any:
    """Return the answers of a question; [] if ``is_impossible`` says that it has none.

    Some files add plausible answers to questions that cannot be answered.
    """
    return [] if row.get("is_impossible") is True else row["answers"]


def _load_multiline(file: BinaryIO, path: Path) -> Any:
    try:
        return json.loads(file.read())
    except (ValueError, RecursionError) as error:
        # For an error in the first line, or one object per line, the line reader's message is
        # more precise.
        if getattr(error, "lineno", 1) == 1 or getattr(error, "msg", "") == "Extra data":
            return None
        raise UserError(
            f"{path}: not JSON ({error}); correct it, or write one object on each line"
        ) from error


def _read_csv(file: BinaryIO, path: Path, columns: Columns, header: Columns) -> Iterator[Record]:
    """Read rows separated by commas, or by semicolons or tabs if the first line has no comma."""
    lines = (line for _, line in text_lines(file, path))
    first = next(lines, "")
    delimiter = next((d for d in ",;\t" if d in first), ",")
    rows = csv.reader(itertools.chain([first], lines), strict=True, delimiter=delimiter)
    yield from _read_rows(rows, path, columns, header)


def _read_tsv(file: BinaryIO, path: Path, columns: Columns, header: Columns) -> Iterator[Record]:
    """Read rows separated by tabs; rows with too few fields are left out.

    A TSV field cannot hold a tab or a line break, so quotation marks have no special meaning.
    """
    lines = (line for _, line in text_lines(file, path))
    rows = csv.reader(lines, strict=True, delimiter="\t", quoting=csv.QUOTE_NONE)
    yield from _read_rows(rows, path, columns, header, skip_short=True)


def _read_rows(
    rows: Any, path: Path, columns: Columns, header: Columns, *, skip_short: bool = False
) -> Iterator[Record]:
    csv.field_size_limit(MAX_FIELD_SIZE)
    try:
        names = list(header) or next(rows, [])
        check_columns(columns, names, str(path) if header else f"{path}, line 1")
        indices = [names.index(column) for column in columns]
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if row and len(row) < len(names) and skip_short:
                continue
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


def describe_skipped(path: Path, suffix: str, header: Columns) -> str:
    """Say how many rows of a file are left out; "" for none.

    Raises UserError if so many are that the file has another layout.
    """
    if suffix != ".tsv":
        return ""
    short = total = first = 0
    with _open(path) as file:
        lines = (line for _, line in text_lines(file, path))
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        width = len(header) or len(next(rows, []))
        for row in rows:
            total += bool(row)
            if row and len(row) < width:
                short, first = short + 1, first or rows.line_num
    if not short:
        return ""
    counted = f"{short:,} of {total:,} rows have fewer fields than the {width} columns"
    if 2 * short >= total or short > max(2, MAX_SHORT * total):
        raise UserError(
            f"{path}: {counted}, the first in line {first}; give every row one field per column"
        )
    return f"{path}: {counted} and are left out, the first is line {first}"


READERS: dict[str, Callable[[Any, Path, Columns, Columns], Iterator[Record]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": read_parquet,
}
