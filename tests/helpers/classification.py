"""Sentences of two classes, and a config that trains, distils and controls a classifier on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GOOD, BAD = ("good", "great", "fine"), ("bad", "poor", "dull")
NEUTRAL = ("the", "cat", "dog", "a", "sees")
TOKENS = (*NEUTRAL, *GOOD, *BAD)

CONFIG = """
from dataclasses import replace

from flaxdistill import (
    AdamW, AttentionScores, Classification, Corpus, Experiment, HiddenMSE, Labels, MLM, MaskedLM,
    QuestionAnswering, Regression, SoftLabels, Source, Stage, Start, Student, Teacher,
    TokenClassification,
)

source = Source(path={train!r}, column="sentence", label="label")
teacher = Experiment(
    student=Student(
        start=Start(path={model!r}), dtype="float32", dropout=0.02, attention_dropout=0.02
    ),
    corpus=Corpus(
        sources=(source,),
        held_out_sources=(replace(source, path={dev!r}, rows=40),),
        max_length=16,
    ),
    task=Classification(),
    losses={{"labels": Labels()}},
    optim=AdamW(learning_rate=1e-2, clip=1.0),
    batch_size=16,
    steps=80,
    eval_batch_size=16,
    sanity_checks=False,
)
student = replace(
    teacher,
    teacher=Teacher(path=Stage("teacher"), dtype="float32"),
    student=replace(teacher.student, start=Start(path=Stage("teacher"))),
    losses={{"labels": Labels(), "soft": SoftLabels(), "hidden": HiddenMSE()}},
    steps=40,
)
control = replace(
    student, teacher=None, reference=Stage("teacher"), losses={{"labels": Labels()}}
)
"""


def sentences(seed: int, number: int) -> list[tuple[str, str]]:
    """Draw sentences that end in a good or a bad word, with the label yes or no.

    With [CLS] and [SEP] they have at most 8 tokens, so that one program serves all batches.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        label = int(rng.integers(2))
        words = [*rng.choice(NEUTRAL, rng.integers(1, 6)), str(rng.choice((BAD, GOOD)[label]))]
        rows.append((" ".join(words), ("no", "yes")[label]))
    return rows


def write_table(path: Path, rows: list[tuple[str, object]]) -> Path:
    """Write a TSV file with the columns sentence and label."""
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return path
