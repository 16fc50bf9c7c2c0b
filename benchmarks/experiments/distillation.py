"""Does distillation beat training from the same start? Three seeds, equal steps, equal time, a
random start.

    flaxdistill distill benchmarks/experiments/distillation.py --workdir runs/distillation

Reads a masked-LM teacher of 6 x 384 and the Wikipedia and novel texts from ../shared. ``student``
has 3 of the teacher's layers and is distilled. ``control`` has the same layers and is trained on
the same masks without the teacher, for as many steps. ``longer`` is the control for as much time as
the student. ``random`` is distilled from a random start.
"""

from dataclasses import replace

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Student, Teacher
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.start import Start
from flaxdistill.train.optimizer import AdamW

TEACHER = "../shared/models/minilm-l6-mlm"
STEPS = 150
LONGER = 1.6  # steps of the control in the time of one of the student, measured on two CPU cores

student = Experiment(
    teacher=Teacher(path=TEACHER),
    student=Student(start=Start(path=TEACHER), dropout=0.0, attention_dropout=0.0),
    corpus=Corpus(
        sources=(
            Source(path="../shared/data/corpus/wikipedia-train.parquet"),
            Source(path="../shared/data/corpus/novels.parquet"),
        ),
        max_length=128,
        held_out=0.01,
        held_out_blocks=512,
    ),
    losses={"vocab": VocabKD(tokens="masked"), "cosine": HiddenCosine()},
    optim=AdamW(learning_rate=4e-4, clip=1.0),
    batch_size=16,
    steps=STEPS,
    eval_every=STEPS * 10,
    save_every=STEPS // 2,
)
control = replace(student, teacher=None, reference=TEACHER, losses={"mlm": MaskedLM()})

config = {}
for seed in range(3):
    config[f"student_{seed}"] = replace(student, seed=seed)
    config[f"control_{seed}"] = replace(control, seed=seed)
config["random_0"] = replace(
    student, student=replace(student.student, start=Start(path=TEACHER, layers="random"))
)
for seed in range(3):
    config[f"longer_{seed}"] = replace(control, seed=seed, steps=round(STEPS * LONGER))
