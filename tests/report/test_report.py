"""A report tells what its runs, read by others, tell too; its page needs nothing but itself."""

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
from flaxdistill.experiment import config_file, workdir
from flaxdistill.hub import checkpoint
from flaxdistill.inference import answers, predictor
from flaxdistill.report import measure, page, plots
from flaxdistill.report import write as files
from flaxdistill.report.disagreement import disagreements

pytestmark = pytest.mark.slow

WORDS = ("good", "bad", "film", "<", ">", "&")


def test_models_are_what_their_exports_say(story, told):
    printed, _, facts = told
    assert [run["name"] for run in facts["runs"]] == ["big", "taught", "alone"]
    big, taught, alone = (run["models"][-1] for run in facts["runs"])
    assert [model["role"] for model in (big, taught, alone)] == ["teacher", "student", "control"]
    for model in (big, taught, alone):
        export = story / model["name"] / "export"
        tensors = load_file(export / "model.safetensors")
        assert model["parameters"] == sum(tensor.size for tensor in tensors.values())
        assert model["megabytes"] == pytest.approx(
            sum(tensor.nbytes for tensor in tensors.values()) / 1e6
        )
        evaluated = [row["accuracy"] for row in rows_of(story / model["name"], "held_out")]
        assert model["scores"] == pytest.approx(evaluated)
        assert model["figures"]["accuracy"] == pytest.approx(np.median(evaluated))
        assert f"{model['figures']['accuracy']:.2%}" in printed
        assert set(model["milliseconds"]) == {f"{rows} x 16" for rows in (1, 8, 32)}
    assert big["kept"] is None
    for model in (taught, alone):
        assert model["kept"] == pytest.approx(
            model["figures"]["accuracy"] / big["figures"]["accuracy"]
        )
        assert f"{model['kept']:.1%}" in printed


def test_arithmetic_is_counted(story, told):
    """By hand: products of a layer and of attention, of the classifier's pooler and of its two answers."""
    _, _, facts = told
    D, F, T, layers = 16, 32, 16, 2
    forward = layers * T * (4 * 2 * D * D + 2 * 2 * D * F + 2 * 2 * T * D) + 2 * D * D + 2 * D * 2
    assert facts["runs"][0]["models"][-1]["mflop"] == pytest.approx(forward / T / 1e6)
    # Backward twice as much, the scores of attention computed again, embeddings with nothing behind them.
    assert 2.5 * forward / T / 1e6 < facts["runs"][0]["mflop"] <= 3.2 * forward / T / 1e6


def test_disagreements_are_those_of_predict(story, told):
    _, _, facts = told
    texts = [
        json.loads(line)["text"] for line in (story.parent / "rows.jsonl").read_text().splitlines()
    ]
    said = {}
    for name in ("big", "alone"):
        answer = predictor.make_predict(workdir.read_model(str(story / name)), length=16)
        said[name] = [found["label"] for _, found in answer(answers.examples_of(texts, None))]
    differ = sum(a != b for a, b in zip(said["big"], said["alone"], strict=True))
    run = facts["runs"][2]
    assert (run["looked_at"], run["differ"]) == (24, differ)
    agreement = run["models"][-1]["figures"]["agreement"]
    assert differ == pytest.approx(24 * (1 - agreement))
    for one in run["disagreements"]:
        assert one["teacher"] != one["student"] and one["truth"] == (
            "yes" if "good" in one["text"] else "no"
        )


class Reader(HTMLParser):
    """What a page holds: open tags, what it loads, and text."""

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


def test_the_page_stands_alone(story, told):
    _, out, facts = told
    read = Reader()
    read.feed(out.read_text())
    assert not read.open
    assert read.loads and all(loaded.startswith("data:") for loaded in read.loads)
    pictures = {path.stem for path in out.with_suffix("").glob("*.png")}
    assert set(read.ids) == pictures == {plot.name for plot in plots.plots(facts_of(facts))}
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
    texts = [one["text"] for run in facts["runs"] for one in run["disagreements"]]
    assert texts and all(text in read.text for text in texts)  # with its <b> as it was written


def facts_of(facts):
    from flaxdistill.report.facts import Disagreement, Facts, ModelFacts, RunFacts

    runs = [
        RunFacts(
            **run
            | {"models": [ModelFacts(**model) for model in run["models"]]}
            | {"disagreements": [Disagreement(**one) for one in run["disagreements"]]}
        )
        for run in facts["runs"]
    ]
    return Facts(**{name: facts[name] for name in ("version", "device", "peak")}, runs=runs)


def test_plots_show_something(told):
    from matplotlib.image import imread

    _, out, _ = told
    for path in out.with_suffix("").glob("*.png"):
        pixels = imread(path)
        assert pixels.shape[:2] == (580, 840)
        inside = pixels[60:440, 160:780, :3].reshape(-1, 3)
        saturated = inside.max(-1) - inside.min(-1) > 0.2  # ink of a colour, no grid
        assert saturated.sum() > 50, path.name


def test_written_again_and_not_over_others(story, told, tmp_path):
    _, out, _ = told
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
    for name, theirs in (("mine", "mine.html"), ("other", "other.json"), ("thesis", "thesis")):
        said = refused("report", story, "--out", tmp_path / f"{name}.html")
        assert f"{tmp_path / theirs} exists and belongs to no report" in said
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "mine" and not (
        tmp_path / "thesis.html"
    ).exists()


