"""Texts to predict as examples, from Python or from lines of a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from flaxdistill.data.sources import Example
from flaxdistill.errors import UserError


def make_examples(texts: Iterable[str], pair: str | Iterable[str] | None) -> Iterator[Example]:
    """Yield an example for each text, named by its number.

    ``pair`` is the second text of all, or one second text for each. Raises UserError if their
    numbers differ.
    """
    if pair is None or isinstance(pair, str):
        yield from (
            Example(f"text {n}", text, pair, paired=pair is not None)
            for n, text in enumerate(texts, 1)
        )
        return
    missing = object()
    for n, (text, second) in enumerate(itertools.zip_longest(texts, pair, fillvalue=missing), 1):
        if text is missing or second is missing:
            raise UserError(
                f"text {n} has no {'second text' if second is missing else 'first text'}; give one "
                "second text for each text, or one for all"
            )
        yield Example(f"text {n}", text, second, paired=True)


def read_examples(file: BinaryIO, pair: str | None) -> Iterator[Example]:
    """Yield an example for each line of standard input: a text and, after a tab, its second text.

    ``pair`` is the second text of lines without a tab. Raises UserError for a line that is not
    valid UTF-8.
    """
    for number, line in enumerate(file, 1):
        place = f"standard input, line {number}"
        try:
            text, tab, second = line.decode().rstrip("\r\n").partition("\t")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{place}: byte 0x{line[error.start]:02x} is not valid UTF-8; convert it to UTF-8"
            ) from None
        second_text = second if tab else pair
        yield Example(place, text, second_text, paired=second_text is not None)
