"""A tag for every word: entities, parts of speech."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from flaxdistill import metrics
from flaxdistill.data.labelled_rows import Row, RowBuilder, check_text
from flaxdistill.data.readers.conll import FirstLine
from flaxdistill.data.sources import Example
from flaxdistill.data.store import Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.metrics import token_classification
from flaxdistill.tasks.word_splitting import word_places

NOT_ASKED, UNKNOWN = -1, -2


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassification(Labelled):
    """Choose a tag for each word, asked at the first of its tokens (Devlin et al., 2019).

    Sources hold a list of words and a list of their tags, or are plain text with a word and its tag on a line, between
    spaces or tabs and on every line as many of them, and a blank line between sentences (``column`` 0, ``label`` -1).
    ``scheme`` bio scores whole entities by F1 and refuses an inside tag that follows no other tag of its entity; ``plain``
    scores tags by themselves. ``labels``: the tags in the order of their logits; empty: all that the training rows hold,
    sorted, O first. Rows without tags teach by their teacher's answers only; they may be plain text, which is cut into
    words (``words.py``). What is too long for a row goes on in the next.
    """

    head = "tokens"

    scheme: Literal["bio", "plain"] = "bio"
    labels: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        return "f1" if self.scheme == "bio" else "accuracy"

    def __post_init__(self):
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise UserError(
                f"task.labels is {', '.join(self.labels)}; name two tags or more, each of them once"
            )

    def row_builder(self) -> RowBuilder:
        def resolve_student(examples: Iterator[Example], declared: tuple[str, ...]) -> list[str]:
            found = {tag for example in examples for tag in self._tags(example, _words(example))}
            if self.labels or (declared and found <= set(declared)):
                return list(self.labels or declared)
            if len(found) < 2:
                raise UserError(
                    f"the training rows hold the tag {', '.join(sorted(found)) or 'none'}; there is nothing to choose "
                    "between: name the column of the tags in source.label"
                )
            return sorted(found, key=lambda tag: (tag != "O", tag))

        def rows(
            examples: list[Example], labels: list[str], vocabulary: Vocabulary, length: int
        ) -> Iterable[list[Row]]:
            known = {name: number for number, name in enumerate(labels)}
            sentences = [
                _words(example)
                if isinstance(example.text, list) or example.label is not None
                else _cut(example, vocabulary)
                for example in examples
            ]
            pieces = iter(vocabulary.encode([word for words in sentences for word in words]))
            for example, words in zip(examples, sentences, strict=True):
                tags = self._tags(example, words)
                made: list[Row] = []
                ids: list[int] = []
                asked: list[int] = []
                for n in range(len(words)):
                    # A word of characters that the vocabulary leaves out is asked about all the same.
                    piece = next(pieces)[: length - 2]
                    piece = piece if len(piece) else np.array([vocabulary.unk], np.int32)
                    label = known.get(tags[n], UNKNOWN) if tags else UNKNOWN
                    if tags and label == UNKNOWN:
                        raise UserError(
                            f"{_at(example, n)}: the tag {tags[n]!r} is none of "
                            f"{', '.join(labels)}; mend it, or name all tags in task.labels"
                        )
                    if len(ids) + len(piece) > length - 2:
                        made.append(_row(ids, asked, vocabulary, length))
                        ids, asked = [], []
                    ids += piece.tolist()
                    asked += [label] + [NOT_ASKED] * (len(piece) - 1)
                yield [*made, _row(ids, asked, vocabulary, length)] if words else []

        meaning = {"task": "tags", "scheme": self.scheme, "labels": list(self.labels)}
        return RowBuilder(meaning, resolve_student, rows)

    def score(
        self, logits: list[np.ndarray], labels: list[np.ndarray], store: Store
    ) -> metrics.Score:
        # A sentence of several rows is one again: an entity may stand across them.
        said: dict[int, list[int]] = {}
        right: dict[int, list[int]] = {}
        for example, row, asked in zip(
            store.held_out.beside["example"].tolist(), logits, labels, strict=True
        ):
            said.setdefault(example, []).extend(row.argmax(-1)[asked >= 0])
            right.setdefault(example, []).extend(asked[asked >= 0])
        if self.scheme == "plain":
            ours, theirs = (
                [np.array(tags, int) for tags in side.values()] for side in (said, right)
            )
            return token_classification.tags(ours, theirs, len(store.labels), store.labels)
        return token_classification.entities(
            *([[store.labels[n] for n in tags] for tags in side.values()] for side in (said, right))
        )

    def _tags(self, example: Example, words: list[str]) -> list[str]:
        """Give a sentence's tags, [] if it has none; raises UserError for a wrong number of them and a broken entity."""
        if example.label is None:
            return []
        tags = example.label
        if isinstance(tags, list) and any(isinstance(tag, int) for tag in tags):
            raise UserError(
                f"{example.place}: the tags {tags!r:.80} are numbers; write what they stand for, such as B-PER"
            )
        if not (isinstance(tags, list) and all(isinstance(tag, str) and tag for tag in tags)):
            raise UserError(
                f"{example.place}: expected a list of tags but found {tags!r:.80}; name their column in source.label"
            )
        check_text(" ".join(tags), example.place)
        if len(tags) != len(words):
            raise UserError(
                f"{example.place}: {len(words)} words and {len(tags)} tags; give every word one"
            )
        if self.scheme == "bio":
            for n, tag in enumerate(tags):
                kind = tag[2:]
                if tag != "O" and not (tag[:2] in ("B-", "I-") and kind):
                    raise UserError(
                        f"{_at(example, n)}: the tag {tag!r} is neither O nor B-... nor I-...; "
                        "mend it, or set task.scheme to plain"
                    )
                before = tags[n - 1] if n else "O"
                if tag[:2] == "I-" and before not in ("B-" + kind, "I-" + kind):
                    raise UserError(
                        f"{_at(example, n)}: the tag {tag} follows {before if n else 'nothing'}, "
                        f"but an entity begins with B-{kind}; convert the file to BIO (IOB2), or set task.scheme to plain"
                    )
        return tags


def _cut(example: Example, vocabulary: Vocabulary) -> list[str]:
    check_text(example.text, example.place)
    return [example.text[a:b] for a, b in word_places(example.text, vocabulary)]


def _at(example: Example, n: int) -> str:
    line = example.place.of(n) if isinstance(example.place, FirstLine) else example.place
    return f"{line}, word {n + 1} {example.text[n]!r}"


def _words(example: Example) -> list[str]:
    words = example.text
    if words == []:
        raise UserError(f"{example.place}: the sentence has no words; leave it out")
    if not (
        isinstance(words, list) and words and all(isinstance(word, str) and word for word in words)
    ):
        raise UserError(
            f"{example.place}: expected a list of words but found {words!r:.80}; name their column in source.column"
        )
    check_text(" ".join(words), example.place)
    return words


def _row(ids: list[int], asked: list[int], vocabulary: Vocabulary, length: int) -> Row:
    labels = np.full(length, NOT_ASKED, np.int16)
    labels[1 : len(asked) + 1] = asked
    return Row(np.array([vocabulary.cls, *ids, vocabulary.sep], np.int32), 0, labels)