@pytest.mark.parametrize("broken", ["png", "page"])
def test_nothing_half_written(story, told, tmp_path, monkeypatch, broken):
    """Neither in an empty place nor over an earlier report."""

    def full(*what):
        raise OSError(28, "No space left on device")

    for place in (told[1], told[1].with_suffix(".json")):
        shutil.copy(place, tmp_path)
    shutil.copytree(told[1].with_suffix(""), tmp_path / "report")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(files, "measure", lambda *paths, **how: facts_of(told[2]))
    monkeypatch.setattr(files, broken, full)
    for name in ("new", "report"):
        assert "No space left on device" in refused(
            "report", story, "--out", tmp_path / f"{name}.html"
        )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_of_little(told):
    """Of a run that logged nothing, with figures that are no numbers and names that are no names of files."""
    facts = facts_of(told[2])
    run = dataclasses.replace(facts.runs[1], rows=[], layers={}, mflop=None, name="_a/b $x^")
    bare = dataclasses.replace(
        run.models[-1], name="_a/b $x^", interval=None, kept=None, milliseconds={}
    )
    bare = dataclasses.replace(
        bare, metrics=dict.fromkeys(bare.metrics, math.nan), scores=[math.nan]
    )
    teacher = dataclasses.replace(run.models[0], milliseconds={})
    facts = dataclasses.replace(facts, runs=[dataclasses.replace(run, models=[teacher, bare])])
    drawn = plots.plots(facts)
    assert [plot.name for plot in drawn] == ["size"]
    assert b"<svg" in plots.svg(drawn[0], dark=True)
    assert facts.to_json()["runs"][0]["models"][1]["scores"] == [None]
    assert "_a/b $x^" in page.page(facts, drawn)


def test_names():
    named = measure._names(["/a/run", "/b/run", "user/model", "/c/teacher/export", "/a/run"])
    assert named == {
        "/a/run": "run",
        "/b/run": "run (2)",
        "user/model": "user/model",
        "/c/teacher/export": "teacher",
    }


def test_wrong_places(story, tmp_path):
    for out in (tmp_path / "r.pdf", ".", ".html"):
        assert "such as report.html" in refused("report", story, "--out", out)
    assert "--out is gs://bucket/r.html" in refused("report", story, "--out", "gs://bucket/r.html")
    assert f"{tmp_path} is no workdir" in refused("report", tmp_path, "--out", tmp_path / "r.html")
    assert "--times is -1" in refused("report", story, "--out", tmp_path / "r.html", "--times", -1)
    assert "no WORKDIR" in refused("report", "--out", tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


HEADS = {
    "numbers": {"head": "sequence", "labels": ("score",), "pooler": True},
    "tags": {"head": "tokens", "labels": ("O", "B-X")},
    "spans": {"head": "span"},
}


@pytest.mark.parametrize("kind", HEADS)
def test_every_head(kind, tmp_path):
    """Two random models of a head, asked about prepared rows."""
    write(tmp_path, kind)
    succeed("prepare", tmp_path / "c.py", "--workdir", tmp_path / "w")
    (place,) = (tmp_path / "w" / "data").glob("*/")
    store, e = open_store(place), config_file.load(tmp_path / "c.py")["big"]
    student, teacher = (
        checkpoint.read_model(
            str(write_model(tmp_path / name, WORDS, num_layers=layers, **SHARP, **HEADS[kind]))
        )
        for name, layers in (("small", 1), ("large", 2))
    )
    looked_at, differ, listed = disagreements(e, store, student, teacher)
    assert looked_at >= 24 and differ >= len(listed) == min(differ, 20) > 0
    for one in listed:
        assert one.teacher != one.student
        if kind == "numbers":
            assert re.fullmatch(r"-?\d+\.\d\d", one.student) and float(one.truth) > 10
        elif kind == "tags":
            assert one.truth == ("good (X)" if "good" in one.text else "nothing")
            assert all(
                word in one.text
                for word in re.findall(r"(\S+) \(X\)", f"{one.teacher}, {one.student}")
            )
        else:
            assert one.truth == one.text == "film" and "<b>" in one.pair
            assert all(
                said in (*one.pair.split(), "no answer") or said in one.pair
                for said in (one.teacher, one.student)
            )


def test_of_text(finished, tmp_path):
    """A masked-LM whose teacher comes from elsewhere: shares of the loss say nothing, the accuracy's do."""
    printed = succeed("report", finished, "--out", tmp_path / "r.html", "--times", 1)
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    teacher, student = run["models"]
    assert (teacher["name"], teacher["role"], student["name"]) == ("teacher", "teacher", "finished")
    (row,) = rows_of(finished, "held_out")
    assert (
        student["figures"]["mlm"] == pytest.approx(row["mlm"], rel=1e-4) and "MLM loss" in printed
    )
    if teacher["figures"]["accuracy"]:
        assert student["kept"] == pytest.approx(
            student["figures"]["accuracy"] / teacher["figures"]["accuracy"]
        )
    assert run["looked_at"] > 0 and all("[MASK]" in one["text"] for one in run["disagreements"])
    assert all(re.fullmatch(r"\w{2,}", one["truth"]) for one in run["disagreements"])
    cka = np.array(run["layers"]["cka"])
    assert (
        cka.shape == (student_layers(finished) + 1, 3) and 0 <= cka.min() <= cka.max() <= 1 + 1e-4
    )


def student_layers(path) -> int:
    return workdir.describe(str(path)).config.num_layers
