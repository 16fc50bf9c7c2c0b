"""Answers that stand in a text: SQuAD 1.1 and 2, by sliding windows and the n best spans."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from flaxdistill import metrics
from flaxdistill.data.labelled_rows import Row, RowBuilder, check_text
from flaxdistill.data.sources import Example
from flaxdistill.data.store import Blocks, Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.metrics import question_answering

NOWHERE, UNKNOWN = 0, -2
"""The place of an answer that is not in a window, [CLS], and of one that nobody has given."""

Window = tuple[np.ndarray, slice, np.ndarray]
"""Logits [2, T] of a row, which of its tokens are the text's, and the places [T, 2] of all of them in it, in characters."""


class Span(NamedTuple):
    """A part of a text, in characters, and the sum of the logits of its two ends."""

    start: int
    end: int
    score: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Labelled):
    """Find the answer to a question in a text, by where it begins and ends (Devlin et al., 2019).

    Sources name the question (``column``), the text (``pair``) and the answers (``label``), as in ``datasets``' squad or in
    files of SQuAD's own layout, where these are question, context and answers. A text too long for a row is cut into
    windows that share ``stride`` tokens. Of the ``n_best`` beginnings and ends of each window the likeliest pair of at
    most ``longest`` tokens is the answer. ``unanswerable``: a question may have none (SQuAD 2), which is the answer where
    the score of [CLS], the sum of its two logits, is more than ``null_threshold`` above the likeliest span's (BERT's own
    ``null_score_diff_threshold``).
    """

    head = "span"
    known_labels = ()

    stride: int = 128
    longest_question: int = 64
    n_best: int = 20
    longest: int = 30
    unanswerable: bool = False
    null_threshold: float = 0.0
    metric: Literal["f1", "exact"] = "f1"  # by which evaluations are ranked

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
                f"task.null_threshold is {self.null_threshold}; it is a difference of scores, such as 0"
            )
        if self.null_threshold and not self.unanswerable:
            raise UserError(
                f"task.null_threshold is {self.null_threshold}, but without task.unanswerable no question is left without "
                "an answer; set task.unanswerable too"
            )

    def row_builder(self) -> RowBuilder:
        def rows(
            examples: list[Example], labels: list[str], vocabulary: Vocabulary, length: int
        ) -> Iterable[list[Row]]:
            for example in examples:
                _text(example, "question", example.text)
                _text(example, "text", example.pair)
            questions = vocabulary.encode([example.text for example in examples])
            contexts = vocabulary.encode_places([example.pair for example in examples])
            for example, question, (ids, places) in zip(examples, questions, contexts, strict=True):
                yield self._windows(example, question, ids, places, vocabulary, length)

        def keep(example: Example) -> Any:
            _text(example, "text", example.pair)
            return {"text": example.pair, "answers": [text for text, _ in _answers(example) or []]}

        meaning = {"task": "span", "stride": self.stride, "longest_question": self.longest_question}
        return RowBuilder(
            meaning | {"unanswerable": self.unanswerable},
            lambda examples, declared: [],
            rows,
            keep,
            "pair",
        )

    def _windows(
        self,
        example: Example,
        question: np.ndarray,
        ids: np.ndarray,
        places: np.ndarray,
        vocabulary: Vocabulary,
        length: int,
    ) -> list[Row]:
        question = question[: self.longest_question]
        room = length - len(question) - 3
        if room <= self.stride:
            raise UserError(
                f"{example.place}: a question of {len(question)} tokens leaves {room} of corpus.max_length {length} for the "
                f"text, of which windows share {self.stride}; raise corpus.max_length or lower task.stride"
            )
        span = self._span(example, places)
        begin = np.array([vocabulary.cls, *question, vocabulary.sep])
        made = []
        for first in range(0, max(len(ids) - self.stride, 1), room - self.stride):
            window, second = ids[first : first + room], len(begin)
            labels = np.full(2, NOWHERE if span is not None else UNKNOWN, np.int32)
            if span and first <= span[0] and span[1] < first + len(window):
                labels[:] = np.array(span) - first + second
            beside = np.zeros((length, 2), np.int32)
            beside[second : second + len(window)] = places[first : first + room]
            row = np.concatenate([begin, window, [vocabulary.sep]]).astype(np.int32)
            made.append(Row(row, second, labels, {"places": beside}))
        return made

    def _span(self, example: Example, places: np.ndarray) -> tuple[int, int] | tuple[()] | None:
        """Find the tokens of the first answer; () where there is none, None where nobody has given one."""
        answers = _answers(example)
        if answers is None:
            return None
        if not answers and not self.unanswerable:
            raise UserError(
                f"{example.place}: no answer is given; leave the question out, or set task.unanswerable"
            )
        spans = []
        for text, start in answers:
            if not text or example.pair[start : start + len(text)] != text:
                found = example.pair[max(start, 0) : start + len(text)]
                raise UserError(
                    f"{example.place}: the answer {text!r:.60} does not stand at {start}, where the text has {found!r:.60}; "
                    "mend answer_start"
                )
            inside = np.flatnonzero((places[:, 1] > start) & (places[:, 0] < start + len(text)))
            if not (text.strip() and len(inside)):
                raise UserError(
                    f"{example.place}: the answer {text!r:.60} at {start} meets no token of the text, so that it would be "
                    "learnt as no answer; give its words, or leave it out"
                )
            spans.append((int(inside[0]), int(inside[-1])))
        return spans[0] if spans else ()

    def score(
        self, logits: list[np.ndarray], labels: list[np.ndarray], store: Store
    ) -> metrics.Score:
        examples = store.examples()
        found = {str(n): one for n, one in self._found(logits, store.held_out, examples).items()}
        right = {str(n): example["answers"] for n, example in enumerate(examples)}
        predicted = {n: self._said(*one) for n, one in found.items()}
        score = question_answering.spans(predicted, right, unanswerable=self.unanswerable)
        if not self.unanswerable:
            return score
        return score._replace(
            metrics=score.metrics | question_answering.best_threshold(found, right)
        )

    def answers(
        self, logits: list[np.ndarray], rows: Blocks, examples: list[dict[str, Any]]
    ) -> dict[int, str]:
        """Choose each example's answer from the logits [2, T] of its windows: text by number of the example."""
        return {n: self._said(*one) for n, one in self._found(logits, rows, examples).items()}

    def _said(self, text: str, gap: float) -> str:
        return "" if self.unanswerable and gap > self.null_threshold else text

    def _found(
        self, logits: list[np.ndarray], rows: Blocks, examples: list[dict[str, Any]]
    ) -> dict[int, tuple[str, float]]:
        """Find each example's likeliest span, and how far the score of no answer is above it."""
        windows: dict[int, list[Window]] = defaultdict(list)
        for row, said in enumerate(logits):
            example, second = (int(rows.beside[name][row]) for name in ("example", "second"))
            last = int(np.count_nonzero(rows.segments[row])) - 1  # the closing [SEP]
            windows[example].append((said, slice(second, last), rows.beside["places"][row]))
        found = {}
        for n, those in windows.items():
            text = examples[n]["text"]
            spans, nothing = self.spans(those, text, 1)
            found[n] = (
                text[spans[0].start : spans[0].end] if spans else "",
                self.gap(spans, nothing),
            )
        return found

    def gap(self, spans: list[Span], nothing: float) -> float:
        """Tell how far the score of no answer is above the likeliest span's; inf where there is no span."""
        return nothing - spans[0].score if spans else math.inf

    def spans(self, windows: Iterable[Window], text: str, number: int) -> tuple[list[Span], float]:
        """Find the likeliest spans of different words in a text, best first, and the score of no answer.

        Follows ``write_predictions`` of BERT's run_squad.py (Devlin et al., 2019): a span begins only in the window where
        that token has most context, and no answer scores what [CLS] does in the window where that is least. There the n best
        are those of a whole row, question and all, here those of its text.
        """
        nothing, scores, places = math.inf, [np.zeros(0)], [np.zeros((0, 2), np.int64)]
        windows = list(windows)
        owned = most_context([inside.stop - inside.start for _, inside, _ in windows], self.stride)
        for ((start, end), inside, where), own in zip(windows, owned, strict=True):
            nothing = min(nothing, float(start[0] + end[0]))
            start, end, where = start[inside], end[inside], where[inside]
            starts, ends = (
                np.argsort(-side, kind="stable")[: self.n_best] for side in (start, end)
            )
            fits = (ends[None] >= starts[:, None]) & (ends[None] < starts[:, None] + self.longest)
            fits &= own[starts][:, None]
            first, last = (
                side[at] for side, at in zip((starts, ends), np.nonzero(fits), strict=True)
            )
            scores.append(start[first] + end[last])
            places.append(np.stack([where[first, 0], where[last, 1]], 1))
        score, place = np.concatenate(scores), np.concatenate(places)
        found: dict[str, Span] = {}
        for n in np.argsort(-score, kind="stable"):
            a, b = (int(side) for side in place[n])
            found.setdefault(text[a:b], Span(a, b, float(score[n])))
            if len(found) == number:
                break
        return list(found.values()), nothing


