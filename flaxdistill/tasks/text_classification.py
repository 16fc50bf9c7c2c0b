"""Classification and regression of a text or a pair of texts: GLUE, sentiment, similarity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from flaxdistill import metrics
from flaxdistill.data.labelled_rows import Row, RowBuilder, text_of
from flaxdistill.data.readers.records import check_text
from flaxdistill.data.sources import Example
from flaxdistill.data.store import Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.models.architecture import Architecture
from flaxdistill.models.head import AnswerOptions, Classifier, Head, Request, reorder_classifier
from flaxdistill.pytrees import Feature, Outputs, Params
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.metrics.classification import classification_metrics
from flaxdistill.tasks.metrics.regression import regression_metrics

UNKNOWN = -2
"""Label of a row whose class is not known."""

MAX_CLASSES = 1000
"""Most classes that are collected from the training rows; more are probably numbers."""


class TextHead(Head):
    """Logits of the classes of a text, or its number."""

    name = "sequence"
    feature = Feature.LOGITS
    transformers_class = "ForSequenceClassification"
    has_labels = True
    pipeline = "text-classification"
    pools = True

    def module(self, architecture: Architecture, dtype: Any) -> Any:
        c = architecture
        return Classifier(len(self.labels), c.hidden_size, c.initializer_range, name="classifier")

    def num_predictions(self, length: int) -> int:
        return 1

    def transformers_outputs(self, outputs: Outputs) -> dict[str, Any]:
        return {"logits": self.predictions(outputs)[:, 0]}

    def transformers_fields(self) -> dict[str, Any]:
        kind = "regression" if len(self.labels) == 1 else "single_label_classification"
        return {"problem_type": kind}

    def requests(
        self,
        examples: Sequence[Example],
        vocabulary: Vocabulary,
        length: int,
        options: AnswerOptions,
    ) -> list[Request]:
        def postprocess(logits: list[np.ndarray]) -> dict[str, Any]:
            (row,) = logits[0]
            if len(self.labels) == 1:
                return {"score": float(row[0])}
            probabilities = metrics.softmax(row)
            order = np.argsort(-probabilities, kind="stable")
            scores = {self.labels[n]: float(probabilities[n]) for n in order[: options.top]}
            best = order[0]
            return {
                "label": self.labels[best],
                "score": float(probabilities[best]),
                "scores": scores,
            }

        unknown = np.array([UNKNOWN], np.int32)
        return [
            Request([Row(ids, second, unknown)], postprocess)
            for ids, second in _encode(examples, vocabulary, length)
        ]

    def reorder(self, params: Params, labels: tuple[str, ...]) -> Params:
        return reorder_classifier(params, self.labels, labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Labelled):
    """Classify a text or a pair of texts.

    A label is a word, an integer, or true or false in any case, in every file format. Decimals,
    and -1, which often marks a hidden label, are valid only if ``labels`` names them. Rows without
    a label train on the teacher's outputs only. A text that is too long for a row is truncated.
    """

    head = TextHead

    labels: tuple[str, ...] = ()
    """Label names in the order of the logits; empty for all labels of the training rows, sorted,
    integers by value."""
    metric: Literal["accuracy", "f1", "matthews"] = "accuracy"
    """Metric by which evaluations are ranked; f1 is that of the second of two classes, or the mean
    over more."""

    def __post_init__(self):
        if len(self.labels) == 1 or len(set(map(_normalize, self.labels))) < len(self.labels):
            raise UserError(
                f"task.labels is {', '.join(self.labels)}; name two or more classes, each once"
            )

    def row_builder(self) -> RowBuilder:
        settings = {"task": "classes", "labels": list(self.labels)}
        return RowBuilder(settings, self._label_names, self._rows)

    def score(
        self, logits: list[np.ndarray], labels: list[np.ndarray], store: Store
    ) -> metrics.Score:
        predicted, names = np.concatenate(logits).argmax(-1), store.labels
        return classification_metrics(predicted, np.concatenate(labels), len(names), names)

    def _label_names(self, examples: Iterator[Example], declared: tuple[str, ...]) -> list[str]:
        first: dict[str, Example] = {}
        for example in examples:
            first.setdefault(_label_name(example), example)
        if self.labels or (declared and first.keys() <= set(map(_normalize, declared))):
            return list(self.labels or declared)
        if len(first) < 2:
            raise UserError(
                f"the training rows hold the label {', '.join(sorted(first)) or 'none'}; a "
                "classifier needs two or more: set source.label to the column of the labels"
            )
        if len(first) > MAX_CLASSES:
            raise UserError(
                f"the training rows hold {len(first):,} different labels, such as "
                f"{sorted(first)[0]!r}; for numbers use the task Regression, or set source.label "
                "to another column"
            )
        for name, example in first.items():
            _check_unambiguous(name, example)
        return sorted(
            first, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name)
        )

    def _rows(
        self, examples: list[Example], labels: list[str], vocabulary: Vocabulary, length: int
    ) -> Iterable[list[Row]]:
        numbers = {_normalize(name): number for number, name in enumerate(labels)}
        for example, (ids, second) in zip(
            examples, _encode(examples, vocabulary, length), strict=True
        ):
            label = UNKNOWN
            if example.label is not None:
                label = numbers.get(_label_name(example), UNKNOWN)
                if label == UNKNOWN:
                    _check_unambiguous(_label_name(example), example)
                    raise UserError(
                        f"{example.place}: the label {_label_name(example)!r} is not one of "
                        f"{', '.join(labels)}; correct the row, or list all labels in task.labels"
                    )
            yield [Row(ids, second, np.array([label], np.int32))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Labelled):
    """Predict a number for a text or a pair of texts, such as their similarity."""

    head = TextHead

    known_labels = ("score",)
    label_dtype = np.float32

    metric: Literal["pearson", "spearman"] = "pearson"
    """Metric by which evaluations are ranked."""

    def row_builder(self) -> RowBuilder:
        return RowBuilder(
            {"task": "number"}, lambda examples, declared: list(self.known_labels), self._rows
        )

    def score(
        self, logits: list[np.ndarray], labels: list[np.ndarray], store: Store
    ) -> metrics.Score:
        return regression_metrics(np.concatenate(logits)[:, 0], np.concatenate(labels))

    def _rows(
        self, examples: list[Example], labels: list[str], vocabulary: Vocabulary, length: int
    ) -> Iterable[list[Row]]:
        for example, (ids, second) in zip(
            examples, _encode(examples, vocabulary, length), strict=True
        ):
            yield [Row(ids, second, np.array([_label_number(example)], np.float32))]


def _normalize(label: Any) -> str:
    """Write a label as text, alike for all formats: the number 1 is '1', and True is 'true'."""
    name = str(label).strip()
    return name.lower() if name.lower() in ("true", "false") else name


def _label_name(example: Example) -> str:
    if isinstance(example.label, bool | int | float | str) and (name := _normalize(example.label)):
        check_text(name, example.place)
        return name
    raise UserError(
        f"{example.place}: {example.label!r} is not a label; a label is a word or an integer (for "
        "a row without one, leave the column empty in parquet and null in jsonl)"
    )


def _check_unambiguous(name: str, example: Example) -> None:
    if name == "-1" or _is_decimal(name):
        raise UserError(
            f"{example.place}: {example.label!r} is not a label unless task.labels names it, since "
            "-1 often marks a hidden label and decimals are for the task Regression; correct the "
            "row, or list all labels in task.labels"
        )


def _is_decimal(name: str) -> bool:
    if name.lstrip("+-").isdecimal() or "_" in name:
        return False
    try:
        float(name)
    except ValueError:
        return False
    return True


def _label_number(example: Example) -> float:
    if example.label is None:
        return math.nan
    try:
        number = math.nan if isinstance(example.label, bool) else float(example.label)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise UserError(
            f"{example.place}: the label {example.label!r} is not a number; correct the row"
        )
    return number


def _encode(
    examples: Sequence[Example], vocabulary: Vocabulary, length: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Tokenize one or two texts each, with the special tokens, and return where the second begins.

    A pair that is too long is truncated as ``longest_first`` of the tokenizers library does: the
    shorter text keeps at most half of the tokens, rounded down; the longer text, or the second of
    two equally long ones, gets the remaining tokens.
    """
    texts: list[list[str]] = [text_of(example) for example in examples]
    encoded: Any = iter(vocabulary.encode([text for pair in texts for text in pair]))
    for pair in texts:
        parts = [next(encoded) for _ in pair]
        room = length - vocabulary.special_count(pair=len(parts) == 2)
        if len(parts) == 2 and sum(map(len, parts)) > room:
            shorter, longer = sorted((0, 1), key=lambda n: len(parts[n]))
            parts[shorter] = parts[shorter][: room // 2]
            parts[longer] = parts[longer][: room - len(parts[shorter])]
        yield vocabulary.join(*(part[:room] for part in parts))
