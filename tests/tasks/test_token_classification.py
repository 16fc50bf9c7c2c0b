"""Token classification: rows, invalid tags, and the metrics of seqeval."""

import dataclasses
import json
import types

import numpy as np
import pytest

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.order import Order, rows
from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.sources import Source
from flaxdistill.data.tokenizer import load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.tasks.entities import to_bio
from flaxdistill.tasks.token_classification import TokenClassification
from flaxdistill.tasks.word_splitting import word_offsets

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(10)), "##a", "##b"]
TRAIN = "-DOCSTART- O\n\nw0 B-PER\nw1ab I-PER\nw2 O\n\nw3 B-LOC\n☃ O\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "train.txt").write_text(TRAIN)
    return tmp_path


def prepared(folder, task=None, name="train.txt", column="0", label="-1", dev=None, **options):
    source = Source(path=str(folder / name), column=column, label=label)
    held_out = dataclasses.replace(source, path=str(folder / (dev or name)))
    corpus = Corpus(
        sources=(source,),
        held_out_sources=(held_out,),
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
    )
    return prepare_examples(
        corpus, (task or TokenClassification()).row_builder(), folder / "stores", **options
    )


def every_row(blocks, length=0):
    order = Order((len(blocks),), (1.0,), seed=0, shuffle=False)
    return rows((blocks,), order, np.arange(len(blocks)), length=length)


def test_a_word_is_labelled_at_its_first_token(folder):
    store = prepared(folder)
    assert store.labels == ("O", "B-LOC", "B-PER", "I-PER")
    batch = every_row(store.train[0], length=8)
    w = {word: n for n, word in enumerate(WORDS)}
    assert batch["input_ids"].tolist() == [
        [2, w["w0"], w["w1"], w["##a"], w["##b"], w["w2"], 3, 0],
        [2, w["w3"], w["[UNK]"], 3, 0, 0, 0, 0],
    ]
    assert batch["labels"].tolist() == [
        [-1, 2, 3, -1, -1, 0, -1, -1],
        [-1, 1, 0, -1, -1, -1, -1, -1],
    ]


def test_a_long_sentence_continues_in_the_next_row(folder):
    (folder / "long.txt").write_text("".join(f"w{i % 10} O\n" for i in range(33)) + "w1ab B-X\n")
    store = prepared(folder, name="long.txt")
    batch = every_row(store.train[0])
    assert batch["labels"].shape == (3, 16)
    assert [(row >= 0).sum() for row in batch["labels"]] == [14, 14, 6]
    assert batch["segment_ids"].sum(1).tolist() == [16, 16, 10]


def test_only_spaces_and_tabs_separate_fields(folder):
    """A blank line may contain them; other white space is part of a word."""
    text = (
        "-DOCSTART- -X- O\n\nw0  A O\nw1\u00a0w2 A B-X\n \t\n"
        "w3\tA\tO\nw4 w5\tA\tO\n\t\t\n \n\u2028 A O\n"
    )
    (folder / "s.txt").write_text(text)
    source = Source(path=str(folder / "s.txt"), column="0", label="-1")
    sentences = [(e.text, e.label) for shard in source.labelled() for e in shard.documents()]
    assert sentences == [
        (["w0", "w1\u00a0w2"], ["O", "B-X"]), (["w3", "w4 w5"], ["O", "O"]), (["\u2028"], ["O"])
    ]  # fmt: skip


def test_lists_of_words_and_rows_without_tags(folder):
    lines = [{"words": ["w0", "w1"], "tags": ["O", "B-X"]}, {"words": ["w2"], "tags": None}]
    (folder / "l.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "dev.jsonl").write_text(json.dumps(lines[0]) + "\n")
    store = prepared(folder, name="l.jsonl", column="words", label="tags", dev="dev.jsonl")
    assert every_row(store.train[0], length=5)["labels"].tolist() == [
        [-1, 0, 1, -1, -1],
        [-1, -2, -1, -1, -1],
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "Jean-Claude (of AT&T) paid 1,000.50, or 3/4!",
            "Jean-Claude|(|of|AT&T|)|paid|1,000.50|,|or|3/4|!",
        ),
        ("The U.S. and J. Doe; a bank.", "The|U.S.|and|J.|Doe|;|a|bank|."),
        ("O'Brien's 'yes' -- no...", "O'Brien's|'|yes|'|-|-|no|.|.|."),
        ("cats,dogs: at 9:30,000", "cats|,|dogs|:|at|9:30,000"),
        ("Paris—London, and -5 to x_1.", "Paris|—|London|,|and|-|5|to|x_1|."),
        ("今天，明天。A-", "今天|，|明天|。|A|-"),
        ("", ""),
    ],
)
def test_words_are_split_as_in_conll(folder, text, words):
    offsets = word_offsets(text, load_vocabulary(str(folder / "vocab.txt")))
    assert "|".join(text[a:b] for a, b in offsets) == words


