"""Answer spans: the best spans of windows, and the context of their tokens."""

import numpy as np

from flaxdistill.tasks.answer_spans import Window, max_context
from flaxdistill.tasks.question_answering import QuestionAnswering


def test_best_spans_have_different_texts():
    text, offsets = "a b a b", np.array([[0, 0], [0, 0], [0, 1], [2, 3], [4, 5], [6, 7], [0, 0]])
    start, end = np.array([[9.0, 9, 1, 2.5, 3, 0, 9], [-1.0, 9, 0, 1, 0, 2, 9]])
    window = Window(np.stack([start, end]), slice(2, 6), offsets)
    spans, null_score = QuestionAnswering(longest=2).spans([window], text, 9)
    assert null_score == 8.0
    assert [(text[a:b], a, score) for a, b, score in spans] == [
        ("a b", 4, 5.0), ("b", 2, 3.5), ("a", 4, 3.0), ("b a", 2, 2.5)
    ]  # fmt: skip
    # With n_best 1, only the best start and the best end are combined.
    (span,), _ = QuestionAnswering(n_best=1).spans([window], text, 9)
    assert span[:2] == (4, 7)


def test_a_span_begins_in_the_window_with_the_most_context():
    """As in BERT's run_squad.py, window by window and token by token; the first of equal ones."""

    def by_hand(starts, sizes, token):
        containing = [
            (first, size)
            for first, size in zip(starts, sizes, strict=True)
            if first <= token < first + size
        ]
        context = [
            min(token - first, first + size - 1 - token) + 0.01 * size for first, size in containing
        ]
        return containing[context.index(max(context))]

    for sizes, stride in (
        ([9, 9, 5], 4),
        ([9, 9, 9, 7], 6),
        ([9, 9, 6], 3),
        ([4], 9),
        ([6, 6, 2], 0),
        ([369, 129], 128),
    ):
        starts = [n * (sizes[0] - stride) for n in range(len(sizes))]
        for first, size, is_max in zip(starts, sizes, max_context(sizes, stride), strict=True):
            expected = [
                by_hand(starts, sizes, token) == (first, size)
                for token in range(first, first + size)
            ]
            assert is_max.tolist() == expected
    # The best start is at the edge of the first window; it counts in the second window only.
    text, stride = "a b c d e", 2
    offsets = np.array([[2 * n, 2 * n + 1] for n in range(5)])
    logits = np.full((2, 2, 4), -9.0)
    logits[0, :, 3], logits[1, :, 2] = 5.0, 1.0
    windows = [
        Window(logits[0], slice(0, 4), offsets[:4]),
        Window(logits[1, :, :3], slice(0, 3), offsets[2:]),
    ]
    (best, *_), _ = QuestionAnswering(stride=stride).spans(windows, text, 1)
    assert (text[best.start : best.end], best.score) == ("e", 2.0)
