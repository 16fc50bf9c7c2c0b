"""The model card of an export is complete, and shows no path of this machine."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from helpers.cli import rows_of, succeed, write_model
from helpers.models import HEADS, random_model
from huggingface_hub import ModelCard

from flaxdistill.api.model_card import write_card
from flaxdistill.hub import checkpoint
from flaxdistill.models.head import NoHead
from flaxdistill.tasks.question_answering import SpanHead

pytestmark = pytest.mark.slow

CLASSES = """
from dataclasses import replace
from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Stage, Student, Teacher
from flaxdistill.losses.labels import Labels, SoftLabels
from flaxdistill.models.start import Start
from flaxdistill.tasks.text_classification import Classification

rows = Source(path={rows!r}, label="label")
teacher = Experiment(
    student=Student(start=Start(path={model!r})),
    corpus=Corpus(sources=(rows,), held_out_sources=(rows,), max_length=16),
    task=Classification(), losses={{"labels": Labels()}},
    batch_size=8, steps=2, eval_batch_size=8, log_every=1, sanity_checks=False, select="best",
    eval_every=1,
)
config = {{"teacher": teacher, "student": replace(
    teacher, teacher=Teacher(path=Stage("teacher")),
    student=Student(num_layers=1, start=Start(path="teacher")),
    losses={{"soft": SoftLabels()}},
)}}
"""


def test_card_of_a_masked_lm(finished, tmp_path):
    card = ModelCard.load(finished / "export" / "README.md")
    assert card.data.pipeline_tag == "fill-mask"
    assert "knowledge-distillation" in card.data.tags
    (row,) = rows_of(finished, "held_out")
    for metric in ("mlm", "kl", "agreement"):
        assert f"| {metric} | {row[metric]:.4f} |" in card.text
    assert checkpoint.read_model(str(finished / "export")).digest in card.text
    assert checkpoint.read_model(str(finished.parent / "teacher")).digest in card.text
    assert re.search(r"text 1 \| text\.txt, sha256 [0-9a-f]{64}", card.text)
    assert str(finished.parent) not in str(card)
    succeed("export", finished, tmp_path / "named")
    assert "# named\n" in (tmp_path / "named" / "README.md").read_text()


@pytest.mark.hf
@pytest.mark.torch
@pytest.mark.parametrize("family", ["bert", "distilbert"])
@pytest.mark.parametrize("head", HEADS)
def test_code_of_the_card_runs(finished, tmp_path, family, head):
    model = random_model(tmp_path, family, max_positions=64, **HEADS[head])
    card = write_card(finished, model, str(model.directory))
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict = {}
    if isinstance(model.config.head, SpanHead):
        exec(code.replace('"A text."', '"A text. " * 30'), names)  # longer than the model reads
    exec(code, names)
    commands = re.findall(r"`flaxdistill (predict .*?)`", card)
    answers = [json.loads(succeed(*shlex.split(command))) for command in commands]
    assert len(answers) == (not isinstance(model.config.head, NoHead))
    if isinstance(model.config.head, SpanHead):
        assert names["answer"] == answers[0]["answer"] != ""


@pytest.fixture
def stages(tmp_path):
    rows, model = tmp_path / "reviews.tsv", tmp_path / "base"
    write_model(model, ("good", "bad", "film"))
    rows.write_text("text\tlabel\n" + "good film\tyes\nbad film\tno\n" * 8)
    (tmp_path / "c.py").write_text(CLASSES.format(rows=str(rows), model=str(model)))
    succeed("distill", tmp_path / "c.py", "--workdir", tmp_path / "w")
    return tmp_path / "w"


def test_card_of_a_classifier(stages):
    card = ModelCard.load(stages / "student" / "export" / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.dataset_name) == ("accuracy", "reviews.tsv (held out)")
    accuracies = [row["accuracy"] for row in rows_of(stages / "student", "held_out")]
    assert result.metric_value == max(accuracies)
    assert "| teacher | teacher, sha256" in card.text and str(stages.parent) not in str(card)
    assert "trained without a teacher" in (stages / "teacher" / "export" / "README.md").read_text()
