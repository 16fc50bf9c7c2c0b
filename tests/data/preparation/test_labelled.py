"""Labelled files become rows: what is in them, and what a mistake in them says."""

import dataclasses
import json
import math

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.length_buckets import Buckets
from flaxdistill.data.order import Order, rows
from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.sources import Example, Source
from flaxdistill.data.store import Blocks
from flaxdistill.data.tokenizer import load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.tasks.question_answering import QuestionAnswering
from flaxdistill.tasks.text_classification import Classification, Regression
from flaxdistill.tasks.token_classification import TokenClassification

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(20))]
CLS, SEP = 2, 3
TRAIN = "sentence\tlabel\nw0 w1\tno\nw2\tyes\nw3 w4 w5\tno\n"
DEV = "sentence\tlabel\nw6 w7\tyes\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "train.tsv").write_text(TRAIN)
    (tmp_path / "dev.tsv").write_text(DEV)
    return tmp_path


def corpus(
    folder, train=("train.tsv",), dev="dev.tsv", column="sentence", label="label", **settings
):
    def source(name):
        return Source(path=str(folder / name), column=column, label=label, **settings)

    return Corpus(
        sources=tuple(map(source, train)),
        held_out_sources=(source(dev),) if dev else (),
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
        held_out=0.3,
    )


def prepared(folder, task=None, **how):
    task = task or Classification()
    return prepare_examples(corpus(folder, **how), task.row_builder(), folder / "stores")


def every_row(blocks):
    order = Order((len(blocks),), (1.0,), seed=0, shuffle=False)
    return rows((blocks,), order, np.arange(len(blocks)))


def ids(*words):
    return [WORDS.index(word) for word in words]


def test_a_row_is_an_example(folder):
    store = prepared(folder)
    assert store.labels == ("no", "yes")
    made = every_row(store.train[0])
    assert made["labels"].tolist() == [[0], [1], [0]] and made["labels"].dtype == np.int32
    assert made["input_ids"][0, :5].tolist() == [CLS, *ids("w0", "w1"), SEP, 0]
    assert made["segment_ids"].sum(1).tolist() == [4, 3, 5]
    assert made["positions"][2].tolist() == [0, 1, 2, 3, 4] + [0] * 11
    assert not made["token_type_ids"].any()
    assert every_row(store.held_out)["labels"].tolist() == [[1]]
    assert prepared(folder).path == store.path
    named = prepared(folder, Classification(labels=("yes", "no")))
    assert named.path != store.path and every_row(named.train[0])["labels"].tolist() == [
        [1],
        [0],
        [1],
    ]


