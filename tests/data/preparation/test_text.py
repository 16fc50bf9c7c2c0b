"""Preparing a text corpus: the contents of a store, when it is reused, and errors."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.paths import ROOT

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.preparation.text import prepare
from flaxdistill.data.sources import Source
from flaxdistill.data.store import open_store
from flaxdistill.errors import UserError

WORDS = [f"w{a}{b}" for a in "abcdefghijkl" for b in "abcdefghijkl"]


def text(number, words=60):
    chooser = random.Random(number)
    return " ".join(chooser.choice(WORDS) for _ in range(words))


def write(path, documents):
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))


@pytest.fixture
def folder(tmp_path):
    """Two files of documents, a vocabulary of whole words, and a place for stores."""
    write(tmp_path / "one.jsonl", [text(i) for i in range(200)])
    write(tmp_path / "two.jsonl", [text(1000 + i, 30) for i in range(100)])
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n"
    )
    return tmp_path


def corpus(folder, *names, **settings):
    sources = tuple(Source(path=str(folder / name)) for name in names or ("one.jsonl", "two.jsonl"))
    settings = {
        "tokenizer": str(folder / "vocab.txt"),
        "max_length": 32,
        "held_out": 0.1,
    } | settings
    return Corpus(sources=sources, **settings)


def documents(blocks, vocabulary):
    """The text of all blocks, end to end, without special tokens."""
    ids = np.asarray(blocks.ids)
    return vocabulary.decode(ids[~np.isin(ids, vocabulary.special_ids)])


def files(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_store_holds_every_document_once_on_one_side(folder):
    store = prepare(corpus(folder), folder / "stores")
    vocabulary = store.vocabulary()
    train = [documents(blocks, vocabulary) for blocks in store.train]
    held_out = documents(store.held_out, vocabulary)
    sides = {"train": 0, "held out": 0}
    for number, words in [(i, 60) for i in range(200)] + [(1000 + i, 30) for i in range(100)]:
        side = "train" if text(number, words) in train[number >= 1000] else "held out"
        assert side == "train" or text(number, words) in held_out
        sides[side] += 1
    assert 10 <= sides["held out"] <= 60
    words = sum(len(t.split()) for t in (*train, held_out))
    assert words == 200 * 60 + 100 * 30
    assert store.length == 32 and len(store.train) == 2
    manifest = store.manifest
    assert manifest["held_out"]["documents"] == sides["held out"]
    assert sum(source["documents"] for source in manifest["train"]) == sides["train"]
    blocks = sum(map(len, store.train)) + len(store.held_out)
    segments = [np.asarray(b.segments) for b in (*store.train, store.held_out)]
    assert manifest["tokens"] == 32 * blocks
    assert manifest["padding"] == pytest.approx((np.concatenate(segments) == 0).mean())
    assert manifest["tokenizer"]["digest"] == vocabulary.digest
    # Block ids are unique, and held-out ones do not depend on the amount of training text.
    held_out = len(store.held_out)
    assert store.held_out.first_id == 0
    assert [b.first_id for b in store.train] == [held_out, held_out + len(store.train[0])]


def test_shards_of_a_source_are_in_order(folder):
    (folder / "many").mkdir()
    for i in range(3):
        write(folder / "many" / f"{i}.jsonl", [text(i * 50 + j) for j in range(20 + i)])
    store = prepare(corpus(folder, "many"), folder / "stores")
    (blocks,), (source,) = store.train, store.manifest["train"]
    assert [shard["name"] for shard in source["shards"]] == ["0.jsonl", "1.jsonl", "2.jsonl"]
    assert sum(shard["rows"] for shard in source["shards"]) == source["rows"] == len(blocks)
    first = 0
    for i, shard in enumerate(source["shards"]):
        # Every shard begins with a new block.
        ids = blocks.ids[first : (first := first + shard["rows"])]
        read = store.vocabulary().decode(ids[~np.isin(ids, store.vocabulary().special_ids)])
        train = [text(i * 50 + j) for j in range(20 + i) if text(i * 50 + j) in read]
        assert read.split() == " ".join(train).split() and len(train) == shard["documents"] > 0
    # A map holds a file descriptor, so shards must not have separate files.
    assert len(list(store.path.glob("train-*.npy"))) == 2


def test_store_is_reused_until_something_changes(folder):
    lines = []
    first = prepare(corpus(folder), folder / "stores")
    before = files(first.path)
    again = prepare(corpus(folder), folder / "stores", report=lines.append)
    assert again.path == first.path and files(again.path) == before
    assert len(lines) == 1 and lines[0].startswith("reused")
    weighted = tuple(Source(path=s.path, weight=3.0) for s in corpus(folder).sources)
    settings = {"tokenizer": str(folder / "vocab.txt"), "max_length": 32, "held_out": 0.1}
    assert prepare(Corpus(sources=weighted, **settings), folder / "stores").path == first.path

    paths = {first.path}
    paths.add(prepare(corpus(folder, max_length=48), folder / "stores").path)
    paths.add(prepare(corpus(folder, held_out=0.2), folder / "stores").path)
    write(folder / "two.jsonl", [text(1000 + i, 30) for i in range(99)])
    paths.add(prepare(corpus(folder), folder / "stores").path)
    with (folder / "vocab.txt").open("a") as file:
        file.write("new\n")
    paths.add(prepare(corpus(folder), folder / "stores").path)
    assert len(paths) == 5
    assert sorted(p.name for p in (folder / "stores").iterdir()) == sorted(p.name for p in paths)


def test_tokenizer_that_only_splits_differently_gives_another_store(folder):
    with (folder / "vocab.txt").open("a") as file:
        file.write("don\n")
    first = prepare(corpus(folder), folder / "stores")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    second = prepare(corpus(folder), folder / "stores")
    assert first.path != second.path
    assert first.manifest["tokenizer"]["size"] == second.manifest["tokenizer"]["size"]


def test_the_same_corpus_gives_the_same_bytes(folder):
    stores = [
        prepare(corpus(folder, tokenizer=None, vocab_size=300), folder / name)
        for name in ("a", "b")
    ]
    assert stores[0].path.name == stores[1].path.name
    assert files(stores[0].path) == files(stores[1].path)
    assert stores[0].vocabulary().size > 100


def test_near_duplicates_of_held_out_text_are_dropped(folder):
    original = [text(i) for i in range(300)]
    write(folder / "one.jsonl", original)
    plain = prepare(corpus(folder, "one.jsonl"), folder / "stores")
    held_out = documents(plain.held_out, plain.vocabulary())
    chosen = [d for d in original if d in held_out]
    assert chosen and plain.manifest["train"][0]["near_duplicates"] == 0
    # Held out explicitly, so the split does not depend on the added text.
    write(folder / "held.jsonl", chosen)
    edited = [d.replace(d.split()[30], "waa") for d in chosen]
    others = [d for d in original if d not in chosen]
    write(folder / "one.jsonl", others + edited + chosen)
    explicit = corpus(
        folder, "one.jsonl", held_out_sources=(Source(path=str(folder / "held.jsonl")),)
    )
    store = prepare(explicit, folder / "stores")
    counts = store.manifest["train"][0]
    assert counts["near_duplicates"] == 2 * len(chosen)
    assert counts["documents"] == len(others)
    assert documents(store.train[0], store.vocabulary()).split() == " ".join(others).split()
    assert store.manifest["held_out"]["documents"] == len(chosen)


def test_held_out_blocks_are_limited(folder):
    write(folder / "one.jsonl", [text(i) for i in range(500)] * 2)  # each document twice
    store = prepare(corpus(folder, "one.jsonl", held_out=0.4, held_out_blocks=7), folder / "stores")
    assert len(store.held_out) == 7
    held_out, vocabulary = documents(store.held_out, store.vocabulary()), store.vocabulary()
    train = documents(store.train[0], vocabulary)
    entry = store.manifest["held_out"]
    assert entry["documents"] == 4  # 210 tokens are enough, the rest is trained on
    held = [text(i) for i in range(500) if text(i) not in train]
    assert len(held) == 4 and sum(d in held_out for d in held) == 3
    assert store.manifest["train"][0]["held_out"] == 8


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["tiny.jsonl"], {"held_out": 0.001}, "no document is held out of 2 with held_out 0.001"),
        (["same.jsonl"], {"held_out": 0.499999}, "gives 0 training blocks|no document is held out"),
        (
            ["one.jsonl", "held.jsonl"],
            {"explicit": "held.jsonl"},
            "held.jsonl gives 0 training blocks.* 3 nearly",
        ),
    ],
)
def test_too_small_corpus_is_rejected(folder, names, settings, message):
    write(folder / "tiny.jsonl", [text(1), text(2)])
    write(folder / "same.jsonl", [text(3)] * 10)
    write(folder / "held.jsonl", [text(2000 + i) for i in range(3)])
    if explicit := settings.pop("explicit", None):
        settings["held_out_sources"] = (Source(path=str(folder / explicit)),)
    with pytest.raises(UserError, match=message):
        prepare(corpus(folder, *names, **settings), folder / "stores")
    assert not (folder / "stores").exists()


def test_damaged_store_is_rejected_and_not_reused(folder):
    store = prepare(corpus(folder), folder / "stores")
    path = store.path / store.manifest["train"][1]["ids"]["file"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=path.name):
        prepare(corpus(folder), folder / "stores")


SCRIPT = """
import resource, signal, sys, time
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.preparation.text import prepare
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError
folder, slow = sys.argv[1], "slow" in sys.argv
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in background processes
if "full" in sys.argv:  # not in the parent: forking after loading jax may deadlock
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[-1]),) * 2)
def report(text):
    print(text, flush=True)
    time.sleep(60 * (slow and not text.startswith("completed")))
