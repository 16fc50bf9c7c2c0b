"""Sentences each of whose words has a line of its own, with its tag (CoNLL files)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flaxdistill.data.readers.records import Columns, Record, text_lines
from flaxdistill.errors import UserError


class FirstLine(str):
    """The place of a sentence each of whose words has a line of its own: the first of these lines."""

    path: Path
    number: int

    def __new__(cls, path: Path, number: int) -> FirstLine:
        """Name a line by its file and number."""
        made = super().__new__(cls, f"{path}, line {number}")
        made.path, made.number = path, number
        return made

    def of(self, word: int) -> str:
        """Name the line of a word, counted from 0."""
        return f"{self.path}, line {self.number + word}"


def read_tagged(file: BinaryIO, path: Path, columns: Columns) -> Iterator[Record]:
    """Split at blank lines: of each sentence its words, and their tags, in columns that are numbered (as in CoNLL files)."""
    try:
        at = [int(column) for column in columns]
    except ValueError:
        raise UserError(
            f"{path} is plain text, whose columns have numbers and no names: set source.column to 0 and source.label to -1 "
            "for lines of a word and its tag, or write labelled rows as tsv, csv, jsonl or parquet"
        ) from None
    lines: list[list[str]] = []
    start, width = 1, 0
    for number, line in itertools.chain(text_lines(file, path), [(0, "")]):
        line = line.rstrip("\n")
        # Other white space, such as a no-break space, is part of a word.
        if "\t" in line:
            fields = [field.strip(" ") for field in line.split("\t")]
        else:
            fields = [field for field in line.split(" ") if field]
        if not line.strip(" \t") or fields[0] == "-DOCSTART-":
            fields = []
        if fields:
            if not all(-len(fields) <= n < len(fields) for n in at) or len(fields) < len(at):
                raise UserError(
                    f"{path}, line {number}: {len(fields)} fields, of which {' and '.join(columns)} are asked for; "
                    "give every line a word and its tag"
                )
            for column, n in zip(columns, at, strict=True):
                if not fields[n]:
                    raise UserError(
                        f"{path}, line {number}: column {column} is empty; give every line a word and its tag"
                    )
            width = width or len(fields)
            if len(fields) != width:  # the last one would be another column's
                raise UserError(
                    f"{path}, line {number}: {len(fields)} fields, and the first word's line has {width}; give every line "
                    "as many"
                )
            start = start if lines else number
            lines.append(fields)
        elif lines:
            yield FirstLine(path, start), tuple([fields[n] for fields in lines] for n in at)
            lines = []
