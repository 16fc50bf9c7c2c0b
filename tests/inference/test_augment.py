"""Variants of labelled rows: which words are replaced, and that resuming writes the same rows."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers.cli import refused, succeed, write_model

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.sources import AUGMENTATION_FILE, Source
from flaxdistill.data.tokenizer import load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.hub.checkpoint import read_model
from flaxdistill.inference import augment
from flaxdistill.inference.augment import Augmentation
from flaxdistill.inference.mask_filling import make_fill_mask
from flaxdistill.inference.word_vectors import WordVectors
from flaxdistill.models.architecture import Compute, make_apply
from flaxdistill.pytrees import Batch
from flaxdistill.tasks.text_classification import Classification

WORDS = ("the", "cat", "dog", "sees", "good", "bad", "old", "new", "not")
VECTORS = "fine 1 0 0\nbad -1 0 0\ngood 0.9 0.1 0\nnice 0.9 0 0.2\nodd 0 1 0\n, 0.99 0 0\n"
ROWS = [
    ("the cat sees 12 dogs, fine!", "yes"),
    ("Old", "no"),
    ("the dog", "yes"),
    ("fine by me", "no"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("augment")
    write_model(folder / "model", WORDS, max_positions=32)
    (folder / "rows.tsv").write_text(
        "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in ROWS)
    )
    (folder / "glove.txt").write_text(VECTORS)
    return folder


def augment_rows(folder, out, **changes):
    fields = {"variants": 6, "candidates": 3, "length": 16, "batch_size": 4, "probability": 0.6}
    source = Source(path=str(folder / "rows.tsv"), label="label")
    augmentation = Augmentation(
        source=source, glove=str(folder / "glove.txt"), **(fields | changes)
    )
    augment.augment(augmentation, read_model(str(folder / "model")), out)
    return rows_in(out)


def rows_in(out):
    return [
        json.loads(line)
        for path in sorted(out.glob("part-*"))
        for line in path.read_text().splitlines()
    ]


def test_replacements(folder, tmp_path):
    rows = augment_rows(folder, tmp_path / "out", variants=12)
    texts = [row["text"] for row in rows]
    assert len(set(texts)) == len(texts) > 2 * len(ROWS)
    assert [(row["text"], row["label"]) for row in rows if row["text"] in dict(ROWS)] == ROWS
    sides = {text.partition("12 ")[2] for text in texts if "12" in text}
    # dogs is two tokens and has no vector; 12 and punctuation are not alphabetic; fine has
    # three alphabetic neighbours.
    assert sides == {"dogs, fine!", "dogs, good!", "dogs, nice!", "dogs, odd!"}
    cats = {text.split(" ")[1] for text in texts if "12" in text}
    # The word itself, or one of three candidates.
    assert all(cat.isalpha() for cat in cats) and 2 <= len(cats) <= 4
    assert {row["label"] for row in rows if " by me" in row["text"]} == {"no"}


@pytest.mark.parametrize("types", [2, 1, 0])
def test_fill_mask_predicts_the_likeliest_words(tmp_path, types):
    path = write_model(tmp_path / "model", WORDS, type_vocab_size=types)
    model, vocabulary = read_model(str(path)), load_vocabulary(path)
    # Weights as large as trained ones: predictions depend on the context and on token types.
    model = dataclasses.replace(
        model, params=jax.tree.map(lambda x: x * (20 if x.ndim > 1 else 1), model.params)
    )
    texts = vocabulary.encode(["the cat sees", "old dog", "a"])
    predictions = make_fill_mask(model, vocabulary, 4, 16, 2)(texts, [1, 0, 0])
    apply = make_apply(model.config, Compute(dtype="float32"))
    whole = [i for i in range(vocabulary.size) if vocabulary.tokenizer.id_to_token(i).isalpha()]
    for text, position, words in zip(texts, [1, 0, 0], predictions, strict=True):
        ids = np.array([[vocabulary.cls, *text, vocabulary.sep, *text, vocabulary.sep]], np.int32)
        ids[0, position + 1] = vocabulary.mask
        token_types = np.zeros_like(ids)
        if types == 2:
            token_types[:, len(text) + 2 :] = 1
        batch = Batch.of(ids, token_type_ids=token_types)
        head = apply(jax.tree.map(np.asarray, model.params), batch, None).vocab
        logits = np.asarray(head.hidden[0, position + 1] @ head.kernel.T + head.bias)
        best = sorted(whole, key=lambda i: -logits[i])
        # With bfloat16 products, words of about equal probability may change places.
        tolerance = 0.02 * np.ptp(logits)
        assert len(set(words)) == 4 and set(words) <= set(whole)
        assert logits[list(words)].min() >= logits[best[3]] - tolerance


def test_stop_words_stay(folder, tmp_path):
    """TinyBERT's stop words, those of a file, or none; upper and lower case are the same."""
    (tmp_path / "rows.txt").write_text("Not the good cat\n")
    (tmp_path / "mine").write_text("good\nCAT\n")
    (tmp_path / "none").write_text("")
    model = (
        "--model",
        folder / "model",
        "--length",
        "32",
        "--variants",
        "20",
        "--probability",
        "1",
    )

    def varied_positions(*flags):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        succeed("augment", tmp_path / "rows.txt", out, *model, *flags)
        columns = zip(*(row["text"].split() for row in rows_in(out)), strict=True)
        return [len(set(words)) > 1 for words in columns]

    assert varied_positions() == [False, False, True, True]
    assert varied_positions("--stop-words", tmp_path / "mine") == [True, True, False, False]
    assert varied_positions("--stop-words", tmp_path / "none") == [True] * 4


