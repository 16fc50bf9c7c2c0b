"""Metrics of extractive question answering, as in SQuAD's evaluation scripts."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from flaxdistill.metrics import Score, ratio_of_sums


def squad_metrics(
    predicted: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    unanswerable: bool = False,
) -> Score:
    """Compute SQuAD's exact match and F1 of words, in [0, 1], from answers by question id.

    ``references`` lists the correct answers of each question; the best match counts.

    Without ``unanswerable`` the rules are those of evaluate-v1.1.py (Rajpurkar et al., 2016): F1
    is 0 without common words, so '.' for '.' is an exact match with F1 0. With it they are those
    of evaluate-v2.0.py (Rajpurkar et al., 2018): [] means no answer, which the prediction '' is; a
    correct answer without words is ignored; HasAns and NoAns metrics are added. A question without
    a prediction counts as 0, although evaluate-v2.0.py leaves it out of its means.
    """
    exact, f1 = _compare(predicted, references, unanswerable)
    ones = np.ones(len(references))
    metrics = {"f1": float(f1.mean()), "exact": float(exact.mean())}
    if unanswerable:
        has_answer = np.array([bool(answers) for answers in references.values()])
        for name, mask in (("HasAns", has_answer), ("NoAns", ~has_answer)):
            if mask.any():
                metrics[f"{name}_exact"] = float(exact[mask].mean())
                metrics[f"{name}_f1"] = float(f1[mask].mean())
    return Score(metrics, {"f1": ratio_of_sums(f1, ones), "exact": ratio_of_sums(exact, ones)})


def best_threshold(
    predictions: Mapping[str, tuple[str, float]], references: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Find the null threshold with the best mean F1, ``best_f1_thresh``, and that F1, ``best_f1``.

    ``predictions`` hold the best span of each question and its null score difference. Follows
    ``find_best_thresh`` of evaluate-v2.0.py (Rajpurkar et al., 2018), except if it is best to
    answer no question: the script then returns 0, which suits probabilities, and this function a
    threshold below all differences.
    """
    ordered = sorted(predictions.items(), key=lambda item: item[1][1])
    ordered_references = {name: references[name] for name, _ in ordered}
    texts = {name: text for name, (text, _) in ordered}
    _, f1 = _compare(texts, ordered_references, True)
    has_answer = np.array([bool(answers) for answers in ordered_references.values()])
    predicts_answer = np.array([bool(text) for text in texts.values()])
    differences = [difference for _, (_, difference) in ordered]
    # Start with no question answered, then answer one after another.
    gains = np.where(has_answer, f1, -1.0 * predicts_answer)
    sums = np.sum(~has_answer) + np.cumsum(np.concatenate([[0.0], gains]))
    best = int(sums.argmax())
    return {
        "best_f1": float(sums[best] / len(differences)),
        "best_f1_thresh": float(differences[best - 1] if best else differences[0] - 1),
    }


def normalize_answer(text: str) -> str:
    """Lowercase a text and remove punctuation, articles and extra whitespace."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _compare(
    predicted: Mapping[str, str], references: Mapping[str, Sequence[str]], unanswerable: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact match and the F1 of each question, float64 [N] both."""
    exact, f1 = np.zeros(len(references)), np.zeros(len(references))
    for n, (name, answers) in enumerate(references.items()):
        prediction = predicted.get(name)
        if prediction is None:
            continue
        text, texts = normalize_answer(prediction), [normalize_answer(a) for a in answers]
        if unanswerable:
            texts = [reference for reference in texts if reference] or [""]
        exact[n] = max((text == reference for reference in texts), default=0)
        f1[n] = max((_word_f1(text, reference, unanswerable) for reference in texts), default=0)
    return exact, f1


def _word_f1(predicted: str, reference: str, unanswerable: bool) -> float:
    predicted_words, reference_words = predicted.split(), reference.split()
    if unanswerable and not (predicted_words and reference_words):
        return float(predicted_words == reference_words)
    common = sum((Counter(predicted_words) & Counter(reference_words)).values())
    return 2 * common / (len(predicted_words) + len(reference_words)) if common else 0.0
