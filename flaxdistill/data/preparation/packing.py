"""Documents become blocks: rows of a fixed number of tokens, laid end to end, with hardly any padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

# A piece with fewer content tokens teaches little and costs two special tokens, so a document is not
# cut closer than this to either of its ends.
MINIMUM_PIECE = 8


def id_dtype(vocab_size: int) -> np.dtype:
    """Choose the narrowest dtype that holds every token id: uint16, or uint32 beyond 65,536 entries."""
    return np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)


def segment_dtype(length: int) -> np.dtype:
    """Choose the narrowest dtype that holds every segment id: uint8, or uint16 for blocks beyond 765 tokens.

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
    """Lay documents end to end in blocks of ``length`` tokens and yield the blocks as they fill up.

    Each batch is a sequence of documents (integer token ids [n], no special tokens). A block holds pieces,
    each ``[CLS] ids [SEP]``, numbered 1, 2, ... in the segments; 0 is padding. A piece fills what is left of
    its block and the document goes on in the next. The blocks depend on the order of the documents only,
    not on how they are cut into batches.

    Yields ids [n, length] uint16 or uint32 and segments [n, length] uint8 or uint16, n >= 1.
    """
    ids_type, segments_type = id_dtype(vocab_size), segment_dtype(length)
    open_ids, open_segments = np.full(length, pad, ids_type), np.zeros(length, segments_type)
    used = segment = 0  # positions and pieces in the block that is still open
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
        # Pieces take the tokens in order without gaps, so one running index places all of them at once.
        before = np.cumsum(sizes) - sizes
        ids[np.repeat(starts + 1 - before, sizes) + np.arange(sizes.sum())] = np.concatenate(
            documents
        )
        ids[starts] = cls
        ids[starts + sizes + 1] = sep
        whole = sizes + 2
        before = np.cumsum(whole) - whole
        segments[np.repeat(starts - before, whole) + np.arange(whole.sum())] = np.repeat(
            numbers, whole
        )
        ids, segments = ids.reshape(blocks, length), segments.reshape(blocks, length)
        open_ids, open_segments = ids[-1].copy(), segments[-1].copy()
        if blocks > 1:
            yield ids[:-1], segments[:-1]
    if used:
        yield open_ids[None], open_segments[None]


def _plan(
    lengths: Sequence[int], length: int, used: int, segment: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Cut documents into pieces: each piece's [CLS] position, content tokens and segment number."""
    # Half a block at most, else a document barely longer than a block could not be cut in two.
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
