"""Readers of files that others made: damaged in any way, a file is read or refused, at once and in little memory.

Examples are the same in every run; ``FUZZ=5000`` takes more of them, drawn anew.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow
import pytest
import safetensors.numpy
from helpers.paths import ROOT
from helpers.tiny import tiny_config
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from rich.console import Console

from flaxdistill import terminal
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.sources import Source
from flaxdistill.data.store import open_store
from flaxdistill.data.tokenizer import load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.experiment import serialization, workdir
from flaxdistill.experiment.config import Experiment, Teacher
from flaxdistill.hub import checkpoint, convert, families
from flaxdistill.hub.tensor_files import read_tensors
from flaxdistill.inference.word_vectors import WordVectors
from flaxdistill.models.encoder import make_init
from flaxdistill.tasks.question_answering import QuestionAnswering
from flaxdistill.tasks.text_classification import Classification, Regression
from flaxdistill.tasks.token_classification import TokenClassification
from flaxdistill.train.log import Log, last_row, read_rows

MANY = int(os.environ.get("FUZZ", "0"))
SETTINGS = settings(
    max_examples=MANY or 60,
    derandomize=not MANY,
    database=None,
    deadline=timedelta(seconds=10),
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
ASKED = ("question", "answers", "context")
EXPERIMENT = Experiment(teacher=Teacher(path="t"), select="best")
TIMES, CONSTANT = 60, 8 * 2**20
"""What a reader may allocate: so many times the file, and so many bytes."""

# --- damage ---------------------------------------------------------------------------------------------------

HUGE = (2**31, -1, 0, 2**63, 2**64, 10**30, 1e308, -0.5, float("nan"), float("inf"))
VALUES = st.one_of(
    st.none(), st.booleans(), st.sampled_from(HUGE), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["\0", "\ud800", "é" * 9, "../..", "a" * 300, "None", "class", "nan"]),
    st.lists(st.integers(-3, 3), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@st.composite
def damaged_bytes(draw: Any, data: bytes) -> bytes:
    """Flip, cut, repeat and put in bytes."""
    made = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(made) - 1, 0)))
        match draw(st.sampled_from(["flip", "cut", "drop", "put", "repeat", "number"])):
            case "flip" if made:
                made[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del made[at:]
            case "drop":
                del made[at : at + draw(st.integers(1, 9))]
            case "put":
                made[at:at] = draw(
                    st.one_of(
                        st.binary(max_size=9),
                        st.sampled_from(
                            [b"\0", b"\xff", b'"', b"{", b"\n", b",", b"\t", b"9" * 40]
                        ),
                    )
                )
            case "repeat":
                made[at:at] = made[at : at + 9] * draw(st.integers(1, 50))
            case "number":
                made[at : at + 8] = struct.pack(
                    "<Q", draw(st.sampled_from([0, 1, 2**31, 2**63 - 1, 2**64 - 1]))
                )
    return bytes(made)


@st.composite
def damaged_json(draw: Any, text: str) -> bytes:
    """Put other values in places of a JSON text, take fields away, add some, and sometimes harm the bytes too."""
    whole = [json.loads(text)]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(whole))
        owner, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(["value", "value", "value", "gone", "more", "swap"])):
            case "value":
                owner[key] = draw(VALUES)
            case "gone" if len(places) > 1 and owner is not whole:
                del owner[key]
            case "more" if isinstance(owner, dict):
                owner[draw(st.text(max_size=5))] = draw(VALUES)
            case "swap":
                there, other = places[draw(st.integers(0, len(places) - 1))]
                owner[key] = json.loads(json.dumps(there[other]))
    data = json.dumps(whole[0]).encode("utf-8", "surrogatepass")
    return draw(damaged_bytes(data)) if draw(st.integers(0, 9)) == 0 else data


@st.composite
def damaged_lines(draw: Any, text: str) -> bytes:
    """Damage one line of JSON, or the bytes of all."""
    if draw(st.booleans()):
        return draw(damaged_bytes(text.encode()))
    lines = [line.encode() for line in text.splitlines()]
    at = draw(st.integers(0, len(lines) - 1))
    lines[at] = draw(damaged_json(lines[at].decode()))
    return b"".join(line + b"\n" for line in lines)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in list(items):
        yield value, key
        yield from _places(item)


# --- readers, each with files that it can read ------------------------------------------------------------------


Read = Callable[[Path], Any]


class Reader(NamedTuple):
    """A file among others in a folder, and what reads the folder."""

    file: str
    read: Read
    damaged: Callable[[str], Any] | None = None  # a text; None: bytes


def hf(name: str) -> Read:
    return lambda folder: checkpoint.read_model(str(folder / name))


def words(name: str) -> Read:
    return lambda folder: load_vocabulary(folder / name).encode(["the cat"])


def texts(name: str) -> Read:
    def read(folder: Path) -> None:
        for shard in Source(path=str(folder / name)).shards():
            assert all(isinstance(text, str) and text.strip() for text in shard.documents())

    return read


def store(folder: Path) -> None:
    opened = open_store(folder / "store")
    for blocks in (*opened.train, opened.held_out):
        assert blocks.ids.ndim == blocks.segments.ndim == 2 and len(blocks.ids) == len(
            blocks.segments
        )
        np.asarray(blocks.ids).sum()
    opened.vocabulary()
    opened.counts()
    opened.examples()
    assert opened.length >= 1 and isinstance(opened.labels, tuple)


def spans(folder: Path) -> None:
    opened = open_store(folder / "spans")
    logits = [np.zeros((2, opened.length), np.float32)] * len(opened.held_out)
    QuestionAnswering().score(logits, [], opened)


def prepared(folder: Path, where: str, name: str, task: Any, *columns: str) -> Path:
    rows = Source(
        path=str(folder / name), **dict(zip(("column", "label", "pair"), columns, strict=False))
    )
    corpus = Corpus(
        sources=(rows,), held_out_sources=(rows,), tokenizer=str(folder / "words"), max_length=16
    )
    return prepare_examples(corpus, task.row_builder(), folder / where).path


def labelled(name: str, task: Any, *columns: str) -> Read:
    return lambda folder: prepared(folder, "stores", name, task, *columns)


def run(folder: Path) -> None:
    path = folder / "run"
    if not workdir.is_workdir(path):
        return
    found = workdir.read_experiment(path)
    assert serialization.from_json(
        serialization.to_json(found), source=""
    ) == found or "nan" in repr(found)
    workdir.read_inputs(path)
    workdir.read_config(path)
    workdir.check_experiment(path, EXPERIMENT)


def metrics(folder: Path) -> None:
    rows = read_rows(folder / "run" / "metrics.jsonl")
    Console(file=io.StringIO()).print(
        terminal.results_table([{"name": "student"} | last_row(rows, "held_out")])
    )
    workdir.lane_evaluations(folder / "run")
    log = Log(folder / "run", step=4)
    log.spike(1.0)
    log.close()


READERS = {
    "safetensors": Reader("model/model.safetensors", lambda f: read_tensors(f / "model", families.family("bert"))),
    "a model's weights": Reader("model/model.safetensors", hf("model")),
    "a model's config": Reader("model/config.json", hf("model"), damaged_json),
    "a distilbert's config": Reader("distilbert/config.json", hf("distilbert"), damaged_json),
    "an index of shards": Reader("shards/model.safetensors.index.json", hf("shards"), damaged_json),
    "a converted model": Reader("converted/model.json", hf("converted"), damaged_json),
    "a manifest": Reader("store/manifest.json", store, damaged_json),
    "blocks": Reader("store/train-0.npy", store),
    "held-out examples": Reader("spans/held_out-examples.jsonl", spans),
    "parquet": Reader("a.parquet", texts("a.parquet")),
    "jsonl": Reader("a.jsonl", texts("a.jsonl"), damaged_lines),
    "jsonl.gz": Reader("a.jsonl.gz", texts("a.jsonl.gz")),
    "csv": Reader("a.csv", texts("a.csv")),
    "tsv": Reader("a.tsv", texts("a.tsv")),
    "txt": Reader("a.txt", texts("a.txt")),
    "classes": Reader("rows.jsonl", labelled("rows.jsonl", Classification(), "text", "label"), damaged_lines),
    "numbers": Reader("scores.tsv", labelled("scores.tsv", Regression(), "text", "score")),
    "tags": Reader("tags.txt", labelled("tags.txt", TokenClassification(), "0", "-1")),
    "listed tags": Reader("tags.json", labelled("tags.json", TokenClassification(scheme="plain"), "words", "tags"), damaged_json),
    "squad": Reader("squad.json", labelled("squad.json", QuestionAnswering(stride=2), *ASKED), damaged_json),
    "experiment.json": Reader("run/experiment.json", run, damaged_json),
    "metrics.jsonl": Reader("run/metrics.jsonl", metrics, damaged_lines),
    "tokenizer.json": Reader("tokenizer/tokenizer.json", words("tokenizer"), damaged_json),
    "tokenizer_config.json": Reader("tokenizer/tokenizer_config.json", words("tokenizer"), damaged_json),
    "vocab.txt": Reader("words/vocab.txt", words("words")),
    "vocab.json": Reader("bpe/vocab.json", words("bpe"), damaged_json),
    "merges.txt": Reader("bpe/merges.txt", words("bpe")),
    "vectors": Reader("glove.txt", lambda f: WordVectors(str(f / "glove.txt")).nearest("the", 2)),
}  # fmt: skip

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sees", "a", "dog", "##s"]
TEXTS = [f"the cat sees a dog {n}\n" for n in range(40)]
ROWS = [{"text": text, "label": ("no", "yes")[n % 2], "id": n} for n, text in enumerate(TEXTS)]
QUESTION = {"id": "q", "question": "who?", "answers": [{"text": "cat", "answer_start": 4}]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder in which every file can be read."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("tokenizer", "words", "bpe", "run/checkpoints/4/default", "shards"):
        (folder / name).mkdir(parents=True)
    (folder / "words" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    load_vocabulary(folder / "words").save(folder / "tokenizer")
    names = ["<s>", "</s>", "<pad>", "<unk>", "<mask>", "t", "h", "e", "th", "the"]
    (folder / "bpe" / "vocab.json").write_text(
        json.dumps({name: n for n, name in enumerate(names)})
    )
    (folder / "bpe" / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")

    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "a.jsonl").write_text(lines)
    (folder / "rows.jsonl").write_text(lines)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "a.csv").write_text(
        "id,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(TEXTS))
    )
    (folder / "a.tsv").write_text(
        "id\ttext\n" + "".join(f"{n}\t{text}" for n, text in enumerate(TEXTS))
    )
    (folder / "scores.tsv").write_text("text\tscore\nthe cat\t1.5\na dog\t-2e3\n")
    (folder / "a.txt").write_text("\n".join(TEXTS))
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "a.parquet")
    (folder / "tags.txt").write_text("the O\ncat B-PET\n\na O\nbig B-PET\ndog I-PET\n")
    (folder / "tags.json").write_text(json.dumps({"words": ["the", "cat"], "tags": ["O", "B-PET"]}))
    squad = {"data": [{"paragraphs": [{"context": "the cat sees", "qas": [QUESTION]}]}]}
    (folder / "squad.json").write_text(json.dumps(squad))
    (folder / "glove.txt").write_text("the 1 2\ncat 2 1\ndog 0.5 -1\n")

    prepared(folder, "made", "rows.jsonl", Classification(), "text", "label").rename(
        folder / "store"
    )
    prepared(folder, "made", "squad.json", QuestionAnswering(stride=2), *ASKED).rename(
        folder / "spans"
    )

    for name, family in (("model", "bert"), ("distilbert", "distilbert")):
        config = tiny_config(vocab_size=len(WORDS), type_vocab_size=2 if family == "bert" else 0)
        params = jax.tree.map(np.asarray, make_init(config)(jax.random.key(0)))
        checkpoint.write_model(
            folder / name,
            family=families.family(family),
            config=config,
            params=params,
            tokenizer=folder / "words",
        )
    found = safetensors.numpy.load_file(folder / "model" / "model.safetensors")
    (folder / "shards" / "config.json").write_bytes((folder / "model" / "config.json").read_bytes())
    safetensors.numpy.save_file(found, folder / "shards" / "a.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(found, "a.safetensors")}
    (folder / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    convert.convert(str(folder / "model"), folder / "converted")

    workdir.write_experiment(
        folder / "run",
        EXPERIMENT,
        families.family("bert"),
        tiny_config(),
        {"blocks": "0123456789abcdef"},
    )
    metrics = [{"step": n, "loss": 1.0 / n} for n in (1, 2, 3)] + [
        {"step": 4, "split": "held_out", "mlm": 1.5}
    ]
    (folder / "run" / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in metrics)
    )
    return folder


@pytest.mark.parametrize("name", READERS)
def test_what_is_whole_is_read(name, whole):
    READERS[name].read(whole)


def put(place: str, value: Any) -> Callable[[bytes], bytes]:
    """Put a value into a JSON text, by a path of dots."""

    def change(data: bytes) -> bytes:
        given = owner = json.loads(data)
        *above, name = place.split(".")
        for part in above:
            owner = owner[part]
        owner[name] = value
        return json.dumps(given).encode()

    return change


LONG = ["x" * 3000]
FOUND: dict[str, list[Callable[[bytes], bytes]]] = {
    "a manifest": [
        lambda data: data[:3] + b"\x80" + data[3:],
        put("format", LONG), put("counts.dtype", LONG), put("labels", 7),
        put("settings", None), put("settings", {"length": -1}), put("tokenizer", {"digest": None}),
    ],
    "blocks": [lambda data: data.replace(b", 16)", b", 16(", 1)],
    "an index of shards": [put("weight_map", {"a": LONG})],
    "experiment.json": [
        put("experiment.losses.vocab.temperature", None), put("experiment.optim.class", LONG),
        put("experiment.corpus", None), put("experiment.steps", "many"), put("inputs.blocks", ["a"]),
        put("student.family", LONG),
    ],
    "metrics.jsonl": [
        lambda data: data.replace(b"1.5", b'"low"'), lambda data: data.replace(b"1.5", b"{}"),
        lambda data: data.replace(b"1.5", b"9" * 400), lambda data: data.replace(b"1.5", b"9" * 5000),
        lambda data: data.replace(b"1.5", b"[" * 20_000), lambda data: data.replace(b'"held_out"', b"[]"),
    ],
    "vocab.json": [put("<s>", 2**32), put("<s>", -1), put("<s>", []), put("<mask>", 4 * 10**9)],
    "tokenizer_config.json": [put("mask_token", ["a"])],
    "a converted model": [put("format", LONG), put("digest", LONG), put("family", LONG)],
    "vectors": [lambda data: data.replace(b"1", b"9" * 41, 1)],
    "a model's config": [put("num_hidden_layers", 10**11), put("hidden_size", 2**70), put("type_vocab_size", -1)],
}  # fmt: skip
"""What readers have failed on."""


@pytest.mark.parametrize("name", READERS)
def test_what_is_damaged_is_read_or_refused(name, whole):
    reader = READERS[name]
    file = whole / reader.file
    data = file.read_bytes()
    rest = sum(path.stat().st_size for path in file.parent.rglob("*") if path.is_file())
    reader.read(whole)  # what is imported, compiled and kept once

    def check(made: bytes) -> None:
        file.write_bytes(made)
        said = ""
        tracemalloc.start()
        try:
            reader.read(whole)
        except UserError as error:
            said = str(error)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert len(said) < 2000
        assert peak < TIMES * (len(made) + rest) + CONSTANT, (
            f"{peak:,} bytes for a file of {len(made):,}"
        )

    damaged = reader.damaged(data.decode()) if reader.damaged else damaged_bytes(data)
    try:
        for change in FOUND.get(name, []):
            check(change(data))
        SETTINGS(given(damaged)(check))()
    finally:
        file.write_bytes(data)


WITHIN = """
import pathlib, resource, sys
sys.path[:0] = [sys.argv[1]]
import test_fuzz as fuzz
whole, name, damaged = pathlib.Path(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4])
reader = fuzz.READERS[name]
reader.read(whole)
used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
for made in sorted(damaged.iterdir()):
    (whole / reader.file).write_bytes(made.read_bytes())
    try:
        reader.read(whole)
    except fuzz.UserError:
        pass
print("done")
"""


@pytest.mark.parametrize("name", ["safetensors", "parquet", "tokenizer.json"])
def test_libraries_allocate_no_more(name, whole, tmp_path):
    """What is not Python's own memory: every number in a file's head is made huge, with 256 MiB to spare."""
    data = (whole / READERS[name].file).read_bytes()
    heads = range(0, 200, 2) if name != "parquet" else range(len(data) - 600, len(data) - 8, 4)
    for at in heads:
        made = data[:at] + b"\xff\xff\xff\xff\xff\xff\xff\x3f" + data[at + 8 :]
        (tmp_path / f"{at:05}").write_bytes(made)
    command = [
        sys.executable,
        "-c",
        WITHIN,
        str(Path(__file__).parent),
        str(whole),
        name,
        str(tmp_path),
    ]
    path = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    ).rstrip(os.pathsep)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
        )
    finally:
        (whole / READERS[name].file).write_bytes(data)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr[-2000:]
