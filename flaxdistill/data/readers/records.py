"""What all readers share: records, numbered lines of text, and checks of columns and texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from flaxdistill.errors import UserError

Columns = tuple[str, ...]
Record = tuple[str, tuple[Any, ...]]
"""A place to name in an error message, and the values of the columns."""


def text_lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of every line; raise UserError for invalid UTF-8."""
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


def check_columns(columns: Columns, present: list[str], place: str) -> None:
    """Raise UserError unless every column is present exactly once."""
    for column in columns:
        if column not in present:
            names = ", ".join(map(repr, present[:20])) or "none"
            names += f" and {len(present) - 20} more" if len(present) > 20 else ""
            raise UserError(
                f"{place}: no column {column!r}, only {names}; set `column` to one of them"
            )
        if present.count(column) > 1:
            raise UserError(
                f"{place}: {present.count(column)} columns are called {column!r}; "
                "rename all but one"
            )


def check_text(value: Any, place: str) -> None:
    """Raise UserError unless ``value`` is a string that can be encoded as UTF-8."""
    if not isinstance(value, str):
        raise UserError(
            f"{place}: expected text but found {type(value).__name__} {value!r:.80}; make it a "
            "string, or set `column` (and `pair`, for two texts) to a field of text"
        )
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can encode half of a surrogate pair
        raise UserError(
            f"{place}: {value!r:.80} holds half a surrogate pair, which is no character; remove it"
        ) from None
