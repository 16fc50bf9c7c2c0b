"""Candidates to replace the words of a text, and the replacement itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.inference.mask_filling import FillMask
from flaxdistill.inference.word_vectors import WordVectors


class Word(NamedTuple):
    """An alphabetic word of a text."""

    start: int
    end: int
    """Characters ``start`` to ``end`` of the text."""

    first_token: int
    tokens: int
    """Number of tokens."""

    def of(self, text: str) -> str:
        """Return the word as it is written in ``text``."""
        return text[self.start : self.end]


Candidates = list[tuple[Word, list[str]]]
"""Words of a text, in order, with the words that may replace each."""


class Replacer(NamedTuple):
    """What the candidates for a word come from."""

    vocabulary: Vocabulary

    fill_mask: FillMask
    """It predicts one word more than ``number``, since the word itself may be among them."""

    word_vectors: WordVectors | None
    stop_words: frozenset[str]

    number: int
    """Candidates per word."""

    room: int
    """Tokens of a text that the model reads; it predicts nothing for later words."""

    def candidates(self, texts: list[str]) -> list[Candidates]:
        """Return the words of each text, without stop words, and their candidates.

        A masked-LM predicts the candidates of a word that is one token. Those of a word of several
        tokens are its nearest neighbours.
        """
        encoded = self.vocabulary.encode_with_offsets(texts)
        continues = self.vocabulary.continues()
        words = [
            [
                word
                for word in split_words(text, *tokens, continues)
                if word.of(text).lower() not in self.stop_words
            ]
            for text, tokens in zip(texts, encoded, strict=True)
        ]
        masked = [
            (n, word)
            for n, text_words in enumerate(words)
            for word in text_words
            if word.tokens == 1 and word.first_token < self.room
        ]
        predictions = self.fill_mask(
            [encoded[n][0][: self.room] for n, _ in masked],
            [word.first_token for _, word in masked],
        )
        others: dict[tuple[int, Word], list[str]] = {}
        for (n, word), ids in zip(masked, predictions, strict=True):
            own = int(encoded[n][0][word.first_token])
            tokens = [self.vocabulary.tokenizer.id_to_token(int(i)) for i in ids if i != own]
            others[n, word] = tokens[: self.number]
        for n, text_words in enumerate(words):
            for word in text_words:
                if word.tokens > 1 and self.word_vectors:
                    others[n, word] = self.word_vectors.nearest(word.of(texts[n]), self.number)
        return [
            [(word, others.get((n, word), [])) for word in text_words]
            for n, text_words in enumerate(words)
        ]


def replace(text: str, candidates: Candidates, probability: float, rng: np.random.Generator) -> str:
    """Replace each word with the given probability by one of its candidates."""
    parts, end = [], 0
    for word, others in candidates:
        if others and rng.random() < probability:
            parts += [text[end : word.start], others[rng.integers(len(others))]]
            end = word.end
    return "".join([*parts, text[end:]])


def split_words(
    text: str, ids: np.ndarray, offsets: np.ndarray, continues: np.ndarray
) -> list[Word]:
    """Return the alphabetic words of a text.

    ``ids`` are its tokens, ``offsets`` [T, 2] their places in characters. ``continues`` marks the
    tokens of the vocabulary that continue a word.
    """
    if not len(ids):
        return []
    starts = np.flatnonzero(~continues[ids])
    words = [
        Word(int(offsets[first, 0]), int(offsets[end - 1, 1]), int(first), int(end - first))
        for first, end in zip(starts, [*starts[1:], len(ids)], strict=True)
    ]
    return [word for word in words if word.of(text).isalpha()]
