"""The split of labelled examples into training and held-out ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from flaxdistill.data.preparation.held_out import document_hash
from flaxdistill.data.sources import Example, Shard


class LabelledSplit:
    """Selects a fraction of the labelled examples by hash, to hold them out.

    With ``fraction`` None, nothing is held out of the training examples. ``hold_out_by`` is that
    of ``RowBuilder``. Iterate over ``held_out`` before ``training``.
    """

    def __init__(self, fraction: float | None, hold_out_by: Literal["row", "pair"]) -> None:
        self.is_split = fraction is not None
        self.bound = (fraction or 0.0) * 2**64
        self.hold_out_by = hold_out_by
        self.held_out_keys: set[int] = set()

    def held_out(self, shards: Iterable[Shard]) -> Iterator[Example]:
        """Yield the held-out examples, or all examples if nothing is split."""
        for example in _examples(shards):
            if not self.is_split:
                yield example
            elif self._is_held_out(key := self._key(example), example):
                self.held_out_keys.add(key)
                yield example

    def training(self, shards: Iterable[Shard]) -> Iterator[Example]:
        """Yield the training examples.

        An unlabelled example is not one if it repeats a held-out example: a teacher would label it.
        """
        for example in _examples(shards):
            if not self.is_split:
                yield example
            else:
                key = self._key(example)
                if not self._is_held_out(key, example) and key not in self.held_out_keys:
                    yield example

    def _is_held_out(self, key: int, example: Example) -> bool:
        # An unlabelled example cannot be evaluated.
        return key < self.bound and example.label is not None

    def _key(self, example: Example) -> int:
        if self.hold_out_by == "pair":
            return document_hash(f"{example.pair}")
        # A list of words is the same text as these words joined by spaces.
        text = " ".join(map(str, example.text)) if isinstance(example.text, list) else example.text
        return document_hash(f"{text}\0{example.pair}")


def _examples(shards: Iterable[Shard]) -> Iterator[Example]:
    return (example for shard in shards for example in shard.documents())