def test_plain_text_has_unknown_tags(folder, monkeypatch):
    """In docstrings, text files, jsonl files and tagged files read without tags."""
    monkeypatch.setattr(
        "flaxdistill.data.readers.docstrings.read_docstrings", lambda: ["w0, w1ab!"]
    )
    (folder / "raw.txt").write_text("w0 w1ab,\nw2\n\n" + "w3 " * 30 + "\n")
    (folder / "raw.jsonl").write_text(
        json.dumps({"text": "w5 w6"}) + '\n{"text": " "}\n{"text": ["w7"]}\n'
    )
    labelled = Source(path=str(folder / "train.txt"), column="0", label="-1")
    more = [
        Source(path=path)
        for path in ("docstrings", str(folder / "raw.txt"), str(folder / "raw.jsonl"))
    ]
    more.append(dataclasses.replace(labelled, label=None))
    corpus = Corpus(
        sources=(labelled, *more),
        held_out_sources=(labelled,),
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
    )
    store = prepare_examples(corpus, TokenClassification().row_builder(), folder / "stores")
    tagged, docstrings, text, lines, words = (every_row(blocks) for blocks in store.train)
    w = {word: n for n, word in enumerate(WORDS)}
    unk = w["[UNK]"]
    assert docstrings["input_ids"][0, :8].tolist() == [
        2,
        w["w0"],
        unk,
        w["w1"],
        w["##a"],
        w["##b"],
        unk,
        3,
    ]
    assert docstrings["labels"][0, :8].tolist() == [-1, -2, -2, -2, -1, -1, -2, -1]
    assert text["segment_ids"].sum(1).tolist() == [8, 16, 16, 4]
    assert (text["labels"] == -2).sum(1).tolist() == [4, 14, 14, 2]
    assert lines["segment_ids"].sum(1).tolist() == [4, 3]
    assert (words["input_ids"] == tagged["input_ids"]).all() and set(words["labels"].ravel()) == {
        -1,
        -2,
    }


def test_spaces_around_tabs_are_not_part_of_a_tag(folder):
    (folder / "train.txt").write_text("w0\tB-X \n w1 \tO\n")
    store = prepared(folder)
    assert store.labels == ("O", "B-X")
    ids = every_row(store.train[0])["input_ids"]
    assert ids[0, :4].tolist() == [2, WORDS.index("w0"), WORDS.index("w1"), 3]


def test_held_out_sentences_are_not_trained_on_as_text(folder):
    words = [[f"w{n % 6}", f"w{n // 6 % 6}", f"w{n // 36}"] for n in range(216)]
    lines = [{"words": pair, "tags": ["O", "O", "B-X"]} for pair in words]
    (folder / "all.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "all.txt").write_text("\n\n".join(" ".join(pair) for pair in words))
    labelled = Source(path=str(folder / "all.jsonl"), column="words", label="tags")
    corpus = Corpus(
        sources=(labelled, Source(path=str(folder / "all.txt"))),
        held_out=0.3,
        tokenizer=str(folder / "vocab.txt"),
        max_length=16,
    )
    store = prepare_examples(corpus, TokenClassification().row_builder(), folder / "stores")
    held_out, *trained = (
        {tuple(row) for row in every_row(b)["input_ids"]} for b in (store.held_out, *store.train)
    )
    assert len(held_out) > 20 and not any(held_out & side for side in trained)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("w0 I-X\nw1 I-X\n\nw2 I-X\nw3 B-X\nw4 O\n", 2),  # IOB1
        ("w0 B-X\nw1 E-X\n\nw2 S-X\nw3 S-X\nw4 O\n", 2),  # IOBES
        ("w0 B-X\nw1 L-X\n\nw2 U-X\nw3 U-X\nw4 O\n", 2),  # BILOU
        ("w0 B-X\nw1 I-X\n\nw2 B-X\nw3 B-X\nw4 O\n", 0),
    ],
)
def test_other_schemes_are_converted(folder, text, count):
    (folder / "train.txt").write_text(text)
    (folder / "dev.txt").write_text(text)
    lines: list[str] = []
    store = prepared(folder, report=lines.append)
    assert store.labels == ("O", "B-X", "I-X")
    for blocks in (store.train[0], store.held_out):
        labels = every_row(blocks)["labels"]
        assert labels[0, 1:3].tolist() == [1, 2] and labels[1, 1:4].tolist() == [1, 1, 0]
    said = [line for line in lines if "converted to BIO" in line]
    assert said == (
        [f"{count} of 2 sentences have tags of IOB1, IOBES or BILOU, which are converted to BIO"]
        if count
        else []
    )


def test_an_entity_of_another_type_begins():
    assert to_bio(["I-X", "I-Y", "O", "E-Y", "I-Y"]) == ["B-X", "B-Y", "O", "B-Y", "I-Y"]


