"""Objectives as a user runs them: a narrower student, several teachers, whole words, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from helpers.cli import refused, rows_of, succeed, write_model

LOSSES = """
from dataclasses import replace

from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.named import Named
from flaxdistill.losses.relation import Relation, AttentionScores
from flaxdistill.train.optimizer import AdamW
from flaxdistill.losses.schedule import constant
from flaxdistill.tasks.mlm import MLM
"""


@pytest.mark.slow
def test_everything_at_once(home, config, tmp_path):
    """Two teachers, one of them wider; a student cut down; every kind of loss; whole words; LAMB."""
    words = ("the", "cat", "dog", "a", "sees")
    second = write_model(tmp_path / "second", words, hidden_size=24, num_layers=3)
    path = config(
        f"""{LOSSES}
student = replace(
    taught.student, num_layers=1, hidden_size=8, num_heads=2,
    start=replace(taught.student.start, shrink="truncate"),
)
config = replace(
    taught, student=student, steps=3, ensemble={{"second": Teacher(path={str(second)!r})}},
    task=MLM(whole_words=True), optim=AdamW(lamb=True),
    losses={{
        "vocab": VocabKD(divergence="jsd"),
        "cosine": HiddenCosine(layers="uniform", project="each"),
        "hidden": HiddenMSE(layers="0:0,-1:-1", project="shared"),
        "relation": Relation(relations="qk,vv"),
        "scores": AttentionScores(layers="-1:1"),
        "far": Named(name="far", teacher=1, loss=HiddenMSE(layers="-1:3", project="shared", weight=constant(0.25))),
    }},
)"""
    )
    assert "--losses.far.loss.weight VALUE" in succeed("distill", path, "--help")
    out = succeed("distill", path, "--workdir", tmp_path / "run")
    assert "read back bit-equal" in out
    rows = rows_of(tmp_path / "run")
    terms = {"jsd", "mlm", "cosine", "hidden", "relation_qk", "relation_vv", "scores", "far_hidden"}
    assert terms <= set(rows[0]) and all(np.isfinite([row[t] for t in terms]).all() for row in rows)
    (held_out,) = rows_of(tmp_path / "run", "held_out")
    assert {"kl", "agreement"} <= set(held_out) and "cosine" not in held_out  # widths differ
    assert f"{held_out['kl']:.4f}" in succeed("eval", tmp_path / "run")
    # Lengthened, the projections go on too: the same as in one go.
    succeed("distill", path, "--workdir", tmp_path / "run", "--steps", "4")
    assert [row["step"] for row in rows_of(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_chain_of_assistants(config, tmp_path):
    """Teacher, assistant, and a student of both; who has learnt from somebody that is now another is told so."""
    path = config(
        """
from dataclasses import replace

first = replace(alone, steps=2)
second = replace(taught, teacher=Teacher(path=Stage("first"), dtype="float32"), student=student, steps=2)
third = replace(second, teacher=Teacher(path=Stage("first")), ensemble={"assistant": Teacher(path=Stage("second"))})
config = {"first": first, "second": second, "third": third}"""
    )
    out = succeed("distill", path, "--workdir", tmp_path / "w")
    assert out.count("read back bit-equal") == 3
    shutil.rmtree(tmp_path / "w" / "second")
    out = refused("distill", path, "--workdir", tmp_path / "w", "--second.seed", "1")
    assert "another experiment (inputs.ensemble.assistant" in out


def test_whole_words_of_another_vocabulary_leave_nothing_behind(
    home, config, tmp_path, monkeypatch
):
    from flaxdistill.data.tokenizer import Vocabulary
    from flaxdistill.errors import UserError

    def no_words(self):
        raise UserError("this vocabulary does not tell where words go on")

    monkeypatch.setattr(Vocabulary, "continues", no_words)
    path = config(f"{LOSSES}\nconfig = replace(taught, task=MLM(whole_words=True))")
    assert "does not tell where words" in refused("distill", path, "--workdir", tmp_path / "run")
    assert not (tmp_path / "run" / "experiment.json").exists()


@pytest.mark.slow
def test_stored_answers_of_layers_are_those_of_the_teacher(home, config, tmp_path):
    path = config(
        f"""{LOSSES}
config = replace(taught, steps=2, losses={{
    "vocab": VocabKD(tokens="masked"), "hidden": HiddenMSE(), "relation": Relation(layers="-1:1"), "scores": AttentionScores(),
}})"""
    )
    run = ("distill", path, "--data-dir", tmp_path / "data")
    succeed(*run, "--workdir", tmp_path / "online")
    succeed(*run, "--workdir", tmp_path / "offline", "--teacher.cache-top-k", 8)
    online, offline = (rows_of(tmp_path / name) for name in ("online", "offline"))
    for term in ("hidden", "relation_qq", "scores"):
        np.testing.assert_allclose([r[term] for r in offline], [r[term] for r in online], rtol=2e-2)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('losses={"h": HiddenMSE(layers="1:3")}', "layer 3 of a teacher that has 2"),
        ('losses={"r": Relation(heads=3)}', "3 relation heads do not divide the student's width 16"),
        ('task=MLM(rate=0.0)', "masks nothing, but a loss predicts the masked tokens"),
        ('teacher=None, student=replace(taught.student, start=replace(taught.student.start, path=None)), '
         'ensemble={"b": taught.teacher}', "but there is no teacher"),
        ('student=replace(taught.student, hidden_size=8), losses={"v": VocabKD()}', "cut it down with start.shrink"),
        ('losses={"s": AttentionScores()}, student=replace(taught.student, hidden_size=8, num_heads=1, '
         'start=replace(taught.student.start, layers="random"))', "student has 1 heads and the teacher 2"),
    ],
)  # fmt: skip
def test_what_cannot_be(home, config, tmp_path, lines, told):
    path = config(f"{LOSSES}\nconfig = replace(taught, {lines})")
    assert told in refused("distill", path, "--workdir", tmp_path / "w")
    assert not (tmp_path / "w" / "experiment.json").exists()
