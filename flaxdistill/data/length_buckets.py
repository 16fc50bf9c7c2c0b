"""Batches of rows of about one length, so that short rows cost what they weigh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flaxdistill.data.order import Order, permute
from flaxdistill.data.store import Blocks

EDGES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
"""Lengths of batches below the store's own: each is compiled once."""


@dataclass(frozen=True, eq=False)
class Buckets:
    """Which rows make up each batch, for ever: a pure function of the rows' lengths, their order and the batch's size.

    An epoch is the order's own. Its rows are dealt into the shortest bucket that holds them; what does not fill a batch
    there moves to the next longer one. The one batch of an epoch that must be filled up is of the shortest rows. Batches
    then stand in an order of their own, which is the same for every seed: at each step all lanes have rows of about one
    length (of one length where every row comes once an epoch, and sources have whole weights).
    """

    blocks: tuple[Blocks, ...]
    order: Order
    batch_size: int

    @property
    def epoch_length(self) -> int:
        """Batches per epoch."""
        return -(-self.order.epoch_length // self.batch_size)

    def __call__(self, number: int) -> tuple[np.ndarray, int]:
        """Give a batch's global indices, int64 [batch_size], below 0 what fills it up, and the tokens that its rows need."""
        epoch, slot = divmod(number, self.epoch_length)
        indices, lengths = self._epoch(epoch)
        return indices[slot], int(lengths[slot])

    @functools.cached_property
    def _epoch(self) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
        return functools.lru_cache(maxsize=2)(self._deal)  # of each lane its own

    def _deal(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        index = np.arange(self.order.epoch_length) + epoch * self.order.epoch_length
        source, block, _ = self.order(index)
        tokens = np.empty(len(index), np.int64)
        for number, lengths in enumerate(self._lengths):
            here = source == number
            tokens[here] = lengths[block[here]]
        edges = [edge for edge in EDGES if edge < self.length] + [self.length]
        bucket = np.searchsorted(edges, tokens)
        batches, batch_lengths = [], []
        waiting = np.full(-len(index) % self.batch_size, -1)
        for number, edge in enumerate(edges):
            waiting = np.append(waiting, index[bucket == number])
            whole = len(waiting) // self.batch_size * self.batch_size
            for batch in waiting[:whole].reshape(-1, self.batch_size):
                # By one of its own rows: another one, cut, might lose what its labels point at.
                batches.append(np.where(batch < 0, ~batch[-1], batch))
                batch_lengths.append(edge)
            waiting = waiting[whole:]
        key = np.array([epoch + 1], np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        shuffled = permute(np.arange(len(batches)), np.int64(len(batches)), key)
        if not self.order.shuffle:
            shuffled = np.arange(len(batches))
        return np.stack(batches)[shuffled], np.array(batch_lengths)[shuffled]

    @property
    def length(self) -> int:
        """Tokens of the longest batch."""
        return self.blocks[0].ids.shape[1]

    @functools.cached_property
    def _lengths(self) -> list[np.ndarray]:
        return [np.count_nonzero(np.asarray(b.segments), axis=1) for b in self.blocks]