def test_words_beyond_half_the_length_stay(folder, tmp_path):
    (tmp_path / "rows.txt").write_text("cat dog good bad old new cat dog good bad\n")
    run = ("--model", folder / "model", "--length", "16", "--probability", "1", "--variants", "5")
    succeed("augment", tmp_path / "rows.txt", tmp_path / "out", *run)
    source, *variants = (row["text"].split() for row in rows_in(tmp_path / "out"))
    assert len(variants) == 5 and all(words[6:] == source[6:] for words in variants)
    assert all(
        replacement != word
        for words in variants
        for replacement, word in zip(words[:6], source, strict=False)
    )


def test_resume_writes_the_same_rows(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(augment, "ROWS_PER_FILE", 2)
    whole = augment_rows(folder, tmp_path / "whole")
    assert len(list((tmp_path / "whole").glob("part-*"))) == 2 and len(
        rows_in(tmp_path / "whole")
    ) == len(whole)
    augment_rows(folder, tmp_path / "cut")
    (tmp_path / "cut" / "part-00001.jsonl").unlink()
    (tmp_path / "cut" / ".part-00001.jsonl.tmp").write_text("{half a li")
    calls = []
    monkeypatch.setattr(augment, "make_fill_mask", lambda *a: calls.append(a) or make_fill_mask(*a))
    assert augment_rows(folder, tmp_path / "cut") == whole and len(calls) == 1
    # The variants of a row do not depend on the size of files.
    monkeypatch.setattr(augment, "ROWS_PER_FILE", 3)
    assert augment_rows(folder, tmp_path / "other") == whole
    assert augment_rows(folder, tmp_path / "seed", seed=1) != whole


def test_unusual_rows(folder, tmp_path):
    """Empty texts, line separators inside of JSON, a text with two labels, and a repeated row."""
    path, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows = [
        ("", "a"),
        ("the cat\u2028sees", "a"),
        ("old dog", "a"),
        ("old dog", "b"),
        ("old dog", "a"),
        ("\x85", "b"),
    ]
    path.write_text("".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in rows))
    run = (
        "augment",
        path,
        out,
        "--model",
        folder / "model",
        "--label",
        "label",
        "--length",
        "16",
        "--variants",
        "3",
    )
    succeed(*run)
    lines = [line for file in sorted(out.glob("part*")) for line in file.read_bytes().split(b"\n")]
    written = [(row["text"], row["label"]) for row in map(json.loads, filter(None, lines))]
    assert len(set(written)) == len(written) and set(rows) <= set(written)
    succeed(*run)
    (shard,) = Source(path=str(out), label="label").labelled()
    assert [(e.text, e.label) for e in shard.documents()] == written


def test_word_with_blanks_has_a_vector(tmp_path):
    (tmp_path / "v.txt").write_text("one 1 0\n. . 0 1\ntwo 0.9 0.1\n")
    assert WordVectors(str(tmp_path / "v.txt")).nearest("one", 3) == ["two"]


