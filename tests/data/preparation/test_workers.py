"""Processes, Beam and a preparation that was killed: the same bytes, whatever did the work and in how many goes."""

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
from flaxdistill.data.preparation import duplicates, held_out
from flaxdistill.data.preparation import text as preparing
from flaxdistill.data.preparation import workers as engine
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
    """Three files of one source and one of another; some documents stand twice in a file, or in two files."""
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
    usual = {"length": 32, "held_out": 0.1, "duplicates": "drop"}
    return Corpus(sources=sources, tokenizer=str(folder / "vocab.txt"), **usual | settings)


def files(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def held(folder):
    return (Source(path=str(folder / "held.jsonl")),)


@pytest.mark.parametrize("explicit", [False, True])
def test_any_number_of_processes_writes_the_same_bytes(folder, explicit):
    settings = {"held_out_sources": held(folder)} if explicit else {"held_out": 0.4}
    stores = [
        prepare(corpus(folder, **settings), folder / str(number), engine=Engine(processes=number))
        for number in (1, 2)
    ]
    assert stores[0].path.name == stores[1].path.name
    assert files(stores[0].path) == files(stores[1].path)
    counted = [sum(source[name] for name in COUNTS) for source in stores[0].manifest["train"]]
    assert counted == [61 + 63 + 41, 41]  # every document once, whatever became of it
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
    ("options", "words"),
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
def test_options_that_beam_does_not_have(folder, options, words):
    with pytest.raises(UserError, match=words):
        prepare(corpus(folder), folder / "stores", engine=Engine(kind="beam", options=options))
    assert not list(folder.glob("stores/*"))


@pytest.mark.beam
@pytest.mark.filterwarnings("ignore")
def test_workers_of_beam_that_see_other_folders(folder, monkeypatch):
    monkeypatch.setattr("flaxdistill.data.preparation.beam.Task.do", lambda task: None)
    with pytest.raises(
        UserError, match=r"Beam has finished, but .*survey-00000 is not there: .* same paths"
    ):
        prepare(corpus(folder), folder / "stores", engine=DIRECT)


def test_a_missing_beam_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install 'flaxdistill\[beam\]'"):
        prepare(corpus(folder), folder / "stores", engine=DIRECT)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "by",
    [Engine(processes=1), Engine(processes=2), pytest.param(DIRECT, marks=pytest.mark.beam)],
    ids=["1", "2", "beam"],
)
def test_what_a_shard_gets_wrong_is_one_sentence_and_the_others_stay(folder, by):
    with (folder / "a2.jsonl").open("a") as file:
        file.write("broken\n")
    said = []
    with pytest.raises(UserError) as told:
        prepare(corpus(folder), folder / "stores", engine=by, report=said.append)
    assert str(told.value).startswith(f"{folder}/a2.jsonl, line 42: not a JSON object on one line")
    assert str(told.value).endswith("write one object per line")
    (parts,) = (folder / "stores").iterdir()
    names = {path.name for path in parts.iterdir() if not path.name.startswith(".")}
    assert (
        {"survey-00000", "survey-00001"}
        <= names
        <= {"survey-00000", "survey-00001", "survey-00003"}
    )
    assert said == [f"kept what is done in {parts}: the same command goes on from there"]


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
corpus = Corpus(sources=sources, tokenizer=folder + "/vocab.txt", max_length=32, duplicates="drop", held_out=0.1)
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
def test_a_killed_preparation_goes_on_with_the_shards_that_are_whole(folder, monkeypatch, number):
    command = [sys.executable, "-c", SCRIPT, str(folder), str(number)]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    while "shard 2" not in process.stdout.readline():
        assert process.poll() is None
    workers = children(process.pid)
    assert len(workers) >= number * (number > 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()  # not communicate(): a worker that stays has it open too
    for _ in range(100):
        if not any(map(alive, workers)):
            break
        time.sleep(0.1)
    left = [worker for worker in workers if alive(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left, "what nobody waits for goes on"

    (parts,) = (path for path in (folder / "stores").iterdir() if path.name.endswith(".parts"))
    whole = sorted(path.name for path in parts.iterdir() if path.name.startswith("blocks"))
    assert whole[:2] == ["blocks-00000", "blocks-00001"] and len(whole) >= 2
    asked, pack = [], preparing.blocks
    monkeypatch.setattr(
        preparing, "blocks", lambda shard, *args: (asked.append(shard.name), pack(shard, *args))[1]
    )
    monkeypatch.setattr(preparing, "survey", lambda *args: pytest.fail("every shard was surveyed"))
    said = []
    store = prepare(
        corpus(folder), folder / "stores", engine=Engine(processes=1), report=said.append
    )
    assert said[0] == f"goes on in {parts}: {4 + len(whole)} of 4 + 4 passes over shards are done"
    assert asked == ["a2.jsonl", "b.jsonl"][len(whole) - 2 :]
    assert not parts.exists()
    monkeypatch.undo()
    assert files(store.path) == files(prepare(corpus(folder), folder / "others").path)


def test_a_process_that_ends_early_is_told(folder, monkeypatch):
    monkeypatch.setattr(engine, "_begin", os._exit)
    with pytest.raises(
        UserError, match=r"one of the 2 processes .* has ended.* fewer --engine.processes"
    ):
        prepare(corpus(folder), folder / "stores", engine=Engine(processes=2))


def test_processes_are_as_many_as_there_is_work_for(folder, monkeypatch):
    numbers = []
    monkeypatch.setattr(
        engine, "_pool", lambda number: numbers.append(number) or pytest.fail("asked")
    )
    monkeypatch.setattr(engine, "_cores", lambda: 3)
    prepare(corpus(folder), folder / "small")  # not worth a process
    for worth, cores, most in ((1, 3, 3), (1, 64, 4)):
        monkeypatch.setattr(engine, "WORTH", worth)
        monkeypatch.setattr(engine, "_cores", lambda cores=cores: cores)
        with pytest.raises(pytest.fail.Exception):
            prepare(corpus(folder), folder / "large")
        assert numbers.pop() == most


@pytest.mark.parametrize(
    ("fields", "words"),
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
def test_engines_that_cannot_be(fields, words):
    with pytest.raises(UserError, match=words):
        Engine(**fields)


def read(store):
    """Every document of the training blocks, in order, of each source."""
    vocabulary = store.vocabulary()
    ids = [
        blocks.ids[~(blocks.ids[..., None] == vocabulary.special_ids).any(-1)]
        for blocks in store.train
    ]
    found = [vocabulary.decode(own).split() for own in ids]
    return [[" ".join(own[n : n + 40]) for n in range(0, len(own), 40)] for own in found]


@pytest.mark.parametrize("at_once", [2**20, 8])
def test_of_documents_that_are_repeated_the_first_stays(folder, monkeypatch, at_once):
    """Within a file, between files of a source and between sources; also where not all hashes are looked at at once."""
    monkeypatch.setattr(duplicates, "SORTED", at_once)
    monkeypatch.setattr(duplicates, "COMPARED", at_once)
    monkeypatch.setattr(held_out, "DOCUMENTS", at_once)
    said = []
    explicit = {"held_out_sources": held(folder)}
    store = prepare(corpus(folder, **explicit), folder / "stores", report=said.append)
    assert read(store) == [
        [text(n) for n in (*range(110), 200, *range(110, 150))],
        [text(n) for n in range(150, 180)],
    ]
    assert [s["duplicates"] for s in store.manifest["train"][0]["shards"]] == [1, 12, 1]
    assert [(s["documents"], s["duplicates"]) for s in store.manifest["train"]] == [
        (151, 14),
        (30, 11),
    ]
    assert "25 documents of the sources repeat one before them: left out" in said

    kept = prepare(corpus(folder, duplicates="keep", **explicit), folder / "stores")
    assert kept.path != store.path
    assert [(s["documents"], s["duplicates"]) for s in kept.manifest["train"]] == [
        (165, 14),
        (41, 11),
    ]
    assert read(kept)[1] == [text(n) for n in (*range(140, 180), 200)]


def test_a_source_that_only_repeats_another_is_refused(folder):
    write(folder / "b.jsonl", [text(n) for n in range(10)])
    with pytest.raises(UserError, match=r"b.jsonl gives 0 training blocks.* repeat an earlier one"):
        prepare(corpus(folder), folder / "stores")
    assert not (folder / "stores").exists()
