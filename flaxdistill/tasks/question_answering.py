"""Extractive question answering: SQuAD 1.1 and 2.0, with sliding windows over the text."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from flaxdistill import metrics
from flaxdistill.data.labelled_rows import Row, RowBuilder
from flaxdistill.data.sources import Example
from flaxdistill.data.store import Blocks, Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.models.architecture import Architecture
from flaxdistill.models.head import AnswerOptions, Head, Request, SpanClassifier
from flaxdistill.pytrees import Feature, Outputs
from flaxdistill.tasks.answer_fields import check_field, read_answers, scoring_record
from flaxdistill.tasks.answer_spans import Span, Window, best_spans, null_score_difference
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.metrics.question_answering import best_threshold, squad_metrics

NULL_POSITION, UNKNOWN = 0, -2
"""Labels of a window without the answer (the position of [CLS]) and of an unknown answer."""


class SpanHead(Head):
    """Logits of the start and of the end of an answer, over the tokens of a row."""

    name = "span"
    feature = Feature.LOGITS
    transformers_class = "ForQuestionAnswering"
    pipeline = "question-answering"
    example = '"A question?" --pair "A text."'

    def module(self, architecture: Architecture, dtype: Any) -> Any:
        c = architecture
        return SpanClassifier(2, c.hidden_size, c.initializer_range, pools=False, name="classifier")

    def num_predictions(self, length: int) -> int:
        return 2

    def transformers_outputs(self, outputs: Outputs) -> dict[str, Any]:
        logits = self.predictions(outputs)
        return {"start_logits": logits[:, 0], "end_logits": logits[:, 1]}

    def requests(
        self,
        examples: Sequence[Example],
        vocabulary: Vocabulary,
        length: int,
        options: AnswerOptions,
    ) -> list[Request]:
        task = QuestionAnswering(
            stride=min(128, length // 4),
            longest_question=min(64, length // 4),
            n_best=max(options.top, QuestionAnswering.n_best),
            unanswerable=options.unanswerable,
            null_threshold=options.null_threshold,
        )
        rows = task.row_builder().rows(list(examples), [], vocabulary, length)
        return [
            _request(example, windows, task, options.top)
            for example, windows in zip(examples, rows, strict=True)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Labelled):
    """Find the start and the end of the answer to a question in a text (Devlin et al., 2019).

    Sources name the question (``column``), the text (``pair``) and the answers (``label``), as in
    squad of ``datasets``, or are files in SQuAD's layout, where these columns are question,
    context and answers. A text that is too long for a row is split into overlapping windows.
    """

    head = SpanHead
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
            settings, lambda examples, declared: [], self._rows, scoring_record, hold_out_by="pair"
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
            check_field(example, "question", example.text)
            check_field(example, "text", example.pair)
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
        room = length - len(question) - vocabulary.special_count(pair=True)
        if room <= self.stride:
            raise UserError(
                f"{example.place}: a question of {len(question)} tokens leaves {room} of "
                f"corpus.max_length {length} for the text, but windows share {self.stride}; raise "
                "corpus.max_length or lower task.stride"
            )
        span = self._token_span(example, offsets)
        _, second = vocabulary.join(question, ids[:0])
        rows = []
        for first in range(0, max(len(ids) - self.stride, 1), room - self.stride):
            window = ids[first : first + room]
            labels = np.full(2, NULL_POSITION if span is not None else UNKNOWN, np.int32)
            if span and first <= span[0] and span[1] < first + len(window):
                labels[:] = np.array(span) - first + second
            row_offsets = np.zeros((length, 2), np.int32)
            row_offsets[second : second + len(window)] = offsets[first : first + room]
            row_ids, _ = vocabulary.join(question, window)
            rows.append(Row(row_ids, second, labels, {"places": row_offsets}))
        return rows

    def _token_span(
        self, example: Example, offsets: np.ndarray
    ) -> tuple[int, int] | tuple[()] | None:
        """Return the tokens of the first answer; () for no answer, None for an unknown one."""
        answers = read_answers(example)
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


def _request(example: Example, rows: list[Row], task: QuestionAnswering, top: int) -> Request:
    """Extract answer spans from the second text of an example.

    Scores are probabilities among the n best spans and no answer, as in BERT's own script.
    """

    def postprocess(logits: list[np.ndarray]) -> dict[str, Any]:
        windows = [
            # Up to the closing [SEP].
            Window(row_logits, slice(row.second, len(row.ids) - 1), row.extra["places"])
            for row_logits, row in zip(logits, rows, strict=True)
        ]
        spans, null_score = task.spans(windows, example.pair, task.n_best)
        difference = null_score_difference(spans, null_score)
        no_answer = task.unanswerable and difference > task.null_threshold
        if task.unanswerable:
            spans = sorted([*spans, Span(0, 0, null_score)], key=lambda span: -span.score)
            spans = [span for n, span in enumerate(spans) if n < task.n_best or not span.end]
        if not spans:
            return {"answer": "", "start": 0, "end": 0, "score": 0.0, "answers": []}
        probabilities = metrics.softmax(np.array([span.score for span in spans]))
        answers = [
            {"answer": example.pair[a:b], "start": a, "end": b, "score": float(probability)}
            for (a, b, _), probability in zip(spans, probabilities, strict=True)
        ]
        best = next(answer for answer in answers if bool(answer["end"]) != no_answer)
        return best | {"answers": answers[:top]}

    return Request(rows, postprocess)
