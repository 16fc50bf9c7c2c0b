"""Models as runs and commands name them: the student of a run's folder, or any checkpoint."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from flaxdistill.data.corpus import Corpus
from flaxdistill.errors import UserError
from flaxdistill.experiment.workdir import TOKENIZER, is_workdir, read_config, read_experiment
from flaxdistill.hub import checkpoint
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.metrics import signed_metric
from flaxdistill.models.architecture import shapes_of
from flaxdistill.models.parametrization import Chain
from flaxdistill.runtime import gcs
from flaxdistill.train.checkpoint import latest_step, read_student
from flaxdistill.train.lanes import split_lanes
from flaxdistill.train.log import LogRow, last_row, read_rows


def trained_vocabulary_on(model: Checkpoint, corpus: Corpus) -> bool:
    """Return whether a model is the student of a run that trained its vocabulary on ``corpus``."""
    path = model.directory.parent
    if not (model.directory.name == TOKENIZER and is_workdir(path)):
        return False
    e = read_experiment(path)
    return e.corpus == corpus and not (e.teacher or e.reference or e.start_path())


def lane_evaluations(path: Path) -> list[LogRow]:
    """Return the evaluation of each lane's student, the last or the best; {} if there is none."""
    e, step = read_experiment(path), latest_step(path) or 0
    rows = [row for row in read_rows(path / "metrics.jsonl") if row.get("split") == "held_out"]
    # The log may be ahead of the checkpoint.
    rows = [row for row in rows if row["step"] <= step]
    evaluations = []
    for lane in e.lanes():
        lane_rows = [
            row
            for row in rows
            if lane == (row.get("seed", lane.seed), row.get("learning_rate", lane.learning_rate))
        ]
        scores = [signed_metric(row, e.task.metric) for row in lane_rows]
        if e.select == "best" and max(scores, default=-math.inf) > -math.inf:
            evaluations.append(lane_rows[scores.index(max(scores))])
        else:
            evaluations.append(last_row(lane_rows, "held_out"))
    return evaluations


def best_lane(rows: Sequence[LogRow], metric: str) -> int:
    """Return the index of the lane with the best evaluation, the first of equal ones."""
    scores = [signed_metric(row, metric) for row in rows]
    return scores.index(max(scores))


def describe(path_or_id: str) -> Checkpoint:
    """Read what ``read_model`` does except the weights; ``params`` and ``digest`` are empty."""
    path = gcs.local_copy(path_or_id, gcs.RUN_FILES)
    if not is_workdir(path):
        return checkpoint.describe(path_or_id)
    return Checkpoint(path_or_id, *read_config(path), {}, path / TOKENIZER, "", "")


def read_model(path_or_id: str) -> Checkpoint:
    """Read the student of a run at its newest checkpoint, or any model that ``hub`` can read.

    Of several lanes, read the student with the best evaluation.
    """
    path = gcs.local_copy(path_or_id, gcs.RUN_FILES)
    if not is_workdir(path):
        return checkpoint.read_model(path_or_id)
    return _read_lanes(path, every=False)[0]


def read_students(path_or_id: str) -> list[Checkpoint]:
    """Read what ``read_model`` does, with the students of all lanes."""
    path = gcs.local_copy(path_or_id, gcs.RUN_FILES)
    if not is_workdir(path):
        return [checkpoint.read_model(path_or_id)]
    return _read_lanes(path, every=True)


def _read_lanes(path: Path, *, every: bool) -> list[Checkpoint]:
    """Read the students of all lanes, or of the best one, at the newest checkpoint."""
    family, encoder = read_config(path)
    step = latest_step(path)
    if step is None:
        raise UserError(f"{path} has no complete checkpoint yet; run it until it saves one")
    e, evaluations = read_experiment(path), lane_evaluations(path)
    lanes, parametrization = e.lanes(), Chain(e.student.parametrize)
    shapes, frozen_shapes = jax.eval_shape(
        functools.partial(parametrization.init, encoder), shapes_of(encoder), jax.random.key(0)
    )
    if len(lanes) > 1:
        shapes, frozen_shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((len(lanes), *leaf.shape), leaf.dtype),
            (shapes, frozen_shapes),
        )
    # Before the first evaluation with a finite metric, the stored best student is the initial one.
    best = [
        e.select == "best" and signed_metric(row, e.task.metric) > -math.inf for row in evaluations
    ]
    numbers = range(len(lanes)) if every else [best_lane(evaluations, e.task.metric)]
    parts: dict[bool, Literal["best", "params"]] = {True: "best", False: "params"}
    params = {
        is_best: split_lanes(read_student(path, step, shapes, parts[is_best]), len(lanes))
        for is_best in {best[n] for n in numbers}
    }
    frozen: Any = read_student(path, step, frozen_shapes, "frozen") if frozen_shapes else {}
    frozen = split_lanes(frozen, len(lanes)) if frozen else [{}] * len(lanes)
    students = []
    for n in numbers:
        source = f"{path} at step {step}"
        if len(lanes) > 1:
            source += f", seed {lanes[n].seed}, rate {lanes[n].learning_rate:g}"
        source += f", its best of step {evaluations[n]['step']}" if best[n] else ""
        folded, student = encoder, params[best[n]][n]
        if parametrization.parts:
            at = jnp.int32(evaluations[n]["step"] if best[n] else step)
            folded, student = parametrization.fold(encoder, student, frozen[n], at)
            student = jax.device_get(student)
        digest = checkpoint.digest_of(family, folded, student)
        students.append(Checkpoint(source, family, folded, student, path / TOKENIZER, digest, ""))
    return students
