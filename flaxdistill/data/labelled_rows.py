"""The contract between a task and the preparation of labelled rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxdistill.data.readers.records import check_text
from flaxdistill.data.sources import Example
from flaxdistill.data.tokenizer import Vocabulary


class Row(NamedTuple):
    """One row before padding."""

    ids: np.ndarray
    """Token ids with special tokens, int [n]."""
    second: int
    """Position of the first token of the second text; 0 without one."""
    labels: np.ndarray
    """Labels [K], with the same K in all rows."""
    extra: Mapping[str, np.ndarray] = {}
    """Further arrays that the task needs, each of one shape in all rows."""

    def columns(self) -> dict[str, np.ndarray]:
        """Return every array of the row except the token ids, by name."""
        return {"second": np.array(self.second, np.uint16), "labels": self.labels, **self.extra}


class RowBuilder(NamedTuple):
    """How a task builds rows from examples."""

    settings: dict[str, Any]
    """Everything that changes the rows, as JSON."""
    label_names: Callable[[Iterator[Example], tuple[str, ...]], list[str]]
    """(training examples, label names that a dataset declares) to the label names, in order."""
    rows: Callable[[list[Example], list[str], Vocabulary, int], Iterable[list[Row]]]
    """(examples, label names, vocabulary, length) to the rows of each example."""
    scoring_record: Callable[[Example], Any] | None = None
    """JSON of a held-out example, stored for scoring."""
    note: Callable[[Iterator[Example]], str] = lambda examples: ""
    """Training examples with labels to a line that is reported; "" for none."""
    hold_out_by: Literal["row", "pair"] = "row"
    """Rows that are never split: those with the same text and pair, or with the same pair."""


def text_of(example: Example) -> list[str]:
    """Return the one or two texts of an example; raise UserError for a value that is not text."""
    texts = [example.text] + ([example.pair] if example.paired else [])
    for value in texts:
        check_text(value, example.place)
    return texts