def test_pairs_have_two_types_and_are_cut_longest_first(folder):
    rows_ = [
        ("w0 w1", "w2", "a"),
        (" ".join(["w3"] * 20), "w4 w5", "b"),
        ("w1", " ".join(["w6"] * 30), "a"),
    ]
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps({"one": a, "two": b, "label": c}) + "\n" for a, b, c in rows_)
    )
    store = prepared(folder, train=("pairs.jsonl",), dev="pairs.jsonl", column="one", pair="two")
    made = every_row(store.train[0])
    assert made["input_ids"][0, :6].tolist() == [CLS, *ids("w0", "w1"), SEP, *ids("w2"), SEP]
    assert made["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1] + [0] * 10
    assert made["input_ids"][1].tolist() == [CLS, *ids("w3") * 11, SEP, *ids("w4", "w5"), SEP]
    assert made["token_type_ids"][1].sum() == 3
    assert made["input_ids"][2].tolist() == [CLS, *ids("w1"), SEP, *ids("w6") * 12, SEP]
    assert store.manifest["train"][0]["cut"] == 2


@pytest.mark.parametrize("length", [8, 9, 16, 17])
def test_texts_are_cut_as_tokenizers_cuts_them(folder, length):
    """Every pair of lengths, and single texts: token for token with its ``longest_first``."""
    vocabulary = load_vocabulary(folder / "vocab.txt")
    theirs = Tokenizer.from_str(vocabulary.tokenizer.to_str())
    theirs.enable_truncation(length, strategy="longest_first")

    def words(n, first):
        return " ".join(f"w{(first + i) % 20}" for i in range(n))

    pairs = [(words(n, 0), words(m, 10)) for n in range(1, 31) for m in range(1, 31)]
    examples = [Example("", a, b, paired=True) for a, b in pairs] + [
        Example("", a) for a, _ in pairs
    ]
    expected = theirs.encode_batch(pairs) + theirs.encode_batch([a for a, _ in pairs])
    reading = Regression().row_builder()
    for (row,), whole in zip(reading.rows(examples, [], vocabulary, length), expected, strict=True):
        assert row.ids.tolist() == whole.ids
        assert row.second == (whole.type_ids.index(1) if 1 in whole.type_ids else 0)


def test_rows_without_a_label_teach_too(folder):
    text = '{"sentence": "w8", "label": "no"}\n{"sentence": "w9", "label": null}\n{"sentence": "w1", "label": "yes"}\n'
    (folder / "some.jsonl").write_text(text)
    store = prepared(folder, train=("some.jsonl",))
    assert every_row(store.train[0])["labels"].tolist() == [[0], [-2], [1]]
    (folder / "raw.txt").write_text("w10 w11\n\nw12\n")
    both = Corpus(
        sources=(*corpus(folder).sources, Source(path=str(folder / "raw.txt"), weight=0.5)),
        held_out_sources=corpus(folder).held_out_sources,
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
    )
    store = prepare_examples(both, Classification().row_builder(), folder / "stores")
    assert every_row(store.train[1])["labels"].tolist() == [[-2], [-2]]


@pytest.mark.parametrize("task", [Classification(), Regression()])
def test_docstrings_teach_without_labels(folder, monkeypatch, task):
    monkeypatch.setattr(
        "flaxdistill.data.readers.docstrings.read_docstrings", lambda: ["w0 w1", "w2 " * 30]
    )
    (folder / "n.tsv").write_text("sentence\tlabel\nw0\t2\nw1\t0\n")
    (labelled,) = corpus(folder, train=("n.tsv",)).sources
    both = Corpus(
        sources=(labelled, Source(path="docstrings")),
        held_out_sources=(labelled,),
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
    )
    store = prepare_examples(both, task.row_builder(), folder / "stores")
    made = every_row(store.train[1])
    assert made["segment_ids"].sum(1).tolist() == [4, 16], "what is longer is cut"
    assert made["labels"][:, 0].tolist() == [-2, -2] or np.isnan(made["labels"]).all()
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
    store = prepared(folder, Regression(), train=("n.tsv",), dev="n.tsv")
    made = every_row(store.train[0])["labels"]
    assert (
        made.dtype == np.float32 and made.tolist() == [[2.5], [0.0]] and store.labels == ("score",)
    )


def test_hidden_numbers_are_not_judged_by(folder):
    """As in the test split of STS-B."""
    (folder / "n.tsv").write_text("sentence\tlabel\nw0\t2.5\nw1\t0\n")
    (folder / "hidden.tsv").write_text("sentence\tlabel\nw0\t-1.0\nw1\t-1.0\n")
    with pytest.raises(
        UserError,
        match=r"hidden\.tsv \(2\) all have the label -1, with which nothing can be correl",
    ):
        prepared(folder, Regression(), train=("n.tsv",), dev="hidden.tsv")
    assert len(prepared(folder, Regression(), train=("hidden.tsv",), dev="n.tsv").train[0]) == 2


def test_a_file_without_a_line_of_names(folder):
    (folder / "bare.tsv").write_text("s1\t1\t*\tw0 w1\ns2\t0\t\tw2\n")
    how = {"header": "source, label, mark, sentence"}
    store = prepared(folder, train=("bare.tsv",), dev="bare.tsv", **how)
    assert store.labels == ("0", "1") and every_row(store.train[0])["labels"].tolist() == [[1], [0]]


def test_a_share_is_held_out_by_text(folder):
    lines = "".join(f"w{i % 20} w{i // 20}\t{'ab'[i % 2]}\n" for i in range(200))
    (folder / "many.tsv").write_text("sentence\tlabel\n" + lines)
    rest = "".join(json.dumps({"sentence": f"w{i % 20}", "label": None}) + "\n" for i in range(20))
    (folder / "rest.jsonl").write_text(rest)
    store = prepared(folder, train=("many.tsv", "rest.jsonl"), dev=None)
    assert len(store.train[1]) == 20, "what has no label is never held out"
    assert 30 < len(store.held_out) < 90 and len(store.held_out) + len(store.train[0]) == 200
    seen = {tuple(row) for row in every_row(store.train[0])["input_ids"]}
    assert not seen & {tuple(row) for row in every_row(store.held_out)["input_ids"]}


def test_some_rows_are_the_same_whatever_the_files(folder):
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
        UserError, match="some' holds 200 rows, and its field rows asks for 201; lower it"
    ):
        chosen(201)
    with pytest.raises(UserError, match="rows 0, which must be at least 1"):
        chosen(0)


