"""A small classifier: teacher, student of half its layers, and a control without a teacher.

    flaxdistill distill sentiment --teacher.student.start.path MODEL \\
        --teacher.corpus.sources.0.path train.tsv --teacher.corpus.held-out-sources.0.path dev.tsv

``teacher`` starts from any BERT or DistilBERT checkpoint. ``student`` starts from every second
layer of it, with alpha = 1/2: half the labels' cross-entropy and half the teacher's soft labels at
T = 2. ``control`` has the labels only. Columns are ``sentence`` and ``label``, as in GLUE's SST-2.
"""

from dataclasses import replace

from flaxdistill import (
    AdamW,
    Classification,
    Corpus,
    Experiment,
    Labels,
    SoftLabels,
    Source,
    Stage,
    Start,
    Student,
    Teacher,
)

teacher = Experiment(
    student=Student(start=Start(path="google-bert/bert-base-uncased")),
    corpus=Corpus(
        sources=(Source("train.tsv", column="sentence", label="label"),),
        held_out_sources=(Source("dev.tsv", column="sentence", label="label"),),
        max_length=128,
    ),
    task=Classification(),
    losses={"labels": Labels()},
    optim=AdamW(learning_rate=5e-5, weight_decay=0.01, clip=1.0),
    batch_size=64,
    steps=2000,
)
student = replace(
    teacher,
    teacher=Teacher(Stage("teacher")),
    student=Student(start=Start(path=Stage("teacher"))),
    losses={"labels": Labels(weight=0.5), "soft": SoftLabels(weight=0.5)},
)
control = replace(student, teacher=None, reference=Stage("teacher"), losses={"labels": Labels()})

config = {"teacher": teacher, "student": student, "control": control}
