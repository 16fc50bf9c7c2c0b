"""Labelled tasks as a user runs them: a teacher, a student of it, the same alone, and what transformers says of them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import math
import re
import shutil
import signal
import statistics

import jax
import numpy as np
import pytest
from helpers.cli import refused, rows_of, succeed, write_model
from rich.console import Console
from safetensors.numpy import load_file, save_file

from flaxdistill import terminal
from flaxdistill.api import stages
from flaxdistill.data.sources import Example
from flaxdistill.experiment import evaluate, results, workdir
from flaxdistill.hub import checkpoint, compatibility
from flaxdistill.models.encoder import shapes_of
from flaxdistill.tasks.text_classification import Classification
from flaxdistill.train import loop
from flaxdistill.train.checkpoint import latest_step, read_student

GOOD, BAD = ("good", "great", "fine"), ("bad", "poor", "dull")
CONFIG = """
from dataclasses import replace

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Stage, Student, Teacher
from flaxdistill.losses.labels import Labels, SoftLabels
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.vocab import MaskedLM
from flaxdistill.train.optimizer import AdamW
from flaxdistill.models.student_init import Start
from flaxdistill.tasks.text_classification import Classification, Regression

source = Source(path={train!r}, column="sentence", label="label")
teacher = Experiment(
    student=Student(start=Start(path={model!r}), dtype="float32", dropout=0.02, attention_dropout=0.02),
    corpus=Corpus(sources=(source,), held_out_sources=(replace(source, path={dev!r}, rows=40),), max_length=16),
    task=Classification(),
    losses={{"labels": Labels()}},
    optim=AdamW(learning_rate=1e-2, clip=1.0),
    batch_size=16,
    steps=80,
    eval_batch_size=16,
    sanity_checks=False,
)
student = replace(
    teacher,
    teacher=Teacher(path=Stage("teacher"), dtype="float32"),
    student=replace(teacher.student, start=Start(path=Stage("teacher"))),
    losses={{"labels": Labels(), "soft": SoftLabels(), "hidden": HiddenMSE()}},
    steps=40,
)
control = replace(student, teacher=None, reference=Stage("teacher"), losses={{"labels": Labels()}})
"""


def sentences(seed: int, n: int) -> list[tuple[str, str]]:
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        label = int(draw.integers(2))
        filler = ["the", "cat", "dog", "a", "sees"]
        words = [*draw.choice(filler, draw.integers(1, 9)), str(draw.choice((BAD, GOOD)[label]))]
        made.append((" ".join(words), ("no", "yes")[label]))
    return made


def table(path, rows):
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    words = ("the", "cat", "dog", "a", "sees", *GOOD, *BAD)
    model = write_model(folder / "model", words, num_layers=2)
    train = table(folder / "train.tsv", sentences(0, 200))
    dev = table(folder / "dev.tsv", sentences(1, 40))
    (folder / "common.txt").write_text(
        CONFIG.format(model=str(model), train=str(train), dev=str(dev))
    )
    return folder


@pytest.fixture
def config(folder, tmp_path):
    def write(lines: str):
        path = tmp_path / "mine.py"
        path.write_text((folder / "common.txt").read_text() + lines + "\n")
        return path

    return write


@pytest.fixture(scope="module")
def story(folder):
    """The three stages, run once."""
    path = folder / "story.py"
    path.write_text(
        (folder / "common.txt").read_text()
        + 'config = {"teacher": teacher, "student": student, "control": control}\n'
    )
    out = succeed("distill", path, "--workdir", folder / "story")
    assert out.count("read back bit-equal") == 3
    return folder / "story"


def test_a_teacher_learns_and_its_student_agrees(story):
    (teacher,), (student,), (control,) = (
        rows_of(story / n, "held_out") for n in ("teacher", "student", "control")
    )
    assert teacher["accuracy"] > 0.9 and "agreement" not in teacher
    assert student["accuracy"] > 0.8 and student["agreement"] > 0.8
    assert {"accuracy", "f1", "matthews", "agreement"} <= set(control)
    terms = rows_of(story / "student")[-1]
    assert {"labels", "kl", "hidden"} <= set(terms)
    printed = succeed("eval", story / "student")
    assert f"{student['accuracy']:.2%}" in printed and f"{student['agreement']:.2%}" in printed
    assert f"{teacher['accuracy']:.2%}" in succeed(
        "eval", story / "student", "--model", story / "teacher"
    )
    model = checkpoint.read_model(str(story / "teacher" / "export"))
    assert model.config.labels == ("no", "yes") and model.config.num_layers == 2
    assert checkpoint.read_model(str(story / "student" / "export")).config.num_layers == 1
    assert "student 1" in succeed("eval", story / "student", "--layers")


@pytest.mark.slow
def test_stopped_and_lengthened_is_as_in_one_go(story, config, tmp_path):
    """With an epoch that ends inside the run, and dropout."""
    path = config(
        'config = replace(teacher, log_every=1, optim=AdamW(learning_rate=1e-2, warmup=0.0, decay="constant"))'
    )
    succeed("train", path, "--workdir", tmp_path / "two", "--steps", "7")
    succeed("train", path, "--workdir", tmp_path / "two", "--steps", "20")
    succeed("train", path, "--workdir", tmp_path / "one", "--steps", "20")
    two, one = rows_of(tmp_path / "two"), rows_of(tmp_path / "one")
    assert [row["step"] for row in two] == list(range(1, 21)) and two == one


@pytest.mark.hf
@pytest.mark.torch
def test_transformers_says_the_same(story, folder):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    export = story / "student" / "export"
    tokenizer = AutoTokenizer.from_pretrained(export)
    model = AutoModelForSequenceClassification.from_pretrained(export).eval()
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    rows = [line.split("\t") for line in (folder / "dev.tsv").read_text().splitlines()[1:]]
    with torch.no_grad():
        right = [classify(text)[0]["label"] == label for text, label in rows]
    (held_out,) = rows_of(story / "student", "held_out")
    assert np.mean(right) == pytest.approx(held_out["accuracy"], abs=1e-3)


@pytest.mark.slow
def test_numbers(folder, config, tmp_path):
    rows = [(text, 1.5 if label == "yes" else -0.5) for text, label in sentences(2, 120)]
    path = table(tmp_path / "n.tsv", rows)
    out = succeed(
        "train",
        config(
            f"source = replace(source, path={str(path)!r})\n"
            "corpus = replace(teacher.corpus, sources=(source,), held_out_sources=(source,))\n"
            "config = replace(teacher, corpus=corpus, task=Regression())"
        ),
        "--workdir",
        tmp_path / "w",
    )
    (held_out,) = rows_of(tmp_path / "w", "held_out")
    assert held_out["pearson"] > 0.8 and held_out["mse"] < 1.0 and "Pearson" in out
    described = json.loads((tmp_path / "w" / "export" / "config.json").read_text())
    assert described["problem_type"] == "regression" and len(described["id2label"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tags", "spans"])
def test_other_heads_learn_from_a_teacher_too(folder, config, tmp_path, kind):
    """Both are trained, distilled and exported; what they must know is where `good` stands."""
    draw = np.random.default_rng(0)
    texts = [list(draw.choice(("the", "cat", "dog", "a"), 6)) for _ in range(60)]
    for words in texts:
        words[int(draw.integers(6))] = "good"
    if kind == "tags":
        path = tmp_path / "rows.txt"
        lines = [
            "".join(f"{w} {'B-X' if w == 'good' else 'O'}\n" for w in words) for words in texts
        ]
        path.write_text("\n".join(lines))
        columns, task = 'column="0", label="-1"', "TokenClassification()"
    else:
        path = tmp_path / "rows.jsonl"
        rows = [
            {
                "question": "the",
                "context": (text := " ".join(words)),
                "answers": [{"text": "good", "answer_start": text.find("good")}],
            }
            for words in texts
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        columns, task = (
            'column="question", pair="context", label="answers"',
            "QuestionAnswering(stride=2)",
        )
    both = config(
        "from flaxdistill.tasks.question_answering import QuestionAnswering\nfrom flaxdistill.tasks.token_classification import TokenClassification\n"
        f"source = Source(path={str(path)!r}, {columns})\n"
        "corpus = replace(teacher.corpus, sources=(source,), held_out_sources=(source,))\n"
        f"teacher = replace(teacher, corpus=corpus, task={task}, steps=60)\n"
        f"student = replace(student, corpus=corpus, task={task}, steps=30)\n"
        'config = {"teacher": teacher, "student": student}'
    )
    out = succeed("distill", both, "--workdir", tmp_path / "w")
    assert out.count("read back bit-equal") == 2
    (taught,), (learnt,) = (rows_of(tmp_path / "w" / n, "held_out") for n in ("teacher", "student"))
    assert taught["f1"] > 0.8 and learnt["f1"] > 0.5 and learnt["agreement"] > 0.8
    printed = succeed("eval", tmp_path / "w" / "student", "--against", tmp_path / "w" / "teacher")
    assert "difference" in printed and f"{learnt['f1']:.2%}" in printed
    assert bool(re.search(r"│ X +│ .*%.*%.*%", printed)) == (kind == "tags")
    architecture = json.loads((tmp_path / "w" / "student" / "export" / "config.json").read_text())
    assert architecture["architectures"] == [
        {"tags": "BertForTokenClassification", "spans": "BertForQuestionAnswering"}[kind]
    ]


def test_figures_of_questions_without_answers_are_told():
    row = {"name": "s", "f1": 0.5, "HasAns_f1": 0.25, "best_f1": 0.75, "best_f1_thresh": -1.5}
    shown = io.StringIO()
    for table in terminal.evaluation_tables([row, {"name": "difference", "f1": 0.1}]):
        Console(file=shown, width=200).print(table)
    told = shown.getvalue()
    assert "HasAns F1" in told and "25.00%" in told and "75.00%" in told and "-1.5000" in told
    assert told.count("difference") == 1 and "F1 of each kind" not in told


REFUSED = {
    "words": (
        'config = replace(teacher, losses={"labels": Labels(), "mlm": MaskedLM()})',
        "losses.mlm needs masked-LM logits, but the task, Classification",
    ),
    "answers": (
        "from flaxdistill.tasks.mlm import MLM\nconfig = replace(teacher, task=MLM())",
        "losses.labels needs the logits of a labelled task, but the task, MLM",
    ),
    "no column": (
        "source = replace(source, label=None)\n"
        "config = replace(teacher, corpus=replace(teacher.corpus, sources=(source,)))",
        "the task has labels, but no source has a label column; name it in corpus.sources.0.label",
    ),
    "labels of the teacher": (
        "config = replace(student, teacher=Teacher(path={teacher!r}), student=replace(student.student, "
        'start=Start(path={teacher!r})), task=Classification(labels=("yes", "no")))',
        "has the labels no, yes and the data has yes, no",
    ),
    "a teacher without the head": (
        "config = replace(student, teacher=Teacher(path={model!r}))\n"
        "config = replace(config, student=replace(config.student, start=Start(path={model!r})))",
        "has no sequence head; choose a BertForSequenceClassification checkpoint of it",
    ),
    "cache_top_k": (
        "config = replace(student, teacher=Teacher(path={teacher!r}, cache_top_k=8), student=replace(student.student, "
        "start=Start(path={teacher!r})))",
        "teacher.cache_top_k caches masked-LM logits, but the task has labels; set it to 0",
    ),
}


@pytest.mark.parametrize(("lines", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_run_is_refused(story, folder, config, tmp_path, lines, message):
    named = {"{teacher!r}": repr(str(story / "teacher")), "{model!r}": repr(str(folder / "model"))}
    for name, value in named.items():
        lines = lines.replace(name, value)
    verb = "distill" if "student" in lines else "train"
    assert message in refused(verb, config(lines), "--workdir", tmp_path / "w")
    assert not (tmp_path / "w" / "experiment.json").exists()


@pytest.fixture(scope="module")
def lanes(folder):
    """Two seeds at two rates as one program, stopped once and taken up again, the best of each kept."""
    path = folder / "lanes.py"
    path.write_text(
        (folder / "common.txt").read_text()
        + "config = replace(teacher, seeds=(0, 5), learning_rates=(1e-2, 3e-4), steps=20, eval_every=4, select='best')\n"
    )
    succeed(
        "train", path, "--workdir", folder / "lanes", "--steps", "8", "--optim.decay", "constant"
    )
    out = succeed(
        "train", path, "--workdir", folder / "lanes", "--steps", "20", "--optim.decay", "constant"
    )
    return folder / "lanes", out


@pytest.mark.slow
def test_every_lane_is_the_run_it_would_be_alone(lanes, config, tmp_path):
    path = config("config = replace(teacher, seed=5, steps=20, eval_every=4)")
    flags = ("--optim.decay", "constant", "--optim.learning-rate", "3e-4")
    succeed("train", path, "--workdir", tmp_path / "alone", *flags)
    alone = rows_of(tmp_path / "alone", "held_out")
    beside = [
        row
        for row in rows_of(lanes[0], "held_out")
        if row.pop("seed") == 5 and row.pop("learning_rate") == 3e-4
    ]
    assert len(rows_of(lanes[0], "held_out")) == 4 * len(alone) == 20
    assert [row["step"] for row in beside] == [row["step"] for row in alone]
    for ours, theirs in zip(beside, alone, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    _, encoder = workdir.read_config(tmp_path / "alone")
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((4, *leaf.shape), leaf.dtype), shapes_of(encoder)
    )
    last = jax.tree.map(lambda leaf: leaf[3], read_student(lanes[0], 20, shapes))
    own = workdir.read_model(str(tmp_path / "alone")).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), last, own)


def test_the_best_of_the_lanes_is_given(lanes):
    path, out = lanes
    rows = rows_of(path, "held_out")
    best = max(row["accuracy"] for row in rows)
    assert min(row["accuracy"] for row in rows) < best
    printed = succeed("eval", path)
    for row in workdir.lane_evaluations(path):
        name = f"seed {row['seed']}, rate {row['learning_rate']:g}, its best of step {row['step']}"
        assert name in printed and f"{row['accuracy']:.2%}" in printed
    model = workdir.read_model(str(path))
    assert checkpoint.read_model(str(path / "export")).digest == model.digest
    assert evaluate.evaluate_model(path, str(path / "export")).metrics["accuracy"] == best
    assert "seed 0, rate 0.01" in out and "median, rate " in printed
    card = (path / "export" / "README.md").read_text()
    assert f"value: {best}" in card.partition("---\n# ")[0]
    (given,) = [
        row
        for row in workdir.lane_evaluations(path)
        if f"seed {row['seed']}, rate {row['learning_rate']:g}" in model.source
    ]
    assert (
        f"The best of 4 models trained in parallel: seed {given['seed']}, peak learning rate "
        f"{given['learning_rate']:g}." in card
    )


def test_a_row_of_the_log_holds_the_means_of_its_lanes(lanes):
    last = rows_of(lanes[0], None)[-1]
    assert last["learning_rate"] == pytest.approx((1e-2 + 3e-4) / 2)
    assert loop._mean_over_lanes([0.5, math.nan, 1.5]) == 1.0, "a lane that diverges hides no other"
    assert math.isnan(loop._mean_over_lanes([math.nan]))


def test_lanes_are_read_at_once(lanes, monkeypatch):
    read = []
    monkeypatch.setattr(
        workdir, "read_student", lambda *a, **k: read.append(a) or read_student(*a, **k)
    )
    assert len(workdir.read_students(str(lanes[0]))) == 4
    assert len(read) == 1


def test_a_median_is_of_the_seeds_of_one_rate(lanes):
    path = lanes[0]
    rows = evaluate.evaluate(path, against=str(path / "export"))
    ours = {
        rate: [row["accuracy"] for row in rows[:4] if row["learning_rate"] == rate]
        for rate in (1e-2, 3e-4)
    }
    assert [len(seeds) for seeds in ours.values()] == [2, 2]
    best = max(ours, key=lambda rate: statistics.median(ours[rate]))
    middle, difference = rows[4], rows[-1]
    assert middle["name"] == f"median, rate {best:g}"
    assert middle["accuracy"] == statistics.median(ours[best])
    assert middle["spread"] == (min(ours[best]), max(ours[best]))
    assert difference["accuracy"] == pytest.approx(
        statistics.mean(ours[best]) - rows[-2]["accuracy"]
    )
    table = stages.summary_rows({"": workdir.read_experiment(path)}, path)
    assert (
        table[-1]["name"] == f"student, rate {best:g}" and table[-1]["spread"] == middle["spread"]
    )


@pytest.mark.parametrize("metric", ["absent", "null"])
def test_before_a_number_the_student_is_the_last_one(config, tmp_path, metric):
    """What keep best holds by then is the student of step 0."""
    path = tmp_path / "w"
    flags = ("--steps", 8, "--eval-every", 8, "--save-every", 4, "--select", "best")
    succeed("train", config("config = teacher"), "--workdir", path, *flags)
    if metric == "absent":
        shutil.rmtree(path / "checkpoints" / "8")
    else:
        log = path / "metrics.jsonl"
        log.write_text(re.sub(r'"accuracy": [\d.]+', '"accuracy": null', log.read_text()))
    step = latest_step(path)
    model = workdir.read_model(str(path))
    shapes = shapes_of(model.config)
    last = read_student(path, step, shapes)
    assert model.source == f"{path} at step {step}"
    assert jax.tree.all(jax.tree.map(np.array_equal, model.params, last))
    first = read_student(path, step, shapes, best=True)
    same = jax.tree.all(jax.tree.map(np.array_equal, first, last))
    assert same == (metric == "null")  # of step 8 the best was seen


def test_a_seed_without_a_number_is_the_worst():
    rows = [{"seed": n, "learning_rate": 1e-3, "f1": f1, "kl": kl} for n, (f1, kl) in
            enumerate([(0.8, 2.0), (math.nan, math.nan), (0.7, 1.0)])]  # fmt: skip
    for some in itertools.permutations(rows):
        assert results.median_over_seeds(some, "f1") == {"f1": 0.7, "kl": 2.0, "spread": (0.7, 0.8)}
    lucky = [{"seed": n, "learning_rate": 3e-3, "f1": 0.9 if n == 0 else None} for n in range(3)]
    assert results.best_learning_rate([*lucky, *rows], "f1") == 1e-3
    assert results.median_over_seeds([*lucky, *rows], "f1")["learning_rate"] == 1e-3
    assert results.median_over_seeds(lucky, "f1") == {}


def test_classes_without_names_are_told_what_they_are_taken_for(story):
    model = checkpoint.read_model(str(story / "teacher" / "export"))
    unnamed = dataclasses.replace(
        model, config=dataclasses.replace(model.config, labels=("LABEL_0", "LABEL_1"))
    )
    said = compatibility.describe_assumed_labels(unnamed, ("no", "yes"))
    assert (
        said
        == f"{model.source} has no label names; its classes are assumed to be no, yes, in this order"
    )
    assert (
        compatibility.describe_assumed_labels(unnamed, ("0", "1")) is None
        and compatibility.describe_assumed_labels(model, ("no", "yes")) is None
    )


def test_classes_may_stand_in_another_order(story, tmp_path):
    """A model is judged by its classes' names; without names, by their order, of which ``report`` is told."""
    turned, config = tmp_path / "turned", tmp_path / "turned" / "config.json"
    shutil.copytree(story / "student" / "export", turned)
    weights = load_file(turned / "model.safetensors")
    head = {
        name: np.ascontiguousarray(x[::-1]) for name, x in weights.items() if "classifier" in name
    }
    save_file(weights | head, turned / "model.safetensors")
    told: list[str] = []

    def accuracy(*names):
        named = {
            "id2label": dict(enumerate(names)),
            "label2id": {name: n for n, name in enumerate(names)},
        }
        config.write_text(json.dumps(json.loads(config.read_text()) | named))
        (row,) = evaluate.evaluate(story / "student", str(turned), report=told.append)
        return row["accuracy"]

    (ours,) = evaluate.evaluate(story / "student")
    assert accuracy("yes", "no") == ours["accuracy"] != 0.5 and not told
    assert accuracy("LABEL_0", "LABEL_1") == pytest.approx(1 - ours["accuracy"])
    assert told == [
        f"{turned} has no label names; its classes are assumed to be no, yes, in this order"
    ]


