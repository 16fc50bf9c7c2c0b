"""Classes, or a number, for a whole text or a pair of texts: GLUE, sentiment, topics, similarity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from flaxdistill import metrics
from flaxdistill.data.labelled_rows import Row, RowBuilder, check_text, text_of
from flaxdistill.data.sources import Example
from flaxdistill.data.store import Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.metrics import classification, regression

UNKNOWN = -2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Labelled):
    """Choose one of several classes for a text, or for a pair of texts.

    ``labels``: the classes as they are written in the data, in the order of their logits; empty: all that the training rows
    hold, sorted, whole numbers by size. A class is a word, a whole number, or true or false in any case; it is the same
    whatever the format of the file. Decimals, and -1, which often hides a label, are classes only where ``labels`` names
    them. Rows without a label teach by their teacher's answers only. A text too long for a row is cut at its length.
    """

    head = "sequence"

    labels: tuple[str, ...] = ()
    # By which evaluations are ranked; f1 is that of the second of two classes, and of more the mean over them.
    metric: Literal["accuracy", "f1", "matthews"] = "accuracy"

    def __post_init__(self):
        if len(self.labels) == 1 or len(set(map(_spelled, self.labels))) < len(self.labels):
            raise UserError(
                f"task.labels is {', '.join(self.labels)}; name two classes or more, each of them once"
            )

    def row_builder(self) -> RowBuilder:
        def resolve_student(examples: Iterator[Example], declared: tuple[str, ...]) -> list[str]:
            found: dict[str, Example] = {}
            for example in examples:
                found.setdefault(_name(example), example)
            if self.labels or (declared and found.keys() <= set(map(_spelled, declared))):
                return list(self.labels or declared)
            if len(found) < 2:
                raise UserError(
                    f"the training rows hold the label {', '.join(sorted(found)) or 'none'}; a classifier needs two or "
                    "more: name their column in source.label"
                )
            if len(found) > 1000:
                raise UserError(
                    f"the training rows hold {len(found):,} different labels, such as {sorted(found)[0]!r}; for numbers "
                    "use the task Regression, or name another column in source.label"
                )
            for name, example in found.items():
                _refuse_unclear(name, example)
            return sorted(
                found, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name)
            )

        def rows(
            examples: list[Example], labels: list[str], vocabulary: Vocabulary, length: int
        ) -> Iterable[list[Row]]:
            known = {_spelled(name): number for number, name in enumerate(labels)}
            for example, (ids, second) in zip(
                examples, _texts(examples, vocabulary, length), strict=True
            ):
                label = UNKNOWN
                if example.label is not None:
                    label = known.get(_name(example), UNKNOWN)
                    if label == UNKNOWN:
                        _refuse_unclear(_name(example), example)
                        raise UserError(
                            f"{example.place}: the label {_name(example)!r} is none of {', '.join(labels)}; mend the "
                            "row, or name all labels in task.labels"
                        )
                yield [Row(ids, second, np.array([label], np.int32))]

        return RowBuilder({"task": "classes", "labels": list(self.labels)}, resolve_student, rows)

    def score(
        self, logits: list[np.ndarray], labels: list[np.ndarray], store: Store
    ) -> metrics.Score:
        said, names = np.concatenate(logits).argmax(-1), store.labels
        return classification.classes(said, np.concatenate(labels), len(names), names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Labelled):
    """Predict a number for a text, or for a pair of texts, such as how similar they are."""

    head = "sequence"

    known_labels = ("score",)

    metric: Literal["pearson", "spearman"] = "pearson"  # by which evaluations are ranked

    def row_builder(self) -> RowBuilder:
        def rows(
            examples: list[Example], labels: list[str], vocabulary: Vocabulary, length: int
        ) -> Iterable[list[Row]]:
            for example, (ids, second) in zip(
                examples, _texts(examples, vocabulary, length), strict=True
            ):
                yield [Row(ids, second, np.array([_number(example)], np.float32))]

        return RowBuilder(
            {"task": "number"}, lambda examples, declared: list(self.known_labels), rows
        )

    def score(
        self, logits: list[np.ndarray], labels: list[np.ndarray], store: Store
    ) -> metrics.Score:
        return regression.numbers(np.concatenate(logits)[:, 0], np.concatenate(labels))


def _spelled(label: Any) -> str:
    """Write a label as text, the same for all formats: the number 1 is the class '1', and True is 'true'."""
    name = str(label).strip()
    return name.lower() if name.lower() in ("true", "false") else name


def _name(example: Example) -> str:
    if isinstance(example.label, bool | int | float | str) and (name := _spelled(example.label)):
        check_text(name, example.place)
        return name
    raise UserError(
        f"{example.place}: {example.label!r} is no label; a class is a word or a whole number (of a row without one the "
        "column is empty in parquet and null in jsonl)"
    )


def _refuse_unclear(name: str, example: Example) -> None:
    if name == "-1" or _is_decimal(name):
        raise UserError(
            f"{example.place}: {example.label!r} is no label unless task.labels names it, since -1 often hides one and "
            "decimals are for the task Regression; mend the row, or name all labels"
        )


def _is_decimal(name: str) -> bool:
    if name.lstrip("+-").isdecimal() or "_" in name:
        return False
    try:
        float(name)
    except ValueError:
        return False
    return True


def _number(example: Example) -> float:
    if example.label is None:
        return math.nan
    try:
        number = math.nan if isinstance(example.label, bool) else float(example.label)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise UserError(f"{example.place}: the label {example.label!r} is no number; mend the row")
    return number


def _texts(
    examples: list[Example], vocabulary: Vocabulary, length: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Tokenise one or two texts each: [CLS] a [SEP], or [CLS] a [SEP] b [SEP], and where b begins.

    A pair too long is cut as the tokenizers library's ``longest_first`` does: the shorter text keeps at most half of the
    room, rounded down, and the longer one, or of equal ones the second, the rest.
    """
    texts: list[list[str]] = [text_of(example) for example in examples]
    flat: Any = iter(vocabulary.encode([text for pair in texts for text in pair]))
    for pair in texts:
        parts = [next(flat) for _ in pair]
        room = length - 1 - len(parts)
        if len(parts) == 2 and sum(map(len, parts)) > room:
            shorter, longer = sorted((0, 1), key=lambda n: len(parts[n]))
            parts[shorter] = parts[shorter][: room // 2]
            parts[longer] = parts[longer][: room - len(parts[shorter])]
        ids = [np.array([vocabulary.cls])]
        for part in parts:
            ids += [part[:room], np.array([vocabulary.sep])]
        yield np.concatenate(ids).astype(np.int32), len(parts[0]) + 2 if len(parts) == 2 else 0
