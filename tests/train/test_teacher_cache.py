"""Stored answers of a teacher: the same training as with the teacher, within what was cut."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers.cli import refused, rows_of, run, succeed
from helpers.outputs import labelled_batch, random_outputs

from flaxdistill.api import stages
from flaxdistill.errors import UserError
from flaxdistill.experiment import teachers
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.relation import AttentionScores, Relation
from flaxdistill.losses.schedule import Schedule
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train import teacher_cache

STEPS = ("--steps", "4")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """PerExample of 16 rows: no more is computed than four steps of 8 read."""
    monkeypatch.setattr(teacher_cache, "PART", 16)
    teacher_cache._part.cache_clear()


def losses(workdir, term="loss"):
    return np.array([row[term] for row in rows_of(workdir)])


@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["masked", "real"])
def test_equal_to_online(home, tmp_path, tokens):
    """Every word kept: what is left is rounding to half precision. Fewer words: a smaller KL, the same other terms."""
    same = (
        "distill",
        home / "taught.py",
        *STEPS,
        "--losses.vocab.tokens",
        tokens,
        "--data-dir",
        tmp_path / "data",
    )
    succeed(*same, "--workdir", tmp_path / "online")
    words = json.loads((tmp_path / "online" / "experiment.json").read_text())["student"]["config"][
        "vocab_size"
    ]
    out = succeed(*same, "--workdir", tmp_path / "whole", "--teacher.cache-top-k", words)
    assert "GiB" in out
    np.testing.assert_allclose(losses(tmp_path / "whole"), losses(tmp_path / "online"), rtol=1e-3)
    assert (losses(tmp_path / "whole") != losses(tmp_path / "online")).any()

    succeed(*same, "--workdir", tmp_path / "few", "--teacher.cache-top-k", 4)
    few, online = losses(tmp_path / "few", "kl"), losses(tmp_path / "online", "kl")
    assert few[0] < online[0]
    np.testing.assert_allclose(
        losses(tmp_path / "few", "mlm")[0], losses(tmp_path / "online", "mlm")[0], rtol=1e-5
    )
    np.testing.assert_allclose(
        losses(tmp_path / "few", "cosine")[0], losses(tmp_path / "online", "cosine")[0], rtol=1e-2
    )


@pytest.mark.slow
def test_answers_are_reused_lengthened_and_resumed(home, tmp_path):
    run = (
        "distill",
        home / "taught.py",
        "--data-dir",
        tmp_path / "data",
        "--teacher.cache-top-k",
        8,
    )
    succeed(*run, "--steps", "4", "--workdir", tmp_path / "one")
    (folder,) = (tmp_path / "data").glob("targets-*")
    parts = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert parts == ["000000", "000001"]
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.npy")}

    # Another student, with accumulation: nothing is computed again, and nothing changes.
    out = succeed(*run, "--steps", "4", "--accumulate", "1", "--workdir", tmp_path / "two")
    assert "reused" in out
    assert rows_of(tmp_path / "two") == rows_of(tmp_path / "one")

    # A part that a killed run did not finish, and rows that a longer run needs.
    shutil.rmtree(folder / "000001")
    teacher_cache._part.cache_clear()
    succeed(*run, "--steps", "6", "--workdir", tmp_path / "one")
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "000000",
        "000001",
        "000002",
    ]
    assert all(
        before[file] == file.stat().st_mtime_ns for file in (folder / "000000").rglob("*.npy")
    )

    # Answers to other rows than are asked for.
    ids = folder / "000000" / "example_id.npy"
    np.save(ids, np.load(ids) + 1)
    teacher_cache._part.cache_clear()
    assert "answers for other rows at 0; delete it" in refused(
        *run, "--steps", "4", "--workdir", tmp_path / "three"
    )


@pytest.mark.slow
def test_another_teacher_or_seed_has_its_own_answers(home, tmp_path, monkeypatch):
    def stop(*arguments, **named):
        raise KeyboardInterrupt  # the answers are there, and no step is taken

    monkeypatch.setattr(stages.loop, "fit", stop)
    data = ("--data-dir", tmp_path / "data", "--teacher.cache-top-k", 4, "--steps", 1)
    for number, more in enumerate(
        [(), ("--seed", 1), ("--teacher.cache-top-k", 5), ("--losses.vocab.temperature", 1)]
    ):
        code, out = run(
            "distill", home / "taught.py", *data, *more, "--workdir", tmp_path / str(number)
        )
        assert code == 130, out
    assert len(list((tmp_path / "data").glob("targets-*"))) == 4


def test_a_disk_too_small_is_told_before(home, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    run = (
        "distill",
        home / "taught.py",
        "--data-dir",
        tmp_path / "data",
        "--teacher.cache-top-k",
        4,
    )
    assert "keep fewer words with --teacher.cache-top-k" in refused(
        *run, "--workdir", tmp_path / "w"
    )
    assert not list((tmp_path / "data").glob("targets-*/0*"))
    assert not (tmp_path / "w" / "experiment.json").exists()


class Silent(HiddenCosine):
    def reads(self, student, teacher):
        return frozenset()


def test_what_is_kept_is_what_the_losses_read():
    losses = {
        "v": VocabKD(),
        "c": HiddenCosine(),
        "h": HiddenMSE(layers="0:0,1:2"),
        "r": Relation(relations="qk,vv", layers="2:4"),
        "s": AttentionScores(layers="1:3"),
    }
    assert teachers.cache_spec(losses, MLM(), 9, student=2, teacher=4) == teacher_cache.CacheSpec(
        k=9,
        temperature=2.0,
        masked=False,
        states=(
            "hidden_0",
            "hidden_2",
            "hidden_4",
            "keys_3",
            "keys_4",
            "queries_3",
            "queries_4",
            "values_4",
        ),
        layers=4,
    )
    alone = {"v": VocabKD(tokens="masked"), "m": MaskedLM()}
    assert teachers.cache_spec(alone, MLM(), 9, student=2, teacher=4).states == ()


@pytest.mark.parametrize(
    ("losses", "named"),
    [
        ({"v": VocabKD(temperature=Schedule(4.0, 1.0, 10))}, "one temperature"),
        ({"c": HiddenCosine()}, "one VocabKD loss"),
        ({"v": VocabKD(divergence="jsd")}, "divergence jsd"),
        ({"v": VocabKD(), "o": Silent()}, r"losses\.o does not declare what it reads"),
    ],
)
def test_losses_that_stored_answers_cannot_serve(losses, named):
    with pytest.raises(UserError, match=named):
        teachers.cache_spec(losses, MLM(), 9, student=2, teacher=4)


def test_stored_states_stand_where_the_losses_look():
    what = teacher_cache.CacheSpec(
        k=2, temperature=1.0, masked=False, states=("hidden_3", "queries_1"), layers=3
    )
    batch = labelled_batch()
    full = random_outputs(0, 8, 8, layers=3)
    kept = teacher_cache.make_compute(lambda params, rows: full, lambda rows: rows, what)({}, batch)
    targets = {name: value for name, value in kept.items() if name not in ("example_id", "epoch")}
    outputs = teacher_cache.make_recall(what)({}, dataclasses.replace(batch, targets=targets))
    assert (
        outputs.hidden[:3] == (None,) * 3
        and outputs.queries[1:] == (None, None)
        and len(outputs.values) == 3
    )
    np.testing.assert_allclose(outputs.hidden[3].astype(np.float32), full.hidden[3], rtol=4e-3)
    np.testing.assert_allclose(outputs.queries[0].astype(np.float32), full.queries[0], rtol=4e-3)
