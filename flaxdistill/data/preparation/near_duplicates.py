"""Training documents that nearly repeat a held-out document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHINGLE = 5
"""Tokens per shingle. Five in a row are rarely shared by chance and survive light editing."""

SHORT = 20
"""Shingles below which half of them do not identify a text, such as a heading or licence line."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FINISH = np.uint64(0xD6E8FEB86659FD93)
_TABLE_BITS = 22


def shingles(documents: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Hash every run of five tokens: hashes [S] uint64, and their document numbers [S] int64.

    A shorter document is one shingle, an empty one has none. Repeated shingles occur repeatedly.
    """
    lengths = np.array([len(d) for d in documents], np.int64)
    flat = np.concatenate([*documents, np.zeros(0, np.int32)]).astype(np.uint64) + np.uint64(1)
    owner = np.repeat(np.arange(len(documents)), lengths)
    windows = max(len(flat) - SHINGLE + 1, 0)
    hashes = np.zeros(windows, np.uint64)
    for k in range(SHINGLE):
        hashes = hashes * _MULTIPLIER + flat[k : k + windows]
    inside = owner[:windows] == owner[len(owner) - windows :]
    hashes, owners = hashes[inside], owner[:windows][inside]

    short = np.flatnonzero((lengths > 0) & (lengths < SHINGLE))
    if len(short):
        starts = (np.cumsum(lengths) - lengths)[short]
        short_hashes = np.zeros(len(short), np.uint64)
        for k in range(SHINGLE - 1):
            here = lengths[short] > k
            short_hashes[here] = short_hashes[here] * _MULTIPLIER + flat[starts[here] + k]
        hashes, owners = np.concatenate([hashes, short_hashes]), np.concatenate([owners, short])
    # Lookups use the high bits, so these must depend on every token.
    hashes ^= hashes >> np.uint64(32)
    hashes *= _FINISH
    return hashes, owners


@dataclass(frozen=True)
class HeldOutIndex:
    """The held-out documents that contain each shingle."""

    hashes: np.ndarray
    """Distinct hashes, sorted, [N] uint64."""
    first: np.ndarray
    """Start of each hash's documents in ``documents``, [N + 1] int64."""
    documents: np.ndarray
    """Document numbers, [P] int64."""
    sizes: np.ndarray
    """Number of distinct shingles of each held-out document, [H] int64."""
    table: np.ndarray
    """Whether a hash with these high bits may be in the index, bool; avoids most lookups."""

    @classmethod
    def of(cls, held_out: Sequence[np.ndarray]) -> HeldOutIndex:
        """Index held-out documents, each an array of integer token ids [n]."""
        hashes, owners = shingles(held_out)
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        fresh = np.ones(len(hashes), bool)
        fresh[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        hashes, owners = hashes[fresh], owners[fresh]
        distinct, first = np.unique(hashes, return_index=True)
        table = np.zeros(1 << _TABLE_BITS, bool)
        table[distinct >> np.uint64(64 - _TABLE_BITS)] = True
        return cls(
            hashes=distinct,
            first=np.append(first, len(hashes)),
            documents=owners,
            sizes=np.bincount(owners, minlength=len(held_out)),
            table=table,
        )

    def near_duplicates(self, documents: Sequence[np.ndarray]) -> np.ndarray:
        """Mark the documents that nearly repeat a held-out one: bool [len(documents)].

        A document nearly repeats another if they share at least half of the distinct shingles of
        the smaller one. If the smaller one has fewer than 20, they must share half of those of
        the larger one; otherwise a held-out heading would drop every book that contains it. The
        counts are exact, per pair.
        """
        marked = np.zeros(len(documents), bool)
        hashes, owners = shingles(documents)
        maybe = np.flatnonzero(self.table[hashes >> np.uint64(64 - _TABLE_BITS)])
        if not len(maybe):
            return marked
        place = np.searchsorted(self.hashes, hashes[maybe])
        place[place == len(self.hashes)] = 0
        match = self.hashes[place] == hashes[maybe]
        shared = np.unique(owners[maybe][match] * len(self.hashes) + place[match])
        owner, place = np.divmod(shared, len(self.hashes))

        # One row per (document, shared shingle, held-out document), counted per pair of documents.
        copies = self.first[place + 1] - self.first[place]
        before = np.cumsum(copies) - copies
        held = self.documents[
            np.repeat(self.first[place] - before, copies) + np.arange(copies.sum())
        ]
        pair, count = np.unique(
            np.repeat(owner, copies) * len(self.sizes) + held, return_counts=True
        )
        owner, held = np.divmod(pair, len(self.sizes))
        distinct = _distinct(hashes, owners, len(documents), only=owner)
        smaller, larger = (
            pick(distinct[owner], self.sizes[held]) for pick in (np.minimum, np.maximum)
        )
        marked[owner[2 * count >= np.where(smaller < SHORT, larger, smaller)]] = True
        return marked


def _distinct(
    hashes: np.ndarray, owners: np.ndarray, documents: int, only: np.ndarray
) -> np.ndarray:
    """Count the distinct shingles of the documents in ``only`` (else 0): int64 [documents]."""
    selected = np.zeros(documents, bool)
    selected[only] = True
    rows = selected[owners]
    # The document number replaces a few low bits of the hash, so one sort of integers suffices.
    bits = np.uint64(documents.bit_length())
    keys = (owners[rows].astype(np.uint64) << (np.uint64(64) - bits)) | (hashes[rows] >> bits)
    keys.sort()
    fresh = np.ones(len(keys), bool)
    fresh[1:] = keys[1:] != keys[:-1]
    return np.bincount(
        (keys[fresh] >> (np.uint64(64) - bits)).astype(np.int64), minlength=documents
    )