def most_context(sizes: list[int], stride: int) -> list[np.ndarray]:
    """Tell of every window's tokens, bool [n], whether none that shares them has more of the text on both sides of them.

    Follows ``_check_is_max_context`` of BERT's run_squad.py, for which a hundred tokens more in a window are worth one more
    of context. Windows stand in their order, each of ``sizes`` tokens, all but the last of as many.
    """
    step = sizes[0] - stride
    parts = [slice(n * step, n * step + size) for n, size in enumerate(sizes)]
    most, owner = np.full(parts[-1].stop, -1.0), np.zeros(parts[-1].stop, np.int64)
    for n, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        left = np.arange(size)
        context = np.minimum(left, left[::-1]) + 0.01 * size
        owner[part] = np.where(context > most[part], n, owner[part])
        most[part] = np.maximum(most[part], context)
    return [owner[part] == n for n, part in enumerate(parts)]


def _text(example: Example, what: str, value: Any) -> None:
    if not (isinstance(value, str) and value.strip()):
        side = "column" if what == "question" else "pair"
        raise UserError(
            f"{example.place}: expected a {what} but found {value!r:.60}; name its column in source.{side}, or "
            f"give predict --{side}"
        )
    check_text(value, example.place)


def _place(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def _answers(example: Example) -> list[tuple[str, int]] | None:
    """Give texts and places of an example's answers; None where it has no answers at all, not even that there is none."""
    given = example.label
    if given is None:
        return None
    try:
        if isinstance(given, dict):  # as `datasets` has them
            return [
                (str(t), _place(s))
                for t, s in zip(given["text"], given["answer_start"], strict=True)
            ]
        if isinstance(given, list):
            return [(str(answer["text"]), _place(answer["answer_start"])) for answer in given]
        raise TypeError
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"{example.place}: {given!r:.60} are no answers; write a list of text and answer_start, and name its column in "
            "source.label"
        ) from None
