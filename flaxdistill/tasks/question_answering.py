"""Extractive question answering: SQuAD 1.1 and 2.0, with sliding windows over the text."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from flaxdistill import metrics
from flaxdistill.data.labelled_rows import Row, RowBuilder
from flaxdistill.data.readers.records import check_text
from flaxdistill.data.sources import Example
from flaxdistill.data.store import Blocks, Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.tasks.answer_spans import Span, Window, best_spans, null_score_difference
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.metrics.question_answering import best_threshold, squad_metrics

NULL_POSITION, UNKNOWN = 0, -2
"""Labels of a window without the answer (the position of [CLS]) and of an unknown answer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Labelled):
    """Find the start and the end of the answer to a question in a text (Devlin et al., 2019).

    Sources name the question (``column``), the text (``pair``) and the answers (``label``), as in
    squad of ``datasets``, or are files in SQuAD's layout, where these columns are question,
    context and answers. A text that is too long for a row is split into overlapping windows.
    """

    head = "span"
    known_labels = ()

    stride: int = 128
    """Number of tokens that consecutive windows share."""
    longest_question: int = 64
    """Tokens to which a question is truncated."""
    n_best: int = 20
    """Number of start and of end positions of each window that are combined to spans."""
    longest: int = 30
    """Largest number of tokens of an answer."""
    unanswerable: bool = False
    """Questions may have no answer (SQuAD 2.0)."""
    null_threshold: float = 0.0
    """The answer is none if the score of [CLS] (start plus end logit) exceeds the score of the
    best span by more than this (null_score_diff_threshold of BERT)."""
    metric: Literal["f1", "exact"] = "f1"
    """Metric by which evaluations are ranked."""

    def __post_init__(self):
        for name in ("longest_question", "n_best", "longest"):
            if getattr(self, name) < 1:
                raise UserError(f"task.{name} is {getattr(self, name)}; it must be at least 1")
        if self.stride < 0:
            raise UserError(
                f"task.stride is {self.stride}; it is a number of tokens, such as 128, or 0"
            )
        if not math.isfinite(self.null_threshold):
            raise UserError(
                f"task.null_threshold is {self.null_threshold}; it is a difference of scores, "
                "such as 0"
            )
        if self.null_threshold and not self.unanswerable:
            raise UserError(
                f"task.null_threshold is {self.null_threshold}, but without task.unanswerable "
                "every question has an answer; set task.unanswerable too"
            )

    def row_builder(self) -> RowBuilder:
        settings = {
            "task": "span",
            "stride": self.stride,
            "longest_question": self.longest_question,
            "unanswerable": self.unanswerable,
        }
        return RowBuilder(
            settings, lambda examples, declared: [], self._rows, _scoring_record, "pair"
        )

    def score(
        self, logits: list[np.ndarray], labels: list[np.ndarray], store: Store
    ) -> metrics.Score:
        examples = store.examples()
        best = self._best_answers(logits, store.held_out, examples)
        predictions = {str(n): prediction for n, prediction in best.items()}
        references = {str(n): example["answers"] for n, example in enumerate(examples)}
        answers = {n: self._answer(*prediction) for n, prediction in predictions.items()}
        score = squad_metrics(answers, references, unanswerable=self.unanswerable)
        if not self.unanswerable:
            return score
        return score._replace(metrics=score.metrics | best_threshold(predictions, references))

    def answers(
        self, logits: list[np.ndarray], rows: Blocks, examples: list[dict[str, Any]]
    ) -> dict[int, str]:
        """Return the answer of each example, by number, from the logits [2, T] of its windows."""
        best = self._best_answers(logits, rows, examples)
        return {n: self._answer(*prediction) for n, prediction in best.items()}

    def spans(self, windows: Iterable[Window], text: str, number: int) -> tuple[list[Span], float]:
        """Return the best spans of a text and the null score, see ``answer_spans.best_spans``."""
        return best_spans(
            windows,
            text,
            number,
            stride=self.stride,
            n_best=self.n_best,
            longest=self.longest,
        )

    def _answer(self, text: str, null_difference: float) -> str:
        return "" if self.unanswerable and null_difference > self.null_threshold else text

    def _best_answers(
        self, logits: list[np.ndarray], rows: Blocks, examples: list[dict[str, Any]]
    ) -> dict[int, tuple[str, float]]:
        """Return the text of the best span and the null score difference of each example."""
        windows: dict[int, list[Window]] = defaultdict(list)
        for row, row_logits in enumerate(logits):
            example, second = (int(rows.columns[name][row]) for name in ("example", "second"))
            last = int(np.count_nonzero(rows.segments[row])) - 1  # the final [SEP]
            window = Window(row_logits, slice(second, last), rows.columns["places"][row])
            windows[example].append(window)
        answers = {}
        for n, example_windows in windows.items():
            text = examples[n]["text"]
            spans, null_score = self.spans(example_windows, text, 1)
            answer = text[spans[0].start : spans[0].end] if spans else ""
            answers[n] = answer, null_score_difference(spans, null_score)
        return answers

    def _rows(
        self, examples: list[Example], labels: list[str], vocabulary: Vocabulary, length: int
    ) -> Iterable[list[Row]]:
        for example in examples:
            _check_field(example, "question", example.text)
            _check_field(example, "text", example.pair)
        questions = vocabulary.encode([example.text for example in examples])
        contexts = vocabulary.encode_with_offsets([example.pair for example in examples])
        for example, question, (ids, offsets) in zip(examples, questions, contexts, strict=True):
            yield self._windows(example, question, ids, offsets, vocabulary, length)

    def _windows(
        self,
        example: Example,
        question: np.ndarray,
        ids: np.ndarray,
        offsets: np.ndarray,
        vocabulary: Vocabulary,
        length: int,
    ) -> list[Row]:
        question = question[: self.longest_question]
        room = length - len(question) - 3
        if room <= self.stride:
            raise UserError(
                f"{example.place}: a question of {len(question)} tokens leaves {room} of "
                f"corpus.max_length {length} for the text, but windows share {self.stride}; raise "
                "corpus.max_length or lower task.stride"
            )
        span = self._token_span(example, offsets)
        prefix = np.array([vocabulary.cls, *question, vocabulary.sep])
        second = len(prefix)
        rows = []
        for first in range(0, max(len(ids) - self.stride, 1), room - self.stride):
            window = ids[first : first + room]
            labels = np.full(2, NULL_POSITION if span is not None else UNKNOWN, np.int32)
            if span and first <= span[0] and span[1] < first + len(window):
                labels[:] = np.array(span) - first + second
            row_offsets = np.zeros((length, 2), np.int32)
            row_offsets[second : second + len(window)] = offsets[first : first + room]
            row_ids = np.concatenate([prefix, window, [vocabulary.sep]]).astype(np.int32)
            rows.append(Row(row_ids, second, labels, {"places": row_offsets}))
        return rows

    def _token_span(
        self, example: Example, offsets: np.ndarray
    ) -> tuple[int, int] | tuple[()] | None:
        """Return the tokens of the first answer; () for no answer, None for an unknown one."""
        answers = _answers(example)
        if answers is None:
            return None
        if not answers and not self.unanswerable:
            raise UserError(
                f"{example.place}: the question has no answer; remove it, or set task.unanswerable"
            )
        spans = []
        for text, start in answers:
            end = start + len(text)
            if not text or example.pair[start:end] != text:
                raise UserError(
                    f"{example.place}: the answer {text!r:.60} is not at {start}, where the text "
                    f"has {example.pair[max(start, 0) : end]!r:.60}; correct answer_start"
                )
            inside = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < end))
            if not (text.strip() and len(inside)):
                raise UserError(
                    f"{example.place}: the answer {text!r:.60} at {start} has no token of the "
                    "text, so it would be learned as no answer; give an answer with words, or "
                    "remove it"
                )
            spans.append((int(inside[0]), int(inside[-1])))
        return spans[0] if spans else ()


def _scoring_record(example: Example) -> dict[str, Any]:
    _check_field(example, "text", example.pair)
    return {"text": example.pair, "answers": [text for text, _ in _answers(example) or []]}


def _check_field(example: Example, kind: str, value: Any) -> None:
    if not (isinstance(value, str) and value.strip()):
        side = "column" if kind == "question" else "pair"
        raise UserError(
            f"{example.place}: expected a {kind} but found {value!r:.60}; name its column in "
            f"source.{side}, or give predict --{side}"
        )
    check_text(value, example.place)


def _answer_start(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _answers(example: Example) -> list[tuple[str, int]] | None:
    """Return the texts and starts of an example's answers; [] for no answer, None if unknown."""
    answers = example.label
    if answers is None:
        return None
    try:
        if isinstance(answers, dict):  # the layout of `datasets`
            return [
                (str(text), _answer_start(start))
                for text, start in zip(answers["text"], answers["answer_start"], strict=True)
            ]
        if isinstance(answers, list):
            return [
                (str(answer["text"]), _answer_start(answer["answer_start"])) for answer in answers
            ]
        raise TypeError
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"{example.place}: expected answers but found {answers!r:.60}; write a list of text "
            "and answer_start, and set source.label to its column"
        ) from None
