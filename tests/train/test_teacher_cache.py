"""Cached teacher outputs: the same training as with the teacher, up to what is not cached."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from helpers.cli import refused, rows_of, run
from helpers.outputs import labelled_batch, random_outputs

from flaxdistill.api import stages
from flaxdistill.errors import UserError
from flaxdistill.experiment import build, teachers
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.relation import AttentionScores, Relation
from flaxdistill.losses.schedule import Schedule
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.runtime import sharding
from flaxdistill.train import loop, teacher_cache


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Use parts of 16 rows, so that no more is computed than four steps of 8 rows read."""
    monkeypatch.setattr(teacher_cache, "ROWS_PER_PART", 16)
    teacher_cache._load_part.cache_clear()


@pytest.fixture
def train(experiments, tmp_path, monkeypatch):
    """Return a function that trains on some devices, without evaluation, and returns its log."""
    make_mesh = sharding.make_mesh

    def train(name, cache_top_k=0, *, steps=4, tokens="masked", devices=1, lines=None):
        mesh = make_mesh(devices=jax.devices()[:devices])
        monkeypatch.setattr(sharding, "make_mesh", lambda fsdp, tensor: mesh)
        experiment = experiments["student"]
        experiment = dataclasses.replace(
            experiment,
            steps=steps,
            data_dir=str(tmp_path / "data"),
            teacher=dataclasses.replace(experiment.teacher, cache_top_k=cache_top_k),
            losses={**experiment.losses, "vocab": VocabKD(tokens=tokens)},
        )
        lines = [] if lines is None else lines
        inputs = build.build(experiment, tmp_path / name, data=tmp_path, report=lines.append)
        inputs = dataclasses.replace(inputs, evaluate=lambda params: {})
        with (
            contextlib.closing(inputs.lock),
            contextlib.closing(inputs.log),
            contextlib.closing(inputs.checkpoints),
        ):
            loop.fit(inputs, show=lambda row: None, report=lines.append)
        return rows_of(tmp_path / name)

    return train


def values(rows, term="loss"):
    return np.array([row[term] for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "devices"), [("masked", 2), ("real", 1)])
def test_equal_to_online(train, home, tokens, devices):
    """All tokens cached: only rounding to half precision differs. Fewer: only the KL is smaller."""
    online = train("online", tokens=tokens, devices=devices)
    vocab_size = json.loads((home / "teacher" / "config.json").read_text())["vocab_size"]
    lines: list[str] = []
    whole = train("whole", vocab_size, tokens=tokens, devices=devices, lines=lines)
    assert any("GiB" in line for line in lines)
    np.testing.assert_allclose(values(whole), values(online), rtol=1e-3)
    assert (values(whole) != values(online)).any()

    few = train("few", 4, tokens=tokens, devices=devices)
    assert values(few, "kl")[0] < values(online, "kl")[0]
    np.testing.assert_allclose(values(few, "mlm")[0], values(online, "mlm")[0], rtol=1e-5)
    np.testing.assert_allclose(values(few, "cosine")[0], values(online, "cosine")[0], rtol=1e-2)


@pytest.mark.slow
def test_a_cache_is_reused_extended_and_resumed(train, tmp_path):
    first = train("one", 8)
    (folder,) = (tmp_path / "data").glob("targets-*")
    parts = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert parts == ["000000", "000001"]
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.npy")}

    # Another run: nothing is computed again, and nothing changes.
    lines: list[str] = []
    assert train("two", 8, lines=lines) == first
    assert any(line.startswith("reused") and "teacher outputs" in line for line in lines)

    # A part that a killed run has not finished, and more rows for a longer run.
    shutil.rmtree(folder / "000001")
    teacher_cache._load_part.cache_clear()
    assert train("one", 8, steps=6)[:4] == first
    parts = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert parts == ["000000", "000001", "000002"]
    assert all(
        before[file] == file.stat().st_mtime_ns for file in (folder / "000000").rglob("*.npy")
    )

    # Outputs of other rows.
    ids = folder / "000000" / "example_id.npy"
    np.save(ids, np.load(ids) + 1)
    teacher_cache._load_part.cache_clear()
    with pytest.raises(UserError, match="holds teacher outputs of other rows at index 0; delete"):
        train("three", 8)


@pytest.mark.slow
def test_caches_are_separate_for_each_seed_and_setting(home, tmp_path, monkeypatch):
    def stop(*arguments, **named):
        raise KeyboardInterrupt  # the cache is written, and no step is taken

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


def test_a_full_disk_is_reported_first(home, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    run = (
        "distill",
        home / "taught.py",
        "--data-dir",
        tmp_path / "data",
        "--teacher.cache-top-k",
        4,
    )
    assert "cache fewer tokens with --teacher.cache-top-k" in refused(
        *run, "--workdir", tmp_path / "w"
    )
    assert not list((tmp_path / "data").glob("targets-*/0*"))
    assert not (tmp_path / "w" / "experiment.json").exists()


class Silent(HiddenCosine):
    def reads(self, student, teacher):
        return frozenset()


def test_the_cache_holds_what_the_losses_read():
    losses = {
        "v": VocabKD(),
        "c": HiddenCosine(),
        "h": HiddenMSE(layers="0:0,1:2"),
        "r": Relation(relations="qk,vv", layers="2:4"),
        "s": AttentionScores(layers="1:3"),
    }
    assert teachers.cache_spec(losses, 9, student=2, teacher=4) == teacher_cache.CacheSpec(
        k=9,
        temperature=2.0,
        masked=False,
        states=(
            "hidden_0",
            "hidden_2",
            "hidden_4",
            "key_3",
            "key_4",
            "query_3",
            "query_4",
            "value_4",
        ),
        layers=4,
    )
    alone = {"v": VocabKD(tokens="masked"), "m": MaskedLM()}
    assert teachers.cache_spec(alone, 9, student=2, teacher=4).states == ()


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"v": VocabKD(temperature=Schedule(4.0, 1.0, 10))}, "one temperature"),
        ({"c": HiddenCosine()}, "one VocabKD loss"),
        ({"v": VocabKD(divergence="jsd")}, "divergence jsd"),
        ({"v": VocabKD(), "o": Silent()}, r"losses\.o does not declare what it reads"),
    ],
)
def test_losses_that_a_cache_cannot_serve(losses, message):
    with pytest.raises(UserError, match=message):
        teachers.cache_spec(losses, 9, student=2, teacher=4)


def test_cached_states_are_outputs_of_their_layers():
    spec = teacher_cache.CacheSpec(
        k=2, temperature=1.0, masked=False, states=("hidden_3", "query_1"), layers=3
    )
    batch = labelled_batch()
    full = random_outputs(0, 8, 8, layers=3)
    compute = teacher_cache.make_compute_outputs(lambda params, rows: full, lambda rows: rows, spec)
    targets = compute({}, batch)
    del targets["example_id"], targets["epoch"]
    outputs = teacher_cache.make_cached_teacher(spec)(
        {}, dataclasses.replace(batch, targets=targets)
    )
    assert (
        outputs.hidden[:3] == (None,) * 3
        and [layer.query for layer in outputs.attention[1:]] == [None, None]
        and len(outputs.attention) == 3
    )
    np.testing.assert_allclose(outputs.hidden[3].astype(np.float32), full.hidden[3], rtol=4e-3)
    np.testing.assert_allclose(
        outputs.attention[0].query.astype(np.float32), full.attention[0].query, rtol=4e-3
    )
