"""Experiments on labelled rows that are refused before anything is trained."""

from __future__ import annotations

import pytest
from helpers.classification import TOKENS
from helpers.cli import refused, write_model

from flaxdistill.tasks.text_classification import TextHead

REFUSED = {
    "masked-LM loss": (
        'config = replace(teacher, losses={"labels": Labels(), "mlm": MaskedLM()})',
        "losses.mlm needs masked-LM logits, but the task, Classification",
    ),
    "label loss of MLM": (
        "config = replace(teacher, task=MLM())",
        "losses.labels needs the logits of a labelled task, but the task, MLM",
    ),
    "no label column": (
        "source = replace(source, label=None)\n"
        "config = replace(teacher, corpus=replace(teacher.corpus, sources=(source,)))",
        "the task has labels, but no source has a label column; name it in corpus.sources.0.label",
    ),
    "labels in another order": (
        "start = replace(student.student, start=Start(path={teacher!r}))\n"
        "config = replace(\n"
        "    student, teacher=Teacher(path={teacher!r}), student=start,\n"
        '    task=Classification(labels=("yes", "no")),\n'
        ")",
        "has the labels no, yes and the data has yes, no",
    ),
    "teacher without the head": (
        "config = replace(student, teacher=Teacher(path={model!r}))\n"
        "config = replace(config, student=replace(config.student, start=Start(path={model!r})))",
        "has no sequence head; choose a BertForSequenceClassification checkpoint of it",
    ),
    "cache_top_k": (
        "start = replace(student.student, start=Start(path={teacher!r}))\n"
        "config = replace(\n"
        "    student, teacher=Teacher(path={teacher!r}, cache_top_k=8), student=start\n"
        ")",
        "teacher.cache_top_k caches masked-LM logits, but the task has labels; set it to 0",
    ),
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Return a random classifier with the labels no and yes."""
    path = tmp_path_factory.mktemp("classifier") / "teacher"
    return write_model(path, TOKENS, head=TextHead(labels=("no", "yes")), pooler=True)


@pytest.mark.parametrize(("lines", "message"), REFUSED.values(), ids=REFUSED)
def test_experiment_is_refused(classifier, folder, config, tmp_path, lines, message):
    paths = {"{teacher!r}": str(classifier), "{model!r}": str(folder / "model")}
    for name, path in paths.items():
        lines = lines.replace(name, repr(path))
    command = "distill" if "student" in lines else "train"
    assert message in refused(command, config(lines), "--workdir", tmp_path / "w")
    assert not (tmp_path / "w" / "experiment.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('losses={"hidden": HiddenMSE(layers="0:0,1:5")}', "names layer 5 of a teacher that has 2"),
        (
            "student=Student(start=Start(path=Stage('teacher')), num_layers=3)",
            "a student of 3 layers cannot start",
        ),
        ('task=Regression(), losses={"soft": SoftLabels()}', "a regression task predicts a number"),
    ],
)
def test_stage_is_refused_before_its_teacher_is_trained(config, tmp_path, change, message):
    path = config(f'config = {{"teacher": teacher, "student": replace(student, {change})}}')
    assert message in refused("distill", path, "--workdir", tmp_path / "w")
    assert not (tmp_path / "w").exists()
