"""Preprocessing of texts for a model's head, and postprocessing of logits to answers in JSON."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from flaxdistill.data.labelled_rows import Row
from flaxdistill.data.readers.records import check_text
from flaxdistill.data.sources import Example
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.models.config import EncoderConfig
from flaxdistill.tasks.answer_spans import Span, Window, null_score_difference
from flaxdistill.tasks.question_answering import QuestionAnswering
from flaxdistill.tasks.text_classification import Classification
from flaxdistill.tasks.token_classification import NO_PREDICTION, TokenClassification
from flaxdistill.tasks.word_splitting import word_offsets
from flaxdistill.train.predict import softmax

Answer = dict[str, Any]


class Request(NamedTuple):
    """One text, ready for the model."""

    rows: list[Row]
    """Its tokens, as one or more rows."""

    postprocess: Callable[[list[np.ndarray]], Any]
    """Convert the logits [N, C] of each row to the answer."""


Preprocess = Callable[[list[Example]], list[Request]]


def make_preprocess(
    config: EncoderConfig,
    vocabulary: Vocabulary,
    length: int,
    *,
    top: int = 5,
    unanswerable: bool = False,
    null_threshold: float = 0.0,
) -> Preprocess:
    """Return ``preprocess(examples)``, which makes one request per example for the head of a model.

    Rows have at most ``length`` tokens. ``top`` limits the classes, spans and tokens of an answer.
    With ``unanswerable`` (SQuAD 2) the answer is empty if the score of [CLS] exceeds the best
    span's by more than ``null_threshold``. ``preprocess`` raises UserError, which names the
    example, for a value that is not text, for a question without a context, and for a masked-LM's
    text without a mask.
    """
    if config.head == "sequence":
        return lambda examples: _classify(examples, config, vocabulary, length, top)
    if config.head == "tokens":
        return lambda examples: _tag(examples, config, vocabulary, length)
    if config.head == "span":
        task = QuestionAnswering(
            stride=min(128, length // 4),
            longest_question=min(64, length // 4),
            n_best=max(top, QuestionAnswering.n_best),
            unanswerable=unanswerable,
            null_threshold=null_threshold,
        )
        return lambda examples: _extract(examples, task, vocabulary, length, top)
    if config.head == "mlm":
        return lambda examples: [_fill(example, vocabulary, length) for example in examples]
    raise UserError(
        "the model has no head to predict with; give a masked-LM, or a model trained on a task"
    )


def _classify(
    examples: list[Example], config: EncoderConfig, vocabulary: Vocabulary, length: int, top: int
) -> list[Request]:
    """Predict a label for each text, or a number if the head has a single output."""
    labels = config.labels

    def postprocess(logits: list[np.ndarray]) -> Answer:
        (row,) = logits[0]
        if len(labels) == 1:
            return {"score": float(row[0])}
        probabilities = softmax(row)
        order = np.argsort(-probabilities, kind="stable")
        scores = {labels[n]: float(probabilities[n]) for n in order[:top]}
        best = order[0]
        return {"label": labels[best], "score": float(probabilities[best]), "scores": scores}

    rows = Classification().row_builder().rows(examples, list(labels), vocabulary, length)
    return [Request(text_rows, postprocess) for text_rows in rows]


def _tag(
    examples: list[Example], config: EncoderConfig, vocabulary: Vocabulary, length: int
) -> list[Request]:
    """Predict a label for each word of a text; BIO tags are joined to entities.

    A list of words is treated as a text with blanks between them.
    """
    bio = all(label == "O" or label[:2] in ("B-", "I-") for label in config.labels)

    def request(sentence: str | list[str], rows: list[Row]) -> Request:
        if isinstance(sentence, str):
            text, places = sentence, word_offsets(sentence, vocabulary)
        else:
            text = " ".join(sentence)
            ends = itertools.accumulate(len(word) + 1 for word in sentence)
            places = [
                (end - len(word) - 1, end - 1) for word, end in zip(sentence, ends, strict=True)
            ]

        def postprocess(logits: list[np.ndarray]) -> Answer:
            first_tokens = [
                row_logits[row.labels[: len(row_logits)] != NO_PREDICTION]
                for row_logits, row in zip(logits, rows, strict=True)
            ]
            probabilities = np.zeros((0, 1))
            if first_tokens:
                probabilities = softmax(np.concatenate(first_tokens))
            tags = [config.labels[n] for n in probabilities.argmax(-1)]
            words = [
                {"label": tag, "text": text[a:b], "start": a, "end": b, "score": float(row.max())}
                for tag, (a, b), row in zip(tags, places, probabilities, strict=True)
            ]
            return {"entities": join_entities(words, text)} if bio else {"words": words}

        return Request(rows, postprocess)

    rows = TokenClassification().row_builder().rows(examples, [], vocabulary, length)
    return [
        request(example.text, text_rows) for example, text_rows in zip(examples, rows, strict=True)
    ]


def join_entities(words: list[Answer], text: str) -> list[Answer]:
    """Join words with BIO tags to entities; the score of an entity is the mean over its words.

    An entity starts at every B tag, and at an I tag that does not follow a tag of the same type.
    """
    entities: list[list[Answer]] = []
    previous = "O"
    for word in words:
        tag = word["label"]
        if tag != "O" and tag[:2] == "I-" and previous[2:] == tag[2:]:
            entities[-1].append(word)
        elif tag != "O":
            entities.append([word])
        previous = tag
    return [
        {
            "label": entity[0]["label"][2:],
            "text": text[entity[0]["start"] : entity[-1]["end"]],
            "start": entity[0]["start"],
            "end": entity[-1]["end"],
            "score": float(np.mean([word["score"] for word in entity])),
        }
        for entity in entities
    ]


def _extract(
    examples: list[Example], task: QuestionAnswering, vocabulary: Vocabulary, length: int, top: int
) -> list[Request]:
    """Extract answer spans from the second text of each example.

    Scores are probabilities among the n best spans and no answer, as in BERT's own script.
    """

    def request(example: Example, rows: list[Row]) -> Request:
        def postprocess(logits: list[np.ndarray]) -> Answer:
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
            probabilities = softmax(np.array([span.score for span in spans]))
            answers = [
                {"answer": example.pair[a:b], "start": a, "end": b, "score": float(probability)}
                for (a, b, _), probability in zip(spans, probabilities, strict=True)
            ]
            best = next(answer for answer in answers if bool(answer["end"]) != no_answer)
            return best | {"answers": answers[:top]}

        return Request(rows, postprocess)

    rows = task.row_builder().rows(examples, [], vocabulary, length)
    return [request(example, windows) for example, windows in zip(examples, rows, strict=True)]


def _fill(example: Example, vocabulary: Vocabulary, length: int) -> Request:
    """Predict the token at every mask, with one row per mask.

    If the text is longer than a row, the row holds the tokens around its mask.
    """
    check_text(example.text, example.place)
    mask = vocabulary.tokenizer.id_to_token(vocabulary.mask)
    parts = example.text.split(mask)
    if len(parts) < 2:
        raise UserError(
            f"{example.place}: there is no {mask} in {example.text!r:.60}; write it in place of "
            "the word to predict"
        )
    ids: list[int] = []
    masks = []
    for n, part in enumerate(vocabulary.encode(parts)):
        if n:
            masks.append(len(ids))
            ids.append(vocabulary.mask)
        ids += part.tolist()
    rows = []
    for position in masks:
        first = max(0, min(position - (length - 2) // 2, len(ids) - (length - 2)))
        window = ids[first : first + length - 2]
        tokens = np.array([vocabulary.cls, *window, vocabulary.sep], np.int32)
        label_positions = np.array([position - first + 1], np.int32)
        rows.append(Row(tokens, 0, np.array([-1], np.int32), {"label_positions": label_positions}))

    def postprocess(predictions: list[np.ndarray]) -> Answer:
        """Convert the likeliest tokens of each mask, (token id, log probability) [1, top, 2]."""
        return {
            "masks": [
                [
                    {
                        "word": vocabulary.tokenizer.id_to_token(int(token_id)),
                        "score": float(np.exp(log_probability)),
                    }
                    for token_id, log_probability in tokens
                ]
                for (tokens,) in predictions
            ]
        }

    return Request(rows, postprocess)
