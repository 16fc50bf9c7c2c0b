"""Objectives: a narrower student, several teachers, whole words, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers.cli import refused, rows_of, succeed, write_model

from flaxdistill import UserError
from flaxdistill.data.tokenizer import Vocabulary

LOSSES = """
from dataclasses import replace

from flaxdistill import AdamW, AttentionScores, HiddenMSE, MLM, Relation
from flaxdistill.losses.named import Named
from flaxdistill.losses.schedule import constant
"""


@pytest.mark.slow
def test_all_losses_together(config, tmp_path):
    """Two teachers, one of them wider; a truncated student; whole words; LAMB."""
    words = ("the", "cat", "dog", "a", "sees")
    second = write_model(tmp_path / "second", words, hidden_size=24, num_layers=3)
    path = config(
        f"""{LOSSES}
student = replace(
    taught.student, num_layers=1, hidden_size=8, num_heads=2,
    start=replace(taught.student.start, shrink="truncate"),
)
last = HiddenMSE(layers="-1:3", project="shared", weight=constant(0.25))
config = replace(
    taught, student=student, steps=3, ensemble={{"second": Teacher(path={str(second)!r})}},
    task=MLM(whole_words=True), optim=AdamW(lamb=True),
    losses={{
        "vocab": VocabKD(divergence="jsd"),
        "cosine": HiddenCosine(layers="uniform", project="each"),
        "hidden": HiddenMSE(layers="0:0,-1:-1", project="shared"),
        "relation": Relation(relations="qk,vv"),
        "scores": AttentionScores(layers="-1:1"),
        "last": Named(name="last", teacher=1, loss=last),
    }},
)"""
    )
    assert "--losses.last.loss.weight VALUE" in succeed("distill", path, "--help")
    out = succeed("distill", path, "--workdir", tmp_path / "run")
    assert "read back bit-equal" in out
    rows = rows_of(tmp_path / "run")
    terms = {"jsd", "mlm", "cosine", "hidden", "scores", "last_hidden"}
    terms |= {"relation_qk", "relation_vv"}
    assert terms <= set(rows[0])
    assert all(np.isfinite([row[term] for term in terms]).all() for row in rows)
    (held_out,) = rows_of(tmp_path / "run", "held_out")
    # The widths differ, so there is no cosine.
    assert {"kl", "agreement"} <= set(held_out) and "cosine" not in held_out
    assert f"{held_out['kl']:.4f}" in succeed("eval", tmp_path / "run")
    succeed("distill", path, "--workdir", tmp_path / "run", "--steps", "4")
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_teacher_assistant_student(config, tmp_path):
    """A student whose assistant has been trained again is refused."""
    path = config(
        """
from dataclasses import replace

first = replace(alone, steps=2)
second = replace(
    taught, teacher=Teacher(path=Stage("first"), dtype="float32"), student=student, steps=2
)
third = replace(
    second, teacher=Teacher(path=Stage("first")),
    ensemble={"assistant": Teacher(path=Stage("second"))},
)
config = {"first": first, "second": second, "third": third}"""
    )
    out = succeed("distill", path, "--workdir", tmp_path / "w")
    assert out.count("read back bit-equal") == 3
    shutil.rmtree(tmp_path / "w" / "second")
    out = refused("distill", path, "--workdir", tmp_path / "w", "--second.seed", "1")
    assert "another experiment (inputs.ensemble.assistant" in out


def test_vocabulary_without_whole_words_leaves_nothing(config, tmp_path, monkeypatch):
    def no_whole_words(self):
        raise UserError("this vocabulary marks no continuations")

    monkeypatch.setattr(Vocabulary, "continues", no_whole_words)
    path = config(f"{LOSSES}\nconfig = replace(taught, task=MLM(whole_words=True))")
    assert "marks no continuations" in refused("distill", path, "--workdir", tmp_path / "run")
    assert not (tmp_path / "run" / "experiment.json").exists()


@pytest.mark.slow
def test_cached_layer_outputs_equal_the_teacher(config, tmp_path):
    path = config(
        f"""{LOSSES}
config = replace(taught, steps=2, losses={{
    "vocab": VocabKD(tokens="masked"),
    "hidden": HiddenMSE(),
    "relation": Relation(layers="-1:1"),
    "scores": AttentionScores(),
}})"""
    )
    run = ("distill", path, "--data-dir", tmp_path / "data")
    succeed(*run, "--workdir", tmp_path / "online")
    succeed(*run, "--workdir", tmp_path / "cached", "--teacher.cache-top-k", 8)
    online, cached = (rows_of(tmp_path / name) for name in ("online", "cached"))
    for term in ("hidden", "relation_qq", "scores"):
        online_values, cached_values = ([row[term] for row in rows] for rows in (online, cached))
        np.testing.assert_allclose(cached_values, online_values, rtol=2e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ('losses={"h": HiddenMSE(layers="1:3")}', "layer 3 of a teacher that has 2"),
        (
            'losses={"r": Relation(heads=3)}',
            "3 relation heads do not divide the student's width 16",
        ),
        ("task=MLM(rate=0.0)", "masks nothing, but a loss predicts the masked tokens"),
        (
            "teacher=None, ensemble={'b': taught.teacher}, student=replace("
            "taught.student, start=replace(taught.student.start, path=None))",
            "ensemble needs a teacher, but there is none",
        ),
        (
            'student=replace(taught.student, hidden_size=8), losses={"v": VocabKD()}',
            "set start.shrink to truncate or svd",
        ),
        (
            'losses={"s": AttentionScores()}, student=replace(taught.student, hidden_size=8, '
            "num_heads=1, start=replace(taught.student.start, layers='random'))",
            "student has 1 heads and the teacher 2",
        ),
    ],
)
def test_impossible_objective_is_refused(config, tmp_path, changes, message):
    path = config(f"{LOSSES}\nconfig = replace(taught, {changes})")
    assert message in refused("distill", path, "--workdir", tmp_path / "w")
    assert not (tmp_path / "w" / "experiment.json").exists()