def test_pairs(folder, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"a": "the cat", "b": "the dog sees", "n": 0.5}\n{"a": "old", "b": "new", "n": null}\n'
    )
    out = tmp_path / "out"
    output = succeed(
        "augment", path, out, "--model", folder / "model",
        "--column", "a", "--pair", "b", "--label", "n",
        "--variants", "4", "--length", "16", "--batch-size", "4",
    )  # fmt: skip
    assert "rows for 2 rows of the source" in output
    (shard,) = Source(path=str(out), column="a", pair="b", label="n").labelled()
    examples = list(shard.documents())
    assert (examples[0].text, examples[0].pair, examples[0].label) == (
        "the cat",
        "the dog sees",
        0.5,
    )
    assert (
        any(e.text != "the cat" and e.label == 0.5 for e in examples) and examples[-1].label is None
    )
    assert any(e.pair != "the dog sees" and e.label == 0.5 for e in examples)
    # One text varies at a time, the first one first, each at most 4 times.
    sides = [(e.text != "the cat", e.pair != "the dog sees") for e in examples if e.label == 0.5]
    assert sides == sorted(sides, key=[(False, False), (True, False), (False, True)].index)
    assert sides.count((True, False)) <= 4 and sides.count((False, True)) <= 4


@pytest.mark.parametrize("path", ["out", "out/*.jsonl", "out/part-00000.jsonl"])
def test_variants_of_held_out_rows_are_not_trained_on(folder, tmp_path, path):
    augment_rows(folder, tmp_path / "out")
    rows = Source(path=str(folder / "rows.tsv"), label="label")
    varied = Source(path=str(tmp_path / path), label="label")
    corpus = Corpus(
        sources=(rows, varied), tokenizer=str(folder / "model"), max_length=16, held_out=0.3
    )
    with pytest.raises(
        UserError, match=r"out.* reads variants of rows .* set corpus\.held_out_sources"
    ):
        prepare_examples(corpus, Classification().row_builder(), tmp_path / "stores")
    files = dataclasses.replace(corpus, held_out_sources=(rows,))
    assert len(
        prepare_examples(files, Classification().row_builder(), tmp_path / "stores").held_out
    ) == len(ROWS)


def test_invalid_arguments(folder, tmp_path):
    rows, model, out = folder / "rows.tsv", folder / "model", tmp_path / "out"
    succeed("augment", rows, out, "--model", model, "--length", "16", "--variants", "1")
    assert "variants 1 -> 2" in refused(
        "augment", rows, out, "--model", model, "--length", "16", "--variants", "2"
    )
    assert "stop_words" in refused(
        "augment",
        rows,
        out,
        "--model",
        model,
        "--length",
        "16",
        "--variants",
        "1",
        "--stop-words",
        rows,
    )
    settings = json.loads((out / AUGMENTATION_FILE).read_text())
    # Settings of a version that replaced stop words too, and read the masked text alone.
    for name in ("stop_words", "pair"):
        del settings[name]
    (out / AUGMENTATION_FILE).write_text(json.dumps(settings))
    assert "stop_words None ->" in refused(
        "augment", rows, out, "--model", model, "--length", "16", "--variants", "1"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    assert "choose another folder" in refused(
        "augment", rows, tmp_path / "full", "--model", model, "--length", "16"
    )
    assert "exceeds the 32 positions" in refused(
        "augment", rows, tmp_path / "new", "--model", model
    )
    assert "probability is 2.0" in refused(
        "augment", rows, tmp_path / "new", "--model", model, "--probability", "2"
    )
    tags = tmp_path / "tags.jsonl"
    tags.write_text('{"text": "the cat", "label": ["O", "O"]}\n')
    output = refused(
        "augment", tags, tmp_path / "new", "--model", model, "--length", "16", "--label", "label"
    )
    assert "is neither a class nor a number" in output and not list(
        (tmp_path / "new").glob("part*")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nb 1 x\n", ":2: expected a word and 2 numbers"),
        ("a 1 2\nb 1\n", ":2: expected a word and 2 numbers"),
        ("a 1 2\n", "holds 1 words"),
        ("a 1 nan\nb 1 2\n", ":1: expected a word"),
    ],
)
def test_damaged_vectors(tmp_path, text, message):
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        WordVectors(str(tmp_path / "v.txt"))


def test_neighbours_of_real_vectors(shared):
    vectors = WordVectors(str(shared / "data/glove/glove.twitter.27B.25d.top12k.txt"))
    neighbours = vectors.nearest("Monday", 10)
    assert "friday" in neighbours and "monday" not in neighbours
    assert vectors.nearest("qwertyzxcv", 3) == [] and len(vectors.nearest("movie", 15)) == 15
