"""A small classifier by Friday: a teacher fine-tuned on your labels, a student of half its layers, and the same alone.

    flaxdistill distill sentiment --workdir runs/sentiment --teacher.student.start.path MODEL \\
        --teacher.corpus.sources.0.path train.tsv --teacher.corpus.held-out-sources.0.path dev.tsv ...

``teacher`` starts from any BERT or DistilBERT checkpoint; ``student`` from every second of its layers, with alpha = 1/2:
half the labels' cross-entropy, half the teacher's soft labels at T = 2; ``control`` has the labels only. Columns are
``sentence`` and ``label``, as in GLUE's SST-2.
"""

from dataclasses import replace

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Stage, Student, Teacher
from flaxdistill.losses.answers import Labels, SoftLabels
from flaxdistill.losses.schedule import constant
from flaxdistill.models.student_init import Start
from flaxdistill.tasks.text_classification import Classification
from flaxdistill.train.optimizer import AdamW

teacher = Experiment(
    student=Student(start=Start(path="google-bert/bert-base-uncased")),
    corpus=Corpus(
        sources=(Source(path="train.tsv", column="sentence", label="label"),),
        held_out_sources=(Source(path="dev.tsv", column="sentence", label="label"),),
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
    teacher=Teacher(path=Stage("teacher")),
    student=Student(start=Start(path=Stage("teacher"))),
    losses={"labels": Labels(weight=constant(0.5)), "soft": SoftLabels(weight=constant(0.5))},
)
control = replace(student, teacher=None, reference=Stage("teacher"), losses={"labels": Labels()})

config = {"teacher": teacher, "student": student, "control": control}
