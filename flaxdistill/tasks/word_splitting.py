"""Where words stand in raw text, cut as treebanks and CoNLL files cut them, so that models meet the words they know."""

from __future__ import annotations

import re

from flaxdistill.data.tokenizer import Vocabulary

JOINING = re.compile(r"[^\W_][-'’.&/@_][^\W_]|\d[,:]\d")
"""Signs that are part of a word where they stand alone between two parts of it: Jean-Claude, O'Brien, AT&T, 1,000, 9:30."""

INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
"""Letters each of which has a full stop that is its own, the last one too: U.S., J."""


def word_places(text: str, vocabulary: Vocabulary) -> list[tuple[int, int]]:
    """Find the words of a text: first character and the one after of each.

    They are those that the vocabulary's tokenizer tells apart before it cuts them into tokens, but for signs inside of
    words, at which it would cut too.
    """
    pieces = _pieces(text, vocabulary)
    words = []
    n = 0
    while n < len(pieces):
        start, end = pieces[n]
        while n + 2 < len(pieces) and _joined(text, end, pieces[n + 1], pieces[n + 2]):
            end = pieces[n + 2][1]
            n += 2
        n += 1
        stop = n < len(pieces) and pieces[n] == (end, end + 1) and text[end] == "."
        if stop and INITIALS.fullmatch(text, start, end):
            end += 1
            n += 1
        words.append((start, end))
    return words


def _joined(text: str, end: int, sign: tuple[int, int], following: tuple[int, int]) -> bool:
    """Tell whether a sign that stands at ``end`` of a word, and what follows it, are part of that word."""
    alone = sign == (end, end + 1) and following[0] == end + 1
    return alone and bool(JOINING.fullmatch(text, end - 1, end + 2))


def _pieces(text: str, vocabulary: Vocabulary) -> list[tuple[int, int]]:
    cutter = vocabulary.tokenizer.pre_tokenizer
    pieces = [place for _, place in cutter.pre_tokenize_str(text)] if cutter else [(0, len(text))]
    stripped = []
    for a, b in pieces:  # a byte-level tokenizer counts the space before a word to it
        a += len(text[a:b]) - len(text[a:b].lstrip())
        b -= len(text[a:b]) - len(text[a:b].rstrip())
        stripped += [(a, b)] if a < b else []
    return stripped
