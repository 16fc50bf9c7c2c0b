"""Batches of rows of similar length."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flaxdistill.data.order import Order, permute
from flaxdistill.data.store import Blocks

BUCKET_LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
"""Batch lengths below the store's length. Each is compiled once."""


@dataclass(frozen=True, eq=False)
class Buckets:
    """The rows of every batch: a pure function of row lengths, order and batch size.

    Each epoch has the rows of ``order``. A row goes into the shortest bucket that fits; rows that
    do not fill a batch there move to the next longer bucket. At most one batch of an epoch is
    padded, one of the shortest rows. The batches are then shuffled in the same way for every seed,
    so at each step all lanes have rows of similar length (of equal length if every row occurs once
    per epoch and the source weights are whole numbers).
    """

    blocks: tuple[Blocks, ...]
    order: Order
    batch_size: int

    @property
    def epoch_length(self) -> int:
        """Number of batches per epoch."""
        return -(-self.order.epoch_length // self.batch_size)

    def __call__(self, number: int) -> tuple[np.ndarray, int]:
        """Return the global indices of a batch, int64 [batch_size], and its length in tokens.

        Negative indices mark padding rows.
        """
        epoch, slot = divmod(number, self.epoch_length)
        indices, lengths = self._epoch(epoch)
        return indices[slot], int(lengths[slot])

    @functools.cached_property
    def _epoch(self) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        return functools.lru_cache(maxsize=2)(self._build_epoch)  # one cache per lane

    def _build_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return indices [batches, batch_size] and lengths [batches] of all batches of an epoch."""
        index = np.arange(self.order.epoch_length) + epoch * self.order.epoch_length
        source, block, _ = self.order(index)
        tokens = np.empty(len(index), np.int64)
        for number, lengths in enumerate(self._lengths):
            mask = source == number
            tokens[mask] = lengths[block[mask]]
        edges = [edge for edge in BUCKET_LENGTHS if edge < self.length] + [self.length]
        bucket = np.searchsorted(edges, tokens)
        batches, batch_lengths = [], []
        waiting = np.full(-len(index) % self.batch_size, -1)
        for number, edge in enumerate(edges):
            waiting = np.append(waiting, index[bucket == number])
            complete = len(waiting) // self.batch_size * self.batch_size
            for batch in waiting[:complete].reshape(-1, self.batch_size):
                # Pad with a row of this batch: a longer one would be truncated, and its labels
                # might point at a lost token.
                batches.append(np.where(batch < 0, ~batch[-1], batch))
                batch_lengths.append(edge)
            waiting = waiting[complete:]
        key = np.array([epoch + 1], np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        shuffled = permute(np.arange(len(batches)), np.int64(len(batches)), key)
        if not self.order.shuffle:
            shuffled = np.arange(len(batches))
        return np.stack(batches)[shuffled], np.array(batch_lengths)[shuffled]

    @property
    def length(self) -> int:
        """Number of tokens of the longest batch."""
        return self.blocks[0].ids.shape[1]

    @functools.cached_property
    def _lengths(self) -> list[np.ndarray]:
        return [np.count_nonzero(np.asarray(b.segments), axis=1) for b in self.blocks]
