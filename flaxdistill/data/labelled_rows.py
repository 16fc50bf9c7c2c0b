"""How a task turns an example into rows: the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxdistill.data.sources import Example
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError


class Row(NamedTuple):
    """One row before it is padded."""

    ids: np.ndarray  # int [n], special tokens too
    second: int  # where the second text begins; 0 without one
    labels: np.ndarray  # [K], K the same for all rows
    beside: Mapping[
        str, np.ndarray
    ] = {}  # what else the task must know of it, arrays of one shape for all rows

    def arrays(self) -> dict[str, np.ndarray]:
        """Name all that stands beside the tokens."""
        return {"second": np.array(self.second, np.uint16), "labels": self.labels, **self.beside}


class RowBuilder(NamedTuple):
    """How a task turns examples into rows."""

    meaning: dict[str, Any]  # JSON: all that changes the rows
    # The names of the labels, in order, from the training examples.
    resolve_student: Callable[
        [Iterator[Example], tuple[str, ...]], list[str]
    ]  # and those that a dataset declares
    rows: Callable[
        [list[Example], list[str], Vocabulary, int], Iterable[list[Row]]
    ]  # of each example
    keep: Callable[[Example], Any] | None = None  # JSON of a held-out example, for scoring
    # Where a share is held out: what never stands on both sides, rows of one text and pair, or all rows of one pair.
    together: Literal["row", "pair"] = "row"


def text_of(example: Example) -> list[str]:
    """Give an example's one or two texts; raises UserError naming the place of what is no text."""
    texts = [example.text] + ([example.pair] if example.paired else [])
    for value in texts:
        check_text(value, example.place)
    return texts


def check_text(value: Any, place: str) -> None:
    """Raise UserError unless a value is text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise UserError(
            f"{place}: expected text but found {type(value).__name__} {value!r:.80}; name the columns of the texts in "
            "`column` and `pair`"
        )
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        raise UserError(
            f"{place}: {value!r:.80} holds half a surrogate pair, which is no character; remove it"
        ) from None
