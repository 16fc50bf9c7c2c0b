"""Held-out documents, and the token ids of the documents that remain for training."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Set

import numpy as np

from flaxdistill.data.prefetch import prefetch_iterable
from flaxdistill.data.preparation.near_duplicates import HeldOutIndex
from flaxdistill.data.sources import Shard
from flaxdistill.data.tokenizer import Vocabulary

COUNTS = ("documents", "held_out", "near_duplicates", "duplicates")
"""Counts of a shard's documents: trained on, held out, dropped as near-duplicates of a held-out
document, and repeating an earlier training document."""

# Large enough for the tokenizer's threads, and small enough for constant memory.
BATCH_DOCUMENTS, BATCH_CHARACTERS = 2000, 2_000_000


def document_hash(document: str) -> int:
    """Hash a document to 64 bits."""
    return int.from_bytes(
        hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    )


class Candidates:
    """The documents with the lowest hashes within a fraction, up to a number of characters.

    Selection by hash gives a fair sample of all sources that does not depend on where a document
    is. The candidates of several shards are among the candidates of each.
    """

    def __init__(self, fraction: float, characters: int) -> None:
        self.bound, self.characters = fraction * 2**64, characters
        self.texts: dict[int, str] = {}
        self.heap: list[int] = []  # negated hashes, the highest hash first
        self.total_characters = 0

    def add(self, key: int, document: str) -> None:
        """Consider a document with its hash."""
        if key >= self.bound or key in self.texts or not document.strip():
            return
        self.texts[key] = document
        self.total_characters += len(document)
        heapq.heappush(self.heap, -key)
        while self.total_characters - len(self.texts[-self.heap[0]]) >= self.characters:
            self.total_characters -= len(self.texts.pop(-heapq.heappop(self.heap)))

    def sorted(self) -> dict[int, str]:
        """Return the selected documents by hash, in the order of their hashes."""
        return {key: self.texts[key] for key in sorted(self.texts)}


def first_tokens(
    texts: dict[int, str], vocabulary: Vocabulary, tokens: int
) -> tuple[set[int], list[np.ndarray]]:
    """Take candidates until they hold ``tokens`` tokens: hashes, and token ids int32 [n] each."""
    documents = [ids for batch in batched(texts.values()) for ids in vocabulary.encode(batch)]
    count = int(np.searchsorted(np.cumsum([len(ids) for ids in documents]), tokens)) + 1
    return set(list(texts)[:count]), documents[:count]


class TrainingDocuments:
    """Batches of the token ids of a shard's training documents; counts what is left out.

    ``duplicates`` are sorted document indices; ``drop`` leaves these documents out.
    """

    def __init__(
        self,
        shard: Shard,
        vocabulary: Vocabulary,
        index: HeldOutIndex,
        held_out: Set[int],
        duplicates: np.ndarray,
        drop: bool,
    ) -> None:
        self.shard, self.vocabulary, self.index, self.held_out = shard, vocabulary, index, held_out
        self.duplicates, self.drop = duplicates, drop
        self.counts = dict.fromkeys(COUNTS, 0)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        # Another thread reads and tokenizes while this one compares and packs.
        for documents in prefetch_iterable(self._encoded()):
            near = self.index.near_duplicates(documents)
            self.counts["near_duplicates"] += int(near.sum())
            self.counts["documents"] += len(documents) - int(near.sum())
            yield [document for document, drop in zip(documents, near, strict=True) if not drop]

    def _encoded(self) -> Iterator[list[np.ndarray]]:
        first = 0
        for batch in batched(self.shard.documents()):
            begin, end = np.searchsorted(self.duplicates, (first, first + len(batch)))
            repeated = np.zeros(len(batch), bool)
            repeated[self.duplicates[begin:end] - first] = True
            first += len(batch)
            out = np.array([document_hash(document) in self.held_out for document in batch])
            self.counts["held_out"] += int(out.sum())
            self.counts["duplicates"] += int((repeated & ~out).sum())
            left_out = out | repeated if self.drop else out
            yield self.vocabulary.encode(
                [d for d, skip in zip(batch, left_out, strict=True) if not skip]
            )


def batched(documents: Iterable[str]) -> Iterator[list[str]]:
    """Split documents into lists that are tokenized at once."""
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if len(batch) == BATCH_DOCUMENTS or characters > BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
