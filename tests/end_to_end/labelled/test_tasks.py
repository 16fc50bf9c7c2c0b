"""Regression, token classification and question answering are trained, distilled and exported."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.classification import sentences, write_table
from helpers.cli import rows_of, succeed

pytestmark = pytest.mark.slow


def test_regression(config, tmp_path):
    rows = [(text, 1.5 if label == "yes" else -0.5) for text, label in sentences(2, 120)]
    table = write_table(tmp_path / "scores.tsv", rows)
    path = config(
        f"source = replace(source, path={str(table)!r})\n"
        "corpus = replace(teacher.corpus, sources=(source,), held_out_sources=(source,))\n"
        "config = replace(teacher, corpus=corpus, task=Regression())"
    )
    out = succeed("train", path, "--workdir", tmp_path / "w")
    (held_out,) = rows_of(tmp_path / "w", "held_out")
    assert held_out["pearson"] > 0.8 and held_out["mse"] < 1.0 and "Pearson" in out
    hf_config = json.loads((tmp_path / "w" / "export" / "config.json").read_text())
    assert hf_config["problem_type"] == "regression" and len(hf_config["id2label"]) == 1


def tagged_sentences(path, texts):
    lines = ["".join(f"{w} {'B-X' if w == 'good' else 'O'}\n" for w in words) for words in texts]
    path.write_text("\n".join(lines))
    return 'column="0", label="-1"', "TokenClassification()"


def questions(path, texts):
    rows = []
    for words in texts:
        text = " ".join(words)
        answer = {"text": "good", "answer_start": text.find("good")}
        rows.append({"question": "the", "context": text, "answers": [answer]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = 'column="question", pair="context", label="answers"'
    return columns, "QuestionAnswering(stride=2)"


@pytest.mark.parametrize(
    ("write", "suffix", "architecture"),
    [
        (tagged_sentences, "txt", "BertForTokenClassification"),
        (questions, "jsonl", "BertForQuestionAnswering"),
    ],
    ids=["token-classification", "question-answering"],
)
def test_distillation(config, tmp_path, write, suffix, architecture):
    """The model learns to find the word ``good``."""
    rng = np.random.default_rng(0)
    texts = [list(rng.choice(("the", "cat", "dog", "a"), 6)) for _ in range(60)]
    for words in texts:
        words[int(rng.integers(6))] = "good"
    file = tmp_path / f"rows.{suffix}"
    columns, task = write(file, texts)
    path = config(
        f"source = Source(path={str(file)!r}, {columns})\n"
        "corpus = replace(teacher.corpus, sources=(source,), held_out_sources=(source,))\n"
        f"teacher = replace(teacher, corpus=corpus, task={task}, steps=60)\n"
        f"student = replace(student, corpus=corpus, task={task}, steps=30)\n"
        'config = {"teacher": teacher, "student": student}'
    )
    out = succeed("distill", path, "--workdir", tmp_path / "w")
    assert out.count("read back bit-equal") == 2
    teacher_path, student_path = tmp_path / "w" / "teacher", tmp_path / "w" / "student"
    (teacher,), (student,) = (rows_of(path, "held_out") for path in (teacher_path, student_path))
    assert teacher["f1"] > 0.8 and student["f1"] > 0.5 and student["agreement"] > 0.8
    printed = succeed("eval", student_path, "--against", teacher_path)
    assert "difference" in printed and f"{student['f1']:.2%}" in printed
    has_a_row_per_tag = bool(re.search(r"│ X +│ .*%.*%.*%", printed))
    assert has_a_row_per_tag == (architecture == "BertForTokenClassification")
    hf_config = json.loads((student_path / "export" / "config.json").read_text())
    assert hf_config["architectures"] == [architecture]