def test_a_small_labelled_subset_and_the_rest_without_labels(folder):
    (folder / "many.tsv").write_text(
        "sentence\tlabel\n" + "".join(f"w{i}\t{'ab'[i % 2]}\n" for i in range(20))
    )
    few = Source(path=str(folder / "many.tsv"), column="sentence", label="label", rows=8)
    rest = Source(path=str(folder / "many.tsv"), column="sentence")
    dev = dataclasses.replace(few, rows=5)
    both = Corpus(
        sources=(few, rest),
        held_out_sources=(dev,),
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
    )
    store = prepare_examples(
        both, Classification(labels=("a", "b")).row_builder(), folder / "stores"
    )
    assert [len(blocks) for blocks in (*store.train, store.held_out)] == [8, 20, 5]
    assert set(every_row(store.train[1])["labels"][:, 0]) == {-2}
    # A share that is held out is one of these rows, and not those that were chosen first.
    alone = dataclasses.replace(
        both, sources=(dataclasses.replace(few, rows=20),), held_out_sources=()
    )
    alone = dataclasses.replace(alone, held_out=0.3)
    assert (
        len(prepare_examples(alone, Classification().row_builder(), folder / "stores").held_out)
        < 15
    )


def test_a_store_without_it_is_found_again(folder):
    """A field of a source that is not set changes no name."""
    assert prepared(folder).path.name == "0c4575ed4f7acba4"


def test_what_is_held_out_is_not_taught_by_a_teacher_either(folder):
    lines = "".join(f"w{i % 20} w{i // 20}\t{'ab'[i % 2]}\n" for i in range(200))
    (folder / "many.tsv").write_text("sentence\tlabel\n" + lines)
    (labelled,) = corpus(folder, train=("many.tsv",), dev=None).sources
    both = dataclasses.replace(
        corpus(folder, dev=None), sources=(labelled, dataclasses.replace(labelled, label=None))
    )
    store = prepare_examples(both, Classification().row_builder(), folder / "stores")
    sides = [
        {tuple(row) for row in every_row(blocks)["input_ids"]}
        for blocks in (*store.train, store.held_out)
    ]
    assert sides[0] == sides[1] and not sides[0] & sides[2] and len(sides[0] | sides[2]) == 200