def test_comments_are_left_out(folder):
    """Only at the start of a sentence: inside one, # is a word."""
    text = "# id 1-a\tdomain=en\nw0\tB-X\n#a=1\tO\nw1\tO\n\n# newdoc id = 7\nw2\tO\n"
    (folder / "train.txt").write_text(text)
    (folder / "dev.txt").write_text(text)
    store = prepared(folder)
    assert store.labels == ("O", "B-X")
    assert [int((row >= 0).sum()) for row in every_row(store.train[0])["labels"]] == [3, 1]


MISTAKES = {
    "no scheme": (
        "w0 X-X\nw1 O\n",
        r"line 1, word 1 'w0': the tag 'X-X' is neither O nor one of B-, I-, E-, S-, L-, U- with a",
    ),
    "no type": ("w0 B-\nw1 O\n", r"the tag 'B-' is neither O nor one of"),
    "ragged": ("w0 O\nw1\n", r"train\.txt, line 2: 1 fields, but columns 0 and -1 are needed"),
    "own line": (
        "w0 O\n\n\nw0 O\nw1 O\nw2 X-X\n",
        r"train\.txt, line 6, word 3 'w2': the tag 'X-X' is neither",
    ),
    "last field lacks": (
        "w0 NN B-NP O\nw1 NN I-NP\n",
        r"train\.txt, line 2: 3 fields, but the first line has 4; give every line the same",
    ),
    "a comment": ("# by hand w\nw0 O\n", r"train\.txt, line 2: 2 fields, but the first line has 4"),
    "a no-break space alone": (
        "w0 O\n\u00a0\nw1 O\n",
        r"train\.txt, line 2: 1 fields, but columns",
    ),
    "one tag": ("w0 O\n", "the training rows hold the tag O; there is nothing to choose between"),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_errors_name_the_word(folder, text, message):
    (folder / "train.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        prepared(folder)


def test_other_errors(folder):
    (folder / "dev.txt").write_text("w0 B-ORG\n")
    with pytest.raises(
        UserError, match=r"dev\.txt, line 1, word 1 'w0': the tag 'B-ORG' is not one of O, B-LOC"
    ):
        prepared(folder, dev="dev.txt")
    with pytest.raises(UserError, match="whose columns have numbers and no names"):
        prepared(folder, column="word")
    for line, message in (
        ({"words": "w0", "tags": ["O"]}, "expected a list of words but found 'w0'"),
        ({"words": ["w0"], "tags": "O"}, "expected a list of tags but found 'O'"),
        ({"words": ["w0", "w1"], "tags": ["O"]}, "2 words and 1 tags; give every word one"),
    ):
        (folder / "bad.jsonl").write_text(json.dumps(line) + "\n")
        with pytest.raises(UserError, match=message):
            prepared(folder, name="bad.jsonl", column="words", label="tags")
    prepared(folder, TokenClassification(scheme="plain", labels=("O", "B-PER", "I-PER", "B-LOC")))


def test_score():
    held_out = types.SimpleNamespace(columns={"example": np.array([0, 1])})
    store = types.SimpleNamespace(labels=("O", "B-X", "I-X", "B-Y"), held_out=held_out)
    gold = [np.array([-1, 1, 2, -1, 0, -1]), np.array([-1, 3, 0, 1, -1])]
    predicted = [np.array([0, 1, 2, 3, 0, 0]), np.array([0, 0, 0, 1, 0])]
    logits = [np.eye(4)[row] for row in predicted]
    scores = TokenClassification().score(logits, gold, store).metrics
    # 2 of 3 entities are found, and nothing else.
    assert scores["precision"] == 1.0 and scores["recall"] == pytest.approx(2 / 3)
    assert scores["f1"] == pytest.approx(0.8) and scores["accuracy"] == pytest.approx(5 / 6)
    assert scores["f1_X"] == 1.0 and scores["f1_Y"] == 0.0
    assert TokenClassification(scheme="plain").score(logits, gold, store).metrics[
        "accuracy"
    ] == pytest.approx(5 / 6)
    # With both rows in one sentence, an entity may span them.
    one_sentence = types.SimpleNamespace(
        labels=store.labels, held_out=types.SimpleNamespace(columns={"example": np.array([0, 0])})
    )
    split_entity = [np.array([-1, 1, 2]), np.array([-1, 2, 0])]
    missed = [np.eye(4)[[0, 1, 2]], np.eye(4)[[0, 0, 0]]]
    assert TokenClassification().score(missed, split_entity, one_sentence).metrics["f1"] == 0.0


def test_conll(shared, tmp_path):
    source = Source(path=str(shared / "data/conll2003/test.txt"), column="0", label="-1")
    corpus = Corpus(
        sources=(source,),
        held_out_sources=(source,),
        tokenizer=str(shared / "tokenizers/bert-base-uncased"),
        max_length=128,
    )
    store = prepare_examples(corpus, TokenClassification().row_builder(), tmp_path)
    labels = every_row(store.held_out)["labels"]
    assert np.count_nonzero(labels >= 0) == 46_435 and len(store.labels) == 9
    begins = [n for n, name in enumerate(store.labels) if name.startswith("B-")]
    assert np.isin(labels, begins).sum() == 5_648
