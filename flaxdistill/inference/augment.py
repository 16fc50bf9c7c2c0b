"""Variants of labelled rows with other words in their place, for a teacher to label (TinyBERT's augmentation)."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from flaxdistill.data.labelled_rows import text_of
from flaxdistill.data.preparation.held_out import document_hash
from flaxdistill.data.sources import VARIED, Example, Source
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.compatibility import check_head
from flaxdistill.inference.mask_filling import Fillers, make_fillers
from flaxdistill.inference.stop_words import read_stop_words
from flaxdistill.inference.word_vectors import Neighbours
from flaxdistill.runtime import gcs
from flaxdistill.runtime.files import read_json, write_json

PART = 500
"""Rows of one file: what a killed run has to do again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How rows are varied (Jiao et al., 2020, algorithm 1).

    In each of ``variants`` copies of a text every word is replaced with probability ``share`` by one of its ``candidates``
    likeliest others: those of the masked-LM ``model``, which reads the text without the word and beside it the whole text,
    or, for a word that its vocabulary splits, its nearest neighbours in ``glove``, a text file of vectors; without that file
    such words stay. So do words not of letters alone, and ``stop_words``: those of a text file (an empty one: none), by
    default TinyBERT's English ones. Of a pair each text is varied in its turn beside the other as it was. ``length``: tokens
    that the model reads, half for the masked text and half for the whole; words beyond stay.
    """

    source: Source
    glove: str | None = None
    stop_words: str | None = None
    variants: int = 20
    candidates: int = 15
    share: float = 0.4
    length: int = 256
    batch_size: int = 256  # masked texts at one time
    seed: int = 0

    def __post_init__(self):
        for name in ("variants", "candidates", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.share <= 1:
            raise UserError(
                f"share is {self.share}; the share of words replaced is above 0 and at most 1"
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; it must be at least 0 and below 2^63")
        if self.length < 5:
            raise UserError(f"length is {self.length}; a word and its text need at least 5 tokens")


class _Word(NamedTuple):
    """A word that may be replaced: where it stands in its text, and its tokens."""

    start: int
    end: int
    first: int
    pieces: int

    def of(self, text: str) -> str:
        return text[self.start : self.end]


def augment(
    how: Augmentation, model: Model, out: Path, *, report: Callable[[str], None] = lambda line: None
) -> None:
    """Write every row of a source and its variants to ``out``, a folder of jsonl files with the source's columns.

    A row's variants follow from its place in the source; a line that has been written once is not written again. The same
    command goes on where it stopped. Raises UserError for a folder that holds something else.
    """
    check_head(model, "mlm")
    if how.length > model.config.max_positions:
        raise UserError(
            f"length {how.length} exceeds the {model.config.max_positions} positions of {model.source}"
        )
    vocabulary = load_vocabulary(model.directory)
    if type(vocabulary.tokenizer.model).__name__ != "WordPiece":
        raise UserError(
            f"{model.source} has a vocabulary that does not tell where words end; give a masked-LM with a WordPiece one, "
            "such as BERT"
        )
    shards = how.source.labelled()
    near = Neighbours(how.glove) if how.glove else None
    stop_words = read_stop_words(how.stop_words)
    fields = dataclasses.asdict(how) | {"source": [shard.fingerprint for shard in shards]}
    meaning = fields | {
        "model": model.digest,
        "glove": near.digest if near else None,
        "stop_words": hashlib.sha256(" ".join(sorted(stop_words)).encode()).hexdigest(),
        "pair": how.source.pair,
    }
    del meaning["batch_size"]
    meaning = json.loads(json.dumps(meaning))
    _check(out, meaning)
    fillers = make_fillers(model, vocabulary, how.candidates + 1, how.length, how.batch_size)
    seen: set[int] = set()
    rows = written = 0
    examples = (example for shard in shards for example in shard.documents())
    for number, part in enumerate(iter(lambda: list(itertools.islice(examples, PART)), [])):
        path = out / f"part-{number:05d}.jsonl"
        if not path.exists():
            found = _variants(part, rows, how, vocabulary, fillers, near, stop_words)
            lines = list(_new((json.dumps(row, ensure_ascii=False) for row in found), seen))
            _claim(out, meaning)  # not before: a source that cannot be read leaves nothing
            temporary = out / f".{path.name}.tmp"
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            temporary.rename(path)
            gcs.send(path)
        else:
            lines = (
                path.read_bytes().decode().split("\n")[:-1]
            )  # splitlines would cut inside texts too
            seen.update(map(document_hash, lines))
        rows, written = rows + len(part), written + len(lines)
        report(f"{path}: {rows} rows have become {written}")
    if not rows:
        raise UserError(f"source {how.source.path} holds no row to vary")


def _check(out: Path, meaning: Mapping[str, Any]) -> None:
    if (out / VARIED).is_file():
        stored = read_json(out / VARIED)
        differ = [
            f"{name} {stored.get(name)} -> {value}"
            for name, value in meaning.items()
            if stored.get(name) != value
        ]
        if differ:
            raise UserError(
                f"{out} holds variants made otherwise ({'; '.join(differ)}); choose another folder"
            )
    elif out.exists() and not (
        out.is_dir() and {file.name for file in out.iterdir()} <= {f"{VARIED}.tmp"}
    ):
        raise UserError(f"{out} exists and holds no variants of rows; choose another folder")


def _claim(out: Path, meaning: Mapping[str, Any]) -> None:
    if not (out / VARIED).is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{VARIED}.tmp", meaning)
        os.replace(out / f"{VARIED}.tmp", out / VARIED)
        gcs.send(out / VARIED)


def _new(lines: Iterator[str], seen: set[int]) -> Iterator[str]:
    for line in lines:
        digest = document_hash(line)
        if digest not in seen:
            seen.add(digest)
            yield line


def _variants(
    part: list[Example],
    first: int,
    how: Augmentation,
    vocabulary: Vocabulary,
    fillers: Fillers,
    near: Neighbours | None,
    stop_words: frozenset[str],
) -> Iterator[dict[str, Any]]:
    """Give each row and then its variants, as columns."""
    for example in part:
        if not isinstance(example.label, (str, int, float, NoneType)):
            raise UserError(
                f"{example.place}: the label {example.label!r:.60} is no class and no number, and only rows with these can "
                "be varied: other words would move what stands at a place in the text"
            )
    texts = [text_of(example) for example in part]
    flat = [text for pair in texts for text in pair]
    encoded = vocabulary.encode_places(flat)
    goes_on = vocabulary.continues()
    words = [
        [word for word in _words(text, *tokens, goes_on) if word.of(text).lower() not in stop_words]
        for text, tokens in zip(flat, encoded, strict=True)
    ]
    room = (how.length - 3) // 2
    asked = [
        (n, word)
        for n, found in enumerate(words)
        for word in found
        if word.pieces == 1 and word.first < room
    ]
    said = fillers([encoded[n][0][:room] for n, _ in asked], [word.first for _, word in asked])
    others: dict[tuple[int, _Word], list[str]] = {}
    for (n, word), ids in zip(asked, said, strict=True):
        own = int(encoded[n][0][word.first])
        others[n, word] = [vocabulary.tokenizer.id_to_token(int(i)) for i in ids if i != own][
            : how.candidates
        ]
    for n, found in enumerate(words):
        for word in found:
            if word.pieces > 1 and near:
                others[n, word] = near(word.of(flat[n]), how.candidates)
    numbers = iter(range(len(flat)))
    for row, (example, pair) in enumerate(zip(part, texts, strict=True), first):
        draw = np.random.default_rng((how.seed, row))
        sides: dict[Any, str] = dict(zip((how.source.column, how.source.pair), pair, strict=False))
        columns = sides | ({how.source.label: example.label} if how.source.label else {})
        yield columns
        for name, text in sides.items():
            n = next(numbers)
            choices = [(word, others.get((n, word), [])) for word in words[n]]
            for _ in range(how.variants):
                yield columns | {name: _replace(text, choices, how.share, draw)}


def _replace(
    text: str, words: list[tuple[_Word, list[str]]], share: float, draw: np.random.Generator
) -> str:
    made, at = [], 0
    for word, others in words:
        if others and draw.random() < share:
            made += [text[at : word.start], others[draw.integers(len(others))]]
            at = word.end
    return "".join([*made, text[at:]])


def _words(text: str, ids: np.ndarray, places: np.ndarray, goes_on: np.ndarray) -> list[_Word]:
    """Find the words of letters in a text."""
    if not len(ids):
        return []
    starts = np.flatnonzero(~goes_on[ids])
    found = [
        _Word(int(places[first, 0]), int(places[end - 1, 1]), int(first), int(end - first))
        for first, end in zip(starts, [*starts[1:], len(ids)], strict=True)
    ]
    return [word for word in found if word.of(text).isalpha()]
