"""Decoding of answer spans from the logits of sliding windows over a text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """The logits of one row, and where its tokens are in the text."""

    logits: np.ndarray
    """Start and end logits [2, T]."""
    context: slice
    """The tokens that belong to the text, without the question and special tokens."""
    offsets: np.ndarray
    """Characters (start, end) of each token in the text, [T, 2]."""


class Span(NamedTuple):
    """A part of a text, in characters, and its score: start logit plus end logit."""

    start: int
    end: int
    score: float


def best_spans(
    windows: Iterable[Window],
    text: str,
    number: int,
    *,
    stride: int,
    n_best: int,
    longest: int,
) -> tuple[list[Span], float]:
    """Return the ``number`` best spans with different texts, best first, and the null score.

    Follows ``write_predictions`` of BERT's run_squad.py (Devlin et al., 2019): a span may begin
    only in the window where its first token has the most context, and the null score (no answer)
    is the lowest score of [CLS] over the windows. One difference: the ``n_best`` starts and ends
    of a window are chosen among the tokens of the text, not of the whole row.
    """
    null_score, scores, offsets = math.inf, [np.zeros(0)], [np.zeros((0, 2), np.int64)]
    windows = list(windows)
    sizes = [context.stop - context.start for _, context, _ in windows]
    for (logits, context, window_offsets), is_max in zip(
        windows, max_context(sizes, stride), strict=True
    ):
        null_score = min(null_score, float(logits[0][0] + logits[1][0]))
        start, end, places = logits[0][context], logits[1][context], window_offsets[context]
        starts, ends = (np.argsort(-side, kind="stable")[:n_best] for side in (start, end))
        valid = (ends[None] >= starts[:, None]) & (ends[None] < starts[:, None] + longest)
        valid &= is_max[starts][:, None]
        start_index, end_index = np.nonzero(valid)
        first, last = starts[start_index], ends[end_index]
        scores.append(start[first] + end[last])
        offsets.append(np.stack([places[first, 0], places[last, 1]], 1))
    all_scores, all_offsets = np.concatenate(scores), np.concatenate(offsets)
    spans: dict[str, Span] = {}
    for n in np.argsort(-all_scores, kind="stable"):
        a, b = (int(side) for side in all_offsets[n])
        spans.setdefault(text[a:b], Span(a, b, float(all_scores[n])))
        if len(spans) == number:
            break
    return list(spans.values()), null_score


def null_score_difference(spans: list[Span], null_score: float) -> float:
    """Return the null score minus the score of the best span; inf without a span."""
    return null_score - spans[0].score if spans else math.inf


def max_context(sizes: list[int], stride: int) -> list[np.ndarray]:
    """Mark the tokens of each window, bool [n], that have more context there than elsewhere.

    The context of a token is the smaller number of tokens on its two sides plus 0.01 times the
    size of the window, as in ``_check_is_max_context`` of BERT's run_squad.py. Windows are in
    order, have ``sizes`` tokens (all but the last the same) and overlap by ``stride`` tokens.
    """
    step = sizes[0] - stride
    slices = [slice(n * step, n * step + size) for n, size in enumerate(sizes)]
    most, owner = np.full(slices[-1].stop, -1.0), np.zeros(slices[-1].stop, np.int64)
    for n, (tokens, size) in enumerate(zip(slices, sizes, strict=True)):
        left = np.arange(size)
        context = np.minimum(left, left[::-1]) + 0.01 * size
        owner[tokens] = np.where(context > most[tokens], n, owner[tokens])
        most[tokens] = np.maximum(most[tokens], context)
    return [owner[tokens] == n for n, tokens in enumerate(slices)]
