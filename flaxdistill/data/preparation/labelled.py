"""From labelled sources to a store: one row an example, its labels beside it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.array_file import ArrayFile, writing
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.labelled_rows import Row, RowBuilder
from flaxdistill.data.preparation.folders import Report, stored
from flaxdistill.data.preparation.held_out import document_hash
from flaxdistill.data.preparation.packing import id_dtype
from flaxdistill.data.preparation.text import closing
from flaxdistill.data.sources import VARIED, Example, Shard, Source
from flaxdistill.data.store import FORMAT, Store
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError

PIECE = 1000  # examples that are tokenised at once
RULES = 3  # changes whenever the same labelled rows would give other bytes


def prepare_examples(
    corpus: Corpus,
    reading: RowBuilder,
    directory: Path,
    *,
    labels: tuple[str, ...] | None = None,
    taught: bool = True,
    report: Report = lambda text: None,
    check: Report = lambda name: None,
) -> Store:
    """Turn labelled sources into a store below ``directory``, or open it if it is there; as ``prepare`` does for text.

    Held-out rows are all of ``held_out_sources`` or, without these, a share of the examples chosen by the hash of their
    text. Labels' names stand in the manifest; where ``labels`` gives them, only held-out rows are read. ``taught``: a
    teacher answers for training rows that have no label. Raises UserError naming file and line of what cannot be read.
    """
    if corpus.tokenizer is None:
        raise UserError(
            "labelled rows need a vocabulary: start from a model, or set corpus.tokenizer"
        )
    sources = corpus.sources if labels is None else ()
    for source in () if corpus.held_out_sources else sources:
        if source.varied():
            raise UserError(
                f"source {source.path} reads variants of rows ({VARIED} lies beside them), so those of a held-out row would "
                "be trained on; name corpus.held_out_sources, whose rows were not varied"
            )
    train = [source.labelled() for source in sources]
    held_out = [source.labelled() for source in corpus.held_out_sources]
    vocabulary = load_vocabulary(corpus.tokenizer)
    settings = {
        "format": FORMAT,
        "rules": RULES,
        "task": reading.meaning,
        "length": corpus.max_length,
        "tokenizer": {"digest": vocabulary.digest},
        "sources": [
            _described(source, shards) for source, shards in zip(sources, train, strict=True)
        ],
        "held_out": [
            _described(source, shards)
            for source, shards in zip(corpus.held_out_sources, held_out, strict=True)
        ]
        or (
            corpus.held_out
            if reading.together == "row"
            else {"share": corpus.held_out, "of": reading.together}
        ),
    } | ({} if labels is None else {"labels": list(labels)})

    def write(folder: Path) -> dict[str, Any]:
        judged = [shard for shards in held_out for shard in shards]
        written = _write(folder, corpus, train, judged, vocabulary, reading, labels, report)
        _idle(written["train"], taught)
        return written

    store = stored(directory, settings, write, report, check)
    if said := _idle(store.manifest["train"], taught):
        report(said)
    return store


def _idle(sources: list[dict[str, Any]], taught: bool) -> str:
    """Tell of training rows without labels that nobody answers for; raises UserError where none has one."""
    read, labelled = (sum(source[name] for source in sources) for name in ("read", "labelled"))
    if not (taught or labelled):
        raise UserError(
            f"none of the {read:,} training rows has a label; name its column in source.label, or set teacher.path"
        )
    idle = 0 if taught else read - labelled
    return (
        f"{idle:,} of {read:,} rows have no label; without a teacher they teach nothing"
        if idle
        else ""
    )


def _described(source: Source, shards: list[Shard]) -> dict[str, Any]:
    columns = {
        "column": source.column,
        "pair": source.pair,
        "label": source.label,
        "header": source.header,
    }
    return columns | {"split": source.split, "shards": [shard.fingerprint for shard in shards]}


def _write(
    folder: Path,
    corpus: Corpus,
    train: list[list[Shard]],
    held_out: list[Shard],
    vocabulary: Vocabulary,
    reading: RowBuilder,
    given: tuple[str, ...] | None,
    report: Report,
) -> dict[str, Any]:
    with writing(folder):
        vocabulary.save(folder)

    judged: set[int] = set()  # hashes of the share that is held out

    def examples(shards: list[Shard], *, out: bool | None = None) -> Iterator[Example]:
        for shard in shards:
            for example in shard.documents():
                key = 0 if out is None else _hash(example, reading.together)
                # What has no label cannot be judged by; what is judged by is not taught by a teacher's answers either.
                held = key < corpus.held_out * 2**64 and example.label is not None
                if out and held:
                    judged.add(key)
                if out is None or (held if out else not held and key not in judged):
                    yield example

    for source, shards in zip(corpus.sources, train, strict=given is None):
        _refuse_empty(source, shards)
    if held_out:
        _refuse_empty(corpus.held_out_sources[0], held_out)
    part = None if held_out else False
    seen = (e for shards in train for e in examples(shards, out=part) if e.label is not None)
    declared = next((shard.classes for shards in train for shard in shards if shard.classes), ())
    labels = reading.resolve_student(seen, declared) if given is None else list(given)
    if labels:
        report(f"labels: {', '.join(labels[:20])}{', ...' if len(labels) > 20 else ''}")
    counts = np.zeros(vocabulary.size, np.int64)

    def rows(name: str, found: Iterator[Example], *, held_out: bool) -> dict[str, Any]:
        kept: list[str] = []
        number = labelled = 0

        def made() -> Iterator[Row]:
            nonlocal number, labelled
            while piece := list(itertools.islice(found, PIECE)):
                for example in piece if held_out else ():
                    if example.label is None:
                        raise UserError(
                            f"{example.place}: the label is missing; evaluation needs one for every row"
                        )
                    if reading.keep:
                        kept.append(json.dumps(reading.keep(example)))
                labelled += sum(example.label is not None for example in piece)
                for windows in reading.rows(piece, labels, vocabulary, corpus.max_length):
                    whose = {"example": np.array(number, np.int32)}
                    yield from (row._replace(beside={**row.beside, **whose}) for row in windows)
                    number += 1

        written = _write_rows(folder, name, made(), vocabulary, corpus.max_length, counts)
        if kept:
            path = folder / f"{name}-examples.jsonl"
            with writing(path):
                path.write_text("\n".join(kept) + "\n")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            written["examples"] = {
                "file": path.name,
                "bytes": path.stat().st_size,
                "sha256": digest,
            }
        return written | {"read": number, "labelled": labelled}

    pool = held_out or [shard for shards in train for shard in shards]
    evaluation = rows("held_out", examples(pool, out=None if held_out else True), held_out=True)
    if not evaluation["rows"]:
        raise UserError(
            "no example is held out: name corpus.held_out_sources, add rows or raise corpus.held_out "
            f"({corpus.held_out})"
        )
    numbers = np.load(folder / "held_out-labels.npy", mmap_mode="r")
    if numbers.dtype.kind == "f" and np.ptp(numbers) == 0:
        where = ", ".join(source.path for source in corpus.held_out_sources or corpus.sources)
        raise UserError(
            f"the held-out rows of {where} ({len(numbers):,}) all have the label {numbers.flat[0]:g}, with which nothing "
            "can be correlated; hold out rows whose labels differ (published test sets hide theirs behind one number)"
        )
    counts[:] = 0
    sources = []
    for number, (source, shards) in enumerate(zip(corpus.sources, train, strict=given is None)):
        written = rows(f"train-{number}", examples(shards, out=part), held_out=False)
        if not written["rows"]:
            raise UserError(
                f"source {source.path} holds no row to train on; add rows or leave it out"
            )
        report(
            f"{source.path}: {written['rows']} rows, {written['cut']} of them full with {corpus.max_length} tokens"
        )
        sources.append({"path": source.path} | written)
    return {"labels": labels} | closing(folder, vocabulary, counts, evaluation, sources)


def _refuse_empty(source: Source, shards: list[Shard]) -> None:
    if not any(True for shard in shards for _ in shard.documents()):
        raise UserError(f"source {source.path} holds no row; add rows or name another")


def _hash(example: Example, together: str) -> int:
    if together == "pair":
        return document_hash(f"{example.pair}")
    # A list of words is the same text as these words with blanks between them.
    text = " ".join(map(str, example.text)) if isinstance(example.text, list) else example.text
    return document_hash(f"{text}\0{example.pair}")


def _write_rows(
    folder: Path,
    name: str,
    rows: Iterable[Row],
    vocabulary: Vocabulary,
    length: int,
    counts: np.ndarray,
) -> dict[str, Any]:
    """Write rows into four files and say what the manifest needs to know of them."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return {"rows": 0, "tokens": 0, "real_tokens": 0, "cut": 0}
    real = cut = 0
    with contextlib.ExitStack() as files:

        def file(suffix: str, row: tuple[int, ...], dtype: Any) -> ArrayFile:
            return files.enter_context(
                ArrayFile(folder / f"{name}{suffix}.npy", row, np.dtype(dtype))
            )

        ids = file("", (length,), id_dtype(vocabulary.size))
        segments = file("-segments", (length,), np.uint8)
        others = {array: file(f"-{array}", x.shape, x.dtype) for array, x in first.arrays().items()}
        for row in itertools.chain([first], rows):
            n = len(row.ids)
            line = np.full((1, length), vocabulary.pad, ids.dtype)
            line[0, :n] = row.ids
            ids.append(line)
            segments.append((np.arange(length) < n)[None].astype(np.uint8))
            for array, x in row.arrays().items():
                others[array].append(x[None])
            counts += np.bincount(row.ids, minlength=len(counts))
            real += n
            cut += n == length
    return {
        "rows": ids.rows,
        "tokens": ids.rows * length,
        "real_tokens": real,
        "cut": cut,
        "ids": ids.entry(),
        "segments": segments.entry(),
        "beside": {name: file.entry() for name, file in others.items()},
    }
