"""GLUE, all of it or some: for every task a teacher, a student of half its layers, and the same student alone.

    flaxdistill distill glue --only 'mrpc_*' --workdir runs/glue

Tasks are cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte and wnli; stages of mrpc are mrpc_teacher, mrpc_student and
mrpc_control. Reads nyu-mll/glue and google-bert/bert-base-uncased from the Hub. Three passes over the rows at batch 32 and
3e-5, as in Devlin et al. (2019), one seed of the teacher and five of the students, the best evaluation of each kept.
``--only`` shortens ``--help`` too.
"""

from dataclasses import replace

from flaxdistill.experiment.config import Experiment, Stage, Student, Teacher
from flaxdistill.losses.answers import Labels, SoftLabels
from flaxdistill.losses.schedule import constant
from flaxdistill.models.student_init import Start
from flaxdistill.tasks.glue import GLUE
from flaxdistill.tasks.text_classification import Regression
from flaxdistill.train.optimizer import AdamW

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
    soft = SoftLabels(
        weight=constant(0.5), divergence="mse" if isinstance(glue.task, Regression) else "kl"
    )
    student = replace(
        teacher,
        teacher=Teacher(path=Stage(f"{name}_teacher")),
        student=Student(start=Start(path=Stage(f"{name}_teacher"))),
        losses={"labels": Labels(weight=constant(0.5)), "soft": soft},
        seeds=(0, 1, 2, 3, 4),
    )
    control = replace(
        student, teacher=None, reference=Stage(f"{name}_teacher"), losses={"labels": Labels()}
    )
    config |= {f"{name}_teacher": teacher, f"{name}_student": student, f"{name}_control": control}
