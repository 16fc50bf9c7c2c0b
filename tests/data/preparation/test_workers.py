"""Processes, Beam and resumed preparations write the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.paths import ROOT

from flaxdistill.data.corpus import Corpus, Engine
from flaxdistill.data.preparation import duplicates, held_out, workers
from flaxdistill.data.preparation import text as text_preparation
from flaxdistill.data.preparation.held_out import COUNTS
from flaxdistill.data.preparation.text import prepare
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError

WORDS = [a + b + c for a in "abcde" for b in "abcde" for c in "abcde"]
DIRECT = Engine(kind="beam", options=("runner=DirectRunner",))


def text(number):
    chooser = random.Random(number)
    return " ".join(chooser.choice(WORDS) for _ in range(40))


def write(path, documents):
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))


@pytest.fixture
def folder(tmp_path):
    """Three files of one source and one of another, with duplicates within and across files."""
    write(tmp_path / "a0.jsonl", [text(n) for n in (*range(60), 7)])
    write(tmp_path / "a1.jsonl", [text(n) for n in (*range(50, 110), 200, 200, 200)])
    write(tmp_path / "a2.jsonl", [text(n) for n in (*range(110, 150), 3)])
    write(tmp_path / "b.jsonl", [text(n) for n in (*range(140, 180), 200)])
    write(tmp_path / "held.jsonl", [text(1000 + n) for n in range(10)])
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    )
    return tmp_path


def corpus(folder, **settings):
    sources = tuple(Source(path=str(folder / name)) for name in ("a*.jsonl", "b.jsonl"))
    defaults = {"max_length": 32, "held_out": 0.1, "duplicates": "drop"}
    return Corpus(sources=sources, tokenizer=str(folder / "vocab.txt"), **defaults | settings)


def files(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def held(folder):
    return (Source(path=str(folder / "held.jsonl")),)


@pytest.mark.parametrize("explicit", [False, True])
def test_processes_write_the_same_bytes(folder, explicit):
    settings = {"held_out_sources": held(folder)} if explicit else {"held_out": 0.4}
    stores = [
        prepare(corpus(folder, **settings), folder / str(number), engine=Engine(processes=number))
        for number in (1, 2)
    ]
    assert stores[0].path.name == stores[1].path.name
    assert files(stores[0].path) == files(stores[1].path)
    counts = [sum(source[name] for name in COUNTS) for source in stores[0].manifest["train"]]
    assert counts == [61 + 63 + 41, 41]  # every document is counted once
    assert [p.name for p in (folder / "2").iterdir()] == [stores[1].path.name]


@pytest.mark.beam
@pytest.mark.filterwarnings("ignore")
def test_beam_writes_the_same_bytes(folder):
    one = prepare(corpus(folder), folder / "one", engine=Engine(processes=1))
    beam = prepare(corpus(folder), folder / "beam", engine=DIRECT)
    assert files(one.path) == files(beam.path) and beam.path.name == one.path.name
    assert [p.name for p in (folder / "beam").iterdir()] == [beam.path.name]


@pytest.mark.beam
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("runner=Nobody",),
            "Beam failed with engine.options runner=Nobody .*Unexpected pipeline runner: Nobody",
        ),
        (
            ("runnr=DirectRunner",),
            "engine.options has runnr=DirectRunner, but Beam has no option runnr",
        ),
    ],
)
def test_unknown_beam_options(folder, options, message):
    with pytest.raises(UserError, match=message):
        prepare(corpus(folder), folder / "stores", engine=Engine(kind="beam", options=options))
    assert not list(folder.glob("stores/*"))


@pytest.mark.beam
@pytest.mark.filterwarnings("ignore")
def test_beam_workers_without_the_shared_folder(folder, monkeypatch):
    monkeypatch.setattr("flaxdistill.data.preparation.beam.PreparationTask.run", lambda task: None)
    with pytest.raises(
        UserError, match=r"Beam has finished, but .*survey-00000 is not there: .* same paths"
    ):
        prepare(corpus(folder), folder / "stores", engine=DIRECT)


def test_missing_beam_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'flaxdistill\[beam\]'"):
        prepare(corpus(folder), folder / "stores", engine=DIRECT)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "engine",
    [Engine(processes=1), Engine(processes=2), pytest.param(DIRECT, marks=pytest.mark.beam)],
    ids=["1", "2", "beam"],
)
def test_error_in_a_shard_preserves_the_others(folder, engine):
    with (folder / "a2.jsonl").open("a") as file:
        file.write("broken\n")
    lines = []
    with pytest.raises(UserError) as error:
        prepare(corpus(folder), folder / "stores", engine=engine, report=lines.append)
    assert str(error.value).startswith(f"{folder}/a2.jsonl, line 42: not a JSON object on one line")
    assert str(error.value).endswith("write one object per line")
    (parts,) = (folder / "stores").iterdir()
    names = {path.name for path in parts.iterdir() if not path.name.startswith(".")}
    assert (
        {"survey-00000", "survey-00001"}
        <= names
        <= {"survey-00000", "survey-00001", "survey-00003"}
    )
    assert lines == [f"completed shards are in {parts}: run the same command again to resume"]


SCRIPT = """
import sys, time
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.corpus import Engine
from flaxdistill.data.preparation.text import prepare
from flaxdistill.data.sources import Source
folder = sys.argv[1]
def report(text):
    print(text, flush=True)
    time.sleep(60 * ("shard 2" in text))
