"""A report agrees with the runs' own files, and its page is self-contained."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from helpers.cli import refused, rows_of, succeed, write_model
from helpers.stories import SHARP, write
from safetensors.numpy import load_file

from flaxdistill.data.store import open_store
from flaxdistill.experiment import config_file, run_models
from flaxdistill.hub import checkpoint
from flaxdistill.inference import predictor
from flaxdistill.inference.examples import make_examples
from flaxdistill.report import measure, page, plots, rendering
from flaxdistill.report import write as files
from flaxdistill.report.disagreement import disagreements
from flaxdistill.tasks.question_answering import SpanHead
from flaxdistill.tasks.text_classification import TextHead
from flaxdistill.tasks.token_classification import TokensHead

pytestmark = pytest.mark.slow

WORDS = ("good", "bad", "film", "<", ">", "&")


def test_models_match_their_exports(story, report):
    printed, _, facts = report
    assert [run["name"] for run in facts["runs"]] == ["big", "taught", "alone"]
    teacher, student, control = (run["models"][-1] for run in facts["runs"])
    assert [model["role"] for model in (teacher, student, control)] == [
        "teacher",
        "student",
        "control",
    ]
    for model in (teacher, student, control):
        export = story / model["name"] / "export"
        tensors = load_file(export / "model.safetensors")
        assert model["parameters"] == sum(tensor.size for tensor in tensors.values())
        assert model["megabytes"] == pytest.approx(
            sum(tensor.nbytes for tensor in tensors.values()) / 1e6
        )
        evaluated = [row["accuracy"] for row in rows_of(story / model["name"], "held_out")]
        assert model["scores"] == pytest.approx(evaluated)
        assert model["metrics"]["accuracy"] == pytest.approx(np.median(evaluated))
        assert f"{model['metrics']['accuracy']:.2%}" in printed
        assert set(model["milliseconds"]) == {f"{rows} x 16" for rows in (1, 8, 32)}
    assert teacher["retention"] is None
    for model in (student, control):
        assert model["retention"] == pytest.approx(
            model["metrics"]["accuracy"] / teacher["metrics"]["accuracy"]
        )
        assert f"{model['retention']:.1%}" in printed


def test_flops(story, report):
    """Matrix products of layers, attention, the classifier's pooler and its two logits."""
    _, _, facts = report
    D, F, T, layers = 16, 32, 16, 2
    forward = layers * T * (4 * 2 * D * D + 2 * 2 * D * F + 2 * 2 * T * D) + 2 * D * D + 2 * D * 2
    assert facts["runs"][0]["models"][-1]["mflop"] == pytest.approx(forward / T / 1e6)
    # The backward pass is twice that and recomputes attention scores; none for embeddings.
    assert 2.5 * forward / T / 1e6 < facts["runs"][0]["mflop"] <= 3.2 * forward / T / 1e6


def test_disagreements_match_predict(story, report):
    _, _, facts = report
    texts = [
        json.loads(line)["text"] for line in (story.parent / "rows.jsonl").read_text().splitlines()
    ]
    labels = {}
    for name in ("big", "alone"):
        answer = predictor.make_predict(run_models.read_model(str(story / name)), length=16)
        labels[name] = [prediction["label"] for _, prediction in answer(make_examples(texts, None))]
    differ = sum(a != b for a, b in zip(labels["big"], labels["alone"], strict=True))
    run = facts["runs"][2]
    assert (run["compared"], run["differ"]) == (24, differ)
    agreement = run["models"][-1]["metrics"]["agreement"]
    assert differ == pytest.approx(24 * (1 - agreement))
    for example in run["disagreements"]:
        assert example["teacher"] != example["student"] and example["truth"] == (
            "yes" if "good" in example["text"] else "no"
        )


