"""Question answering: windows, character offsets, the best spans, and error messages."""

import dataclasses
import json
import math

import numpy as np
import pytest

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.order import Order, rows
from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError
from flaxdistill.models.head import PADDING_LOGIT
from flaxdistill.tasks.question_answering import QuestionAnswering

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(30)), "##a"]
CLS, SEP = 2, 3
TEXT = " ".join(f"w{i}" for i in range(25))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path


def squad(path, *pairs, text=TEXT):
    """Write pairs (question, answer or None) in SQuAD's layout."""

    def answers(answer):
        return [] if answer is None else [{"text": answer, "answer_start": text.find(answer)}]

    questions = [
        {"id": f"q{n}", "question": question, "answers": answers(answer)}
        for n, (question, answer) in enumerate(pairs)
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": text, "qas": questions}]}]}))


def prepared(folder, task, name="q.json", length=24):
    source = Source(path=str(folder / name), column="question", pair="context", label="answers")
    corpus = Corpus(
        sources=(source,),
        held_out_sources=(source,),
        tokenizer=str(folder / "vocab.txt"),
        max_length=length,
    )
    return prepare_examples(corpus, task.row_builder(), folder / "stores")


def every_row(blocks):
    order = Order((len(blocks),), (1.0,), seed=0, shuffle=False)
    return rows((blocks,), order, np.arange(len(blocks)))


def certain(labels, length):
    """Return the logits of a model that is certain of the given positions."""
    logits = np.full((2, length), -5.0)
    logits[[0, 1], labels] = 5.0
    return logits


def test_windows_overlap_and_label_the_answer(folder):
    squad(folder / "q.json", ("w1 w2", "w12 w13"))
    store = prepared(folder, QuestionAnswering(stride=4))
    batch = every_row(store.train[0])
    # 24 - 2 - 3 = 19 tokens of the text per window, 4 of them also in the next.
    assert batch["segment_ids"].sum(1).tolist() == [24, 15]
    assert (
        batch["input_ids"][0, :5].tolist() == [CLS, 6, 7, SEP, 5]
        and batch["input_ids"][1, 4] == 5 + 15
    )
    assert batch["token_type_ids"].sum(1).tolist() == [20, 11]
    assert batch["labels"].tolist() == [[4 + 12, 4 + 13], [0, 0]]
    offsets = store.held_out.columns["places"]
    assert TEXT[offsets[0, 16, 0] : offsets[0, 17, 1]] == "w12 w13"
    assert store.held_out.columns["example"].tolist() == [0, 0]
    assert store.examples() == [{"text": TEXT, "answers": ["w12 w13"]}]


def test_questions_on_one_text_are_held_out_together(folder):
    texts = [f"{TEXT} w{i} w{j}" for i in range(10) for j in range(10)]
    lines = [
        {"question": f"w{n}", "context": text, "answers": {"text": ["w1"], "answer_start": [3]}}
        for text in texts
        for n in range(4)
    ]
    (folder / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = Source(
        path=str(folder / "q.jsonl"), column="question", pair="context", label="answers"
    )
    corpus = Corpus(
        sources=(source,), tokenizer=str(folder / "vocab.txt"), max_length=48, held_out=0.3
    )
    store = prepare_examples(corpus, QuestionAnswering(stride=4).row_builder(), folder / "stores")
    sides = [
        [tuple(row[3 : row.tolist().index(SEP, 3)]) for row in every_row(blocks)["input_ids"]]
        for blocks in (store.train[0], store.held_out)
    ]
    assert len(sides[0]) + len(sides[1]) == 400 and 15 < len(set(sides[1])) < 45
    assert not set(sides[0]) & set(sides[1])


def test_the_best_span_of_all_windows_is_the_answer(folder):
    squad(folder / "q.json", ("w1", "w20 w21"), ("w2", "w3"))
    task = QuestionAnswering(stride=4)
    store = prepared(folder, task)
    labels = list(every_row(store.held_out)["labels"])
    logits = [certain(row, 24) for row in labels]
    assert task.score(logits, labels, store).metrics == {"f1": 1.0, "exact": 1.0}
    # An end before its start, or too far after it, is not an answer, whatever its score.
    wide = [row.copy() for row in logits]
    wide[2][1, 5] = 9.0
    short = QuestionAnswering(stride=4, longest=1).answers(wide, store.held_out, store.examples())
    assert short[1] == "w3" and " " not in short[0]
    # Nor are padding and the question.
    wide[2][:, :3] = 20.0
    assert task.answers(wide, store.held_out, store.examples())[1].startswith("w3")
    assert PADDING_LOGIT < -100


def test_text_after_the_layout_of_squad(folder):
    squad(folder / "q.json", ("w1", "w2"))
    whole = (folder / "q.json").read_text()
    (folder / "q.json").write_text(f"{whole}\n\n")
    assert len(prepared(folder, QuestionAnswering(stride=4)).held_out) == 2
    (folder / "q.json").write_text(f"{whole}\n{whole}\n")
    with pytest.raises(
        UserError, match=r"q\.json, line 2: more text follows a whole file in SQuAD's layout"
    ):
        prepared(folder, QuestionAnswering(stride=4))


def test_no_answer(folder):
    squad(folder / "q.json", ("w1", "w20"), ("w2", None))
    task = QuestionAnswering(stride=4, unanswerable=True)
    store = prepared(folder, task)
    labels = list(every_row(store.held_out)["labels"])
    assert labels[2].tolist() == [0, 0] and labels[3].tolist() == [0, 0]
    logits = [certain(row, 24) for row in labels]
    assert task.answers(logits, store.held_out, store.examples()) == {0: "w20", 1: ""}
    names = ("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_f1")
    # The first question scores 10 at its span and -10 at [CLS], the second vice versa.
    perfect = dict.fromkeys(names, 1.0) | {"best_f1_thresh": -20.0}
    assert task.score(logits, labels, store).metrics == perfect
    always, never = (
        dataclasses.replace(task, null_threshold=threshold).score(logits, labels, store).metrics
        for threshold in (20.0, -20.1)
    )
    assert [always[name] for name in ("HasAns_f1", "NoAns_f1", "f1", "best_f1")] == [1, 0, 0.5, 1]
    assert (never["HasAns_f1"], never["NoAns_f1"]) == (0.0, 1.0)
    answers = QuestionAnswering(stride=4).answers(logits, store.held_out, store.examples())
    assert answers[1] != "", "without unanswerable there is always an answer"


def test_questions_with_unknown_answers(folder):
    lines = [
        {"question": "w1", "context": TEXT, "answers": {"text": ["w3"], "answer_start": [9]}},
        {"question": "w2", "context": TEXT, "answers": None},
    ]
    (folder / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "dev.jsonl").write_text(json.dumps(lines[0]) + "\n")
    sources = [
        Source(path=str(folder / name), column="question", pair="context", label="answers")
        for name in ("q.jsonl", "dev.jsonl")
    ]
    corpus = Corpus(
        sources=sources[:1],
        held_out_sources=tuple(sources[1:]),
        tokenizer=str(folder / "vocab.txt"),
        max_length=64,
    )
    store = prepare_examples(corpus, QuestionAnswering(stride=4).row_builder(), folder / "stores")
    assert every_row(store.train[0])["labels"].tolist() == [[3 + 3, 3 + 3], [-2, -2]]


MISTAKES = {
    "elsewhere": (
        {"text": "w5", "answer_start": 1},
        r"q0: the answer 'w5' is not at 1, where the text has '0 '",
    ),
    "behind the end": (
        {"text": "w5", "answer_start": 999},
        r"the answer 'w5' is not at 999, where the text has ''",
    ),
    "blanks": (
        {"text": " ", "answer_start": 2},
        r"q\.json, question q0: the answer ' ' at 2 has no token of the text",
    ),
    "no place": (
        {"text": "w5"},
        r"q0: expected answers but found \[\{'text': 'w5'\}\]; write a list of text",
    ),
}


@pytest.mark.parametrize(("answer", "message"), MISTAKES.values(), ids=MISTAKES)
def test_errors_name_the_question(folder, answer, message):
    squad(folder / "q.json", ("w1", "w2"))
    data = json.loads((folder / "q.json").read_text())
    data["data"][0]["paragraphs"][0]["qas"][0]["answers"] = [answer]
    (folder / "q.json").write_text(json.dumps(data, indent=1))  # over many lines, too
    with pytest.raises(UserError, match=message):
        prepared(folder, QuestionAnswering(stride=4))


@pytest.mark.parametrize(
    "lines", [("{", '"data": '), ('{"version": "1",', '"data": '), ("", '{"data": ')]
)
def test_the_layout_over_many_lines(folder, lines):
    squad(folder / "q.json", ("w1", "w2"))
    whole = (folder / "q.json").read_text()
    (folder / "q.json").write_text("\n".join(lines) + whole.removeprefix('{"data": '))
    assert len(prepared(folder, QuestionAnswering(stride=4)).held_out) == 2
    (folder / "q.json").write_text("\n".join(lines) + whole.removeprefix('{"data": ')[:-2])
    with pytest.raises(
        UserError,
        match=r"q\.json: not JSON \(.* line 2 .*; correct it, or write one object on each",
    ):
        prepared(folder, QuestionAnswering(stride=4))


def test_questions_of_a_hidden_test_set(folder):
    """They can be read, but not for training or evaluation."""
    squad(folder / "q.json", ("w1", "w2"))
    squad(folder / "hidden.json", ("w1", "w2"))
    hidden = json.loads((folder / "hidden.json").read_text())
    del hidden["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    (folder / "hidden.json").write_text(json.dumps(hidden))
    with pytest.raises(
        UserError, match=r"hidden\.json, question q0: there are no answers, which training and eval"
    ):
        prepared(folder, QuestionAnswering(stride=4), "hidden.json")
    source = Source(path=str(folder / "hidden.json"), column="question", pair="context")
    (shard,) = source.labelled()
    (example,) = shard.documents()
    assert (example.text, example.pair, example.label) == ("w1", TEXT, None)
    held_out = dataclasses.replace(source, path=str(folder / "q.json"), label="answers")
    corpus = Corpus(
        sources=(source,),
        held_out_sources=(held_out,),
        tokenizer=str(folder / "vocab.txt"),
        max_length=24,
    )
    store = prepare_examples(corpus, QuestionAnswering(stride=4).row_builder(), folder / "stores")
    assert every_row(store.train[0])["labels"].tolist() == [[-2, -2]] * 2


def test_other_errors(folder):
    squad(folder / "q.json", ("w1", None))
    with pytest.raises(
        UserError, match="question q0: the question has no answer; remove it, or set"
    ):
        prepared(folder, QuestionAnswering(stride=4))
    squad(folder / "q.json", ("w1", "w2"))
    with pytest.raises(
        UserError,
        match=r"leaves 20 of corpus\.max_length 24 for the text, but windows share 20",
    ):
        prepared(folder, QuestionAnswering(stride=20))
    (folder / "q.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "x"}]}]}))
    with pytest.raises(UserError, match=r"begins like a file of SQuAD's layout, but misses 'qas'"):
        prepared(folder, QuestionAnswering(stride=4))
    with pytest.raises(UserError, match=r"task\.n_best is 0; it must be at least 1"):
        QuestionAnswering(n_best=0)
    with pytest.raises(
        UserError, match=r"task\.null_threshold is 1\.0, but without task\.unanswerable"
    ):
        QuestionAnswering(null_threshold=1.0)
    with pytest.raises(
        UserError, match=r"task\.null_threshold is nan; it is a difference of scores"
    ):
        QuestionAnswering(null_threshold=math.nan, unanswerable=True)


def test_squad(shared, tmp_path):
    """Exact logits give nearly every answer of the data: tokens hardly ever cut an answer."""
    path = str(shared / "data/squad/train-shifts-wiki.json")
    source = Source(path=path, column="question", pair="context", label="answers")
    corpus = Corpus(
        sources=(source,),
        held_out_sources=(source,),
        tokenizer=str(shared / "tokenizers/bert-base-uncased"),
        max_length=256,
    )
    task = QuestionAnswering()
    store = prepare_examples(corpus, task.row_builder(), tmp_path)
    assert len(store.examples()) == 7_938 <= len(store.held_out)
    labels = list(every_row(store.held_out)["labels"])
    scores = task.score([certain(row, 256) for row in labels], labels, store).metrics
    assert scores["exact"] > 0.98 and scores["f1"] > 0.99
