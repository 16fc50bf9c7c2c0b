"""Labelled rows of every task that cannot be read."""

import pyarrow
import pytest
from helpers.bad_inputs import (
    BadInput,
    check_refused,
    run_in_process,
    set_field,
    write,
    write_config,
    write_parquet,
)

TRAIN_ON_ROWS = "train classes.py --workdir w --corpus.sources.0.path"
HELD_OUT = "train classes.py --workdir w --corpus.held-out-sources.0.path"
TRAIN_ON_TAGS = "train tags.py --workdir w --corpus.sources.0.path"
TRAIN_ON_QUESTIONS = "train answers.py --workdir w"
QUESTION_FIELD = "data.0.paragraphs.0.qas.0"
TRAIN_MINE = "train mine.py --workdir w"

BAD_INPUTS = {
    "ragged row": BadInput(
        f"{TRAIN_ON_ROWS} a.tsv",
        "a.tsv: 1 of 2 rows have fewer fields than the 3 columns, the first in line 3; give every row",
        write("a.tsv", "sentence\tlabel\tscore\na\tyes\t1\nb\tno\n"),
    ),
    "rows without the label column": BadInput(
        f"{TRAIN_ON_ROWS} a.tsv",
        "no column 'label', only 'sentence', 'score'",
        write("a.tsv", "sentence\tscore\na\t1\n"),
    ),
    "one class": BadInput(
        f"{TRAIN_ON_ROWS} a.tsv",
        "the training rows hold the label yes; a classifier needs two",
        write("a.tsv", "sentence\tlabel\na\tyes\nb\tyes\n"),
    ),
    "no label": BadInput(
        f"{TRAIN_ON_ROWS} a.jsonl",
        "a.jsonl, line 2: 1.5 is not a label",
        write("a.jsonl", '{"sentence": "a", "label": "yes"}\n{"sentence": "b", "label": 1.5}\n'),
    ),
    "empty label": BadInput(
        f"{TRAIN_ON_ROWS} a.tsv",
        "a.tsv, line 3: '' is not a label",
        write("a.tsv", "sentence\tlabel\na\tyes\nb\t\n"),
    ),
    "unknown label": BadInput(
        f"{HELD_OUT} a.tsv",
        "a.tsv, line 2: the label 'maybe' is not one of no, yes",
        write("a.tsv", "sentence\tlabel\na\tmaybe\n"),
    ),
    "label that task.labels lacks": BadInput(
        TRAIN_MINE,
        "rows.tsv, line 2: the label 'no' is not one of a, b",
        write_config("replace(classes, task=Classification(labels=('a', 'b')))"),
    ),
    "task.labels of one class": BadInput(
        "train mine.py",
        "task.labels is a; name two or more classes",
        write_config("replace(classes, task=Classification(labels=('a',)))"),
    ),
    "no training row": BadInput(
        f"{TRAIN_ON_ROWS} a.tsv",
        "source a.tsv holds no row; add rows",
        write("a.tsv", "sentence\tlabel\n"),
    ),
    "no held-out row": BadInput(
        f"{HELD_OUT} a.tsv",
        "source a.tsv holds no row; add rows",
        write("a.tsv", "sentence\tlabel\n"),
    ),
    "held-out row without a label": BadInput(
        f"{HELD_OUT} a.jsonl",
        "a.jsonl, line 1: the label is missing; evaluation needs one",
        write("a.jsonl", '{"sentence": "a", "label": null}\n'),
    ),
    "score of letters": BadInput(
        "train number.py --workdir w --corpus.sources.0.path a.tsv",
        "a.tsv, line 2: the label 'high' is not a number",
        write("a.tsv", "sentence\tscore\na\thigh\n"),
    ),
    "score nan": BadInput(
        "train number.py --workdir w --corpus.sources.0.path a.tsv",
        "a.tsv, line 2: the label 'nan' is not a number",
        write("a.tsv", "sentence\tscore\na\tnan\n"),
    ),
    "too many classes": BadInput(
        f"{TRAIN_ON_ROWS} a.tsv",
        "hold 1,100 different labels",
        write("a.tsv", "sentence\tlabel\n" + "".join(f"a\t{n}\n" for n in range(1100))),
    ),
    "decimals as classes": BadInput(
        f"{TRAIN_ON_ROWS} a.tsv",
        "a.tsv, line 2: '0.0' is not a label unless task.labels names it",
        write("a.tsv", "sentence\tlabel\na\t0.0\nb\t1\n"),
    ),
    "label with half a surrogate pair": BadInput(
        f"{TRAIN_ON_ROWS} a.jsonl",
        "a.jsonl, line 1: 'a\\ud800' holds half a surrogate pair",
        write("a.jsonl", '{"sentence": "a", "label": "a\\ud800"}\n'),
    ),
    "column twice": BadInput(
        f"{TRAIN_ON_ROWS} a.tsv",
        "a.tsv, line 1: 2 columns are called 'label'",
        write("a.tsv", "sentence\tlabel\tlabel\na\tno\tyes\n"),
    ),
    "label of an unreadable timestamp": BadInput(
        f"{TRAIN_ON_ROWS} a.parquet",
        "a.parquet, row 1, column 'label': this timestamp[us] cannot be read",
        write_parquet(
            "a.parquet", sentence=["a"], label=pyarrow.array([2**62], pyarrow.timestamp("us"))
        ),
    ),
    "rows 0": BadInput(
        f"{TRAIN_ON_ROWS} rows.tsv --corpus.sources.0.rows 0", "rows 0, which must be at least 1"
    ),
    "more rows than the file has": BadInput(
        f"{TRAIN_ON_ROWS} rows.tsv --corpus.sources.0.rows 99",
        "'rows.tsv' holds 32 rows, but its field rows is 99",
    ),
    "held-out scores that are all equal": BadInput(
        "train number.py --workdir w --corpus.held-out-sources.0.path a.tsv",
        "a.tsv (2) all have the label -1, with which nothing can be correlated",
        write("a.tsv", "sentence\tscore\na\t-1\nb\t-1.0\n"),
    ),
    "variants split into held-out rows": BadInput(
        TRAIN_MINE,
        "source rows.tsv reads variants of rows",
        lambda folder: [
            write(".augmentation.json", "{}")(folder),
            write_config("replace(classes, corpus=replace(classes.corpus, held_out_sources=()))")(
                folder
            ),
        ],
    ),
    "tags ragged": BadInput(
        f"{TRAIN_ON_TAGS} a.txt",
        "a.txt, line 2: 3 fields, but the first line has 4",
        write("a.txt", "the DT B-NP O\ncat NN I-NP\n"),
    ),
    "tag in the middle": BadInput(
        f"{TRAIN_ON_TAGS} a.txt",
        "a.txt, line 2, word 2 'cat': the tag 'X-PET' is neither O nor one of B-, I-, E-, S-, L-, U-",
        write("a.txt", "the O\ncat X-PET\n"),
    ),
    "tag outside the scheme": BadInput(
        f"{TRAIN_ON_TAGS} a.txt",
        "word 1 'the': the tag 'PET' is neither O nor one of B-, I-, E-, S-, L-, U-",
        write("a.txt", "the PET\ncat O\n"),
    ),
    "word without a tag": BadInput(
        f"{TRAIN_ON_TAGS} a.txt", "a.txt, line 2: 1 fields", write("a.txt", "the O\ncat\n")
    ),
    "word with an empty tag": BadInput(
        f"{TRAIN_ON_TAGS} a.txt",
        "a.txt, line 2: column -1 is empty; give every line a word and its tag",
        write("a.txt", "the\tO\ncat\t\n"),
    ),
    "tags as numbers": BadInput(
        f"{TRAIN_ON_TAGS} a.jsonl",
        "a.jsonl, line 1: the tags [0, 3] are numbers; write their names",
        write("a.jsonl", '{"0": ["the", "cat"], "-1": [0, 3]}\n'),
    ),
    "sentence of no words": BadInput(
        f"{TRAIN_ON_TAGS} a.jsonl",
        "a.jsonl, line 1: the sentence has no words; remove it",
        write("a.jsonl", '{"0": [], "-1": []}\n'),
    ),
    "rows without any label": BadInput(
        "train number.py --workdir w --corpus.sources.0.path a.jsonl",
        "none of the 2 training rows has a label; name its column in source.label, "
        "or set teacher.path",
        write("a.jsonl", '{"sentence": "a", "score": null}\n{"sentence": "b", "score": null}\n'),
    ),
    "unknown tag": BadInput(
        "train tags.py --workdir w --corpus.held-out-sources.0.path a.txt",
        "word 2 'man': the tag 'B-MAN' is not one of O, B-PET, I-PET",
        write("a.txt", "the O\nman B-MAN\n"),
    ),
    "column name where columns have numbers": BadInput(
        "train tags.py --workdir w --corpus.sources.0.label tag",
        "columns have numbers and no names",
    ),
    "text where words are expected": BadInput(
        f"{TRAIN_ON_TAGS} a.jsonl",
        "expected a list of words but found 'the cat'",
        write("a.jsonl", '{"0": "the cat", "-1": ["O", "O"]}\n'),
    ),
    "fewer tags than words": BadInput(
        f"{TRAIN_ON_TAGS} a.jsonl",
        "a.jsonl, line 1: 2 words and 1 tags",
        write("a.jsonl", '{"0": ["the", "cat"], "-1": ["O"]}\n'),
    ),
    "answer at a wrong offset": BadInput(
        TRAIN_ON_QUESTIONS,
        "question q1: the answer 'cat' is not at 3",
        set_field("squad.json", f"{QUESTION_FIELD}.answers.0.answer_start", 3),
    ),
    "answer at a negative offset": BadInput(
        TRAIN_ON_QUESTIONS,
        "question q1: expected answers but found [{'text': 'cat', 'answer_start': -1}]",
        set_field("squad.json", f"{QUESTION_FIELD}.answers.0.answer_start", -1),
    ),
    "question without an answer": BadInput(
        TRAIN_ON_QUESTIONS,
        "question q1: the question has no answer",
        set_field("squad.json", f"{QUESTION_FIELD}.answers", []),
    ),
    "question without a text": BadInput(
        TRAIN_ON_QUESTIONS,
        "misses 'context'",
        set_field("squad.json", "data.0.paragraphs.0.context", ...),
    ),
    "question that is a number": BadInput(
        TRAIN_ON_QUESTIONS,
        "question q1: expected a question but found 5",
        set_field("squad.json", f"{QUESTION_FIELD}.question", 5),
    ),
    "SQuAD file without data": BadInput(
        TRAIN_ON_QUESTIONS, "squad.json, line 1", write("squad.json", "{}")
    ),
    "stride above the window": BadInput(
        f"{TRAIN_ON_QUESTIONS} --task.stride 20", "windows share 20"
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_is_refused(bad, folder):
    check_refused(bad, folder, run_in_process)