sources = tuple(Source(path=folder + "/" + name) for name in ("a*.jsonl", "b.jsonl"))
corpus = Corpus(
    sources=sources, tokenizer=folder + "/vocab.txt", max_length=32, duplicates="drop", held_out=0.1
)
prepare(corpus, folder + "/stores", engine=Engine(processes=int(sys.argv[2])), report=report)
"""


def children(process):
    return [
        int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def alive(process):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("number", [1, 2])
def test_killed_preparation_resumes_with_the_complete_shards(folder, monkeypatch, number):
    command = [sys.executable, "-c", SCRIPT, str(folder), str(number)]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    while "shard 2" not in process.stdout.readline():
        assert process.poll() is None
    processes = children(process.pid)
    assert len(processes) >= number * (number > 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()  # not communicate(): a remaining worker would hold it open
    for _ in range(100):
        if not any(map(alive, processes)):
            break
        time.sleep(0.1)
    survivors = [worker for worker in processes if alive(worker)]
    for worker in survivors:
        os.kill(worker, signal.SIGKILL)
    assert not survivors, "workers outlive their parent"

    (parts,) = (path for path in (folder / "stores").iterdir() if path.name.endswith(".parts"))
    complete = sorted(path.name for path in parts.iterdir() if path.name.startswith("blocks"))
    assert complete[:2] == ["blocks-00000", "blocks-00001"] and len(complete) >= 2
    packed, pack = [], text_preparation.pack_shard

    def pack_shard(shard, *args):
        packed.append(shard.name)
        return pack(shard, *args)

    def survey(*args):
        pytest.fail("every shard was surveyed")

    monkeypatch.setattr(text_preparation, "pack_shard", pack_shard)
    monkeypatch.setattr(text_preparation, "survey", survey)
    lines = []
    store = prepare(
        corpus(folder), folder / "stores", engine=Engine(processes=1), report=lines.append
    )
    done = 4 + len(complete)
    assert lines[0] == f"resumes in {parts}: {done} of 4 + 4 passes over shards are done"
    assert packed == ["a2.jsonl", "b.jsonl"][len(complete) - 2 :]
    assert not parts.exists()
    monkeypatch.undo()
    assert files(store.path) == files(prepare(corpus(folder), folder / "others").path)


def test_process_that_ends_early_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(workers, "_initialize_worker", os._exit)
    with pytest.raises(
        UserError, match=r"one of the 2 processes .* has ended.* fewer --engine.processes"
    ):
        prepare(corpus(folder), folder / "stores", engine=Engine(processes=2))


def test_number_of_processes_follows_the_work(folder, monkeypatch):
    numbers = []
    monkeypatch.setattr(
        workers, "_pool", lambda number: numbers.append(number) or pytest.fail("started")
    )
    monkeypatch.setattr(workers, "_cores", lambda: 3)
    prepare(corpus(folder), folder / "small")  # too small for processes
    for size, cores, expected in ((1, 3, 3), (1, 64, 4)):
        monkeypatch.setattr(workers, "MIN_PARALLEL_BYTES", size)
        monkeypatch.setattr(workers, "_cores", lambda cores=cores: cores)
        with pytest.raises(pytest.fail.Exception):
            prepare(corpus(folder), folder / "large")
        assert numbers.pop() == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"processes": 0}, "engine.processes is 0"),
        (
            {"kind": "beam", "processes": 2},
            "engine.processes is 2, but beam's runner has its own number",
        ),
        (
            {"options": ("runner=DirectRunner",)},
            "engine.options is runner=DirectRunner, but only beam",
        ),
    ],
)
def test_invalid_engines(fields, message):
    with pytest.raises(UserError, match=message):
        Engine(**fields)


def read(store):
    """Return the documents of the training blocks of each source, in order."""
    vocabulary = store.vocabulary()
    ids = [
        blocks.ids[~(blocks.ids[..., None] == vocabulary.special_ids).any(-1)]
        for blocks in store.train
    ]
    sources = [vocabulary.decode(source).split() for source in ids]
    return [[" ".join(s[n : n + 40]) for n in range(0, len(s), 40)] for s in sources]


@pytest.mark.parametrize("chunk", [2**20, 8])
def test_first_of_repeated_documents_stays(folder, monkeypatch, chunk):
    """Within a file, across files and across sources; also if hashes are compared in chunks."""
    monkeypatch.setattr(duplicates, "RUN_LENGTH", chunk)
    monkeypatch.setattr(duplicates, "COMPARED", chunk)
    monkeypatch.setattr(held_out, "BATCH_DOCUMENTS", chunk)
    lines = []
    explicit = {"held_out_sources": held(folder)}
    store = prepare(corpus(folder, **explicit), folder / "stores", report=lines.append)
    assert read(store) == [
        [text(n) for n in (*range(110), 200, *range(110, 150))],
        [text(n) for n in range(150, 180)],
    ]
    assert [s["duplicates"] for s in store.manifest["train"][0]["shards"]] == [1, 12, 1]
    assert [(s["documents"], s["duplicates"]) for s in store.manifest["train"]] == [
        (151, 14),
        (30, 11),
    ]
    assert "25 documents of the sources repeat an earlier one: left out" in lines

    keep = prepare(corpus(folder, duplicates="keep", **explicit), folder / "stores")
    assert keep.path != store.path
    assert [(s["documents"], s["duplicates"]) for s in keep.manifest["train"]] == [
        (165, 14),
        (41, 11),
    ]
    assert read(keep)[1] == [text(n) for n in (*range(140, 180), 200)]


def test_source_that_only_repeats_another_is_rejected(folder):
    write(folder / "b.jsonl", [text(n) for n in range(10)])
    with pytest.raises(UserError, match=r"b.jsonl gives 0 training blocks.* repeat an earlier one"):
        prepare(corpus(folder), folder / "stores")
    assert not (folder / "stores").exists()
