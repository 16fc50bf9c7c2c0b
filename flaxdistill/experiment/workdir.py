"""The folder of a run: its experiment, vocabulary, checkpoints and student."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.store import STORE_MANIFEST
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.experiment import serialization
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub import checkpoint
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.families import family as find_family
from flaxdistill.hub.families.base import Family
from flaxdistill.metrics import signed_metric
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import shapes_of
from flaxdistill.runtime import gcs, gcs_paths
from flaxdistill.runtime.files import atomic_path, check_checkpoint_path, read_json, write_json
from flaxdistill.train.checkpoint import latest_step, read_student
from flaxdistill.train.lanes import split_lanes
from flaxdistill.train.log import LogRow, last_row, read_rows

EXPERIMENT = "experiment.json"
TEMPORARY = f".{EXPERIMENT}.tmp"
TOKENIZER = "tokenizer"
LOCK = ".lock"
EXPORT = "export"
"""The folder in a workdir that a finished run is exported to."""

FORMAT = 5
"""Incremented when runs of earlier versions cannot resume, as when the row order changes."""


def is_workdir(path: Path) -> bool:
    """Return whether a folder holds a run."""
    return (path / EXPERIMENT).is_file()


def lock(
    path: Path,
    experiment: Experiment,
    family: Family,
    encoder: EncoderConfig,
    inputs: Mapping[str, str],
    vocabulary: Vocabulary,
    *,
    is_main: bool = True,
) -> IO[str]:
    """Create the folder of a run, or check that it is this run's, and lock it.

    Only the main process takes the lock; the others (``is_main=False``) just validate. Closing the
    returned file releases the lock. ``inputs`` are hashes of what the experiment only names: models
    and prepared data. Raises UserError if the folder holds another experiment, naming the fields
    that differ, if it holds something else, and while another process uses it.
    """
    check_checkpoint_path(path)
    if not is_main:
        gcs.refresh(path)
    check_experiment(path, experiment, inputs)
    if not is_main:
        return (path / EXPERIMENT).open()
    with contextlib.ExitStack() as on_error:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = on_error.enter_context((path / LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_workdir(path):
                write_experiment(path, experiment, family, encoder, inputs)
            # After the experiment: if this is interrupted, the folder is known as this run's, and
            # the next run writes the tokenizer.
            _write_tokenizer(path, vocabulary)
        except BlockingIOError:
            raise UserError(
                f"another process is using {path}; wait for it, or choose another --workdir"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to {path}: {error.strerror}; choose another --workdir"
            ) from None
        on_error.pop_all()
    return lock


def _write_tokenizer(path: Path, vocabulary: Vocabulary) -> None:
    if (path / TOKENIZER / "tokenizer.json").is_file():
        gcs.upload(path / TOKENIZER)  # an earlier upload may have failed
        return
    with atomic_path(path / TOKENIZER, overwrite=True) as temporary:
        vocabulary.save(temporary)


def write_experiment(
    path: Path,
    experiment: Experiment,
    family: Family,
    encoder: EncoderConfig,
    inputs: Mapping[str, str],
) -> None:
    """Write which run a folder holds; a resumed run does so after its checkpoint is read."""
    content = {
        "format": FORMAT,
        "experiment": serialization.to_json(experiment),
        "inputs": dict(inputs),
        "student": {"family": family.model_type, "config": dataclasses.asdict(encoder)},
    }
    write_json(path / TEMPORARY, content)
    os.replace(path / TEMPORARY, path / EXPERIMENT)
    gcs.upload(path / EXPERIMENT)


def check_experiment(
    path: Path, experiment: Experiment, inputs: Mapping[str, str] | None = None
) -> None:
    """Raise UserError unless a folder is empty or holds this experiment, free fields aside.

    The error names the fields that differ.
    """
    if not is_workdir(path):
        if path.is_file() or not gcs.list_names(path) <= {"data", TEMPORARY, LOCK}:
            raise UserError(
                f"{path} exists and is not a flaxdistill run; choose another --workdir or an empty "
                "folder"
            )
        return
    stored, new = _stored(path, "experiment"), serialization.to_json(experiment)
    lines = serialization.differences(stored, new)
    if inputs is not None:
        lines += serialization.differences(_stored(path, "inputs"), inputs, "inputs.")
    if lines:
        raise UserError(
            f"{path} holds another experiment ({'; '.join(lines)}); choose another --workdir, or "
            "restore the old values"
        )


def _stored(path: Path, part: str) -> dict[str, Any]:
    content = read_json(path / EXPERIMENT)
    value = content.get(part)
    if content.get("format") != FORMAT or not isinstance(value, dict):
        raise UserError(
            f"{path / EXPERIMENT} is damaged or of another version, with no {part!r} to read; "
            "start the run again in another folder"
        )
    return value


def read_experiment(path: Path) -> Experiment:
    """Read the experiment of a run's folder; raises UserError if there is none."""
    if not is_workdir(path):
        raise UserError(
            f"{path} is not a workdir of flaxdistill: it has no {EXPERIMENT}; give the --workdir "
            "of a run"
        )
    e = serialization.from_json(_stored(path, "experiment"), source=str(path / EXPERIMENT))
    if not isinstance(e, Experiment):
        raise UserError(f"{path / EXPERIMENT} holds no experiment; give the --workdir of a run")
    serialization.check_types(e, f"{path / EXPERIMENT}: experiment")
    return e


