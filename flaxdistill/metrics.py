"""Figures by which answers are judged, by well-kept libraries on the host."""

from __future__ import annotations

import math
import re
import string
import warnings
from collections import Counter
from typing import Any

import numpy as np


def classes(predicted: np.ndarray, labels: np.ndarray, number: int) -> dict[str, float]:
    """Compare int [N] of ``number`` classes: accuracy, F1 (of class 1 where there are two, else a mean), Matthews."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(
            f1_score(labels, predicted, average="binary" if number == 2 else "macro", zero_division=0)
        ),
        "matthews": float(matthews_corrcoef(labels, predicted)),
    }


def entities(predicted: list[list[str]], tags: list[list[str]]) -> dict[str, float]:
    """Compare BIO tags of sentences as the CoNLL script does: F1, precision, recall of whole entities, F1 of each kind."""
    from seqeval.metrics import classification_report

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kind that is never predicted has no precision: 0 says so
        report: dict[str, Any] = classification_report(tags, predicted, output_dict=True, zero_division=0)
    total = report.pop("micro avg")
    kinds = {name: float(row["f1-score"]) for name, row in report.items() if not name.endswith(" avg")}
    right = np.concatenate([np.array(a) == np.array(b) for a, b in zip(predicted, tags, strict=True)])
    return {
        "f1": float(total["f1-score"]),
        "precision": float(total["precision"]),
        "recall": float(total["recall"]),
        "accuracy": float(np.mean(right)),
    } | {f"f1_{name}": value for name, value in kinds.items()}


def numbers(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compare numbers float [N]: Pearson's and Spearman's correlation (nan where one side is constant), mean square."""
    from scipy.stats import pearsonr, spearmanr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a constant answer has no correlation: nan says so
        several = len(labels) > 1
        return {
            "pearson": float(pearsonr(predicted, labels).statistic) if several else math.nan,
            "spearman": float(spearmanr(predicted, labels).statistic) if several else math.nan,
            "mse": float(np.mean(np.square(predicted - labels))),
        }


def spans(predicted: dict[str, str], answers: dict[str, list[str]]) -> dict[str, float]:
    """Score answers by question id as SQuAD's own scripts do: exact match and F1 of words, in [0, 1].

    ``answers`` lists what is right for each question, [] where there is no answer ('' is then right; SQuAD 2). A question
    without a prediction counts 0. Follows evaluate-v1.1.py and evaluate-v2.0.py (Rajpurkar et al., 2016 and 2018).
    """
    exact = overlap = 0.0
    for name, right in answers.items():
        said = predicted.get(name)
        if said is None:
            continue
        references = [_plain(text) for text in right] or [""]
        exact += max(_plain(said) == reference for reference in references)
        overlap += max(_word_f1(_plain(said).split(), reference.split()) for reference in references)
    return {"f1": overlap / len(answers), "exact": exact / len(answers)}


def _plain(text: str) -> str:
    """Lower a text and leave out punctuation and articles."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _word_f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right))
