"""Flaxdistill/metrics/question_answering.py."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from flaxdistill.metrics import Score, ratio


def spans(
    predicted: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    *,
    unanswerable: bool = False,
) -> Score:
    """Score answers by question id as SQuAD's own scripts do: exact match and F1 of words, in [0, 1].

    ``answers`` lists what is right for each question; of these the best counts. Without ``unanswerable`` the rules are those
    of evaluate-v1.1.py (Rajpurkar et al., 2016): F1 is 0 where no word is shared, so that '.' said for '.' is exact with an
    F1 of 0. With it they are those of evaluate-v2.0.py (Rajpurkar et al., 2018): [] where there is no answer, which is what
    '' says; a right answer without words is left out; and there are the metrics HasAns and NoAns of either sort of question.
    A question without a prediction counts 0, although evaluate-v2.0.py leaves it out of its means.
    """
    exact, overlap = _words_compared(predicted, answers, unanswerable)
    one = np.ones(len(answers))
    metrics = {"f1": float(overlap.mean()), "exact": float(exact.mean())}
    if unanswerable:
        has = np.array([bool(right) for right in answers.values()])
        for sort, of in (("HasAns", has), ("NoAns", ~has)):
            if of.any():
                metrics |= {
                    f"{sort}_exact": float(exact[of].mean()),
                    f"{sort}_f1": float(overlap[of].mean()),
                }
    return Score(metrics, {"f1": ratio(overlap, one), "exact": ratio(exact, one)})


def best_threshold(
    found: Mapping[str, tuple[str, float]], answers: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Find above which difference of scores no answer is best said: the mean F1 there, and the difference.

    ``found`` has the likeliest span of each question, and how far the score of no answer is above it. Follows
    ``find_best_thresh`` of evaluate-v2.0.py (Rajpurkar et al., 2018), but where it is best to answer nothing: the script
    then says 0, thinking of probabilities, and this what lies below all differences.
    """
    ordered = sorted(found.items(), key=lambda item: item[1][1])
    right = {name: answers[name] for name, _ in ordered}
    _, overlap = _words_compared({name: text for name, (text, _) in ordered}, right, True)
    has = np.array([bool(texts) for texts in right.values()])
    said = np.array([bool(text) for _, (text, _) in ordered])
    gaps = [gap for _, (_, gap) in ordered]
    # All questions left without an answer, and then answered one after another.
    sums = np.sum(~has) + np.cumsum(np.concatenate([[0.0], np.where(has, overlap, -1.0 * said)]))
    best = int(sums.argmax())
    return {
        "best_f1": float(sums[best] / len(gaps)),
        "best_f1_thresh": float(gaps[best - 1] if best else gaps[0] - 1),
    }


def _words_compared(
    predicted: Mapping[str, str], answers: Mapping[str, Sequence[str]], unanswerable: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Give exact match and F1 of each question, float64 [N] both."""
    exact, overlap = np.zeros(len(answers)), np.zeros(len(answers))
    for n, (name, right) in enumerate(answers.items()):
        said = predicted.get(name)
        if said is None:
            continue
        words, references = plain(said), [plain(text) for text in right]
        if unanswerable:
            references = [text for text in references if text] or [""]
        exact[n] = max((words == text for text in references), default=0)
        overlap[n] = max((_word_f1(words, text, unanswerable) for text in references), default=0)
    return exact, overlap


def plain(text: str) -> str:
    """Lower a text and leave out punctuation and articles."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _word_f1(said: str, right: str, unanswerable: bool) -> float:
    ours, theirs = said.split(), right.split()
    if unanswerable and not (ours and theirs):
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0
