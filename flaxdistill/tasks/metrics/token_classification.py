"""Flaxdistill/metrics/token_classification.py."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxdistill.metrics import PerExample, Score, ratio
from flaxdistill.tasks.metrics.classification import _kind, classes


def tags(
    predicted: list[np.ndarray], labels: list[np.ndarray], number: int, names: Sequence[str] = ()
) -> Score:
    """Compare tags of sentences, int [n] each of ``number``, word by word: as ``classes``, but a sentence is one example."""
    score = classes(np.concatenate(predicted), np.concatenate(labels), number, names)
    words = np.repeat(np.arange(len(labels)), [len(row) for row in labels])

    def of_sentences(parts: PerExample) -> PerExample:
        each = np.zeros((len(labels), parts.each.shape[1]))
        np.add.at(each, words, parts.each)
        return parts._replace(each=each)

    return score._replace(
        per_example={name: of_sentences(parts) for name, parts in score.per_example.items()}
    )


def entities(predicted: list[list[str]], tags: list[list[str]]) -> Score:
    """Compare BIO tags of sentences as the CoNLL script does: F1, precision, recall of whole entities, F1 of each kind."""
    from seqeval.metrics import classification_report
    from seqeval.metrics.sequence_labeling import get_entities

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # a kind that is never predicted has no precision: 0 says so
        report: dict[str, Any] = classification_report(
            tags, predicted, output_dict=True, zero_division=0
        )
    total = report.pop("micro avg")
    per_class = {
        name: _kind(row)
        for name, row in report.items()
        if name not in ("macro avg", "weighted avg")
    }
    right = np.concatenate(
        [np.array(a) == np.array(b) for a, b in zip(predicted, tags, strict=True)]
    )
    metrics = {
        "f1": float(total["f1-score"]),
        "precision": float(total["precision"]),
        "recall": float(total["recall"]),
        "accuracy": float(np.mean(right)),
    } | {f"f1_{name}": kind["f1"] for name, kind in per_class.items()}
    found = [
        (set(get_entities(a)), set(get_entities(b))) for a, b in zip(predicted, tags, strict=True)
    ]
    both = np.array([2.0 * len(a & b) for a, b in found])
    per_example = {"f1": ratio(both, np.array([float(len(a) + len(b)) for a, b in found]))}
    return Score(metrics, per_example, per_class)