MISTAKES = {
    "unknown label": (TRAIN, DEV + "w1\tmaybe\n", r"dev\.tsv, line 3: the label 'maybe' is none of no, yes; mend"),
    "ragged row": (TRAIN + "w1\n", DEV, r"train\.tsv, line 5: 1 fields but the header has 2"),
    "no such column": (TRAIN.replace("label", "tag"), DEV, r"train\.tsv, line 1: no column 'label', only 'sentence', 'tag'"),
    "one label": ("sentence\tlabel\nw0\tno\n", DEV, "hold the label no; a classifier needs two or more"),
    "empty label": (TRAIN + "w1\t \n", DEV, r"train\.tsv, line 5: ' ' is no label"),
    "empty split": (TRAIN, "sentence\tlabel\n", r"source .*dev\.tsv holds no row; add rows or name another"),
    "nothing to train on": ("sentence\tlabel\n", DEV, r"source .*train\.tsv holds no row; add rows or name another"),
    "numbers as classes": (
        "sentence\tlabel\n" + "".join(f"w0\t{i / 7}\n" for i in range(1500)),
        DEV,
        "hold 1,500 different labels, such as '0.0'; for numbers use the task Regression",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("train", "dev", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_names_file_and_line(folder, train, dev, message):
    (folder / "train.tsv").write_text(train)
    (folder / "dev.tsv").write_text(dev)
    with pytest.raises(UserError, match=message):
        prepared(folder)
    assert not (folder / "stores").exists()


def test_other_mistakes(folder):
    with pytest.raises(
        UserError, match=r"dev\.tsv, line 2: the label 'yes' is no number; mend the row"
    ):
        prepared(folder, Regression())
    (folder / "none.jsonl").write_text('{"sentence": "w1", "label": null}\n')
    with pytest.raises(
        UserError, match=r"none\.jsonl, line 1: the label is missing; evaluation needs one"
    ):
        prepared(folder, dev="none.jsonl")
    (folder / "list.jsonl").write_text(
        '{"sentence": ["w1"], "label": "no"}\n{"sentence": "w1", "label": "yes"}\n'
    )
    with pytest.raises(UserError, match=r"list\.jsonl, line 1: expected text but found list"):
        prepared(folder, train=("list.jsonl",))
    (folder / "plain.txt").write_text("w1\n")
    with pytest.raises(
        UserError, match=r"plain\.txt is plain text, whose columns have numbers and no names"
    ):
        prepared(folder, train=("plain.txt",), column="text")
    with pytest.raises(UserError, match="name two classes or more, each of them once"):
        Classification(labels=("yes", "yes"))
    with pytest.raises(UserError, match="name two classes or more, each of them once"):
        Classification(labels=("True", "true"))


def test_other_columns_of_held_out_text_are_another_store(folder):
    def store(column):
        source = Source(path=str(folder / "t.txt"), column="0", label="-1")
        judged = Source(path=str(folder / "t.txt"), column=column, label="-1")
        corpus = Corpus(
            sources=(source,),
            held_out_sources=(judged,),
            tokenizer=str(folder / "vocab.txt"),
            max_length=16,
        )
        return prepare_examples(corpus, TokenClassification().row_builder(), folder / "stores")

    (folder / "t.txt").write_text("w0 w1 O\nw2 w3 B-X\n")
    wrong, right = store("1"), store("0")
    assert wrong.path != right.path
    assert every_row(right.held_out)["input_ids"][0, 1:3].tolist() == ids("w0", "w2")


def test_values_that_are_hardly_text(folder):
    def write(**row):
        (folder / "v.jsonl").write_text(json.dumps({"sentence": "w1", "label": "1"} | row) + "\n")

    for task, row, said in (
        (
            Classification(labels=("1", "2")),
            {"sentence": "a \ud800"},
            "holds half a surrogate pair",
        ),
        (
            Classification(labels=("1", "2")),
            {"label": "a\ud800"},
            "'a.ud800' holds half a surrogate pair",
        ),
        (
            TokenClassification(),
            {"sentence": ["w1"], "label": ["B-\ud800"]},
            "holds half a surrogate pair",
        ),
        (Regression(), {"label": 1e39}, "the label 1e[+]39 is no number"),
        (Regression(), {"label": 10**400}, "is no number"),
        (Classification(labels=("1", "2")), {"label": -1}, "-1 is no label"),
    ):
        write(**row)
        with pytest.raises(UserError, match=rf"v\.jsonl, line 1: .*{said}"):
            prepared(folder, task, train=("v.jsonl",), dev="v.jsonl")
    write(other=None)
    with pytest.raises(UserError, match=r"v\.jsonl, line 1: expected text but found NoneType"):
        prepared(
            folder,
            Classification(labels=("1", "2")),
            train=("v.jsonl",),
            dev="v.jsonl",
            pair="other",
        )


def written(folder, form, labels):
    """Write labels to a file as its format has them: text in tsv, values in jsonl and parquet."""
    path = folder / f"labels.{form}"
    texts = [f"w{n}" for n in range(len(labels))]
    if form == "tsv":
        path.write_text(
            "sentence\tlabel\n" + "".join(f"{t}\t{n}\n" for t, n in zip(texts, labels, strict=True))
        )
    elif form == "jsonl":
        rows_ = ({"sentence": t, "label": n} for t, n in zip(texts, labels, strict=True))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows_))
    else:
        parquet.write_table(pyarrow.table({"sentence": texts, "label": labels}), path)
    return path.name


@pytest.mark.parametrize("form", ["tsv", "jsonl", "parquet"])
def test_a_label_is_the_same_class_in_every_format(folder, form):
    def classes(labels, *named):
        name = written(folder, form, labels)
        store = prepared(folder, Classification(labels=named), train=(name,), dev=name)
        return store.labels, every_row(store.train[0])["labels"][:, 0].tolist()

    assert classes([1, 0, 1]) == (("0", "1"), [1, 0, 1])
    assert classes([True, False]) == (("false", "true"), [1, 0])
    assert classes([True, False], "True", "False") == (("True", "False"), [0, 1])
    if form != "parquet":
        assert classes([True, "true", "FALSE", "False"]) == (("false", "true"), [1, 1, 0, 0])
    for labels, named in (
        ([-1, 0, 1], ("0", "1")),
        ([0.0, 1.0, 0.5], ("0.5", "1.0")),
        ([math.nan, 1.0], ("1.0",)),
    ):
        for task in (Classification(), Classification(labels=(*named, "x"))):
            name = written(folder, form, labels)
            with pytest.raises(
                UserError,
                match=rf"labels\.{form}.*: '?{labels[0]}'? is no label unless task.labels",
            ):
                prepared(folder, task, train=(name,), dev=name)
    assert classes([-1, 0, 1], "0", "-1", "1") == (("0", "-1", "1"), [1, 0, 2])
    assert classes([0.0, 0.5], "0.5", "0.0") == (("0.5", "0.0"), [1, 0])
    name = written(folder, form, [True, False])
    with pytest.raises(UserError, match=r"the label '?True'? is no number"):
        prepared(folder, Regression(), train=(name,), dev=name)


@pytest.mark.hf
def test_a_dataset_keeps_the_order_of_its_classes(folder):
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
    assert every_row(store.train[0])["labels"].tolist() == [[0], [1], [-2]]
    assert every_row(store.held_out)["labels"].tolist() == [[1]]


def lengths_store(folder, lengths):
    lines = "".join(f"{' '.join(['w1'] * (n - 2))}\t{'ab'[i % 2]}\n" for i, n in enumerate(lengths))
    (folder / "l.tsv").write_text("sentence\tlabel\n" + lines)
    source = Source(path=str(folder / "l.tsv"), column="sentence", label="label")
    vocabulary = str(folder / "vocab.txt")
    return prepare_examples(
        Corpus(sources=(source,), held_out_sources=(source,), tokenizer=vocabulary, max_length=64),
        Classification().row_builder(),
        folder / "stores",
    )


@pytest.mark.parametrize("size", [1, 4, 7])
def test_every_row_comes_once_an_epoch_in_a_batch_that_holds_it(folder, size):
    lengths = np.random.default_rng(0).integers(3, 65, 50)
    store = lengths_store(folder, lengths)
    buckets = Buckets(store.train, Order((50,), (1.0,), seed=3), size)
    assert buckets.epoch_length == -(-50 // size)
    epochs = []
    for epoch in range(2):
        numbers = range(epoch * buckets.epoch_length, (epoch + 1) * buckets.epoch_length)
        batches = [buckets(number) for number in numbers]
        seen = np.concatenate([index for index, _ in batches])
        assert sorted(seen[seen >= 0]) == list(range(epoch * 50, epoch * 50 + 50))
        assert np.count_nonzero(seen < 0) == buckets.epoch_length * size - 50
        assert sum((index < 0).any() for index, _ in batches) <= 1
        for index, length in batches:
            made = rows(store.train, buckets.order, index, length=length)
            assert set(~index[index < 0]) <= set(index), "filled up by its own rows"
            assert (
                made["input_ids"].shape == (size, length) and (made["weight"] == (index >= 0)).all()
            )
            whole = rows(store.train, buckets.order, index)
            assert (whole["segment_ids"].sum(1) == made["segment_ids"].sum(1)).all(), (
                "nothing is cut off"
            )
        epochs.append([length for _, length in batches])
        filled = [length for index, length in batches if (index < 0).any()]
        assert filled == [min(epochs[-1])] * len(filled), (
            "what is filled up is of the shortest rows"
        )
        assert np.mean(epochs[-1]) < 64
    assert size == 1 or epochs[0] != epochs[1], "each epoch has an order of its own"
    again = Buckets(store.train, Order((50,), (1.0,), seed=3), size)
    assert all((again(n)[0] == buckets(n)[0]).all() for n in range(2 * buckets.epoch_length))


def test_an_epoch_is_dealt_once_however_many_lanes_there_are(monkeypatch):
    dealt = []
    deal = Buckets._deal
    monkeypatch.setattr(
        Buckets, "_deal", lambda self, epoch: dealt.append(epoch) or deal(self, epoch)
    )
    ids = np.ones((40, 16), np.uint16)
    blocks = Blocks(ids=ids, segments=np.ones((40, 16), np.uint8), first_id=0)
    lanes = [Buckets((blocks,), Order((40,), (1.0,), seed), 8) for seed in range(5)]
    for number in range(lanes[0].epoch_length):
        assert len({lane(number)[1] for lane in lanes}) == 1
        assert len({tuple(lane.order(lane(number)[0])[1]) for lane in lanes}) == 5
    assert dealt == [0] * 5
