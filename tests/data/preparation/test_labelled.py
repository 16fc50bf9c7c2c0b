"""Preparing labelled rows: the rows of examples, and which are held out."""

import dataclasses
import json

import numpy as np
import pytest
from helpers.labelled import (
    WORDS,
    all_rows,
    labelled_corpus,
    prepare_labelled,
    write_labelled_files,
)
from tokenizers import Tokenizer

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.sources import Example, Source
from flaxdistill.data.tokenizer import load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.tasks.question_answering import QuestionAnswering
from flaxdistill.tasks.text_classification import Classification, Regression
from flaxdistill.tasks.token_classification import TokenClassification

CLS, SEP = 2, 3


@pytest.fixture
def folder(tmp_path):
    return write_labelled_files(tmp_path)


def ids(*words):
    return [WORDS.index(word) for word in words]


def test_row_is_an_example(folder):
    store = prepare_labelled(folder)
    assert store.labels == ("no", "yes")
    batch = all_rows(store.train[0])
    assert batch["labels"].tolist() == [[0], [1], [0]] and batch["labels"].dtype == np.int32
    assert batch["input_ids"][0, :5].tolist() == [CLS, *ids("w0", "w1"), SEP, 0]
    assert batch["segment_ids"].sum(1).tolist() == [4, 3, 5]
    assert batch["positions"][2].tolist() == [0, 1, 2, 3, 4] + [0] * 11
    assert not batch["token_type_ids"].any()
    assert all_rows(store.held_out)["labels"].tolist() == [[1]]
    assert prepare_labelled(folder).path == store.path
    reordered = prepare_labelled(folder, Classification(labels=("yes", "no")))
    assert reordered.path != store.path and all_rows(reordered.train[0])["labels"].tolist() == [
        [1],
        [0],
        [1],
    ]


def test_pairs_have_two_types_and_are_truncated_longest_first(folder):
    rows_ = [
        ("w0 w1", "w2", "a"),
        (" ".join(["w3"] * 20), "w4 w5", "b"),
        ("w1", " ".join(["w6"] * 30), "a"),
    ]
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps({"one": a, "two": b, "label": c}) + "\n" for a, b, c in rows_)
    )
    store = prepare_labelled(
        folder, train=("pairs.jsonl",), dev="pairs.jsonl", column="one", pair="two"
    )
    batch = all_rows(store.train[0])
    assert batch["input_ids"][0, :6].tolist() == [CLS, *ids("w0", "w1"), SEP, *ids("w2"), SEP]
    assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1] + [0] * 10
    assert batch["input_ids"][1].tolist() == [CLS, *ids("w3") * 11, SEP, *ids("w4", "w5"), SEP]
    assert batch["token_type_ids"][1].sum() == 3
    assert batch["input_ids"][2].tolist() == [CLS, *ids("w1"), SEP, *ids("w6") * 12, SEP]
    assert store.manifest["train"][0]["cut"] == 2


@pytest.mark.parametrize("length", [8, 9, 16, 17])
def test_truncation_equals_longest_first_of_tokenizers(folder, length):
    """Pairs of all lengths, and single texts."""
    vocabulary = load_vocabulary(folder / "vocab.txt")
    reference = Tokenizer.from_str(vocabulary.tokenizer.to_str())
    reference.enable_truncation(length, strategy="longest_first")

    def words(n, first):
        return " ".join(f"w{(first + i) % 20}" for i in range(n))

    pairs = [(words(n, 0), words(m, 10)) for n in range(1, 31) for m in range(1, 31)]
    examples = [Example("", a, b, paired=True) for a, b in pairs] + [
        Example("", a) for a, _ in pairs
    ]
    expected = reference.encode_batch(pairs) + reference.encode_batch([a for a, _ in pairs])
    row_builder = Regression().row_builder()
    for (row,), encoding in zip(
        row_builder.rows(examples, [], vocabulary, length), expected, strict=True
    ):
        assert row.ids.tolist() == encoding.ids
        assert row.second == (encoding.type_ids.index(1) if 1 in encoding.type_ids else 0)


def test_unlabelled_rows_are_training_rows(folder):
    examples = [("w8", "no"), ("w9", None), ("w1", "yes")]
    (folder / "some.jsonl").write_text(
        "".join(json.dumps({"sentence": text, "label": label}) + "\n" for text, label in examples)
    )
    store = prepare_labelled(folder, train=("some.jsonl",))
    assert all_rows(store.train[0])["labels"].tolist() == [[0], [-2], [1]]
    (folder / "raw.txt").write_text("w10 w11\n\nw12\n")
    both = Corpus(
        sources=(
            *labelled_corpus(folder).sources,
            Source(path=str(folder / "raw.txt"), weight=0.5),
        ),
        held_out_sources=labelled_corpus(folder).held_out_sources,
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
    )
    store = prepare_examples(both, Classification().row_builder(), folder / "stores")
    assert all_rows(store.train[1])["labels"].tolist() == [[-2], [-2]]