def test_a_student_learns_from_fewer_rows_than_a_batch(folder, config, story, tmp_path):
    """All that is examined before the first step is real."""
    config(
        f"path = {str(story / 'teacher')!r}\n"
        "few = replace(teacher.corpus, sources=(replace(source, rows=20),))\n"
        "config = replace(student, teacher=Teacher(path=path), corpus=few, batch_size=64, steps=2, sanity_checks=True,\n"
        "    student=replace(student.student, start=Start(path=path)))"
    )
    succeed("distill", tmp_path / "mine.py", "--workdir", tmp_path / "w")


def test_rows_without_labels_are_told_of(folder, config, tmp_path):
    config(
        "both = (source, replace(source, label=None))\n"
        "config = replace(teacher, corpus=replace(teacher.corpus, sources=both))"
    )
    printed = succeed("train", tmp_path / "mine.py", "--workdir", tmp_path / "w", "--steps", 1)
    assert "200 of 400 rows have no label; without a teacher they are not used" in printed


def test_classes_that_are_whole_numbers_stand_by_size():
    rows = [
        Example(f"row {label}", "the cat", label=label) for label in ("10", 9, "2", "unknown", 1)
    ]
    assert Classification().row_builder().label_names(iter(rows), ()) == [
        "1",
        "2",
        "9",
        "10",
        "unknown",
    ]


