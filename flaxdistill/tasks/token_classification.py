"""Classification of each word of a sentence: named entities, parts of speech."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from flaxdistill import metrics
from flaxdistill.data.labelled_rows import Row, RowBuilder
from flaxdistill.data.readers.conll import FirstLine
from flaxdistill.data.readers.records import check_text
from flaxdistill.data.sources import Example
from flaxdistill.data.store import Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.models.architecture import Architecture
from flaxdistill.models.head import AnswerOptions, Classifier, Head, Request, reorder_classifier
from flaxdistill.pytrees import Feature, Outputs, Params
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.entities import join_entities, to_bio
from flaxdistill.tasks.metrics.token_classification import entity_metrics, tag_metrics
from flaxdistill.tasks.word_splitting import word_offsets

NO_PREDICTION, UNKNOWN = -1, -2
"""Label of a token that does not start a word, and of a word whose tag is not known."""

PREFIXES = ("B-", "I-", "E-", "S-", "L-", "U-")
"""What the tag of an entity begins with, in BIO, IOB1, IOBES or BILOU."""


class TokensHead(Head):
    """Logits of the classes of each token."""

    name = "tokens"
    feature = Feature.LOGITS
    transformers_class = "ForTokenClassification"
    has_labels = True
    pipeline = "token-classification"
    per_token = True

    def module(self, architecture: Architecture, dtype: Any) -> Any:
        c = architecture
        return Classifier(
            len(self.labels), c.hidden_size, c.initializer_range, pools=False, name="classifier"
        )

    def num_predictions(self, length: int) -> int:
        return length

    def transformers_outputs(self, outputs: Outputs) -> dict[str, Any]:
        return {"logits": self.predictions(outputs)}

    def requests(
        self,
        examples: Sequence[Example],
        vocabulary: Vocabulary,
        length: int,
        options: AnswerOptions,
    ) -> list[Request]:
        rows = TokenClassification().row_builder().rows(list(examples), [], vocabulary, length)
        return [
            _request(example.text, text_rows, self.labels, vocabulary)
            for example, text_rows in zip(examples, rows, strict=True)
        ]

    def reorder(self, params: Params, labels: tuple[str, ...]) -> Params:
        return reorder_classifier(params, self.labels, labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification(Labelled):
    """Predict a tag for each word, at its first token (Devlin et al., 2019).

    Sources hold a list of words and a list of tags, or CoNLL text: a word and its tag per line,
    separated by spaces or tabs, the same number of fields on every line, and a blank line between
    sentences (``column`` 0, ``label`` -1). Rows without tags train on the teacher's outputs only;
    they may be plain text, which is split into words by ``word_splitting``. A sentence that is too
    long for a row continues in the next row.
    """

    head = TokensHead

    scheme: Literal["bio", "plain"] = "bio"
    """bio computes the F1 of whole entities, and converts tags of IOB1, IOBES and BILOU; plain
    computes the accuracy of single tags."""
    labels: tuple[str, ...] = ()
    """Tags in the order of the logits; empty for all tags of the training rows, sorted, O first."""

    @property
    def metric(self) -> str:
        return "f1" if self.scheme == "bio" else "accuracy"

    def __post_init__(self):
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise UserError(
                f"task.labels is {', '.join(self.labels)}; name two or more tags, each once"
            )

    def row_builder(self) -> RowBuilder:
        settings = {"task": "tags", "scheme": self.scheme, "labels": list(self.labels)}
        return RowBuilder(settings, self._label_names, self._rows, note=self._note)

    def score(
        self, logits: list[np.ndarray], labels: list[np.ndarray], store: Store
    ) -> metrics.Score:
        # Join the rows of a sentence again: an entity may span two rows.
        predicted: dict[int, list[int]] = {}
        references: dict[int, list[int]] = {}
        examples = store.held_out.columns["example"].tolist()
        for example, row_logits, row_labels in zip(examples, logits, labels, strict=True):
            is_word = row_labels >= 0
            predicted.setdefault(example, []).extend(row_logits.argmax(-1)[is_word])
            references.setdefault(example, []).extend(row_labels[is_word])
        names = store.labels
        if self.scheme == "plain":
            predicted_tags, reference_tags = (
                [np.array(tags, int) for tags in side.values()] for side in (predicted, references)
            )
            return tag_metrics(predicted_tags, reference_tags, len(names), names)
        return entity_metrics(
            *(
                [[names[n] for n in tags] for tags in side.values()]
                for side in (predicted, references)
            )
        )

    def _label_names(self, examples: Iterator[Example], declared: tuple[str, ...]) -> list[str]:
        tags = {tag for example in examples for tag in self._tags(example, _words(example))}
        if self.labels or (declared and tags <= set(declared)):
            return list(self.labels or declared)
        if len(tags) < 2:
            raise UserError(
                f"the training rows hold the tag {', '.join(sorted(tags)) or 'none'}; there is "
                "nothing to choose between: set source.label to the column of the tags"
            )
        return sorted(tags, key=lambda tag: (tag != "O", tag))

    def _rows(
        self, examples: list[Example], labels: list[str], vocabulary: Vocabulary, length: int
    ) -> Iterable[list[Row]]:
        numbers = {name: number for number, name in enumerate(labels)}
        sentences = [
            _words(example)
            if isinstance(example.text, list) or example.label is not None
            else _split_text(example, vocabulary)
            for example in examples
        ]
        encoded = iter(vocabulary.encode([word for words in sentences for word in words]))
        for example, words in zip(examples, sentences, strict=True):
            tags = self._tags(example, words)
            rows: list[Row] = []
            ids: list[int] = []
            token_labels: list[int] = []
            for n in range(len(words)):
                # A word without tokens in the vocabulary still needs a prediction.
                tokens = next(encoded)[: length - 2]
                tokens = tokens if len(tokens) else np.array([vocabulary.unk], np.int32)
                label = numbers.get(tags[n], UNKNOWN) if tags else UNKNOWN
                if tags and label == UNKNOWN:
                    raise UserError(
                        f"{_word_place(example, n)}: the tag {tags[n]!r} is not one of "
                        f"{', '.join(labels)}; correct it, or list all tags in task.labels"
                    )
                if len(ids) + len(tokens) > length - 2:
                    rows.append(_row(ids, token_labels, vocabulary, length))
                    ids, token_labels = [], []
                ids += tokens.tolist()
                token_labels += [label] + [NO_PREDICTION] * (len(tokens) - 1)
            yield [*rows, _row(ids, token_labels, vocabulary, length)] if words else []

    def _tags(self, example: Example, words: list[str]) -> list[str]:
        """Return the tags of a sentence, [] if it has none; raise UserError if they are invalid."""
        if example.label is None:
            return []
        tags = example.label
        if isinstance(tags, list) and any(isinstance(tag, int) for tag in tags):
            raise UserError(
                f"{example.place}: the tags {tags!r:.80} are numbers; write their names, such as "
                "B-PER"
            )
        if not (isinstance(tags, list) and all(isinstance(tag, str) and tag for tag in tags)):
            raise UserError(
                f"{example.place}: expected a list of tags but found {tags!r:.80}; set "
                "source.label to the column of the tags"
            )
        check_text(" ".join(tags), example.place)
        if len(tags) != len(words):
            raise UserError(
                f"{example.place}: {len(words)} words and {len(tags)} tags; give every word one tag"
            )
        if self.scheme == "bio":
            _check_prefixes(example, tags)
            return to_bio(tags)
        return tags

    def _note(self, examples: Iterator[Example]) -> str:
        if self.scheme == "plain":
            return ""
        total = converted = 0
        for example in examples:
            total += 1
            converted += example.label != self._tags(example, _words(example))
        if not converted:
            return ""
        return (
            f"{converted:,} of {total:,} sentences have tags of IOB1, IOBES or BILOU, which are "
            "converted to BIO"
        )


def _check_prefixes(example: Example, tags: list[str]) -> None:
    for n, tag in enumerate(tags):
        if tag != "O" and not (tag[:2] in PREFIXES and tag[2:]):
            raise UserError(
                f"{_word_place(example, n)}: the tag {tag!r} is neither O nor one of "
                f"{', '.join(PREFIXES)} with a type; correct it, or set task.scheme to plain"
            )


def _split_text(example: Example, vocabulary: Vocabulary) -> list[str]:
    check_text(example.text, example.place)
    return [example.text[start:end] for start, end in word_offsets(example.text, vocabulary)]


def _word_place(example: Example, n: int) -> str:
    line = example.place.of(n) if isinstance(example.place, FirstLine) else example.place
    return f"{line}, word {n + 1} {example.text[n]!r}"


def _words(example: Example) -> list[str]:
    words = example.text
    if words == []:
        raise UserError(f"{example.place}: the sentence has no words; remove it")
    if not (
        isinstance(words, list) and words and all(isinstance(word, str) and word for word in words)
    ):
        raise UserError(
            f"{example.place}: expected a list of words but found {words!r:.80}; set source.column "
            "to the column of the words"
        )
    check_text(" ".join(words), example.place)
    return words


def _row(ids: list[int], token_labels: list[int], vocabulary: Vocabulary, length: int) -> Row:
    labels = np.full(length, NO_PREDICTION, np.int16)
    labels[1 : len(token_labels) + 1] = token_labels
    return Row(np.array([vocabulary.cls, *ids, vocabulary.sep], np.int32), 0, labels)


def _request(
    sentence: str | list[str], rows: list[Row], labels: tuple[str, ...], vocabulary: Vocabulary
) -> Request:
    """Predict a label for each word of a text; BIO tags are joined to entities.

    A list of words is treated as a text with blanks between them.
    """
    bio = all(label == "O" or label[:2] in ("B-", "I-") for label in labels)
    if isinstance(sentence, str):
        text, places = sentence, word_offsets(sentence, vocabulary)
    else:
        text = " ".join(sentence)
        ends = itertools.accumulate(len(word) + 1 for word in sentence)
        places = [(end - len(word) - 1, end - 1) for word, end in zip(sentence, ends, strict=True)]

    def postprocess(logits: list[np.ndarray]) -> dict[str, Any]:
        first_tokens = [
            row_logits[row.labels[: len(row_logits)] != NO_PREDICTION]
            for row_logits, row in zip(logits, rows, strict=True)
        ]
        probabilities = np.zeros((0, 1))
        if first_tokens:
            probabilities = metrics.softmax(np.concatenate(first_tokens))
        tags = [labels[n] for n in probabilities.argmax(-1)]
        words = [
            {"label": tag, "text": text[a:b], "start": a, "end": b, "score": float(row.max())}
            for tag, (a, b), row in zip(tags, places, probabilities, strict=True)
        ]
        return {"entities": join_entities(words, text)} if bio else {"words": words}

    return Request(rows, postprocess)
