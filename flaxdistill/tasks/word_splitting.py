"""Split raw text into words as treebanks and CoNLL files do, so models see words they know."""

from __future__ import annotations

import re

from flaxdistill.data.tokenizer import Vocabulary

INNER_SIGN = re.compile(r"[^\W_][-'’.&/@_][^\W_]|\d[,:]\d")
"""A sign inside a word, with its neighbours: Jean-Claude, O'Brien, AT&T, 1,000, 9:30."""

INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
"""Letters that are each followed by a full stop, the last one too: U.S., J."""


def word_offsets(text: str, vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """Return the (start, end) characters of each word.

    Words are the pre-tokenizer's pieces, except that signs inside a word do not split it.
    """
    pieces = _pieces(text, vocabulary)
    words = []
    n = 0
    while n < len(pieces):
        start, end = pieces[n]
        while n + 2 < len(pieces) and _is_joined(text, end, pieces[n + 1], pieces[n + 2]):
            end = pieces[n + 2][1]
            n += 2
        n += 1
        full_stop = n < len(pieces) and pieces[n] == (end, end + 1) and text[end] == "."
        if full_stop and INITIALS.fullmatch(text, start, end):
            end += 1
            n += 1
        words.append((start, end))
    return words


def _is_joined(text: str, end: int, sign: tuple[int, int], following: tuple[int, int]) -> bool:
    """Whether the sign after a word that ends at ``end`` joins it to the following piece."""
    single = sign == (end, end + 1) and following[0] == end + 1
    return single and bool(INNER_SIGN.fullmatch(text, end - 1, end + 2))


def _pieces(text: str, vocabulary: Vocabulary) -> list[tuple[int, int]]:
    splitter = vocabulary.tokenizer.pre_tokenizer
    pieces = (
        [offsets for _, offsets in splitter.pre_tokenize_str(text)]
        if splitter
        else [(0, len(text))]
    )
    stripped = []
    for start, end in pieces:  # a byte-level tokenizer adds the space before a word to it
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end -= len(text[start:end]) - len(text[start:end].rstrip())
        stripped += [(start, end)] if start < end else []
    return stripped