def test_answers_that_are_no_numbers_are_no_score(story, folder, tmp_path):
    """The likeliest of them would be the first class, which is right for half of the rows."""
    broken = tmp_path / "broken"
    shutil.copytree(story / "student" / "export", broken)
    weights = load_file(broken / "model.safetensors")
    huge = np.full_like(weights["classifier.weight"], 3e38)
    save_file(weights | {"classifier.weight": huge}, broken / "model.safetensors")
    assert np.isnan(evaluate.evaluate_model(story / "student", str(broken)).metrics["accuracy"])
    assert "predicts NaN or infinite values" in refused("predict", broken, "the cat")


def test_a_difference_has_an_interval(lanes, story, folder):
    printed = succeed("eval", story / "student", "--against", lanes[0])
    assert "difference" in printed and " .. " in printed
    nothing = succeed("eval", story / "student", "--against", story / "student" / "export")
    assert "0.0000 .. 0.0000" in nothing
    other = table(folder / "other.tsv", sentences(7, 30))
    rows = evaluate.evaluate(story / "student", data=str(other))
    assert rows[0]["name"] == str(story / "student") and len(rows[0]["interval"]) == 2
    lines = [json.dumps({"said": text, "is": label}) for text, label in sentences(7, 30)]
    (folder / "other.jsonl").write_text("\n".join(lines))
    named = {"data": str(folder / "other.jsonl"), "column": "said", "label": "is"}
    assert evaluate.evaluate(story / "student", **named) == rows
    assert evaluate.evaluate(story / "student", data=str(folder / "dev.tsv"))[0][
        "accuracy"
    ] == pytest.approx(rows_of(story / "student", "held_out")[-1]["accuracy"])


