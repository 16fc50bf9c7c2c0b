"""Which documents are held out, and the token ids of those that are trained on."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator

import numpy as np

from flaxdistill.data.neardup import HeldOutIndex
from flaxdistill.data.sources import Shard
from flaxdistill.data.tokenizer import Vocabulary

# What is counted of the documents of a shard: trained on, held out, and dropped.
COUNTS = ("documents", "held_out", "near_duplicates")


def document_hash(document: str) -> int:
    """Hash a document to 64 bits."""
    return int.from_bytes(hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def candidates(shards: Iterable[Shard], share: float, characters: int) -> tuple[dict[int, str], int]:
    """Find the documents with the lowest hashes within ``share``, up to some characters.

    Sorted by hash: a fair sample of all sources, and the same wherever a document stands.

    Returns hash to document, and the number of documents looked at.
    """
    texts: dict[int, str] = {}
    highest: list[int] = []  # a heap of the negated hashes
    kept = documents = 0
    for shard in shards:
        for document in shard.documents():
            documents += 1
            key = document_hash(document)
            if key >= share * 2**64 or key in texts or not document.strip():
                continue
            texts[key] = document
            kept += len(document)
            heapq.heappush(highest, -key)
            while kept - len(texts[-highest[0]]) >= characters:
                kept -= len(texts.pop(-heapq.heappop(highest)))
    return {key: texts[key] for key in sorted(texts)}, documents


def first_tokens(
    texts: dict[int, str], vocabulary: Vocabulary, tokens: int
) -> tuple[set[int], list[np.ndarray]]:
    """Take as many of the candidates as hold so many tokens: their hashes and their token ids, int32 [n] each."""
    documents = [ids for batch in _batched(texts.values()) for ids in vocabulary.encode(batch)]
    count = int(np.searchsorted(np.cumsum([len(ids) for ids in documents]), tokens)) + 1
    return set(list(texts)[:count]), documents[:count]


class TrainingDocuments:
    """The token ids of a shard's training documents in batches, counting what is left out on the way."""

    def __init__(self, shard: Shard, vocabulary: Vocabulary, index: HeldOutIndex, held_out: set[int]) -> None:
        self.shard, self.vocabulary, self.index, self.held_out = shard, vocabulary, index, held_out
        self.counts = dict.fromkeys(COUNTS, 0)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        for batch in _batched(self.shard.documents()):
            kept = [document for document in batch if document_hash(document) not in self.held_out]
            documents = self.vocabulary.encode(kept)
            near = self.index.near_duplicates(documents)
            self.counts["held_out"] += len(batch) - len(kept)
            self.counts["near_duplicates"] += int(near.sum())
            self.counts["documents"] += len(kept) - int(near.sum())
            yield [document for document, drop in zip(documents, near, strict=True) if not drop]


def _batched(documents: Iterable[str]) -> Iterator[list[str]]:
    """Cut documents into lists large enough for the tokenizer's threads and small enough for flat memory."""
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if len(batch) == 2000 or characters > 2_000_000:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
