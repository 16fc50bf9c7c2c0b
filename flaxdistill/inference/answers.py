"""What a text asks of a model's head, and the answer that its logits give, ready for JSON."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from flaxdistill.data.labelled_rows import Row, check_text
from flaxdistill.data.sources import Example
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.models.config import EncoderConfig
from flaxdistill.tasks.question_answering import QuestionAnswering, Span
from flaxdistill.tasks.text_classification import Classification
from flaxdistill.tasks.token_classification import NOT_ASKED, TokenClassification
from flaxdistill.tasks.word_splitting import word_places

Answer = dict[str, Any]


class Question(NamedTuple):
    """One text as rows of tokens, and how the logits [N, C] of these rows become its answer."""

    rows: list[Row]
    answer: Callable[[list[np.ndarray]], Any]


Asking = Callable[[list[Example]], list[Question]]


def make_asking(
    config: EncoderConfig,
    vocabulary: Vocabulary,
    length: int,
    *,
    top: int = 5,
    unanswerable: bool = False,
    null_threshold: float = 0.0,
) -> Asking:
    """Make ``asking(examples)`` for a model's head: classes or a number, entities, spans, or the words of masks.

    Rows have at most ``length`` tokens. ``top`` bounds the classes, spans and words that are told; of a model for SQuAD 2
    ``unanswerable`` lets [CLS] answer that there is none, where its score is more than ``null_threshold`` above the best
    span's. The function raises UserError naming the place of what is no text, of a question without its text, and of a text
    without a mask.
    """
    if config.head == "sequence":
        return lambda examples: _classes(examples, config, vocabulary, length, top)
    if config.head == "tokens":
        return lambda examples: _entities(examples, config, vocabulary, length)
    if config.head == "span":
        task = QuestionAnswering(
            stride=min(128, length // 4),
            longest_question=min(64, length // 4),
            n_best=max(top, QuestionAnswering.n_best),
            unanswerable=unanswerable,
            null_threshold=null_threshold,
        )
        return lambda examples: _spans(examples, task, vocabulary, length, top)
    if config.head == "mlm":
        return lambda examples: [_words(example, vocabulary, length) for example in examples]
    raise UserError(
        "the model has no head to answer with; give a masked-LM, or one that was trained on a task"
    )


def _classes(
    examples: list[Example], config: EncoderConfig, vocabulary: Vocabulary, length: int, top: int
) -> list[Question]:
    labels = config.labels

    def answer(logits: list[np.ndarray]) -> Answer:
        (row,) = logits[0]
        if len(labels) == 1:
            return {"score": float(row[0])}
        shares = _shares(row)
        order = np.argsort(-shares, kind="stable")
        scores = {labels[n]: float(shares[n]) for n in order[:top]}
        return {"label": labels[order[0]], "score": float(shares[order[0]]), "scores": scores}

    rows = Classification().row_builder().rows(examples, list(labels), vocabulary, length)
    return [Question(made, answer) for made in rows]


def _entities(
    examples: list[Example], config: EncoderConfig, vocabulary: Vocabulary, length: int
) -> list[Question]:
    """Ask about each word of a text, or of a list, as a text with blanks between them; tags of BIO become entities."""
    bio = all(label == "O" or label[:2] in ("B-", "I-") for label in config.labels)

    def question(sentence: str | list[str], made: list[Row]) -> Question:
        if isinstance(sentence, str):
            text, places = sentence, word_places(sentence, vocabulary)
        else:
            text = " ".join(sentence)
            ends = itertools.accumulate(len(word) + 1 for word in sentence)
            places = [
                (end - len(word) - 1, end - 1) for word, end in zip(sentence, ends, strict=True)
            ]

        def answer(logits: list[np.ndarray]) -> Answer:
            asked = [
                said[row.labels[: len(said)] != NOT_ASKED]
                for said, row in zip(logits, made, strict=True)
            ]
            shares = _shares(np.concatenate(asked)) if asked else np.zeros((0, 1))
            tags = [config.labels[n] for n in shares.argmax(-1)]
            words = [
                {"label": tag, "text": text[a:b], "start": a, "end": b, "score": float(row.max())}
                for tag, (a, b), row in zip(tags, places, shares, strict=True)
            ]
            return {"entities": joined(words, text)} if bio else {"words": words}

        return Question(made, answer)

    rows = TokenClassification().row_builder().rows(examples, [], vocabulary, length)
    return [question(example.text, made) for example, made in zip(examples, rows, strict=True)]


def joined(words: list[Answer], text: str) -> list[Answer]:
    """Join words to entities: B begins one, and so does I after anything but its own kind."""
    groups: list[list[Answer]] = []
    before = "O"
    for word in words:
        tag = word["label"]
        if tag != "O" and tag[:2] == "I-" and before[2:] == tag[2:]:
            groups[-1].append(word)
        elif tag != "O":
            groups.append([word])
        before = tag
    return [
        {
            "label": group[0]["label"][2:],
            "text": text[group[0]["start"] : group[-1]["end"]],
            "start": group[0]["start"],
            "end": group[-1]["end"],
            "score": float(np.mean([word["score"] for word in group])),
        }
        for group in groups
    ]


def _spans(
    examples: list[Example], task: QuestionAnswering, vocabulary: Vocabulary, length: int, top: int
) -> list[Question]:
    """Ask for spans; their scores are shares among the n best and no answer, as BERT's own script gives them."""

    def question(example: Example, made: list[Row]) -> Question:
        def answer(logits: list[np.ndarray]) -> Answer:
            windows = [
                (
                    said,
                    slice(row.second, len(row.ids) - 1),
                    row.beside["places"],
                )  # up to the closing [SEP]
                for said, row in zip(logits, made, strict=True)
            ]
            spans, nothing = task.spans(windows, example.pair, task.n_best)
            none = task.unanswerable and task.gap(spans, nothing) > task.null_threshold
            if task.unanswerable:
                spans = sorted([*spans, Span(0, 0, nothing)], key=lambda span: -span.score)
                spans = [span for n, span in enumerate(spans) if n < task.n_best or not span.end]
            if not spans:
                return {"answer": "", "start": 0, "end": 0, "score": 0.0, "answers": []}
            told = [
                {"answer": example.pair[a:b], "start": a, "end": b, "score": float(share)}
                for (a, b, _), share in zip(
                    spans, _shares(np.array([s.score for s in spans])), strict=True
                )
            ]
            best = next(one for one in told if bool(one["end"]) != none)
            return best | {"answers": told[:top]}

        return Question(made, answer)

    rows = task.row_builder().rows(examples, [], vocabulary, length)
    return [question(example, made) for example, made in zip(examples, rows, strict=True)]


