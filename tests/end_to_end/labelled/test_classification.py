"""A classifier is trained, distilled, exported and evaluated."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.classification import sentences, write_table
from helpers.cli import refused, rows_of, succeed
from safetensors.numpy import load_file, save_file

from flaxdistill.experiment import evaluate, run_models
from flaxdistill.hub import checkpoint, compatibility
from flaxdistill.models.architecture import shapes_of
from flaxdistill.tasks.text_classification import TextHead
from flaxdistill.train.checkpoint import latest_step, read_student


def test_teacher_learns_and_student_agrees(stages):
    (teacher,), (student,), (control,) = (
        rows_of(stages / name, "held_out") for name in ("teacher", "student", "control")
    )
    assert teacher["accuracy"] > 0.9 and "agreement" not in teacher
    assert student["accuracy"] > 0.8 and student["agreement"] > 0.8
    assert {"accuracy", "f1", "matthews", "agreement"} <= set(control)
    assert {"labels", "kl", "hidden"} <= set(rows_of(stages / "student")[-1])
    printed = succeed("eval", stages / "student")
    assert f"{student['accuracy']:.2%}" in printed and f"{student['agreement']:.2%}" in printed
    printed = succeed("eval", stages / "student", "--model", stages / "teacher")
    assert f"{teacher['accuracy']:.2%}" in printed
    model = checkpoint.read_model(str(stages / "teacher" / "export"))
    assert model.config.labels == ("no", "yes") and model.config.num_layers == 2
    assert checkpoint.read_model(str(stages / "student" / "export")).config.num_layers == 1
    assert "student 1" in succeed("eval", stages / "student", "--layers")


@pytest.mark.hf
@pytest.mark.torch
def test_transformers_predicts_the_same(stages, folder):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    export = stages / "student" / "export"
    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForSequenceClassification.from_pretrained(export).eval()
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    rows = [line.split("\t") for line in (folder / "dev.tsv").read_text().splitlines()[1:]]
    with torch.no_grad():
        correct = [classify(text)[0]["label"] == label for text, label in rows]
    (held_out,) = rows_of(stages / "student", "held_out")
    assert np.mean(correct) == pytest.approx(held_out["accuracy"], abs=1e-3)


@pytest.mark.slow
def test_resumed_run_equals_an_uninterrupted_one(config, tmp_path):
    """The run has dropout and crosses the end of an epoch."""
    path = config(
        "config = replace(\n"
        "    teacher, log_every=1,\n"
        '    optim=AdamW(learning_rate=1e-2, warmup=0.0, decay="constant"),\n'
        ")"
    )
    succeed("train", path, "--workdir", tmp_path / "resumed", "--steps", "7")
    succeed("train", path, "--workdir", tmp_path / "resumed", "--steps", "20")
    succeed("train", path, "--workdir", tmp_path / "single", "--steps", "20")
    resumed, single = rows_of(tmp_path / "resumed"), rows_of(tmp_path / "single")
    assert [row["step"] for row in resumed] == list(range(1, 21)) and resumed == single


@pytest.fixture(scope="module")
def selected(folder) -> Path:
    """Return a run with select=best that has checkpoints of steps 4 and 8 and evaluates step 8."""
    path = folder / "selected.py"
    path.write_text((folder / "common.txt").read_text() + "config = teacher\n")
    flags = ("--steps", 8, "--eval-every", 8, "--save-every", 4, "--select", "best")
    succeed("train", path, "--workdir", folder / "selected", *flags)
    return folder / "selected"


@pytest.mark.parametrize("metric", ["absent", "null"])
def test_run_without_a_metric_gives_its_last_student(selected, tmp_path, metric):
    """Without a finite metric, the selected student is that of step 0; the last one is better."""
    path = tmp_path / "run"
    shutil.copytree(selected, path)
    if metric == "absent":
        shutil.rmtree(path / "checkpoints" / "8")
    else:
        log = path / "metrics.jsonl"
        log.write_text(re.sub(r'"accuracy": [\d.]+', '"accuracy": null', log.read_text()))
    step = latest_step(path)
    model = run_models.read_model(str(path))
    shapes = shapes_of(model.config)
    last = read_student(path, step, shapes)
    assert model.source == f"{path} at step {step}"
    assert jax.tree.all(jax.tree.map(np.array_equal, model.params, last))
    best = read_student(path, step, shapes, "best")
    # The checkpoint of step 8 holds the student that was selected at step 8.
    assert jax.tree.all(jax.tree.map(np.array_equal, best, last)) == (metric == "null")


def test_unnamed_classes_are_reported(stages):
    model = checkpoint.read_model(str(stages / "teacher" / "export"))
    unnamed = dataclasses.replace(
        model,
        config=dataclasses.replace(model.config, head=TextHead(labels=("LABEL_0", "LABEL_1"))),
    )
    message = (
        f"{model.source} has no label names; its classes are assumed to be no, yes, in this order"
    )
    assert compatibility.describe_assumed_labels(unnamed, ("no", "yes")) == message
    assert compatibility.describe_assumed_labels(unnamed, ("0", "1")) is None
    assert compatibility.describe_assumed_labels(model, ("no", "yes")) is None


def test_classes_are_matched_by_name(stages, tmp_path):
    """Without names, classes are matched by their order, which is reported."""
    reversed_, config = tmp_path / "reversed", tmp_path / "reversed" / "config.json"
    shutil.copytree(stages / "student" / "export", reversed_)
    weights = load_file(reversed_ / "model.safetensors")
    head = {
        name: np.ascontiguousarray(x[::-1]) for name, x in weights.items() if "classifier" in name
    }
    save_file(weights | head, reversed_ / "model.safetensors")
    reports: list[str] = []

    def accuracy(*names):
        labels = {
            "id2label": dict(enumerate(names)),
            "label2id": {name: n for n, name in enumerate(names)},
        }
        config.write_text(json.dumps(json.loads(config.read_text()) | labels))
        (row,) = evaluate.evaluate(stages / "student", str(reversed_), report=reports.append)
        return row["accuracy"]

    (student,) = evaluate.evaluate(stages / "student")
    assert accuracy("yes", "no") == student["accuracy"] != 0.5 and not reports
    assert accuracy("LABEL_0", "LABEL_1") == pytest.approx(1 - student["accuracy"])
    assert reports == [
        f"{reversed_} has no label names; its classes are assumed to be no, yes, in this order"
    ]


def test_non_finite_logits_give_no_score(stages, tmp_path):
    """The argmax of NaN would be the first class, which is correct for half of the rows."""
    broken = tmp_path / "broken"
    shutil.copytree(stages / "student" / "export", broken)
    weights = load_file(broken / "model.safetensors")
    huge = np.full_like(weights["classifier.weight"], 3e38)
    save_file(weights | {"classifier.weight": huge}, broken / "model.safetensors")
    assert np.isnan(evaluate.evaluate_model(stages / "student", str(broken)).metrics["accuracy"])
    assert "predicts NaN or infinite values" in refused("predict", broken, "the cat")


def test_difference_from_itself_is_zero(stages):
    printed = succeed("eval", stages / "student", "--against", stages / "student" / "export")
    assert "0.0000 .. 0.0000" in printed


def test_rows_of_another_file(stages, folder):
    other = write_table(folder / "other.tsv", sentences(7, 30))
    rows = evaluate.evaluate(stages / "student", data=str(other))
    assert rows[0]["name"] == str(stages / "student") and len(rows[0]["interval"]) == 2
    lines = [json.dumps({"text": text, "class": label}) for text, label in sentences(7, 30)]
    (folder / "other.jsonl").write_text("\n".join(lines))
    columns = {"data": str(folder / "other.jsonl"), "column": "text", "label": "class"}
    assert evaluate.evaluate(stages / "student", **columns) == rows
    (dev,) = evaluate.evaluate(stages / "student", data=str(folder / "dev.tsv"))
    held_out = rows_of(stages / "student", "held_out")[-1]
    assert dev["accuracy"] == pytest.approx(held_out["accuracy"])


def test_invalid_rows_of_another_file(stages, folder):
    bad = write_table(folder / "bad.tsv", [("the cat", "perhaps")])
    message = refused("eval", stages / "student", "--data", bad)
    assert "bad.tsv" in message and "'perhaps' is not one of no, yes" in message
    assert "does not exist" in refused("eval", stages / "student", "--data", folder / "none.tsv")
    assert "--data" in refused("eval", stages / "student", "--split", "test")


@pytest.mark.slow
def test_fewer_rows_than_a_batch(config, stages, tmp_path):
    """The sanity checks before the first step use real rows only."""
    path = config(
        f"path = {str(stages / 'teacher')!r}\n"
        "few = replace(teacher.corpus, sources=(replace(source, rows=20),))\n"
        "config = replace(\n"
        "    student, teacher=Teacher(path=path), corpus=few, batch_size=64, steps=2,\n"
        "    sanity_checks=True, student=replace(student.student, start=Start(path=path)),\n"
        ")"
    )
    succeed("distill", path, "--workdir", tmp_path / "w")


def test_rows_without_labels_are_reported(config, tmp_path):
    path = config(
        "both = (source, replace(source, label=None))\n"
        "config = replace(teacher, corpus=replace(teacher.corpus, sources=both))"
    )
    printed = succeed("train", path, "--workdir", tmp_path / "w", "--steps", 1)
    assert "200 of 400 rows have no label; without a teacher they are not used" in printed


@pytest.mark.slow
def test_later_stage_may_name_the_labels(config, tmp_path):
    labels = "task=Classification(labels=('no', 'yes'))"
    path = config(f'config = {{"teacher": teacher, "student": replace(student, {labels})}}')
    steps = ("--teacher.steps", 2, "--student.steps", 2)
    printed = succeed("distill", path, "--workdir", tmp_path / "w", *steps)
    assert printed.count("read back bit-equal") == 2


@pytest.mark.slow
def test_tinybert_in_two_stages(folder, config, tmp_path):
    """Hidden states first, then logits, on augmented rows; stage two starts from stage one."""
    succeed(
        *("augment", folder / "train.tsv", tmp_path / "augmented", "--model", folder / "model"),
        *("--column", "sentence", "--label", "label"),
        *("--variants", "2", "--length", "16", "--probability", "0.2"),
    )
    augmented = str(tmp_path / "augmented")
    path = config(f"""
from flaxdistill.losses.schedule import constant

corpus = replace(teacher.corpus, sources=(replace(source, path={augmented!r}),))
hidden = replace(
    student,
    corpus=corpus,
    losses={{"scores": AttentionScores(), "hidden": HiddenMSE(layers="0:0,1:2")}},
    student=replace(student.student, start=Start(path=Stage("teacher"), layers="random")),
)
logits = replace(
    hidden,
    student=replace(student.student, start=Start(path=Stage("hidden")), num_layers=1),
    losses={{"soft": SoftLabels(temperature=constant(1.0), divergence="ce")}},
    select="best",
    eval_every=10,
)
config = {{"teacher": teacher, "hidden": hidden, "logits": logits}}
""")
    succeed("distill", path, "--workdir", tmp_path / "w")
    hidden, logits = (rows_of(tmp_path / "w" / name) for name in ("hidden", "logits"))
    assert hidden[-1]["hidden"] < hidden[0]["hidden"] and logits[-1]["ce"] < logits[0]["ce"]
    best = max(row["accuracy"] for row in rows_of(tmp_path / "w" / "logits", "held_out"))
    assert best > 0.8
