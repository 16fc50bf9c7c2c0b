"""Reader of CoNLL files: one word and its tag per line, a blank line after each sentence."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flaxdistill.data.readers.records import Columns, Record, text_lines
from flaxdistill.errors import UserError


class FirstLine(str):
    """The place of a sentence: the line of its first word."""

    path: Path
    number: int

    def __new__(cls, path: Path, number: int) -> FirstLine:
        """Name a line by its file and number."""
        line = super().__new__(cls, f"{path}, line {number}")
        line.path, line.number = path, number
        return line

    def of(self, word: int) -> str:
        """Return the place of a word of the sentence, counted from 0."""
        return f"{self.path}, line {self.number + word}"


def read_tagged(file: BinaryIO, path: Path, columns: Columns) -> Iterator[Record]:
    """Yield the words and the tags of each sentence, from columns given by number."""
    indices = _column_numbers(columns, path)
    lines: list[list[str]] = []
    start, width = 1, 0
    for number, line in itertools.chain(text_lines(file, path), [(0, "")]):
        fields = _split(line.rstrip("\n"))
        if fields and not lines and _is_comment(fields, width):
            continue
        if fields:
            _check_fields(fields, columns, indices, f"{path}, line {number}")
            width = width or len(fields)
            if len(fields) != width:  # its last field would belong to another column
                raise UserError(
                    f"{path}, line {number}: {len(fields)} fields, but the first line has "
                    f"{width}; give every line the same number of fields"
                )
            start = start if lines else number
            lines.append(fields)
        elif lines:
            yield (
                FirstLine(path, start),
                tuple([fields[index] for fields in lines] for index in indices),
            )
            lines = []


def _column_numbers(columns: Columns, path: Path) -> list[int]:
    try:
        return [int(column) for column in columns]
    except ValueError:
        raise UserError(
            f"{path} is plain text, whose columns have numbers and no names: set source.column to "
            "0 and source.label to -1 for lines of a word and its tag, or write labelled rows as "
            "tsv, csv, jsonl or parquet"
        ) from None


def _split(line: str) -> list[str]:
    """Split a line at tabs, else at spaces; [] between sentences and documents."""
    # Other white space, such as a no-break space, is part of a word.
    if "\t" in line:
        fields = [field.strip(" ") for field in line.split("\t")]
    else:
        fields = [field for field in line.split(" ") if field]
    return fields if line.strip(" \t") and fields[0] != "-DOCSTART-" else []


def _is_comment(fields: list[str], width: int) -> bool:
    """Return whether the first line of a sentence is a comment, as CoNLL-U and MultiCoNER have.

    Inside a sentence, # is a word.
    """
    if not fields[0].startswith("#"):
        return False
    keys = {"id", "newdoc", "newpar", "sent_id", "text"}
    named = len(fields) > 1 and fields[0] == "#" and fields[1] in keys
    return named or any("=" in field for field in fields) or (width > 0 and len(fields) != width)


def _check_fields(fields: list[str], columns: Columns, indices: list[int], place: str) -> None:
    count = len(fields)
    if not all(-count <= index < count for index in indices) or count < len(indices):
        raise UserError(
            f"{place}: {count} fields, but columns {' and '.join(columns)} are needed; "
            "give every line a word and its tag"
        )
    for column, index in zip(columns, indices, strict=True):
        if not fields[index]:
            raise UserError(
                f"{place}: column {column} is empty; give every line a word and its tag"
            )