@pytest.mark.slow
def test_lanes_stop_when_they_are_told_to(config, tmp_path, monkeypatch):
    """With parameters shared among devices too."""

    @contextlib.contextmanager
    def told():
        yield [signal.SIGTERM]

    monkeypatch.setattr(stages, "catch_signals", told)
    path = config("config = replace(teacher, seeds=(0, 1), steps=3, fsdp=2, select='best')")
    assert "stopped after step 1, which is saved" in succeed(
        "train", path, "--workdir", tmp_path / "w"
    )
    monkeypatch.undo()
    assert "resumes from step 1 of 3" in succeed("train", path, "--workdir", tmp_path / "w")
    assert len(rows_of(tmp_path / "w", "held_out")) == 2
    (tmp_path / "w" / "metrics.jsonl").unlink()  # nothing is known of the evaluations any more
    assert "seed 1, rate 0.01" in succeed("train", path, "--workdir", tmp_path / "w")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--seeds", "1", "1"), "list each value once"),
        (("--learning-rates", "0"), "each must be above 0"),
        (("--seeds", "-1"), "at least 0"),
    ],
)
def test_wrong_lanes(config, tmp_path, flags, said):
    assert said in refused("train", config("config = teacher"), "--workdir", tmp_path / "w", *flags)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('losses={"hidden": HiddenMSE(layers="0:0,1:5")}', "names layer 5 of a teacher that has 2"),
        (
            "student=Student(start=Start(path=Stage('teacher')), num_layers=3)",
            "a student of 3 layers cannot start",
        ),
        ('task=Regression(), losses={"soft": SoftLabels()}', "a regression task predicts a number"),
    ],
)
def test_a_stage_that_cannot_fit_is_refused_before_its_teacher_is_trained(
    config, tmp_path, change, said
):
    path = config(f'config = {{"teacher": teacher, "student": replace(student, {change})}}')
    assert said in refused("distill", path, "--workdir", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_later_stage_may_name_the_labels(config, tmp_path):
    labels = "task=Classification(labels=('no', 'yes'))"
    path = config(f'config = {{"teacher": teacher, "student": replace(student, {labels})}}')
    said = succeed(
        "distill", path, "--workdir", tmp_path / "w", "--teacher.steps", 2, "--student.steps", 2
    )
    assert said.count("read back bit-equal") == 2


def test_wrong_rows_to_evaluate_on(story, folder):
    bad = table(folder / "bad.tsv", [("the cat", "perhaps")])
    said = refused("eval", story / "student", "--data", bad)
    assert "bad.tsv" in said and "'perhaps' is not one of no, yes" in said
    assert "does not exist" in refused("eval", story / "student", "--data", folder / "none.tsv")
    assert "--data" in refused("eval", story / "student", "--split", "test")


@pytest.mark.slow
def test_tinybert_in_two_stages_on_variants(folder, config, tmp_path):
    """States first, then answers, of rows that `augment` has varied; the second stage goes on from the first."""
    mlm = write_model(tmp_path / "mlm", ("the", "cat", "dog", "a", "sees", *GOOD, *BAD))
    succeed(
        "augment", folder / "train.tsv", tmp_path / "more", "--model", mlm, "--column", "sentence", "--label", "label",
        "--variants", "2", "--length", "16", "--probability", "0.2",
    )  # fmt: skip
    path = config(f"""
from flaxdistill.losses.relation import AttentionScores
from flaxdistill.losses.schedule import constant

more = replace(teacher.corpus, sources=(replace(source, path={str(tmp_path / "more")!r}),))
states = replace(
    student,
    corpus=more,
    losses={{"scores": AttentionScores(), "hidden": HiddenMSE(layers="0:0,1:2")}},
    student=replace(student.student, start=Start(path=Stage("teacher"), layers="random")),
)
answers = replace(
    states,
    student=replace(student.student, start=Start(path=Stage("states")), num_layers=1),
    losses={{"soft": SoftLabels(temperature=constant(1.0), divergence="ce")}},
    select="best",
    eval_every=10,
)
config = {{"teacher": teacher, "states": states, "answers": answers}}
""")
    succeed("distill", path, "--workdir", tmp_path / "w")
    states, answers = (rows_of(tmp_path / "w" / name) for name in ("states", "answers"))
    assert states[-1]["hidden"] < states[0]["hidden"] and answers[-1]["ce"] < answers[0]["ce"]
    best = max(row["accuracy"] for row in rows_of(tmp_path / "w" / "answers", "held_out"))
    assert best > 0.8
