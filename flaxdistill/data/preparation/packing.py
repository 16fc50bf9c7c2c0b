"""Packing: documents end to end in blocks of a fixed number of tokens, with little padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

MINIMUM_PIECE = 8
"""Content tokens of the shortest piece of a longer document. A shorter piece has little to learn
from and costs two special tokens."""


def id_dtype(vocab_size: int) -> np.dtype:
    """Return the narrowest dtype for token ids: uint16, or uint32 beyond 65,536 entries."""
    return np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)


def segment_dtype(length: int) -> np.dtype:
    """Return the narrowest dtype for segment numbers: uint8, or uint16 beyond 765 tokens.

    The shortest piece is [CLS] token [SEP], so a block has at most ``length // 3`` segments.
    """
    return np.dtype(np.uint8 if length <= 765 else np.uint16)


def pack(
    batches: Iterable[Sequence[np.ndarray]],
    *,
    length: int,
    cls: int,
    sep: int,
    pad: int,
    vocab_size: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Place documents end to end in blocks of ``length`` tokens and yield completed blocks.

    Each batch is a sequence of documents (integer token ids [n], no special tokens). A block holds
    pieces, each ``[CLS] ids [SEP]``, numbered 1, 2, ... in the segments; 0 is padding. A document
    that does not fit into its block continues in the next. The blocks depend on the order of the
    documents only, not on how they are batched.

    Yields ids [n, length] uint16 or uint32 and segments [n, length] uint8 or uint16, n >= 1.
    """
    ids_type, segments_type = id_dtype(vocab_size), segment_dtype(length)
    open_ids, open_segments = np.full(length, pad, ids_type), np.zeros(length, segments_type)
    used = segment = 0  # positions and pieces used in the open block
    for batch in batches:
        documents = [document for document in batch if len(document)]
        if not documents:
            continue
        starts, sizes, numbers, used, segment = _plan(
            [len(d) for d in documents], length, used, segment
        )
        blocks = int(starts[-1]) // length + 1
        ids = np.full(blocks * length, pad, ids_type)
        segments = np.zeros(blocks * length, segments_type)
        ids[:length], segments[:length] = open_ids, open_segments
        # Pieces take the tokens in order without gaps, so one index array places all of them.
        before = np.cumsum(sizes) - sizes
        targets = np.repeat(starts + 1 - before, sizes) + np.arange(sizes.sum())
        ids[targets] = np.concatenate(documents)
        ids[starts] = cls
        ids[starts + sizes + 1] = sep
        lengths = sizes + 2
        before = np.cumsum(lengths) - lengths
        targets = np.repeat(starts - before, lengths) + np.arange(lengths.sum())
        segments[targets] = np.repeat(numbers, lengths)
        ids, segments = ids.reshape(blocks, length), segments.reshape(blocks, length)
        open_ids, open_segments = ids[-1].copy(), segments[-1].copy()
        if blocks > 1:
            yield ids[:-1], segments[:-1]
    if used:
        yield open_ids[None], open_segments[None]


def _plan(
    lengths: Sequence[int], length: int, used: int, segment: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Split documents into pieces.

    Returns the [CLS] position, the content tokens and the segment number of each piece, and
    ``used`` and ``segment`` after the last one.
    """
    # At most half a block, or a document slightly longer than a block could not be split.
    minimum = min(MINIMUM_PIECE, (length - 2) // 2)
    starts, sizes, numbers = [], [], []
    block = 0  # position of the open block
    for left in lengths:
        shortest = min(minimum, left)
        while left:
            size = min(length - used - 2, left)
            if 0 < left - size < shortest:
                size = left - shortest
            if size < shortest:
                block, used, segment = block + length, 0, 0
                continue
            segment += 1
            starts.append(block + used)
            sizes.append(size)
            numbers.append(segment)
            used += size + 2
            left -= size
    return np.array(starts), np.array(sizes), np.array(numbers), used, segment
