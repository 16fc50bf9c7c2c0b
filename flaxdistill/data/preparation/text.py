"""From a corpus to a block store."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.array_file import ArrayFile, writing
from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.preparation.block_writer import block_writer
from flaxdistill.data.preparation.duplicates import find_duplicates
from flaxdistill.data.preparation.folders import (
    Report,
    Task,
    fill,
    fingerprint,
    read_facts,
    remove_abandoned,
    stored,
    unmade,
)
from flaxdistill.data.preparation.held_out import COUNTS, Candidates, document_hash, first_tokens
from flaxdistill.data.preparation.passes import (
    BLOCKS,
    DUPLICATES,
    HELD_OUT,
    blocks,
    read_candidates,
    read_plan,
    survey,
    write_plan,
)
from flaxdistill.data.preparation.workers import working
from flaxdistill.data.sources import Shard, Source
from flaxdistill.data.store import FORMAT, Store
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.data.wordpiece import train_wordpiece
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs, gcs_paths


def prepare(
    corpus: Corpus,
    directory: str | os.PathLike,
    *,
    engine: Engine = Engine(),
    report: Report = lambda text: None,
    check: Report = lambda name: None,
) -> Store:
    """Turn a corpus into blocks in a folder of its own below ``directory``, or open it if it is there.

    The folder is named after everything that changes its bytes: content of the sources, tokenizer, held-out
    settings and block length, but not the weights of the sources. Held-out documents are never trained on,
    and neither are training documents that nearly repeat one (they are counted in the manifest).
    Of what is repeated in the sources the first copy stays, where ``corpus.duplicates`` is drop. ``engine`` does the
    work; what has been done to whole shards is kept when it is cut short, and the next call goes on from there.
    ``report`` is told, in one line each, what has been done; ``check`` is asked with the folder's name before it is made.
    """
    directory = gcs_paths.here(directory).absolute()
    train = [source.shards() for source in corpus.sources]
    held_out = [shard for source in corpus.held_out_sources for shard in source.shards()]
    vocabulary = load_vocabulary(corpus.tokenizer) if corpus.tokenizer else None
    settings = _settings(corpus, train, held_out, vocabulary)
    parts = directory / f".{fingerprint(settings)}.parts"
    remove_abandoned(parts, ".*-*")

    def write(folder: Path) -> dict[str, Any]:
        return _write(folder, parts, corpus, train, held_out, vocabulary, engine, report)

    with unmade(directory):
        try:
            store = stored(directory, settings, write, report, check)
        except BaseException:
            with contextlib.suppress(OSError):  # not empty, or never made
                parts.rmdir()
            if parts.exists():
                report(f"kept what is done in {parts}: the same command goes on from there")
            raise
    gcs.remove(parts)
    return store


def _write(
    folder: Path,
    parts: Path,
    corpus: Corpus,
    train: list[list[Shard]],
    held_out: list[Shard],
    vocabulary: Vocabulary | None,
    engine: Engine,
    report: Report,
) -> dict[str, Any]:
    """Write everything but the manifest, and return what it says. What is made of single shards is kept in ``parts``."""
    shards = [shard for own in train for shard in own]
    share = 0.0 if held_out else corpus.held_out
    surveys = [
        Task(
            parts / f"survey-{n:05d}", partial(survey, shard, part, _characters(corpus)), shard.size
        )
        for n, (shard, part) in enumerate(
            [*((s, share) for s in shards), *((s, 1.0) for s in held_out)]
        )
    ]
    plan, drop = parts / "plan", corpus.duplicates == "drop"
    packing = [
        Task(
            parts / f"{BLOCKS}-{n:05d}",
            partial(blocks, shard, n, plan, corpus.max_length, drop),
            shard.size,
        )
        for n, shard in enumerate(shards)
    ]
    if done := sum(task.done() for task in (*surveys, *packing)):
        report(
            f"goes on in {parts}: {done} of {len(surveys)} + {len(packing)} passes over shards are done"
        )

    places = [
        f"{source.path}, shard {n} of {len(own)}"
        for source, own in zip(corpus.sources, train, strict=True)
        for n in range(1, len(own) + 1)
    ]
    packed = []
    with working(engine, surveys, packing) as run:
        # Every shard is looked at before any is packed: then it is known what is held out, and which copies are the first.
        for _ in run(surveys):
            pass
        with _refusing(parts):
            fill(
                plan,
                partial(
                    _settle, corpus, train, [task.folder for task in surveys], vocabulary, report
                ),
            )
        for place, task, facts in zip(places, packing, run(packing), strict=True):
            packed.append((task.folder, facts))
            report(
                f"{place}: {facts['rows']} blocks of {facts['documents']} documents, "
                f"{facts['near_duplicates']} near-duplicates dropped"
            )

    vocabulary = read_plan(plan).vocabulary
    with writing(folder):
        vocabulary.save(folder)
        for path in plan.glob(f"{HELD_OUT}*.npy"):
            shutil.copy(path, folder)
    counts, sources, left = np.zeros(vocabulary.size, np.int64), [], iter(packed)
    for number, (source, own) in enumerate(zip(corpus.sources, train, strict=True)):
        folders, entries = zip(*itertools.islice(left, len(own)), strict=True)
        with _refusing(parts):
            total = _total(source, entries)
        with block_writer(folder, f"train-{number}", vocabulary, corpus.max_length) as writer:
            for part in folders:
                writer.append(part, BLOCKS)
        counts += writer.counts
        sources.append({"path": source.path, **total, **writer.entries(), "shards": entries})
    return closing(folder, vocabulary, counts, read_facts(plan), sources)


def _settle(
    corpus: Corpus,
    train: list[list[Shard]],
    surveys: list[Path],
    vocabulary: Vocabulary | None,
    report: Report,
    folder: Path,
) -> dict[str, Any]:
    """Write what all surveys together say into a folder, and return what the manifest says of the held-out blocks."""
    shards = sum(map(len, train))
    pool = surveys[shards:] or surveys
    candidates = Candidates(1.0 if surveys[shards:] else corpus.held_out, _characters(corpus))
    for document in itertools.chain.from_iterable(map(read_candidates, pool)):
        candidates.add(document_hash(document), document)
    texts, documents = candidates.sorted(), sum(read_facts(part)["documents"] for part in pool)
    if not texts:
        raise UserError(
            f"no document is held out of {documents} with held_out {corpus.held_out}: "
            "add text, raise held_out or name held_out_sources"
        )
    if vocabulary is None:
        read = (document for own in train for shard in own for document in shard.documents())
        vocabulary = train_wordpiece(
            (d for d in read if document_hash(d) not in texts), corpus.vocab_size
        )
        report(f"trained a vocabulary of {vocabulary.size} entries")

    # No block holds more tokens of documents.
    chosen, ids = first_tokens(texts, vocabulary, corpus.held_out_blocks * (corpus.max_length - 2))
    with block_writer(folder, HELD_OUT, vocabulary, corpus.max_length) as writer:
        evaluation: dict[str, Any] = writer.write([ids], at_most=corpus.held_out_blocks)
    evaluation |= writer.entries() | {"documents": len(chosen)}
    if not evaluation["rows"]:
        raise UserError(
            f"the {len(chosen)} held-out documents (of {documents}) hold no token: "
            "add text, raise held_out or name held_out_sources"
        )
    report(f"held out {len(chosen)} documents: {evaluation['rows']} blocks")
    # Explicit held-out text is no part of the sources: what they repeat of it counts as near-duplicates.
    write_plan(folder, vocabulary, ids, set() if corpus.held_out_sources else chosen)
    duplicates = sum(find_duplicates(surveys[:shards], folder / DUPLICATES))
    if duplicates:
        done = (
            "left out"
            if corpus.duplicates == "drop"
            else "kept; --corpus.duplicates drop leaves them out"
        )
        report(f"{duplicates} documents of the sources repeat one before them: {done}")
    return evaluation


def _characters(corpus: Corpus) -> int:
    # No language writes 16 characters per token, so texts beyond that are never needed.
    return 16 * corpus.held_out_blocks * corpus.max_length


def _total(source: Source, entries: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Add up what the manifest says of a source's shards; raises UserError where they give nothing to train on."""
    total = {
        key: sum(entry[key] for entry in entries)
        for key in (*COUNTS, "rows", "tokens", "real_tokens")
    }
    if not total["rows"]:
        raise UserError(
            f"source {source.path} gives 0 training blocks: of its documents {total['held_out']} are held "
            f"out, {total['duplicates']} repeat an earlier one, {total['near_duplicates']} nearly repeat a held-out one and "
            f"{total['documents']} are left: add text or leave the source out"
        )
    return total


