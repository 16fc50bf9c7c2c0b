"""Words of like meaning, by the cosine of their vectors in a text file such as GloVe's."""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs

MOST = 100_000
"""Words that are read, the most frequent: files begin with them (Jiao et al., 2020, do the same)."""


class Neighbours:
    """The words of one file; ``digest`` is of what was read."""

    def __init__(self, path: str):
        words: list[str] = []
        vectors: list[np.ndarray] = []
        whole = hashlib.sha256()
        try:
            with gcs.local(path, bool).open("rb") as file:
                for number, line in enumerate(file, 1):
                    whole.update(line)
                    word, vector = _read(
                        line, f"{path}:{number}", len(vectors[0]) if vectors else None
                    )
                    words.append(word)
                    vectors.append(vector)
                    if len(words) == MOST:
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
        self.digest = whole.hexdigest()

    def __call__(self, word: str, number: int) -> list[str]:
        """Give the ``number`` nearest words of letters to a word as it is or lower case, [] for one without a vector."""
        row = self._rows.get(word, self._rows.get(word.lower()))
        return [] if row is None else list(self._near(row, number))

    @functools.lru_cache(maxsize=100_000)  # noqa: B019 - as long as the run
    def _near(self, row: int, number: int) -> tuple[str, ...]:
        order = np.argsort(-(self._table @ self._table[row]), kind="stable")
        others = (self._words[other] for other in order[: 4 * number + 1] if other != row)
        return tuple([word for word in others if word.isalpha()][:number])


def _read(line: bytes, place: str, width: int | None) -> tuple[str, np.ndarray]:
    """Read a word, which may hold blanks, and its ``width`` numbers; None: all but the first part of the line."""
    try:
        parts = line.decode("utf-8").rstrip().split(" ")
        first = 1 if width is None else len(parts) - width
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused below
            vector = np.array(parts[max(first, 1) :], np.float32)
    except (UnicodeDecodeError, ValueError):
        vector = np.zeros(0, np.float32)
    if not (len(vector) == (width or len(vector)) > 0 and np.isfinite(vector).all()):
        raise UserError(
            f"{place}: expected a word and {width or 'its'} numbers; give a file of GloVe vectors"
        )
    return " ".join(parts[: max(first, 1)]), vector
