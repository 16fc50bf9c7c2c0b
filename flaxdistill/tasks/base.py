"""What every task is: which head it needs, and what a batch asks of it."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from flaxdistill.data.store import Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.metrics import Score
from flaxdistill.pytrees import Batch


class Task(abc.ABC):
    """One thing that a student is trained for; subclasses are frozen dataclasses."""

    head: ClassVar[Any]  # a ``models.config.Head``

    @property
    @abc.abstractmethod
    def metric(self) -> str:
        """Name the figure by which evaluations are ranked."""

    @abc.abstractmethod
    def make_prepare(
        self, vocabulary: Vocabulary, counts: Callable[[], np.ndarray], seed: int
    ) -> Callable[[Batch], Batch]:
        """Make the pure function that turns stored rows into what the step sees, such as masked ones.

        ``counts`` gives the occurrences of the words in the training rows, int64 [V].
        """


class Labelled(Task):
    """A task whose rows have labels; logits are float32 [B, N, C] and labels [B, N]: N questions, C answers each.

    An int32 label is -1 where nothing is asked and -2 where the answer is not known; a float32 one that is not known is
    NaN.
    """

    def make_prepare(
        self, vocabulary: Vocabulary, counts: Callable[[], np.ndarray], seed: int
    ) -> Callable[[Batch], Batch]:
        return lambda batch: batch

    @property
    def known_labels(self) -> tuple[str, ...] | None:
        """Name what each logit answers; () where these are places of a text, None where the rows have to tell."""
        return getattr(self, "labels", ()) or None

    @abc.abstractmethod
    def row_builder(self) -> Any:
        """Tell how examples become rows, a ``data.examples.RowBuilder``."""

    @abc.abstractmethod
    def score(self, logits: list[np.ndarray], labels: list[np.ndarray], store: Store) -> Score:
        """Score the answers of each held-out row of a store, [N, C], against its labels, [N]."""