@contextlib.contextmanager
def _refusing(parts: Path) -> Iterator[None]:
    """Remove all parts where a corpus is refused as a whole: the one in its place will share none of them."""
    try:
        yield
    except UserError:
        gcs.remove(parts)
        raise


def closing(
    folder: Path,
    vocabulary: Vocabulary,
    counts: np.ndarray,
    evaluation: dict[str, Any],
    sources: list[dict[str, Any]],
) -> dict[str, Any]:
    """Write the words' occurrences in training rows, and return what a manifest says of a store as a whole."""
    with ArrayFile(folder / "counts.npy", (), counts.dtype) as counts_file:
        counts_file.append(counts)
    tokens, real_tokens = (
        sum(e[key] for e in (evaluation, *sources)) for key in ("tokens", "real_tokens")
    )
    return {
        "tokens": tokens,
        "real_tokens": real_tokens,
        "padding": 1 - real_tokens / tokens,
        "tokenizer": {"digest": vocabulary.digest, "size": vocabulary.size},
        "versions": {
            name: importlib.metadata.version(name) for name in ("numpy", "tokenizers", "pyarrow")
        },
        "held_out": evaluation,
        "train": sources,
        "counts": counts_file.entry(),
    }


def _settings(
    corpus: Corpus, train: list[list[Shard]], held_out: list[Shard], vocabulary: Vocabulary | None
) -> dict[str, Any]:
    """Collect everything that changes the bytes of the store."""
    settings: dict[str, Any] = {
        "format": FORMAT,
        "length": corpus.max_length,
        "held_out_blocks": corpus.held_out_blocks,
        "duplicates": corpus.duplicates,
        "sources": [
            {
                "column": source.column,
                "split": source.split,
                "shards": [shard.fingerprint for shard in shards],
            }
            for source, shards in zip(corpus.sources, train, strict=True)
        ],
    }
    if corpus.held_out_sources:
        settings["held_out_sources"] = [
            {"column": source.column, "split": source.split} for source in corpus.held_out_sources
        ]
        settings["held_out_shards"] = [shard.fingerprint for shard in held_out]
    else:
        settings["held_out"] = corpus.held_out
    if vocabulary is None:
        settings["tokenizer"] = {"train": "wordpiece", "size": corpus.vocab_size}
    else:
        settings["tokenizer"] = {"digest": vocabulary.digest}
    return settings
