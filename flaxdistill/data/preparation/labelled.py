"""Preparation of labelled sources: from rows to a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.array_file import write_errors
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.labelled_rows import RowBuilder
from flaxdistill.data.preparation.folders import TextCallback, open_or_write_store
from flaxdistill.data.preparation.labelled_split import LabelledSplit
from flaxdistill.data.preparation.manifest import store_manifest
from flaxdistill.data.preparation.row_writer import RowWriter
from flaxdistill.data.sources import AUGMENTATION_FILE, Shard, Source
from flaxdistill.data.store import STORE_FORMAT, Store
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError

RULES = 4
"""Changes whenever the same labelled rows would give other bytes."""


def prepare_examples(
    corpus: Corpus,
    row_builder: RowBuilder,
    directory: Path,
    *,
    labels: tuple[str, ...] | None = None,
    has_teacher: bool = True,
    report: TextCallback = lambda text: None,
    check: TextCallback = lambda name: None,
) -> Store:
    """Write the rows of labelled sources into a store below ``directory``, as ``prepare`` does.

    Held-out rows are all rows of ``held_out_sources`` or, without these, a fraction of the
    examples, chosen by text hash. The manifest holds the label names; if ``labels`` gives them,
    only held-out rows are read. ``has_teacher``: a teacher labels the unlabelled training rows.
    Raises UserError naming file and line for invalid rows.
    """
    if corpus.tokenizer is None:
        raise UserError(
            "labelled rows need a vocabulary: start from a model, or set corpus.tokenizer"
        )
    sources = corpus.sources if labels is None else ()
    if not corpus.held_out_sources:
        _check_not_augmented(sources)
    train = [source.labelled() for source in sources]
    held_out = [source.labelled() for source in corpus.held_out_sources]
    for shard in (shard for shards in (*train, *held_out) for shard in shards if shard.note):
        report(shard.note)
    vocabulary = load_vocabulary(corpus.tokenizer)
    settings = _settings(corpus, row_builder, vocabulary, train, held_out)
    settings |= {} if labels is None else {"labels": list(labels)}

    def write(folder: Path) -> dict[str, Any]:
        manifest = _write(folder, corpus, train, held_out, vocabulary, row_builder, labels, report)
        _check_labelled(manifest["train"], has_teacher)
        return manifest

    store = open_or_write_store(directory, settings, write, report, check)
    if warning := _check_labelled(store.manifest["train"], has_teacher):
        report(warning)
    return store


def _check_not_augmented(sources: tuple[Source, ...]) -> None:
    for source in sources:
        if source.is_augmented():
            raise UserError(
                f"source {source.path} reads variants of rows (its folder has {AUGMENTATION_FILE}),"
                " so variants of held-out rows would be trained on; set corpus.held_out_sources "
                "to rows that were not augmented"
            )


def _check_labelled(sources: list[dict[str, Any]], has_teacher: bool) -> str:
    """Return a warning about useless rows; raise UserError if all training rows are useless."""
    read, labelled = (sum(source[name] for source in sources) for name in ("read", "labelled"))
    if not (has_teacher or labelled):
        raise UserError(
            f"none of the {read:,} training rows has a label; name its column in source.label, "
            "or set teacher.path"
        )
    unused = 0 if has_teacher else read - labelled
    return (
        f"{unused:,} of {read:,} rows have no label; without a teacher they are not used"
        if unused
        else ""
    )


def _settings(
    corpus: Corpus,
    row_builder: RowBuilder,
    vocabulary: Vocabulary,
    train: list[list[Shard]],
    held_out: list[list[Shard]],
) -> dict[str, Any]:
    """Return everything that changes the bytes of the store, except given label names."""
    fraction = (
        corpus.held_out
        if row_builder.hold_out_by == "row"
        else {"share": corpus.held_out, "of": row_builder.hold_out_by}
    )
    return {
        "format": STORE_FORMAT,
        "rules": RULES,
        "task": row_builder.settings,
        "length": corpus.max_length,
        "tokenizer": {"digest": vocabulary.digest},
        # ``train`` is empty if the label names are given.
        "sources": [
            _source_settings(source, shards)
            for source, shards in zip(corpus.sources, train, strict=False)
        ],
        "held_out": [
            _source_settings(source, shards)
            for source, shards in zip(corpus.held_out_sources, held_out, strict=True)
        ]
        or fraction,
    }


def _source_settings(source: Source, shards: list[Shard]) -> dict[str, Any]:
    return {
        "column": source.column,
        "pair": source.pair,
        "label": source.label,
        "header": source.header,
        "split": source.split,
        "shards": [shard.fingerprint for shard in shards],
    }


def _write(
    folder: Path,
    corpus: Corpus,
    train: list[list[Shard]],
    held_out: list[list[Shard]],
    vocabulary: Vocabulary,
    row_builder: RowBuilder,
    label_names: tuple[str, ...] | None,
    report: TextCallback,
) -> dict[str, Any]:
    """Write everything but the manifest, which is returned."""
    with write_errors(folder):
        vocabulary.save(folder)
    training_sources = list(zip(corpus.sources, train, strict=label_names is None))
    held_out_shards = [shard for shards in held_out for shard in shards]
    for source, shards in training_sources:
        _check_not_empty(source, shards)
    if held_out_shards:
        _check_not_empty(corpus.held_out_sources[0], held_out_shards)
    fraction = None if held_out_shards else corpus.held_out
    split = LabelledSplit(fraction, row_builder.hold_out_by)
    labels = _label_names(row_builder, split, train) if label_names is None else list(label_names)
    labelled = (e for shards in train for e in split.training(shards) if e.label is not None)
    if note := row_builder.note(labelled):
        report(note)
    if labels:
        report(f"labels: {', '.join(labels[:20])}{', ...' if len(labels) > 20 else ''}")

    writer = RowWriter(folder, row_builder, labels, vocabulary, corpus.max_length)
    pool = held_out_shards or [shard for shards in train for shard in shards]
    evaluation = writer.write(
        "held_out", split.held_out(pool), np.zeros(vocabulary.size, np.int64), held_out=True
    )
    _check_held_out(evaluation, folder, corpus)
    counts = np.zeros(vocabulary.size, np.int64)
    entries = []
    for number, (source, shards) in enumerate(training_sources):
        entry = writer.write(f"train-{number}", split.training(shards), counts)
        if not entry["rows"]:
            raise UserError(
                f"source {source.path} holds no row to train on; add rows or remove the source"
            )
        report(
            f"{source.path}: {entry['rows']} rows, {entry['cut']} of them full with "
            f"{corpus.max_length} tokens"
        )
        entries.append({"path": source.path} | entry)
    return {"labels": labels} | store_manifest(folder, vocabulary, counts, evaluation, entries)


def _check_not_empty(source: Source, shards: list[Shard]) -> None:
    if not any(True for shard in shards for _ in shard.documents()):
        raise UserError(f"source {source.path} holds no row; add rows or use another source")


def _label_names(
    row_builder: RowBuilder, split: LabelledSplit, train: list[list[Shard]]
) -> list[str]:
    """Return the label names that the task finds in the training examples."""
    labelled = (e for shards in train for e in split.training(shards) if e.label is not None)
    declared = next((shard.classes for shards in train for shard in shards if shard.classes), ())
    return row_builder.label_names(labelled, declared)


def _check_held_out(evaluation: dict[str, Any], folder: Path, corpus: Corpus) -> None:
    if not evaluation["rows"]:
        raise UserError(
            "no example is held out: set corpus.held_out_sources, add rows or raise "
            f"corpus.held_out ({corpus.held_out})"
        )
    numbers = np.load(folder / "held_out-labels.npy", mmap_mode="r")
    if numbers.dtype.kind == "f" and np.ptp(numbers) == 0:
        paths = ", ".join(source.path for source in corpus.held_out_sources or corpus.sources)
        raise UserError(
            f"the held-out rows of {paths} ({len(numbers):,}) all have the label "
            f"{numbers.flat[0]:g}, with which nothing can be correlated; hold out rows whose "
            "labels differ (published test sets hide their labels behind one number)"
        )