@pytest.mark.parametrize("task", [Classification(), Regression()])
def test_docstrings_are_unlabelled_rows(folder, monkeypatch, task):
    monkeypatch.setattr(
        "flaxdistill.data.readers.docstrings.read_docstrings", lambda: ["w0 w1", "w2 " * 30]
    )
    (folder / "n.tsv").write_text("sentence\tlabel\nw0\t2\nw1\t0\n")
    (labelled,) = labelled_corpus(folder, train=("n.tsv",)).sources
    both = Corpus(
        sources=(labelled, Source(path="docstrings")),
        held_out_sources=(labelled,),
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
    )
    store = prepare_examples(both, task.row_builder(), folder / "stores")
    batch = all_rows(store.train[1])
    assert batch["segment_ids"].sum(1).tolist() == [4, 16], "longer text is truncated"
    assert batch["labels"][:, 0].tolist() == [-2, -2] or np.isnan(batch["labels"]).all()
    with pytest.raises(UserError, match="docstrings have no labels and no second texts"):
        Source(path="docstrings", label="label").labelled()
    with pytest.raises(UserError, match="docstrings: expected a text but found None"):
        list(
            QuestionAnswering()
            .row_builder()
            .rows(
                list(Source(path="docstrings").labelled()[0].documents()),
                [],
                store.vocabulary(),
                16,
            )
        )


def test_numbers(folder):
    (folder / "n.tsv").write_text("sentence\tlabel\nw0\t2.5\nw1\t0\n")
    store = prepare_labelled(folder, Regression(), train=("n.tsv",), dev="n.tsv")
    labels = all_rows(store.train[0])["labels"]
    assert (
        labels.dtype == np.float32
        and labels.tolist() == [[2.5], [0.0]]
        and store.labels == ("score",)
    )


def test_hidden_numbers_are_not_evaluated(folder):
    """As in the test split of STS-B."""
    (folder / "n.tsv").write_text("sentence\tlabel\nw0\t2.5\nw1\t0\n")
    (folder / "hidden.tsv").write_text("sentence\tlabel\nw0\t-1.0\nw1\t-1.0\n")
    with pytest.raises(
        UserError,
        match=r"hidden\.tsv \(2\) all have the label -1, with which nothing can be correl",
    ):
        prepare_labelled(folder, Regression(), train=("n.tsv",), dev="hidden.tsv")
    assert (
        len(prepare_labelled(folder, Regression(), train=("hidden.tsv",), dev="n.tsv").train[0])
        == 2
    )


def test_file_without_a_header_line(folder):
    (folder / "bare.tsv").write_text("s1\t1\t*\tw0 w1\ns2\t0\t\tw2\n")
    options = {"header": "source, label, mark, sentence"}
    store = prepare_labelled(folder, train=("bare.tsv",), dev="bare.tsv", **options)
    assert store.labels == ("0", "1") and all_rows(store.train[0])["labels"].tolist() == [[1], [0]]


def test_fraction_is_held_out_by_text(folder):
    lines = "".join(f"w{i % 20} w{i // 20}\t{'ab'[i % 2]}\n" for i in range(200))
    (folder / "many.tsv").write_text("sentence\tlabel\n" + lines)
    unlabelled = "".join(
        json.dumps({"sentence": f"w{i % 20}", "label": None}) + "\n" for i in range(20)
    )
    (folder / "rest.jsonl").write_text(unlabelled)
    store = prepare_labelled(folder, train=("many.tsv", "rest.jsonl"), dev=None)
    assert len(store.train[1]) == 20, "unlabelled rows are never held out"
    assert 30 < len(store.held_out) < 90 and len(store.held_out) + len(store.train[0]) == 200
    seen = {tuple(row) for row in all_rows(store.train[0])["input_ids"]}
    assert not seen & {tuple(row) for row in all_rows(store.held_out)["input_ids"]}


def test_subset_of_rows_does_not_depend_on_the_files(folder):
    lines = [f"w{i % 20} w{i // 20}\t{'ab'[i % 2]}\n" for i in range(200)]

    def chosen(number, *files, **fields):
        for n, content in enumerate(files):
            (folder / "some").mkdir(exist_ok=True)
            (folder / "some" / f"{n}.tsv").write_text("sentence\tlabel\n" + "".join(content))
        source = Source(path=str(folder / "some"), column="sentence", rows=number, **fields)
        return [(e.text, e.label) for shard in source.labelled() for e in shard.documents()]

    few, more = chosen(10, lines, label="label"), chosen(50, lines, label="label")
    assert len(set(few)) == 10 and len(set(more)) == 50 and set(few) < set(more)
    assert {label for _, label in more} == {"a", "b"}
    assert set(chosen(10, lines[100:][::-1], lines[:100], label="label")) == set(few)
    assert {text for text, _ in chosen(10)} == {text for text, _ in few}
    with pytest.raises(
        UserError, match="some' holds 200 rows, but its field rows is 201; lower it"
    ):
        chosen(201)
    with pytest.raises(UserError, match="rows 0, which must be at least 1"):
        chosen(0)


