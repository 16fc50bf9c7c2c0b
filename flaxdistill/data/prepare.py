"""From a corpus to a block store."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.neardup import HeldOutIndex
from flaxdistill.data.sources import Shard
from flaxdistill.data.split import COUNTS, TrainingDocuments, candidates, document_hash, first_tokens
from flaxdistill.data.store import FORMAT, MANIFEST, Store, open_store
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.data.wordpiece import train_wordpiece
from flaxdistill.data.writer import ArrayFile, block_writer, writing
from flaxdistill.errors import UserError

Report = Callable[[str], None]

# Seconds without a write after which a half-written store has no process any more that works on it.
ABANDONED_AFTER = 24 * 60 * 60


def prepare(
    corpus: Corpus,
    directory: str | os.PathLike,
    *,
    report: Report = lambda text: None,
    check: Report = lambda name: None,
) -> Store:
    """Turn a corpus into blocks in a folder of its own below ``directory``, or open it if it is there.

    The folder is named after everything that changes its bytes: content of the sources, tokenizer, held-out
    settings and block length, but not the weights of the sources. Held-out documents are never trained on,
    and neither are training documents that nearly repeat one (they are counted in the manifest).
    ``report`` is told, in one line each, what has been done; ``check`` is asked with the folder's name before it is made.
    """
    train = [source.shards() for source in corpus.sources]
    held_out = [shard for source in corpus.held_out_sources for shard in source.shards()]
    vocabulary = load_vocabulary(corpus.tokenizer) if corpus.tokenizer else None
    settings = _settings(corpus, train, held_out, vocabulary)
    return stored(
        Path(directory),
        settings,
        lambda folder: _write_blocks(folder, corpus, train, held_out, vocabulary, report),
        report,
        check,
    )


def stored(
    directory: Path,
    settings: dict[str, Any],
    write: Callable[[Path], dict[str, Any]],
    report: Report,
    check: Report,
) -> Store:
    """Open the store below ``directory`` that ``settings`` describe, or let ``write`` fill it: whole or not at all."""
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    _remove_abandoned(directory, fingerprint)
    final = directory / fingerprint
    if final.exists():
        store = open_store(final)
        report(
            f"reused {final}: {sum(map(len, store.train))} training and {len(store.held_out)} held-out blocks"
        )
        return store

    check(fingerprint)
    # Renamed when whole; until then the name begins with a dot and is nobody's fingerprint.
    temporary = directory / f".{fingerprint}-{uuid.uuid4().hex[:8]}"
    made = [folder for folder in temporary.parents if not folder.exists()]
    try:
        with writing(temporary):
            temporary.mkdir(parents=True)
        manifest = {"format": FORMAT, "fingerprint": fingerprint, "settings": settings} | write(temporary)
        with writing(temporary / MANIFEST), open(temporary / MANIFEST, "w") as file:
            file.write(json.dumps(manifest, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.rename(temporary, final)
        except OSError as error:
            if not final.exists():
                raise UserError(f"{temporary} cannot be renamed to {final} ({error.strerror})") from error
            # Another process was faster; its store has the same bytes.
            shutil.rmtree(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # another process has written there
                folder.rmdir()
        raise
    store = open_store(final)
    report(
        f"wrote {final}: {sum(map(len, store.train))} training and {len(store.held_out)} held-out blocks, "
        f"{100 * store.manifest['padding']:.2f} % padding"
    )
    return store


def _remove_abandoned(directory: Path, fingerprint: str) -> None:
    """Remove what killed runs left of this store; what was written to within a day may belong to a live one."""
    for folder in directory.glob(f".{fingerprint}-*"):
        try:
            # A file that grows does not touch the time of its folder, so both count.
            last = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
        except OSError:  # finished or removed by its own process just now
            continue
        if time.time() - last > ABANDONED_AFTER:
            shutil.rmtree(folder, ignore_errors=True)


def _write_blocks(
    folder: Path,
    corpus: Corpus,
    train: list[list[Shard]],
    held_out: list[Shard],
    vocabulary: Vocabulary | None,
    report: Report,
) -> dict[str, Any]:
    """Write everything but the manifest, and return what it says about blocks."""
    pool = held_out if corpus.held_out_sources else [shard for shards in train for shard in shards]
    share = 1.0 if corpus.held_out_sources else corpus.held_out
    # No language writes 16 characters per token, so texts beyond that are never needed.
    texts, documents = candidates(pool, share, 16 * corpus.held_out_blocks * corpus.length)
    if not texts:
        raise UserError(
            f"no document is held out of {documents} with held_out {corpus.held_out}: "
            "add text, raise held_out or name held_out_sources"
        )
    if vocabulary is None:
        vocabulary = train_wordpiece(
            (
                d
                for shards in train
                for shard in shards
                for d in shard.documents()
                if document_hash(d) not in texts
            ),
            corpus.vocab_size,
        )
        report(f"trained a vocabulary of {vocabulary.size} entries")
    with writing(folder):
        vocabulary.save(folder)

    # No block holds more tokens of documents.
    chosen, ids = first_tokens(texts, vocabulary, corpus.held_out_blocks * (corpus.length - 2))
    with block_writer(folder, "held_out", vocabulary, corpus.length) as writer:
        evaluation: dict[str, Any] = writer.write([ids], at_most=corpus.held_out_blocks)
    evaluation |= writer.entries() | {"documents": len(chosen)}
    if not evaluation["rows"]:
        raise UserError(
            f"the {len(chosen)} held-out documents (of {documents}) hold no token: "
            "add text, raise held_out or name held_out_sources"
        )
    report(f"held out {len(chosen)} documents: {evaluation['rows']} blocks")

    index = HeldOutIndex.of(ids)
    # Explicit held-out text is no part of the sources: what they repeat of it counts as near-duplicates.
    leave_out = set() if corpus.held_out_sources else chosen
    counts = np.zeros(vocabulary.size, np.int64)
    sources = []
    for number, (source, shards) in enumerate(zip(corpus.sources, train, strict=True)):
        entries: list[dict[str, Any]] = []
        with block_writer(folder, f"train-{number}", vocabulary, corpus.length) as writer:
            for shard in shards:
                training = TrainingDocuments(shard, vocabulary, index, leave_out)
                written: dict[str, Any] = writer.write(training)
                entries.append(
                    {"name": shard.name, "fingerprint": shard.fingerprint} | training.counts | written
                )
                report(
                    f"{source.path}, shard {len(entries)} of {len(shards)}: {written['rows']} blocks of "
                    f"{training.counts['documents']} documents, "
                    f"{training.counts['near_duplicates']} near-duplicates dropped"
                )
        total = {
            key: sum(entry[key] for entry in entries) for key in (*COUNTS, "rows", "tokens", "real_tokens")
        }
        if not total["rows"]:
            raise UserError(
                f"source {source.path} gives 0 training blocks: of its documents {total['held_out']} are held "
                f"out, {total['near_duplicates']} nearly repeat a held-out one and {total['documents']} are "
                "left: add text or leave the source out"
            )
        counts += writer.counts
        sources.append({"path": source.path, **total, **writer.entries(), "shards": entries})

    return closing(folder, vocabulary, counts, evaluation, sources)


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
    tokens, real_tokens = (sum(e[key] for e in (evaluation, *sources)) for key in ("tokens", "real_tokens"))
    return {
        "tokens": tokens,
        "real_tokens": real_tokens,
        "padding": 1 - real_tokens / tokens,
        "tokenizer": {"digest": vocabulary.digest, "size": vocabulary.size},
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "tokenizers", "pyarrow")},
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
        "length": corpus.length,
        "held_out_blocks": corpus.held_out_blocks,
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
