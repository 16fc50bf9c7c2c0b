"""GLUE: for every task a teacher, a student of half its layers, and a control.

    flaxdistill distill glue --only 'mrpc_*' --workdir runs/glue

Tasks are cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte and wnli. The stages of mrpc are
mrpc_teacher, mrpc_student and mrpc_control. Reads nyu-mll/glue and google-bert/bert-base-uncased
from the Hub. Three epochs at batch size 32 and learning rate 3e-5, as in Devlin et al. (2019), with
one seed of the teacher and five of the students; the best evaluation of each is selected.
``--only`` also shortens ``--help``. Not run: it needs the Hub.
"""

from dataclasses import replace

from flaxdistill import (
    AdamW,
    Experiment,
    Labels,
    Regression,
    SoftLabels,
    Stage,
    Start,
    Student,
    Teacher,
)
from flaxdistill.tasks.glue import GLUE

config = {}
for name, glue in GLUE.items():
    steps = 3 * glue.rows // 32
    teacher = Experiment(
        student=Student(start=Start(path="google-bert/bert-base-uncased")),
        corpus=glue.corpus(name),
        task=glue.task,
        losses={"labels": Labels()},
        optim=AdamW(learning_rate=3e-5, b2=0.999, weight_decay=0.01, warmup=0.1, clip=1.0),
        batch_size=32,
        steps=steps,
        eval_every=max(steps // 6, 1),
        select="best",
    )
    # A number has no distribution: its teacher is matched by squares.
    soft = SoftLabels(weight=0.5, divergence="mse" if isinstance(glue.task, Regression) else "kl")
    student = replace(
        teacher,
        teacher=Teacher(Stage(f"{name}_teacher")),
        student=Student(start=Start(path=Stage(f"{name}_teacher"))),
        losses={"labels": Labels(weight=0.5), "soft": soft},
        seeds=(0, 1, 2, 3, 4),
    )
    control = replace(
        student, teacher=None, reference=Stage(f"{name}_teacher"), losses={"labels": Labels()}
    )
    config |= {f"{name}_teacher": teacher, f"{name}_student": student, f"{name}_control": control}
