"""Packing: every token once and in order, with little padding."""

import numpy as np
import pytest

from flaxdistill.data.preparation.packing import MINIMUM_PIECE, pack

CLS, SEP, PAD = 2, 3, 0


def documents(lengths, vocab=1000, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(10, vocab, n, dtype=np.int32) for n in lengths]


def packed(docs, length, batch=7, vocab_size=1000):
    batches = [docs[i : i + batch] for i in range(0, len(docs), batch)]
    out = list(pack(batches, length=length, cls=CLS, sep=SEP, pad=PAD, vocab_size=vocab_size))
    return np.concatenate([ids for ids, _ in out]), np.concatenate(
        [segments for _, segments in out]
    )


def pieces(ids, segments):
    """Read the pieces of blocks, using only what the format guarantees."""
    for block, numbers in zip(ids, segments, strict=True):
        real = numbers > 0
        end = int(real.sum())
        assert real[:end].all() and (block[end:] == PAD).all()
        assert (np.diff(numbers[:end].astype(int)) >= 0).all()
        assert list(np.unique(numbers[:end])) == list(range(1, int(numbers.max()) + 1))
        for number in range(1, int(numbers.max()) + 1):
            piece = block[numbers == number]
            assert piece[0] == CLS and piece[-1] == SEP
            assert len(piece) > 2
            yield piece[1:-1]


LENGTHS = {
    "mixed": list(np.random.default_rng(1).integers(0, 400, 300)),
    "short": list(np.random.default_rng(2).integers(0, 12, 500)),
    "long": [5000, 126, 127, 128, 252, 1, 3000],
    "edges": list(range(300)),
    "one token": [1] * 200,
}


@pytest.mark.parametrize("length", [16, 17, 128, 1000])
@pytest.mark.parametrize("name", LENGTHS)
def test_every_token_appears_once_and_in_order(name, length):
    docs = documents(LENGTHS[name])
    ids, segments = packed(docs, length)
    read = list(pieces(ids, segments))
    minimum = min(MINIMUM_PIECE, (length - 2) // 2)
    for document in docs:
        left = document
        while len(left):
            piece = read.pop(0)
            assert np.array_equal(left[: len(piece)], piece)
            assert len(piece) >= min(minimum, len(document))
            left = left[len(piece) :]
    assert not read


def test_blocks_do_not_depend_on_batches():
    docs = documents(LENGTHS["mixed"])
    for small, large in zip(packed(docs, 64, batch=1), packed(docs, 64, batch=1000), strict=True):
        assert np.array_equal(small, large)


def test_little_padding():
    docs = documents(np.random.default_rng(3).integers(50, 2000, 500))
    _, segments = packed(docs, 128)
    assert (segments == 0).mean() < 0.005


def test_dtypes_follow_vocabulary_and_length():
    docs = documents([20, 30])
    ids, segments = packed(docs, 128, vocab_size=65536)
    assert (ids.dtype, segments.dtype) == (np.uint16, np.uint8)
    ids, segments = packed(documents([20, 30], vocab=100_000), 768, vocab_size=100_000)
    assert (ids.dtype, segments.dtype) == (np.uint32, np.uint16)


def test_no_documents_give_no_blocks():
    empty = np.zeros(0, np.int32)
    assert list(pack([[], [empty]], length=32, cls=CLS, sep=SEP, pad=PAD, vocab_size=9)) == []