def test_small_labelled_subset_and_all_rows_unlabelled(folder):
    (folder / "many.tsv").write_text(
        "sentence\tlabel\n" + "".join(f"w{i}\t{'ab'[i % 2]}\n" for i in range(20))
    )
    few = Source(path=str(folder / "many.tsv"), column="sentence", label="label", rows=8)
    unlabelled = Source(path=str(folder / "many.tsv"), column="sentence")
    dev = dataclasses.replace(few, rows=5)
    both = Corpus(
        sources=(few, unlabelled),
        held_out_sources=(dev,),
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
    )
    store = prepare_examples(
        both, Classification(labels=("a", "b")).row_builder(), folder / "stores"
    )
    assert [len(blocks) for blocks in (*store.train, store.held_out)] == [8, 20, 5]
    assert set(all_rows(store.train[1])["labels"][:, 0]) == {-2}
    # A held-out fraction is a fraction of the selected rows.
    alone = dataclasses.replace(
        both, sources=(dataclasses.replace(few, rows=20),), held_out_sources=()
    )
    alone = dataclasses.replace(alone, held_out=0.3)
    assert (
        len(prepare_examples(alone, Classification().row_builder(), folder / "stores").held_out)
        < 15
    )


def test_fingerprint_is_unchanged(folder):
    """Fields that are not set do not change the name of a store, so it is reused."""
    assert prepare_labelled(folder).path.name == "37993473a7484fdc"


def test_unlabelled_copies_of_held_out_rows_are_not_trained_on(folder):
    lines = "".join(f"w{i % 20} w{i // 20}\t{'ab'[i % 2]}\n" for i in range(200))
    (folder / "many.tsv").write_text("sentence\tlabel\n" + lines)
    (labelled,) = labelled_corpus(folder, train=("many.tsv",), dev=None).sources
    both = dataclasses.replace(
        labelled_corpus(folder, dev=None),
        sources=(labelled, dataclasses.replace(labelled, label=None)),
    )
    store = prepare_examples(both, Classification().row_builder(), folder / "stores")
    sides = [
        {tuple(row) for row in all_rows(blocks)["input_ids"]}
        for blocks in (*store.train, store.held_out)
    ]
    assert sides[0] == sides[1] and not sides[0] & sides[2] and len(sides[0] | sides[2]) == 200


def test_columns_of_held_out_sources_change_the_store(folder):
    def store(column):
        source = Source(path=str(folder / "t.txt"), column="0", label="-1")
        held_out = Source(path=str(folder / "t.txt"), column=column, label="-1")
        corpus = Corpus(
            sources=(source,),
            held_out_sources=(held_out,),
            tokenizer=str(folder / "vocab.txt"),
            max_length=16,
        )
        return prepare_examples(corpus, TokenClassification().row_builder(), folder / "stores")

    (folder / "t.txt").write_text("w0 w1 O\nw2 w3 B-X\n")
    wrong, right = store("1"), store("0")
    assert wrong.path != right.path
    assert all_rows(right.held_out)["input_ids"][0, 1:3].tolist() == ids("w0", "w2")


@pytest.mark.hf
def test_order_of_a_datasets_classes_is_preserved(folder):
    import datasets

    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["not", "equal", "aside"]),
        }
    )
    rows_ = {"sentence": ["w1", "w2", "w3"], "label": [0, 1, -1]}
    (folder / "set").mkdir()
    datasets.Dataset.from_dict(rows_, features=features).to_parquet(
        folder / "set" / "train.parquet"
    )
    source = Source(path=f"hf:{folder / 'set'}", column="sentence", label="label")
    corpus = Corpus(
        sources=(source,),
        held_out_sources=(
            Source(path=str(folder / "dev.jsonl"), column="sentence", label="label"),
        ),
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
    )
    (folder / "dev.jsonl").write_text('{"sentence": "w4", "label": "equal"}\n')
    store = prepare_examples(corpus, Classification().row_builder(), folder / "stores")
    assert store.labels == ("not", "equal", "aside")
    assert all_rows(store.train[0])["labels"].tolist() == [[0], [1], [-2]]
    assert all_rows(store.held_out)["labels"].tolist() == [[1]]