class Reader(HTMLParser):
    """Collects the open tags, loaded URLs, ids and text of a page."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.text, self.ids = [], [], "", []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "img", "source", "br"):
            self.open.append(tag)
        named = dict(attributes)
        self.loads += [named[name] for name in ("src", "srcset", "href") if name in named]
        self.ids += [named["id"]] if "id" in named else []
        assert tag not in ("script", "iframe") and not any(name.startswith("on") for name in named)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_is_self_contained(story, report):
    _, out, facts = report
    reader = Reader()
    reader.feed(out.read_text())
    assert not reader.open
    assert reader.loads and all(url.startswith("data:") for url in reader.loads)
    pictures = {path.stem for path in out.with_suffix("").glob("*.png")}
    assert set(reader.ids) == pictures == {plot.name for plot in plots.plots(facts_of(facts))}
    assert {
        "size",
        "latency-1",
        "loss",
        "kl",
        "learning_rate",
        "utilisation",
        "cka-taught-2",
    } <= pictures
    assert str(story.parent) not in out.read_text()
    texts = [example["text"] for run in facts["runs"] for example in run["disagreements"]]
    assert texts and all(text in reader.text for text in texts)  # including its literal <b>


def facts_of(facts):
    from flaxdistill.report.facts import Disagreement, Facts, ModelFacts, RunFacts

    runs = [
        RunFacts(
            **run
            | {"models": [ModelFacts(**model) for model in run["models"]]}
            | {"disagreements": [Disagreement(**example) for example in run["disagreements"]]}
        )
        for run in facts["runs"]
    ]
    return Facts(**{name: facts[name] for name in ("version", "device", "peak")}, runs=runs)


def test_plots_are_not_empty(report):
    from matplotlib.image import imread

    _, out, _ = report
    for path in out.with_suffix("").glob("*.png"):
        pixels = imread(path)
        assert pixels.shape[:2] == (580, 840)
        inside = pixels[60:440, 160:780, :3].reshape(-1, 3)
        saturated = inside.max(-1) - inside.min(-1) > 0.2  # lines and markers, not the grid
        assert saturated.sum() > 50, path.name


def test_overwrites_only_reports(story, report, tmp_path):
    _, out, _ = report
    copied = tmp_path / "report.html"
    shutil.copy(out, copied)
    succeed("report", story / "alone", "--out", copied, "--times", 0)
    facts = json.loads(copied.with_suffix(".json").read_text())
    assert [model["name"] for model in facts["runs"][0]["models"]] == ["big", "alone"]
    assert not list(copied.with_suffix("").glob("latency*")) and facts["peak"] == 0
    assert "speeds measured" not in copied.read_text() and "speeds measured" in out.read_text()
    for name, text in (
        ("mine.html", "<p>mine"),
        ("other.json", "{}"),
        ("thesis/chapter.tex", "mine"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name, path in (("mine", "mine.html"), ("other", "other.json"), ("thesis", "thesis")):
        error = refused("report", story, "--out", tmp_path / f"{name}.html")
        assert f"{tmp_path / path} exists and is not part of a report" in error
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "mine" and not (
        tmp_path / "thesis.html"
    ).exists()


@pytest.mark.parametrize("broken", ["png", "page"])
def test_failure_leaves_files_unchanged(story, report, tmp_path, monkeypatch, broken):
    """In an empty folder, and over an earlier report."""

    def full(*arguments):
        raise OSError(28, "No space left on device")

    for path in (report[1], report[1].with_suffix(".json")):
        shutil.copy(path, tmp_path)
    shutil.copytree(report[1].with_suffix(""), tmp_path / "report")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(files, "measure", lambda *paths, **options: facts_of(report[2]))
    monkeypatch.setattr(files, broken, full)
    for name in ("new", "report"):
        assert "No space left on device" in refused(
            "report", story, "--out", tmp_path / f"{name}.html"
        )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_sparse_facts(report):
    """A run without a log, with NaN metrics and a name that is not a valid file name."""
    facts = facts_of(report[2])
    run = dataclasses.replace(facts.runs[1], rows=[], layers={}, mflop=None, name="_a/b $x^")
    bare = dataclasses.replace(
        run.models[-1], name="_a/b $x^", interval=None, retention=None, milliseconds={}
    )
    bare = dataclasses.replace(
        bare, metrics=dict.fromkeys(bare.metrics, math.nan), scores=[math.nan]
    )
    teacher = dataclasses.replace(run.models[0], milliseconds={})
    facts = dataclasses.replace(facts, runs=[dataclasses.replace(run, models=[teacher, bare])])
    drawn = plots.plots(facts)
    assert [plot.name for plot in drawn] == ["size"]
    assert b"<svg" in rendering.svg(drawn[0], dark=True)
    assert facts.to_json()["runs"][0]["models"][1]["scores"] == [None]
    assert "_a/b $x^" in page.page(facts, drawn)


def test_model_names():
    names = measure._names(["/a/run", "/b/run", "user/model", "/c/teacher/export", "/a/run"])
    assert names == {
        "/a/run": "run",
        "/b/run": "run (2)",
        "user/model": "user/model",
        "/c/teacher/export": "teacher",
    }


def test_wrong_paths(story, tmp_path):
    for out in (tmp_path / "r.pdf", ".", ".html"):
        assert "such as report.html" in refused("report", story, "--out", out)
    assert "--out is gs://bucket/r.html" in refused("report", story, "--out", "gs://bucket/r.html")
    assert f"{tmp_path} is not a workdir" in refused(
        "report", tmp_path, "--out", tmp_path / "r.html"
    )
    assert "--times is -1" in refused("report", story, "--out", tmp_path / "r.html", "--times", -1)
    assert "no WORKDIR" in refused("report", "--out", tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


HEADS = {
    "numbers": {"head": TextHead(labels=("score",)), "pooler": True},
    "tags": {"head": TokensHead(labels=("O", "B-X"))},
    "spans": {"head": SpanHead()},
}


@pytest.mark.parametrize("kind", HEADS)
def test_disagreements_of_every_head(kind, tmp_path):
    """Compare two random models of a head on prepared rows."""
    write(tmp_path, kind)
    succeed("prepare", tmp_path / "c.py", "--workdir", tmp_path / "w")
    (folder,) = (tmp_path / "w" / "data").glob("*/")
    store, e = open_store(folder), config_file.load_config(tmp_path / "c.py")["big"]
    student, teacher = (
        checkpoint.read_model(
            str(write_model(tmp_path / name, WORDS, num_layers=layers, **SHARP, **HEADS[kind]))
        )
        for name, layers in (("small", 1), ("large", 2))
    )
    compared, differ, listed = disagreements(e, store, student, teacher)
    assert compared >= 24 and differ >= len(listed) == min(differ, 20) > 0
    for example in listed:
        assert example.teacher != example.student
        if kind == "numbers":
            assert re.fullmatch(r"-?\d+\.\d\d", example.student) and float(example.truth) > 10
        elif kind == "tags":
            assert example.truth == ("good (X)" if "good" in example.text else "nothing")
            assert all(
                word in example.text
                for word in re.findall(r"(\S+) \(X\)", f"{example.teacher}, {example.student}")
            )
        else:
            assert example.truth == example.text == "film" and "<b>" in example.pair
            assert all(
                answer in (*example.pair.split(), "no answer") or answer in example.pair
                for answer in (example.teacher, example.student)
            )


def test_masked_lm(finished, tmp_path):
    """Retention of a masked LM, with a teacher that is not a stage, is that of its accuracy."""
    printed = succeed("report", finished, "--out", tmp_path / "r.html", "--times", 1)
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    teacher, student = run["models"]
    assert (teacher["name"], teacher["role"], student["name"]) == ("teacher", "teacher", "finished")
    (row,) = rows_of(finished, "held_out")
    assert (
        student["metrics"]["mlm"] == pytest.approx(row["mlm"], rel=1e-4) and "MLM loss" in printed
    )
    if teacher["metrics"]["accuracy"]:
        assert student["retention"] == pytest.approx(
            student["metrics"]["accuracy"] / teacher["metrics"]["accuracy"]
        )
    assert run["compared"] > 0 and all(
        "[MASK]" in example["text"] for example in run["disagreements"]
    )
    assert all(re.fullmatch(r"\w{2,}", example["truth"]) for example in run["disagreements"])
    cka = np.array(run["layers"]["cka"])
    assert (
        cka.shape == (student_layers(finished) + 1, 3) and 0 <= cka.min() <= cka.max() <= 1 + 1e-4
    )


def student_layers(path) -> int:
    return run_models.describe(str(path)).config.num_layers