sources = (Source(path=folder + "/one.jsonl"), Source(path=folder + "/two.jsonl"))
try:
    corpus = Corpus(sources=sources, tokenizer=folder + "/vocab.txt", max_length=32, held_out=0.1)
    print(len(prepare(corpus, folder + "/stores", report=report).train[0]))
except UserError as error:
    sys.exit(f"UserError {error}")
"""


def start(folder, *arguments):
    command = [sys.executable, "-c", SCRIPT, str(folder), *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_killed_prepare_leaves_no_store(folder):
    process = start(folder, "slow")
    assert process.stdout.readline().startswith("held out")  # while it is writing
    process.kill()
    process.communicate()
    paths = list((folder / "stores").iterdir())
    assert all(path.name.startswith(".") for path in paths)
    for path in paths:
        with pytest.raises(UserError, match="not a block store"):
            open_store(path)
    assert len(prepare(corpus(folder), folder / "stores").train) == 2


def test_incomplete_folders_are_removed_after_a_day(folder):
    fingerprint = prepare(corpus(folder), folder / "stores").path.name
    shutil.rmtree(folder / "stores" / fingerprint)

    def leave(name, folder_hours, file_hours):
        path = folder / "stores" / name
        path.mkdir()
        (path / "train-0.npy").write_bytes(b"half")
        for file, hours in ((path / "train-0.npy", file_hours), (path, folder_hours)):
            os.utime(file, (time.time() - 3600 * hours,) * 2)
        return name

    leave(f".{fingerprint}.0000dead.tmp", 25, 25)
    expected = {
        fingerprint,
        leave(f".{fingerprint}.00000new.tmp", 23, 23),
        leave(f".{fingerprint}.0growing.tmp", 25, 1),  # an old folder with a growing file
        leave(".0123456789abcdef.other.tmp", 25, 25),
    }
    prepare(corpus(folder), folder / "stores")
    assert {path.name for path in (folder / "stores").iterdir()} == expected
    leave(f".{fingerprint}.0000dead.tmp", 25, 25)
    prepare(corpus(folder), folder / "stores")  # reused
    assert {path.name for path in (folder / "stores").iterdir()} == expected


@pytest.mark.slow
def test_interrupted_prepare_preserves_complete_folders(folder):
    process = start(folder, "slow")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate()
    (parts,) = (folder / "stores").iterdir()
    assert sorted(path.name for path in parts.iterdir()) == ["survey-00000", "survey-00001"]


def test_two_processes_at_once_both_succeed(folder):
    both = [start(folder), start(folder)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert outputs[0][0].split()[-1] == outputs[1][0].split()[-1]
    assert [path.name[0] for path in (folder / "stores").iterdir()] != ["."]
    assert len(list((folder / "stores").iterdir())) == 1


def test_slower_process_uses_the_store_of_the_faster(folder):
    stores = []

    def report(line):
        if line.startswith("held out"):
            stores.append(prepare(corpus(folder), folder / "stores"))

    store = prepare(corpus(folder), folder / "stores", report=report)
    assert store.path == stores[0].path and len(list((folder / "stores").iterdir())) == 1


@pytest.mark.parametrize(("limit", "complete"), [(100, 0), (4000, 0), (12000, 3)])
def test_full_disk_is_one_error_and_leaves_no_incomplete_folder(folder, limit, complete):
    process = start(folder, "full", str(limit))
    output, error = process.communicate()
    assert process.returncode == 1 and error.startswith("UserError "), error
    assert str(folder / "stores") in error and "File too large" in error
    names = sorted(path.name for path in (folder / "stores").glob(".*.parts/*"))
    assert names == ["plan", "survey-00000", "survey-00001"][:complete]
    assert all(path.name.endswith(".parts") for path in (folder / "stores").glob("*"))
    assert (folder / "stores").exists() == (complete > 0)
    assert ("completed shards are in" in output) == (complete > 0)
    lines = []
    store = prepare(corpus(folder), folder / "stores", report=lines.append)
    assert lines[0].startswith("resumes in") == (complete > 0)
    assert files(store.path) == files(prepare(corpus(folder), folder / "others").path)


def test_folder_that_cannot_be_created_is_an_error(folder):
    with pytest.raises(UserError, match=r"one.jsonl.* cannot be written"):
        prepare(corpus(folder), folder / "one.jsonl")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 8}, "max_length is 8"),
        ({"held_out": 0.5}, "held_out is 0.5"),
        ({"held_out": float("nan")}, "held_out is nan"),
        ({"held_out_blocks": 0}, "held_out_blocks is 0"),
        ({"vocab_size": 5}, "vocab_size is 5"),
        ({"sources": ()}, "sources is empty"),
    ],
)
def test_invalid_settings_are_rejected(settings, message):
    with pytest.raises(UserError, match=message):
        Corpus(**settings)


def test_real_text_has_little_padding(shared, tmp_path):
    began = time.perf_counter()
    store = prepare(
        Corpus(
            sources=(Source(path=str(shared / "data/corpus/wikipedia-validation.parquet")),),
            tokenizer=str(shared / "tokenizers/bert-base-uncased"),
            held_out=0.1,
        ),
        tmp_path,
    )
    assert store.manifest["padding"] < 0.01
    assert store.manifest["train"][0]["near_duplicates"] == 0
    assert time.perf_counter() - began < 60
