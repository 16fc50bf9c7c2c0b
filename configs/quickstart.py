"""A teacher, a student and a control in minutes on a laptop, without data files.

    flaxdistill distill quickstart

Reads the docstrings of installed libraries. Trains a vocabulary and a small teacher, distills a
student of half its depth, and trains the same student from the same start without the teacher, as a
control.
"""

from flaxdistill import (
    AdamW,
    Corpus,
    Experiment,
    HiddenCosine,
    MaskedLM,
    Source,
    Stage,
    Start,
    Student,
    Teacher,
    VocabKD,
)

corpus = Corpus(
    sources=(Source("docstrings"),), vocab_size=2048, max_length=64, held_out_blocks=256
)

teacher = Experiment(
    corpus=corpus,
    student=Student(
        start=Start(path=None),
        num_layers=4,
        hidden_size=128,
        num_heads=4,
        intermediate_size=512,
        dropout=0.0,
        attention_dropout=0.0,
    ),
    losses={"mlm": MaskedLM()},
    optim=AdamW(learning_rate=1e-3, warmup=0.1, clip=1.0),
    batch_size=32,
    steps=500,
)

student = Experiment(
    teacher=Teacher(Stage("teacher")),
    corpus=corpus,
    student=Student(start=Start(path=Stage("teacher")), dropout=0.0, attention_dropout=0.0),
    losses={"vocab": VocabKD(tokens="masked"), "cosine": HiddenCosine()},
    optim=AdamW(learning_rate=1e-3, clip=1.0),
    batch_size=32,
    steps=160,
)

control = Experiment(
    reference=Stage("teacher"),
    corpus=corpus,
    student=student.student,
    losses={"mlm": MaskedLM()},
    optim=student.optim,
    batch_size=32,
    steps=160,
)

config = {"teacher": teacher, "student": student, "control": control}
