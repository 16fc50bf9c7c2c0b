"""The interface of a task."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from flaxdistill.data.labelled_rows import RowBuilder
from flaxdistill.data.store import Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.metrics import Score
from flaxdistill.models.head import Head
from flaxdistill.pytrees import Batch


class Task(abc.ABC):
    """What a student is trained for; subclasses are frozen dataclasses."""

    head: ClassVar[type[Head]]
    """The kind of head that the task trains."""

    @property
    def masks(self) -> bool:
        """Whether the task masks tokens, which some losses predict."""
        return False

    @property
    def known_labels(self) -> tuple[str, ...] | None:
        """The name of each class; () without classes, None if the training rows determine them."""
        return ()

    @property
    def rows(self) -> Labelled | None:
        """The task itself if it reads labelled rows; None if it reads a corpus of text."""
        return None

    def uncacheable(self) -> str:
        """Say why outputs of a teacher cannot be cached; "" if they can."""
        return ""

    @property
    @abc.abstractmethod
    def metric(self) -> str:
        """The metric by which evaluations are ranked."""

    @abc.abstractmethod
    def make_prepare(
        self, vocabulary: Vocabulary, counts: Callable[[], np.ndarray], seed: int
    ) -> Callable[[Batch], Batch]:
        """Make the pure function that prepares a stored batch for the step, e.g. by masking.

        ``counts()`` returns the occurrences of each token in the training rows, int64 [V].
        """


class Labelled(Task):
    """A task with labelled rows: N predictions of C classes in each row.

    Logits are float32 [B, N, C] and labels [B, N]. An int32 label is -1 where there is no
    prediction, and -2 if it is unknown; an unknown float32 label is NaN.
    """

    label_dtype: ClassVar[type] = np.int32
    """The dtype of its labels."""

    def make_prepare(
        self, vocabulary: Vocabulary, counts: Callable[[], np.ndarray], seed: int
    ) -> Callable[[Batch], Batch]:
        return lambda batch: batch

    @property
    def known_labels(self) -> tuple[str, ...] | None:
        return getattr(self, "labels", ()) or None

    @property
    def rows(self) -> Labelled:
        return self

    def uncacheable(self) -> str:
        return "teacher.cache_top_k caches masked-LM logits, but the task has labels; set it to 0"

    @abc.abstractmethod
    def row_builder(self) -> RowBuilder:
        """Return the functions that build rows from examples."""

    @abc.abstractmethod
    def score(self, logits: list[np.ndarray], labels: list[np.ndarray], store: Store) -> Score:
        """Compare the logits [N, C] of each held-out row of a store with its labels [N]."""