def read_inputs(path: Path) -> dict[str, str]:
    """Read the hashes of a run's models and prepared data."""
    inputs = _stored(path, "inputs")
    if not all(isinstance(value, str) and value.isalnum() for value in inputs.values()):
        raise UserError(
            f"{path / EXPERIMENT} is damaged: its inputs are not hashes; start the run again in "
            "another folder"
        )
    return inputs


def trained_vocabulary_on(model: Checkpoint, corpus: Corpus) -> bool:
    """Return whether a model is the student of a run that trained its vocabulary on ``corpus``."""
    path = model.directory.parent
    if not (model.directory.name == TOKENIZER and is_workdir(path)):
        return False
    e = read_experiment(path)
    return e.corpus == corpus and not (e.teacher or e.reference or e.start_path())


def read_config(path: Path) -> tuple[Family, EncoderConfig]:
    """Read the family and config of a run's student."""
    stored = _stored(path, "student")
    try:
        return find_family(stored["family"]), checkpoint.encoder_config(stored["config"])
    except (KeyError, UserError) as error:
        raise UserError(
            f"{path / EXPERIMENT} does not fit this version of flaxdistill: {error}"
        ) from None


def blocks_folder(path: Path, e: Experiment) -> Path:
    """Find the prepared data of a run: in its ``data_dir``, or in or next to its folder."""
    name = read_inputs(path).get("blocks", "")
    folders = [path / "data", path.parent / "data"]
    if e.data_dir:
        folders = [gcs_paths.local_path(e.data_dir)]
    present = (folder for folder in folders if gcs.download(folder / name, STORE_MANIFEST).is_dir())
    return next(present, folders[0]) / name


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
    e, shapes, evaluations = read_experiment(path), shapes_of(encoder), lane_evaluations(path)
    lanes = e.lanes()
    if len(lanes) > 1:
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((len(lanes), *leaf.shape), leaf.dtype), shapes
        )
    # Before the first evaluation with a finite metric, the stored best student is the initial one.
    best = [
        e.select == "best" and signed_metric(row, e.task.metric) > -math.inf for row in evaluations
    ]
    numbers = range(len(lanes)) if every else [best_lane(evaluations, e.task.metric)]
    params = {
        is_best: split_lanes(read_student(path, step, shapes, best=is_best), len(lanes))
        for is_best in {best[n] for n in numbers}
    }
    students = []
    for n in numbers:
        source = f"{path} at step {step}"
        if len(lanes) > 1:
            source += f", seed {lanes[n].seed}, rate {lanes[n].learning_rate:g}"
        source += f", its best of step {evaluations[n]['step']}" if best[n] else ""
        student = params[best[n]][n]
        digest = checkpoint.digest_of(family, encoder, student)
        students.append(Checkpoint(source, family, encoder, student, path / TOKENIZER, digest, ""))
    return students
