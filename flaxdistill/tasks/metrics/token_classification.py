"""Metrics of token classification."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxdistill.metrics import PerExample, Score, ratio_of_sums
from flaxdistill.tasks.metrics.classification import class_metrics, classification_metrics


def tag_metrics(
    predicted: list[np.ndarray], labels: list[np.ndarray], number: int, names: Sequence[str] = ()
) -> Score:
    """Compare the tags of sentences, int [n] each, word by word with ``classification_metrics``.

    A sentence is one example of the per-example statistics.
    """
    score = classification_metrics(np.concatenate(predicted), np.concatenate(labels), number, names)
    sentence = np.repeat(np.arange(len(labels)), [len(row) for row in labels])

    def sum_by_sentence(parts: PerExample) -> PerExample:
        values = np.zeros((len(labels), parts.values.shape[1]))
        np.add.at(values, sentence, parts.values)
        return parts._replace(values=values)

    return score._replace(
        per_example={name: sum_by_sentence(parts) for name, parts in score.per_example.items()}
    )


def entity_metrics(predicted: list[list[str]], references: list[list[str]]) -> Score:
    """Compare the BIO tags of sentences as the CoNLL script does.

    Returns F1, precision and recall of whole entities, F1 of each entity type, and the accuracy
    of single tags.
    """
    from seqeval.metrics import classification_report
    from seqeval.metrics.sequence_labeling import get_entities

    with warnings.catch_warnings():
        # The precision of a type that is never predicted is 0.
        warnings.simplefilter("ignore")
        report: dict[str, Any] = classification_report(
            references, predicted, output_dict=True, zero_division=0
        )
    total = report.pop("micro avg")
    per_class = {
        name: class_metrics(row)
        for name, row in report.items()
        if name not in ("macro avg", "weighted avg")
    }
    sentences = list(zip(predicted, references, strict=True))
    correct = np.concatenate([np.array(tags) == np.array(golds) for tags, golds in sentences])
    metrics = {
        "f1": float(total["f1-score"]),
        "precision": float(total["precision"]),
        "recall": float(total["recall"]),
        "accuracy": float(np.mean(correct)),
    } | {f"f1_{name}": values["f1"] for name, values in per_class.items()}
    entities = [(set(get_entities(tags)), set(get_entities(golds))) for tags, golds in sentences]
    twice_common = np.array([2.0 * len(a & b) for a, b in entities])
    total_count = np.array([float(len(a) + len(b)) for a, b in entities])
    return Score(metrics, {"f1": ratio_of_sums(twice_common, total_count)}, per_class)
