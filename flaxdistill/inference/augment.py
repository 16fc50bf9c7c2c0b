"""Data augmentation of TinyBERT: variants of labelled rows with replaced words."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from flaxdistill.data.labelled_rows import text_of
from flaxdistill.data.preparation.held_out import document_hash
from flaxdistill.data.sources import AUGMENTATION_FILE, Example, Source
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.compatibility import check_head
from flaxdistill.inference.mask_filling import make_fill_mask
from flaxdistill.inference.replacements import Replacer, replace
from flaxdistill.inference.stop_words import read_stop_words
from flaxdistill.inference.word_vectors import WordVectors
from flaxdistill.runtime import gcs
from flaxdistill.runtime.files import read_json, write_json
from flaxdistill.tasks.mlm import MaskedLMHead

ROWS_PER_FILE = 500
"""Source rows per output file, which is the most work that an interrupted run repeats."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How the rows of a source are varied (Jiao et al., 2020, algorithm 1).

    Each text gets ``variants`` copies. In a copy, every word is replaced with the given
    ``probability`` by one of its ``candidates`` likeliest alternatives. For a word that is one
    token, a masked-LM predicts them from the masked text and the unmasked one; for a word that the
    vocabulary splits, they are its nearest neighbours in ``glove``. Words that are not alphabetic
    and stop words are never replaced. The texts of a pair are varied one at a time.
    """

    source: Source

    glove: str | None = None
    """Text file of word vectors; without it, words that the vocabulary splits are not replaced."""

    stop_words: str | None = None
    """Text file of words that are not replaced, empty for none; by default TinyBERT's list."""

    variants: int = 20
    """Copies of each text."""

    candidates: int = 15
    """Alternatives of each word."""

    probability: float = 0.4
    """Probability that a word is replaced."""

    length: int = 256
    """Tokens that the model reads, half for the masked text and half for the unmasked one.

    Words after them are not replaced.
    """

    batch_size: int = 256
    """Masked texts in a forward pass."""

    seed: int = 0

    def __post_init__(self):
        for name in ("variants", "candidates", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.probability <= 1:
            raise UserError(f"probability is {self.probability}; it must be above 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; it must be at least 0 and below 2^63")
        if self.length < 5:
            raise UserError(f"length is {self.length}; a word and its text need at least 5 tokens")


def augment(
    augmentation: Augmentation,
    checkpoint: Checkpoint,
    out: Path,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Write every row of a source and its variants to ``out``, a folder of jsonl files.

    The files have the columns of the source. ``checkpoint`` is a masked-LM. The variants of a row
    depend only on the settings and on its index in the source; duplicate lines are dropped. The
    same command resumes an interrupted run. Raises UserError if ``out`` holds anything else.
    """
    vocabulary = _check_model(checkpoint, augmentation.length)
    shards = augmentation.source.labelled()
    word_vectors = WordVectors(augmentation.glove) if augmentation.glove else None
    stop_words = read_stop_words(augmentation.stop_words)
    settings = dataclasses.asdict(augmentation) | {
        "source": [shard.fingerprint for shard in shards],
        "model": checkpoint.digest,
        "glove": word_vectors.digest if word_vectors else None,
        "stop_words": hashlib.sha256(" ".join(sorted(stop_words)).encode()).hexdigest(),
        "pair": augmentation.source.pair,
    }
    del settings["batch_size"]
    settings = json.loads(json.dumps(settings))
    _check_settings(out, settings)
    fill_mask = make_fill_mask(
        checkpoint,
        vocabulary,
        augmentation.candidates + 1,
        augmentation.length,
        augmentation.batch_size,
    )
    replacer = Replacer(
        vocabulary,
        fill_mask,
        word_vectors,
        stop_words,
        augmentation.candidates,
        (augmentation.length - vocabulary.special_count(pair=True)) // 2,
    )
    seen: set[int] = set()
    rows = written = 0
    examples = (example for shard in shards for example in shard.documents())
    parts = iter(lambda: list(itertools.islice(examples, ROWS_PER_FILE)), [])
    for number, part in enumerate(parts):
        path = out / f"part-{number:05d}.jsonl"
        if path.exists():
            # Not splitlines, which also splits at line separators inside of texts.
            lines = path.read_bytes().decode().split("\n")[:-1]
            seen.update(map(document_hash, lines))
        else:
            variants = _variants(part, rows, augmentation, replacer)
            lines = list(
                _drop_duplicates((json.dumps(row, ensure_ascii=False) for row in variants), seen)
            )
            # Not earlier, so that a source that cannot be read leaves no folder.
            _write_settings(out, settings)
            temporary = out / f".{path.name}.tmp"
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            temporary.rename(path)
            gcs.upload(path)
        rows, written = rows + len(part), written + len(lines)
        report(f"{path}: wrote {written} rows for {rows} rows of the source")
    if not rows:
        raise UserError(f"source {augmentation.source.path} holds no rows; choose another source")


def _check_model(checkpoint: Checkpoint, length: int) -> Vocabulary:
    """Return the vocabulary of a model; raise UserError if the model cannot replace words."""
    check_head(checkpoint, MaskedLMHead)
    if length > checkpoint.config.max_positions:
        raise UserError(
            f"length {length} exceeds the {checkpoint.config.max_positions} positions of "
            f"{checkpoint.source}; choose a smaller length"
        )
    vocabulary = load_vocabulary(checkpoint.directory)
    if type(vocabulary.tokenizer.model).__name__ != "WordPiece":
        raise UserError(
            f"{checkpoint.source} has a vocabulary that does not mark the ends of words; give a "
            "masked-LM with a WordPiece vocabulary, such as BERT"
        )
    return vocabulary


def _check_settings(out: Path, settings: Mapping[str, Any]) -> None:
    if (out / AUGMENTATION_FILE).is_file():
        stored = read_json(out / AUGMENTATION_FILE)
        changes = [
            f"{name} {stored.get(name)} -> {value}"
            for name, value in settings.items()
            if stored.get(name) != value
        ]
        if changes:
            raise UserError(
                f"{out} holds variants made with other settings ({'; '.join(changes)}); choose "
                "another folder"
            )
    elif out.exists() and not (
        out.is_dir() and {file.name for file in out.iterdir()} <= {f"{AUGMENTATION_FILE}.tmp"}
    ):
        raise UserError(f"{out} exists and holds no variants of rows; choose another folder")


def _write_settings(out: Path, settings: Mapping[str, Any]) -> None:
    if not (out / AUGMENTATION_FILE).is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{AUGMENTATION_FILE}.tmp", settings)
        os.replace(out / f"{AUGMENTATION_FILE}.tmp", out / AUGMENTATION_FILE)
        gcs.upload(out / AUGMENTATION_FILE)


def _drop_duplicates(lines: Iterator[str], seen: set[int]) -> Iterator[str]:
    for line in lines:
        digest = document_hash(line)
        if digest not in seen:
            seen.add(digest)
            yield line


def _variants(
    examples: list[Example], first: int, augmentation: Augmentation, replacer: Replacer
) -> Iterator[dict[str, Any]]:
    """Yield each row and then its variants, as columns; ``first`` is the index of the first row."""
    for example in examples:
        if not isinstance(example.label, (str, int, float, NoneType)):
            raise UserError(
                f"{example.place}: the label {example.label!r:.60} is neither a class nor a "
                "number; rows with labels for positions in the text cannot be varied"
            )
    texts = [text_of(example) for example in examples]
    flat = [text for pair in texts for text in pair]
    candidates = iter(replacer.candidates(flat))
    source = augmentation.source
    for row, (example, pair) in enumerate(zip(examples, texts, strict=True), first):
        rng = np.random.default_rng((augmentation.seed, row))
        sides: dict[Any, str] = dict(zip((source.column, source.pair), pair, strict=False))
        columns = sides | ({source.label: example.label} if source.label else {})
        yield columns
        for name, text in sides.items():
            words = next(candidates)
            for _ in range(augmentation.variants):
                yield columns | {name: replace(text, words, augmentation.probability, rng)}
