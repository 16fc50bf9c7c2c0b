"""Near-duplicates of held-out documents, compared with the definition."""

import numpy as np

from flaxdistill.data.preparation.near_duplicates import SHINGLE, SHORT, HeldOutIndex, shingles

RANDOM = np.random.default_rng(0)


def document(n):
    return RANDOM.integers(0, 30000, n, dtype=np.int32)


def is_near_duplicate(first, second):
    """The definition, with Python sets."""

    def grams(d):
        size = min(SHINGLE, len(d))
        return {tuple(d[i : i + size]) for i in range(len(d) - size + 1)} if len(d) else set()

    a, b = grams(first), grams(second)
    smaller, larger = sorted((len(a), len(b)))
    return bool(smaller) and 2 * len(a & b) >= (smaller if smaller >= SHORT else larger)


def test_planted_near_duplicates_are_found_and_others_are_not():
    held_out = [document(n) for n in (300, 80, 1000)]
    edited = held_out[0].copy()
    edited[::50] = 7
    training = [
        document(500),
        edited,  # a few tokens changed
        np.concatenate([document(5000), held_out[1]]),  # quoted completely in a long text
        held_out[2][100:180],  # a passage of it
        np.concatenate([held_out[2][:60], document(400)]),  # shares a paragraph only
        document(3),
        document(0),
    ]
    marked = HeldOutIndex.of(held_out).near_duplicates(training)
    assert marked.tolist() == [False, True, True, True, False, False, False]


def test_short_documents_match_whole_only():
    index = HeldOutIndex.of([np.array([1, 2, 3]), np.array([0])])
    training = [np.array(d) for d in ([1, 2, 3], [1, 2], [1, 2, 3, 4], [3, 2, 1], [0], [0, 0], [7])]
    assert index.near_duplicates(training).tolist() == [
        True,
        False,
        False,
        False,
        True,
        False,
        False,
    ]


def test_held_out_heading_does_not_drop_books_that_contain_it():
    heading = document(12)
    index = HeldOutIndex.of([heading])
    book = np.concatenate([heading, document(2000)])
    assert index.near_duplicates([book, heading, heading[1:]]).tolist() == [False, True, True]


def test_agrees_with_the_definition():
    # Few tokens, so shingles are shared often and counts are on both sides of one half.
    random = np.random.default_rng(1)
    texts = [random.integers(0, 3, n) for n in random.integers(0, 80, 300)]
    held_out, training = texts[:60], texts[60:]
    expected = [any(is_near_duplicate(d, h) for h in held_out) for d in training]
    assert 20 < sum(expected) < 220
    assert HeldOutIndex.of(held_out).near_duplicates(training).tolist() == expected


def test_shingles_do_not_cross_documents():
    documents = [document(7), document(5), document(0), document(2)]
    together, owners = shingles(documents)
    separate = [shingles([d])[0] for d in documents]
    assert [together[owners == i].tolist() for i in range(4)] == [a.tolist() for a in separate]
    assert [len(a) for a in separate] == [3, 1, 0, 1]


def test_nothing_held_out_matches_nothing():
    assert HeldOutIndex.of([]).near_duplicates([document(9), document(0)]).tolist() == [
        False,
        False,
    ]
    assert HeldOutIndex.of([document(9)]).near_duplicates([]).tolist() == []
