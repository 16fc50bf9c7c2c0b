"""Preparation of a text corpus: from sources to a block store."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.array_file import write_errors
from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.preparation.block_writer import block_writer
from flaxdistill.data.preparation.folders import (
    PreparationTask,
    TextCallback,
    fingerprint,
    open_or_write_store,
    read_facts,
    remove_abandoned,
    remove_new_folders_on_error,
    write_folder,
)
from flaxdistill.data.preparation.held_out import COUNTS
from flaxdistill.data.preparation.manifest import store_manifest
from flaxdistill.data.preparation.passes import BLOCKS, HELD_OUT, pack_shard, read_plan, survey
from flaxdistill.data.preparation.split import max_held_out_characters, split_corpus
from flaxdistill.data.preparation.workers import task_runner
from flaxdistill.data.sources import Shard, Source
from flaxdistill.data.store import STORE_FORMAT, Store
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs, gcs_paths


def prepare(
    corpus: Corpus,
    directory: str | os.PathLike,
    *,
    engine: Engine = Engine(),
    report: TextCallback = lambda text: None,
    check: TextCallback = lambda name: None,
) -> Store:
    """Write the blocks of a corpus into a subfolder of ``directory``, or open it if it exists.

    The subfolder is named by a hash of everything that changes its bytes: content of the sources,
    tokenizer, held-out settings and block length, but not the weights of the sources. Held-out
    documents are never trained on, and neither are near-duplicates of them (the manifest counts
    these). If ``corpus.duplicates`` is drop, only the first copy of a document stays.

    ``engine`` runs the work. If it is interrupted, completed shards are stored and the next call
    resumes from them. ``report`` receives progress lines; ``check`` is called with the name of
    the subfolder before it is written.
    """
    directory = gcs_paths.local_path(directory).absolute()
    train = [source.shards() for source in corpus.sources]
    held_out = [shard for source in corpus.held_out_sources for shard in source.shards()]
    for shard in (shard for shards in (*train, held_out) for shard in shards if shard.note):
        report(shard.note)
    vocabulary = load_vocabulary(corpus.tokenizer) if corpus.tokenizer else None
    settings = _settings(corpus, train, held_out, vocabulary)
    parts = directory / f".{fingerprint(settings)}.parts"
    remove_abandoned(parts, ".*.tmp")

    def write(folder: Path) -> dict[str, Any]:
        return _write(folder, parts, corpus, train, held_out, vocabulary, engine, report)

    with remove_new_folders_on_error(directory):
        try:
            store = open_or_write_store(directory, settings, write, report, check)
        except BaseException:
            with contextlib.suppress(OSError):  # not empty, or never created
                parts.rmdir()
            if parts.exists():
                report(f"completed shards are in {parts}: run the same command again to resume")
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
    report: TextCallback,
) -> dict[str, Any]:
    """Write everything but the manifest, which is returned. Results per shard are in ``parts``."""
    surveys = _survey_tasks(parts, corpus, train, held_out)
    plan = parts / "plan"
    packing = _packing_tasks(parts, corpus, train, plan)
    if done := sum(task.is_done() for task in (*surveys, *packing)):
        report(
            f"resumes in {parts}: {done} of {len(surveys)} + {len(packing)} passes over shards "
            "are done"
        )
    places = [
        f"{source.path}, shard {n} of {len(shards)}"
        for source, shards in zip(corpus.sources, train, strict=True)
        for n in range(1, len(shards) + 1)
    ]
    packed = []
    with task_runner(engine, surveys, packing) as run:
        # All shards are surveyed before any is packed, because held-out documents and first
        # copies are known only then.
        for _ in run(surveys):
            pass
        with _remove_parts_on_user_error(parts):
            folders = [task.folder for task in surveys]
            split = partial(split_corpus, corpus, train, folders, vocabulary, report)
            write_folder(plan, split)
        for place, task, facts in zip(places, packing, run(packing), strict=True):
            packed.append((task.folder, facts))
            report(
                f"{place}: {facts['rows']} blocks of {facts['documents']} documents, "
                f"{facts['near_duplicates']} near-duplicates dropped"
            )
    return _join(folder, parts, plan, corpus, train, packed)


def _survey_tasks(
    parts: Path, corpus: Corpus, train: list[list[Shard]], held_out: list[Shard]
) -> list[PreparationTask]:
    """Return the tasks of the first pass: one per training shard, then per held-out shard."""
    fraction = 0.0 if held_out else corpus.held_out
    shards = [(shard, fraction) for shards in train for shard in shards]
    shards += [(shard, 1.0) for shard in held_out]
    characters = max_held_out_characters(corpus)
    return [
        PreparationTask(
            parts / f"survey-{n:05d}", partial(survey, shard, part, characters), shard.size
        )
        for n, (shard, part) in enumerate(shards)
    ]


def _packing_tasks(
    parts: Path, corpus: Corpus, train: list[list[Shard]], plan: Path
) -> list[PreparationTask]:
    """Return the tasks of the second pass, one per training shard."""
    drop = corpus.duplicates == "drop"
    return [
        PreparationTask(
            parts / f"{BLOCKS}-{n:05d}",
            partial(pack_shard, shard, n, plan, corpus.max_length, drop),
            shard.size,
        )
        for n, shard in enumerate(itertools.chain.from_iterable(train))
    ]


def _join(
    folder: Path,
    parts: Path,
    plan: Path,
    corpus: Corpus,
    train: list[list[Shard]],
    packed: list[tuple[Path, dict[str, Any]]],
) -> dict[str, Any]:
    """Join the blocks of all shards per source, and return the manifest."""
    vocabulary = read_plan(plan).vocabulary
    with write_errors(folder):
        vocabulary.save(folder)
        for path in plan.glob(f"{HELD_OUT}*.npy"):
            shutil.copy(path, folder)
    counts, sources, remaining = np.zeros(vocabulary.size, np.int64), [], iter(packed)
    for number, (source, shards) in enumerate(zip(corpus.sources, train, strict=True)):
        folders, entries = zip(*itertools.islice(remaining, len(shards)), strict=True)
        with _remove_parts_on_user_error(parts):
            totals = _totals(source, entries)
        with block_writer(folder, f"train-{number}", vocabulary, corpus.max_length) as writer:
            for part in folders:
                writer.append(part, BLOCKS)
        counts += writer.counts
        sources.append(
            {"path": source.path, **totals, **writer.manifest_entries(), "shards": entries}
        )
    return store_manifest(folder, vocabulary, counts, read_facts(plan), sources)


def _totals(source: Source, entries: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Sum the counts of a source's shards; raise UserError if no block is left."""
    totals = {
        key: sum(entry[key] for entry in entries)
        for key in (*COUNTS, "rows", "tokens", "real_tokens")
    }
    if not totals["rows"]:
        raise UserError(
            f"source {source.path} gives 0 training blocks: of its documents {totals['held_out']} "
            f"are held out, {totals['duplicates']} repeat an earlier one, "
            f"{totals['near_duplicates']} nearly repeat a held-out one and {totals['documents']} "
            "are left: add text or remove the source"
        )
    return totals


@contextlib.contextmanager
def _remove_parts_on_user_error(parts: Path) -> Iterator[None]:
    # The corpus itself is rejected, and a corrected one has other parts.
    try:
        yield
    except UserError:
        gcs.remove(parts)
        raise


def _settings(
    corpus: Corpus, train: list[list[Shard]], held_out: list[Shard], vocabulary: Vocabulary | None
) -> dict[str, Any]:
    """Return everything that changes the bytes of the store."""
    settings: dict[str, Any] = {
        "format": STORE_FORMAT,
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
