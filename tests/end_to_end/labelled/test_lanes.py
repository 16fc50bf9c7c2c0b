"""Seeds and learning rates that are trained in parallel by one program."""

from __future__ import annotations

import contextlib
import math
import signal
import statistics

import jax
import numpy as np
import pytest
from helpers.cli import refused, rows_of, succeed

from flaxdistill.api import stages as api_stages
from flaxdistill.experiment import evaluate, run_models, workdir
from flaxdistill.hub import checkpoint
from flaxdistill.models.architecture import shapes_of
from flaxdistill.train import loop
from flaxdistill.train.checkpoint import read_student


@pytest.mark.slow
def test_every_lane_equals_a_separate_run(lanes, config, tmp_path):
    path = config("config = replace(teacher, seed=5, steps=20, eval_every=4)")
    flags = ("--optim.decay", "constant", "--optim.learning-rate", "3e-4")
    succeed("train", path, "--workdir", tmp_path / "alone", *flags)
    alone = rows_of(tmp_path / "alone", "held_out")
    lane = [
        row
        for row in rows_of(lanes[0], "held_out")
        if row.pop("seed") == 5 and row.pop("learning_rate") == 3e-4
    ]
    assert len(rows_of(lanes[0], "held_out")) == 4 * len(alone) == 20
    assert [row["step"] for row in lane] == [row["step"] for row in alone]
    for lane_row, row in zip(lane, alone, strict=True):
        assert lane_row == pytest.approx(row, abs=1e-6)
    _, encoder = workdir.read_config(tmp_path / "alone")
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((4, *leaf.shape), leaf.dtype), shapes_of(encoder)
    )
    last = jax.tree.map(lambda leaf: leaf[3], read_student(lanes[0], 20, shapes))
    params = run_models.read_model(str(tmp_path / "alone")).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), last, params)


def test_best_lane_is_exported(lanes):
    path, out = lanes
    rows = rows_of(path, "held_out")
    best = max(row["accuracy"] for row in rows)
    assert min(row["accuracy"] for row in rows) < best
    printed = succeed("eval", path)
    for row in run_models.lane_evaluations(path):
        name = f"seed {row['seed']}, rate {row['learning_rate']:g}, its best of step {row['step']}"
        assert name in printed and f"{row['accuracy']:.2%}" in printed
    model = run_models.read_model(str(path))
    assert checkpoint.read_model(str(path / "export")).digest == model.digest
    assert evaluate.evaluate_model(path, str(path / "export")).metrics["accuracy"] == best
    assert "seed 0, rate 0.01" in out and "median, rate " in printed
    card = (path / "export" / "README.md").read_text()
    assert f"value: {best}" in card.partition("---\n# ")[0]
    (exported,) = [
        row
        for row in run_models.lane_evaluations(path)
        if f"seed {row['seed']}, rate {row['learning_rate']:g}" in model.source
    ]
    assert (
        f"The best of 4 models trained in parallel: seed {exported['seed']}, peak learning rate "
        f"{exported['learning_rate']:g}."
    ) in card


def test_log_row_has_the_means_over_lanes(lanes):
    last = rows_of(lanes[0], None)[-1]
    assert last["learning_rate"] == pytest.approx((1e-2 + 3e-4) / 2)
    assert loop._mean_over_lanes([0.5, math.nan, 1.5]) == 1.0, "a diverged lane is left out"
    assert math.isnan(loop._mean_over_lanes([math.nan]))


def test_lanes_are_read_at_once(lanes, monkeypatch):
    calls = []
    monkeypatch.setattr(
        run_models, "read_student", lambda *a, **k: calls.append(a) or read_student(*a, **k)
    )
    assert len(run_models.read_students(str(lanes[0]))) == 4
    assert len(calls) == 1


def test_median_is_over_the_seeds_of_one_learning_rate(lanes):
    path = lanes[0]
    rows = evaluate.evaluate(path, against=str(path / "export"))
    accuracies = {
        rate: [row["accuracy"] for row in rows[:4] if row["learning_rate"] == rate]
        for rate in (1e-2, 3e-4)
    }
    assert [len(seeds) for seeds in accuracies.values()] == [2, 2]
    best = max(accuracies, key=lambda rate: statistics.median(accuracies[rate]))
    median, difference = rows[4], rows[-1]
    assert median["name"] == f"median, rate {best:g}"
    assert median["accuracy"] == statistics.median(accuracies[best])
    assert median["spread"] == (min(accuracies[best]), max(accuracies[best]))
    assert difference["accuracy"] == pytest.approx(
        statistics.mean(accuracies[best]) - rows[-2]["accuracy"]
    )
    summary = api_stages.summary_rows({"": workdir.read_experiment(path)}, path)[-1]
    assert summary["name"] == f"student, rate {best:g}" and summary["spread"] == median["spread"]


def test_difference_has_an_interval(lanes):
    printed = succeed("eval", lanes[0], "--against", lanes[0])
    assert "difference" in printed and " .. " in printed


@pytest.mark.slow
def test_lanes_stop_on_a_signal(config, tmp_path, monkeypatch):
    """The parameters are sharded too."""

    @contextlib.contextmanager
    def sigterm():
        yield [signal.SIGTERM]

    monkeypatch.setattr(api_stages, "catch_signals", sigterm)
    path = config("config = replace(teacher, seeds=(0, 1), steps=3, fsdp=2, select='best')")
    printed = succeed("train", path, "--workdir", tmp_path / "w")
    assert "stopped after step 1, which is saved" in printed
    monkeypatch.undo()
    assert "resumes from step 1 of 3" in succeed("train", path, "--workdir", tmp_path / "w")
    assert len(rows_of(tmp_path / "w", "held_out")) == 2
    # Without metrics, no lane is better than another; the last is selected.
    (tmp_path / "w" / "metrics.jsonl").unlink()
    assert "seed 1, rate 0.01" in succeed("train", path, "--workdir", tmp_path / "w")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds", "1", "1"), "list each value once"),
        (("--learning-rates", "0"), "each must be above 0"),
        (("--seeds", "-1"), "at least 0"),
    ],
)
def test_invalid_lanes(config, tmp_path, flags, message):
    path = config("config = teacher")
    assert message in refused("train", path, "--workdir", tmp_path / "w", *flags)
    assert not (tmp_path / "w").exists()
