"""Readers of files that users supply, and a folder of valid files for them."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow
import safetensors.numpy
from pyarrow import parquet
from rich.console import Console

from flaxdistill import (
    Classification,
    Corpus,
    Experiment,
    QuestionAnswering,
    Regression,
    Source,
    Teacher,
    TokenClassification,
    terminal,
)
from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.store import open_store
from flaxdistill.data.tokenizer import load_vocabulary
from flaxdistill.experiment import run_models, serialization, workdir
from flaxdistill.hub import checkpoint, convert, families
from flaxdistill.hub.tensor_files import read_tensors
from flaxdistill.inference.word_vectors import WordVectors
from flaxdistill.models.architecture import make_init
from flaxdistill.runtime import class_json
from flaxdistill.train.log import Log, last_row, read_rows
from helpers.tiny import tiny_config

Read = Callable[[Path], Any]
"""Reads one of the files of a folder; raises UserError if it is damaged."""

SQUAD_COLUMNS = ("question", "answers", "context")
EXPERIMENT = Experiment(teacher=Teacher(path="t"), select="best")
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sees", "a", "dog", "##s"]
BPE_TOKENS = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "t", "h", "e", "th", "the"]
TEXTS = [f"the cat sees a dog {n}\n" for n in range(40)]
ROWS = [{"text": text, "label": ("no", "yes")[n % 2], "id": n} for n, text in enumerate(TEXTS)]
QUESTION = {"id": "q", "question": "who?", "answers": [{"text": "cat", "answer_start": 4}]}
SQUAD = {"data": [{"paragraphs": [{"context": "the cat sees", "qas": [QUESTION]}]}]}
METRICS = [
    *({"step": n, "loss": 1.0 / n} for n in (1, 2, 3)),
    {"step": 4, "split": "held_out", "mlm": 1.5},
]


class Reader(NamedTuple):
    """A file of the folder, and a function that reads it."""

    file: str
    read: Read
    format: str = "bytes"
    """How to damage the file: as "bytes", "json" or "lines" of JSON."""


# --- readers ------------------------------------------------------------------------------------


def read_model(name: str) -> Read:
    return lambda folder: checkpoint.read_model(str(folder / name))


def read_tokenizer(name: str) -> Read:
    return lambda folder: load_vocabulary(folder / name).encode(["the cat"])


def read_texts(name: str) -> Read:
    def read(folder: Path) -> None:
        for shard in Source(path=str(folder / name)).shards():
            assert all(isinstance(text, str) and text.strip() for text in shard.documents())

    return read


def read_store(folder: Path) -> None:
    store = open_store(folder / "store")
    for blocks in (*store.train, store.held_out):
        assert blocks.ids.ndim == blocks.segments.ndim == 2
        assert len(blocks.ids) == len(blocks.segments)
        np.asarray(blocks.ids).sum()
    store.vocabulary()
    store.counts()
    store.examples()
    assert store.length >= 1 and isinstance(store.labels, tuple)


def read_questions(folder: Path) -> None:
    store = open_store(folder / "questions")
    logits = [np.zeros((2, store.length), np.float32)] * len(store.held_out)
    QuestionAnswering().score(logits, [], store)


def prepare_rows(folder: Path, output: str, name: str, task: Any, *columns: str) -> Path:
    """Prepare the rows of a file; ``columns`` are those of the text, the label and the pair."""
    fields = dict(zip(("column", "label", "pair"), columns, strict=False))
    rows = Source(path=str(folder / name), **fields)
    corpus = Corpus(
        sources=(rows,), held_out_sources=(rows,), tokenizer=str(folder / "words"), max_length=16
    )
    return prepare_examples(corpus, task.row_builder(), folder / output).path


def read_rows_of(name: str, task: Any, *columns: str) -> Read:
    return lambda folder: prepare_rows(folder, "stores", name, task, *columns)


def read_experiment(folder: Path) -> None:
    path = folder / "run"
    if not workdir.is_workdir(path):
        return
    experiment = workdir.read_experiment(path)
    copy = serialization.from_json(class_json.to_json(experiment), source="")
    assert copy == experiment or "nan" in repr(experiment)
    workdir.read_inputs(path)
    workdir.read_config(path)
    workdir.check_experiment(path, EXPERIMENT)


def read_metrics(folder: Path) -> None:
    rows = read_rows(folder / "run" / "metrics.jsonl")
    table = terminal.results_table([{"name": "student"} | last_row(rows, "held_out")])
    Console(file=io.StringIO()).print(table)
    run_models.lane_evaluations(folder / "run")
    log = Log(folder / "run", step=4)
    log.spike(1.0)
    log.close()


READERS = {
    "safetensors": Reader(
        "model/model.safetensors",
        lambda folder: read_tensors(folder / "model", families.family("bert")),
    ),
    "a model's weights": Reader("model/model.safetensors", read_model("model")),
    "a model's config": Reader("model/config.json", read_model("model"), "json"),
    "a distilbert's config": Reader("distilbert/config.json", read_model("distilbert"), "json"),
    "an index of shards": Reader(
        "shards/model.safetensors.index.json", read_model("shards"), "json"
    ),
    "a converted model": Reader("converted/model.json", read_model("converted"), "json"),
    "a manifest": Reader("store/manifest.json", read_store, "json"),
    "blocks": Reader("store/train-0.npy", read_store),
    "held-out examples": Reader("questions/held_out-examples.jsonl", read_questions),
    "parquet": Reader("a.parquet", read_texts("a.parquet")),
    "jsonl": Reader("a.jsonl", read_texts("a.jsonl"), "lines"),
    "jsonl.gz": Reader("a.jsonl.gz", read_texts("a.jsonl.gz")),
    "csv": Reader("a.csv", read_texts("a.csv")),
    "tsv": Reader("a.tsv", read_texts("a.tsv")),
    "txt": Reader("a.txt", read_texts("a.txt")),
    "classes": Reader(
        "rows.jsonl", read_rows_of("rows.jsonl", Classification(), "text", "label"), "lines"
    ),
    "scores": Reader("scores.tsv", read_rows_of("scores.tsv", Regression(), "text", "score")),
    "tags": Reader("tags.txt", read_rows_of("tags.txt", TokenClassification(), "0", "-1")),
    "listed tags": Reader(
        "tags.json",
        read_rows_of("tags.json", TokenClassification(scheme="plain"), "words", "tags"),
        "json",
    ),
    "squad": Reader(
        "squad.json",
        read_rows_of("squad.json", QuestionAnswering(stride=2), *SQUAD_COLUMNS),
        "json",
    ),
    "experiment.json": Reader("run/experiment.json", read_experiment, "json"),
    "metrics.jsonl": Reader("run/metrics.jsonl", read_metrics, "lines"),
    "tokenizer.json": Reader("tokenizer/tokenizer.json", read_tokenizer("tokenizer"), "json"),
    "tokenizer_config.json": Reader(
        "tokenizer/tokenizer_config.json", read_tokenizer("tokenizer"), "json"
    ),
    "vocab.txt": Reader("words/vocab.txt", read_tokenizer("words")),
    "vocab.json": Reader("bpe/vocab.json", read_tokenizer("bpe"), "json"),
    "merges.txt": Reader("bpe/merges.txt", read_tokenizer("bpe")),
    "vectors": Reader(
        "glove.txt", lambda folder: WordVectors(str(folder / "glove.txt")).nearest("the", 2)
    ),
}


# --- valid files --------------------------------------------------------------------------------


def write_valid_files(folder: Path) -> None:
    """Write a valid file for every reader."""
    _write_tokenizers(folder)
    _write_rows(folder)
    prepare_rows(folder, "prepared", "rows.jsonl", Classification(), "text", "label").rename(
        folder / "store"
    )
    prepare_rows(
        folder, "prepared", "squad.json", QuestionAnswering(stride=2), *SQUAD_COLUMNS
    ).rename(folder / "questions")
    _write_models(folder)
    (folder / "run" / "checkpoints" / "4" / "default").mkdir(parents=True)
    bert = families.family("bert")
    inputs = {"blocks": "0123456789abcdef"}
    workdir.write_experiment(folder / "run", EXPERIMENT, bert, tiny_config(), inputs)
    (folder / "run" / "metrics.jsonl").write_text(_json_lines(METRICS))


def _json_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _write_tokenizers(folder: Path) -> None:
    for name in ("tokenizer", "words", "bpe"):
        (folder / name).mkdir(parents=True)
    (folder / "words" / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    load_vocabulary(folder / "words").save(folder / "tokenizer")
    vocabulary = {token: n for n, token in enumerate(BPE_TOKENS)}
    (folder / "bpe" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "bpe" / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")


def _write_rows(folder: Path) -> None:
    lines = _json_lines(ROWS)
    files = {
        "a.jsonl": lines,
        "rows.jsonl": lines,
        "a.csv": "id,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(TEXTS)),
        "a.tsv": "id\ttext\n" + "".join(f"{n}\t{text}" for n, text in enumerate(TEXTS)),
        "scores.tsv": "text\tscore\nthe cat\t1.5\na dog\t-2e3\n",
        "a.txt": "\n".join(TEXTS),
        "tags.txt": "the O\ncat B-PET\n\na O\nbig B-PET\ndog I-PET\n",
        "tags.json": json.dumps({"words": ["the", "cat"], "tags": ["O", "B-PET"]}),
        "squad.json": json.dumps(SQUAD),
        "glove.txt": "the 1 2\ncat 2 1\ndog 0.5 -1\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "a.parquet")


def _write_models(folder: Path) -> None:
    """Write a BERT, a DistilBERT, the BERT in shards, and the BERT converted."""
    for name, type_vocab_size in (("bert", 2), ("distilbert", 0)):
        config = tiny_config(vocab_size=len(TOKENS), type_vocab_size=type_vocab_size)
        checkpoint.write_model(
            folder / ("model" if name == "bert" else name),
            family=families.family(name),
            config=config,
            params=jax.tree.map(np.asarray, make_init(config)(jax.random.key(0))),
            tokenizer=folder / "words",
        )
    tensors = safetensors.numpy.load_file(folder / "model" / "model.safetensors")
    shards = folder / "shards"
    shards.mkdir()
    (shards / "config.json").write_bytes((folder / "model" / "config.json").read_bytes())
    safetensors.numpy.save_file(tensors, shards / "a.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, "a.safetensors")}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    convert.convert(str(folder / "model"), folder / "converted")