def _words(example: Example, vocabulary: Vocabulary, length: int) -> Question:
    """Ask for the word at every mask, a row for each; of a text too long for a row it sees what stands around it."""
    check_text(example.text, example.place)
    mask = vocabulary.tokenizer.id_to_token(vocabulary.mask)
    parts = example.text.split(mask)
    if len(parts) < 2:
        raise UserError(
            f"{example.place}: there is no {mask} in {example.text!r:.60}; write it where a word is asked for"
        )
    ids: list[int] = []
    masks = []
    for n, part in enumerate(vocabulary.encode(parts)):
        if n:
            masks.append(len(ids))
            ids.append(vocabulary.mask)
        ids += part.tolist()
    made = []
    for at in masks:
        first = max(0, min(at - (length - 2) // 2, len(ids) - (length - 2)))
        window = ids[first : first + length - 2]
        row = np.array([vocabulary.cls, *window, vocabulary.sep], np.int32)
        made.append(Row(row, 0, np.array([at - first + 1], np.int32)))

    def answer(said: list[np.ndarray]) -> Answer:
        return {
            "masks": [
                [
                    {
                        "word": vocabulary.tokenizer.id_to_token(int(word)),
                        "score": float(np.exp(share)),
                    }
                    for word, share in row[0]
                ]
                for row in said
            ]
        }

    return Question(made, answer)


def _shares(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def examples_of(texts: Iterable[str], pair: str | Iterable[str] | None) -> Iterator[Example]:
    """Name texts by their number; ``pair`` is the second text of all, or of each; raises UserError for too many or few."""
    if pair is None or isinstance(pair, str):
        yield from (
            Example(f"text {n}", text, pair, paired=pair is not None)
            for n, text in enumerate(texts, 1)
        )
        return
    nothing = object()
    for n, (text, second) in enumerate(itertools.zip_longest(texts, pair, fillvalue=nothing), 1):
        if text is nothing or second is nothing:
            raise UserError(
                f"text {n} has no {'second text' if second is nothing else 'first text'}; give as many second texts as "
                "texts, or one for all"
            )
        yield Example(f"text {n}", text, second, paired=True)


def lines(file: BinaryIO, pair: str | None) -> Iterator[Example]:
    """Read a text from each line of UTF-8, and behind a tab its second text; raises UserError for other bytes."""
    for number, line in enumerate(file, 1):
        place = f"standard input, line {number}"
        try:
            text, tab, second = line.decode().rstrip("\r\n").partition("\t")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{place}: byte 0x{line[error.start]:02x} is not valid UTF-8; convert it to UTF-8"
            ) from None
        behind = second if tab else pair
        yield Example(place, text, behind, paired=behind is not None)
