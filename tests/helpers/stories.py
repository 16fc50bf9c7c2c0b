"""Runs to report on, one for each kind of task."""

from __future__ import annotations

import json

from helpers.cli import write_model
from helpers.models import WORDS

STORY = """
from dataclasses import replace
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Stage, Student, Teacher
from flaxdistill.losses.labels import Labels, SoftLabels
from flaxdistill.models.start import Start
from flaxdistill.tasks.text_classification import Classification, Regression
from flaxdistill.tasks.question_answering import QuestionAnswering
from flaxdistill.tasks.token_classification import TokenClassification

rows = Source(path={rows!r}, {columns})
common = Experiment(
    student=Student(start=Start(path={model!r})),
    corpus=Corpus(sources=(rows,), held_out_sources=(rows,), max_length=16),
    task={task},
    losses={{"labels": Labels()}},
    batch_size=8,
    steps=2,
    eval_batch_size=8,
    log_every=1,
    sanity_checks=False,
)
small = Student(num_layers=1, start=Start(path=Stage("big"), layers="random"))
taught = replace(
    common,
    teacher=Teacher(path=Stage("big")),
    student=small,
    losses={{"soft": SoftLabels({soft_options})}},
    seeds=(0, 1),
)
alone = replace(common, student=small, reference=Stage("big"))
config = {{"big": common, "taught": taught, "alone": alone}}
"""


SHARP = {"initializer_range": 0.5}
"""Without it, all classes have about the same probability."""


def write(folder, kind: str):
    """Write rows of a task, and a config that trains on them for two steps."""
    write_model(folder / "model", WORDS, **SHARP)
    texts = [f"{'good' if n % 3 else 'bad'} film <b> {'cat ' * (n % 4)}& dog" for n in range(24)]
    columns, task, soft_options = 'label="label"', "Classification()", ""
    path = folder / "rows.jsonl"
    if kind == "classes":
        rows = [{"text": text, "label": "yes" if "good" in text else "no"} for text in texts]
    elif kind == "numbers":
        rows, task = [{"text": text, "label": float(len(text))} for text in texts], "Regression()"
        soft_options = 'divergence="mse"'
    elif kind == "tags":
        tags = [["B-X" if word == "good" else "O" for word in text.split()] for text in texts]
        rows = [
            {"text": text.split(), "label": label} for text, label in zip(texts, tags, strict=True)
        ]
        task = "TokenClassification()"
    else:
        columns, task = (
            'column="question", pair="context", label="answers"',
            "QuestionAnswering(stride=2)",
        )
        rows = [
            {
                "question": "film",
                "context": text,
                "answers": [{"text": "film", "answer_start": text.find("film")}],
            }
            for text in texts
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = STORY.format(
        rows=str(path),
        columns=columns,
        model=str(folder / "model"),
        task=task,
        soft_options=soft_options,
    )
    (folder / "c.py").write_text(config)
