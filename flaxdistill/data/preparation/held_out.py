"""Which documents are held out, and the token ids of those that are trained on."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Set

import numpy as np

from flaxdistill.data.prefetch import ahead
from flaxdistill.data.preparation.near_duplicates import HeldOutIndex
from flaxdistill.data.sources import Shard
from flaxdistill.data.tokenizer import Vocabulary

# What is counted of the documents of a shard: trained on, held out, nearly repeating a held-out one and so dropped, and
# repeating an earlier training document.
COUNTS = ("documents", "held_out", "near_duplicates", "duplicates")

# Of a batch: large enough for the tokenizer's threads and small enough for flat memory.
DOCUMENTS, CHARACTERS = 2000, 2_000_000


def document_hash(document: str) -> int:
    """Hash a document to 64 bits."""
    return int.from_bytes(
        hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    )


class Candidates:
    """The documents with the lowest hashes within a share, up to some characters.

    Chosen by hash: a fair sample of all sources, and the same wherever a document stands. Those of several shards are
    those among the candidates of each.
    """

    def __init__(self, share: float, characters: int) -> None:
        self.bound, self.characters = share * 2**64, characters
        self.texts: dict[int, str] = {}
        self.highest: list[int] = []  # a heap of the negated hashes
        self.kept = 0

    def add(self, key: int, document: str) -> None:
        """Look at a document and its hash."""
        if key >= self.bound or key in self.texts or not document.strip():
            return
        self.texts[key] = document
        self.kept += len(document)
        heapq.heappush(self.highest, -key)
        while self.kept - len(self.texts[-self.highest[0]]) >= self.characters:
            self.kept -= len(self.texts.pop(-heapq.heappop(self.highest)))

    def sorted(self) -> dict[int, str]:
        """Give the chosen ones, hash to document, by their hashes."""
        return {key: self.texts[key] for key in sorted(self.texts)}


def first_tokens(
    texts: dict[int, str], vocabulary: Vocabulary, tokens: int
) -> tuple[set[int], list[np.ndarray]]:
    """Take as many of the candidates as hold so many tokens: their hashes and their token ids, int32 [n] each."""
    documents = [ids for batch in batched(texts.values()) for ids in vocabulary.encode(batch)]
    count = int(np.searchsorted(np.cumsum([len(ids) for ids in documents]), tokens)) + 1
    return set(list(texts)[:count]), documents[:count]


class TrainingDocuments:
    """The token ids of a shard's training documents in batches, counting what is left out on the way."""

    def __init__(
        self,
        shard: Shard,
        vocabulary: Vocabulary,
        index: HeldOutIndex,
        held_out: Set[int],
        duplicates: np.ndarray,  # places, sorted
        drop: bool,  # those duplicates; or they are only counted
    ) -> None:
        self.shard, self.vocabulary, self.index, self.held_out = shard, vocabulary, index, held_out
        self.duplicates, self.drop = duplicates, drop
        self.counts = dict.fromkeys(COUNTS, 0)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        # RowBuilder and tokenising go on in another thread while documents are compared and packed.
        for documents in ahead(self._encoded()):
            near = self.index.near_duplicates(documents)
            self.counts["near_duplicates"] += int(near.sum())
            self.counts["documents"] += len(documents) - int(near.sum())
            yield [document for document, drop in zip(documents, near, strict=True) if not drop]

    def _encoded(self) -> Iterator[list[np.ndarray]]:
        first = 0
        for batch in batched(self.shard.documents()):
            begin, end = np.searchsorted(self.duplicates, (first, first + len(batch)))
            again = np.zeros(len(batch), bool)
            again[self.duplicates[begin:end] - first] = True
            first += len(batch)
            out = np.array([document_hash(document) in self.held_out for document in batch])
            self.counts["held_out"] += int(out.sum())
            self.counts["duplicates"] += int((again & ~out).sum())
            left_out = out | again if self.drop else out
            yield self.vocabulary.encode(
                [d for d, skip in zip(batch, left_out, strict=True) if not skip]
            )


def batched(documents: Iterable[str]) -> Iterator[list[str]]:
    """Cut documents into lists that are tokenised at once."""
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if len(batch) == DOCUMENTS or characters > CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
