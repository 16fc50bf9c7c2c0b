"""Nearest neighbours of words by cosine similarity, from a text file of vectors such as GloVe's."""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

MAX_WORDS = 100_000
"""Number of words that are read. They are the most frequent ones, since files start with them (as in Jiao et al., 2020)."""  # noqa: E501


class WordVectors:
    """The words of a file and their vectors; ``digest`` is the SHA-256 of the lines that were read.

    Raises UserError for a file that cannot be read or is malformed.
    """

    def __init__(self, path: str):
        words: list[str] = []
        vectors: list[np.ndarray] = []
        digest = hashlib.sha256()
        try:
            with gcs.local_copy(path, bool).open("rb") as file:
                for number, line in enumerate(file, 1):
                    digest.update(line)
                    size = len(vectors[0]) if vectors else None
                    word, vector = _parse(line, f"{path}:{number}", size)
                    words.append(word)
                    vectors.append(vector)
                    if len(words) == MAX_WORDS:
                        break
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); give a file of GloVe vectors"
            ) from error
        if len(words) < 2:
            raise UserError(f"{path} holds {len(words)} words; give a file of GloVe vectors")
        table = np.stack(vectors)
        self._table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        self._words = words
        self._rows = {word: row for row, word in reversed(list(enumerate(words)))}
        self.digest = digest.hexdigest()

    def nearest(self, word: str, number: int) -> list[str]:
        """Return the ``number`` nearest alphabetic words, or [] if the word has no vector.

        The word is looked up as it is, then in lower case.
        """
        row = self._rows.get(word, self._rows.get(word.lower()))
        return [] if row is None else list(self._nearest(row, number))

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 - it lives as long as the run
    def _nearest(self, row: int, number: int) -> tuple[str, ...]:
        order = np.argsort(-(self._table @ self._table[row]), kind="stable")
        others = (self._words[other] for other in order[: 4 * number + 1] if other != row)
        return tuple([word for word in others if word.isalpha()][:number])


def _parse(line: bytes, place: str, size: int | None) -> tuple[str, np.ndarray]:
    """Parse a word, which may contain blanks, and its vector of ``size`` numbers.

    With ``size=None``, everything after the first blank is the vector.
    """
    try:
        parts = line.decode("utf-8").rstrip().split(" ")
        first = 1 if size is None else len(parts) - size
        # Numbers that overflow become infinite and are rejected below.
        with np.errstate(over="ignore"):
            vector = np.array(parts[max(first, 1) :], np.float32)
    except (UnicodeDecodeError, ValueError):
        vector = np.zeros(0, np.float32)
    if not (len(vector) == (size or len(vector)) > 0 and np.isfinite(vector).all()):
        raise UserError(
            f"{place}: expected a word and {size or 'its'} numbers; give a file of GloVe vectors"
        )
    return " ".join(parts[: max(first, 1)]), vector
