"""The whole story in a few minutes on two CPU cores, with no network and no files.

    flaxdistill distill configs/quickstart.py

Reads the docstrings of the libraries this package stands on, trains a vocabulary and a small teacher, distils a student
of half its depth, and trains the same student from the same start without the teacher, for comparison.
"""

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Stage, Student, Teacher
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.student_init import Start
from flaxdistill.train.optimizer import AdamW

corpus = Corpus(
    sources=(Source(path="docstrings"),), vocab_size=2048, max_length=64, held_out_blocks=256
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
    teacher=Teacher(path=Stage("teacher")),
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
