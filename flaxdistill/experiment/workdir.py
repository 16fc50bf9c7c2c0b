"""The folder of one run: what it is, its vocabulary, its checkpoints, and the student in it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.store import MANIFEST
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.errors import UserError
from flaxdistill.experiment import serialization
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub import checkpoint
from flaxdistill.hub.families import family as find_family
from flaxdistill.hub.families.base import Family
from flaxdistill.metrics import higher_is_better
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import shapes_of
from flaxdistill.runtime import gcs, gcs_paths
from flaxdistill.runtime.files import read_json, refuse_brackets, write_json
from flaxdistill.train.checkpoint import latest_step, read_student
from flaxdistill.train.lanes import split
from flaxdistill.train.log import Row, last, read_rows

EXPERIMENT = "experiment.json"
TEMPORARY = f".{EXPERIMENT}.tmp"
TOKENIZER = "tokenizer"
LOCK = ".lock"
FORMAT = 5
"""Changes whenever a run of an earlier version cannot go on as it was, such as when rows come in another order."""


def is_workdir(path: Path) -> bool:
    """Tell whether a run lives here."""
    return (path / EXPERIMENT).is_file()


def lock(
    path: Path,
    experiment: Experiment,
    family: Family,
    encoder: EncoderConfig,
    inputs: Mapping[str, str],
    vocabulary: Vocabulary,
    *,
    alone: bool = True,
) -> IO[str]:
    """Make a folder the run's own, or make sure that it already is, and hold it until the file given back is closed.

    A process that is not ``alone``, since the first of its run holds the folder, only looks. ``inputs`` are hashes of what
    the experiment only names: models and blocks. Raises UserError naming the fields where the folder holds another
    experiment, for a folder that holds something else, and while another process is at work there.
    """
    refuse_brackets(path)
    if not alone:
        gcs.refresh(path)
    check(path, experiment, inputs)
    if not alone:
        return (path / EXPERIMENT).open()
    with contextlib.ExitStack() as undo:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = undo.enter_context((path / LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_workdir(path):
                record(path, experiment, family, encoder, inputs)
            # After it, so that a claim cut short here is known as this run's, and mended by the next one.
            if not (path / TOKENIZER / "tokenizer.json").is_file():
                shutil.rmtree(path / f".{TOKENIZER}.tmp", ignore_errors=True)
                vocabulary.save(path / f".{TOKENIZER}.tmp")
                shutil.rmtree(path / TOKENIZER, ignore_errors=True)
                os.rename(path / f".{TOKENIZER}.tmp", path / TOKENIZER)
            gcs.send(path / TOKENIZER)
        except BlockingIOError:
            raise UserError(
                f"another process is at work in {path}; wait for it, or choose another --workdir"
            ) from None
        except OSError as error:
            raise UserError(
                f"cannot write to {path}: {error.strerror}; choose another --workdir"
            ) from None
        undo.pop_all()
    return lock


def record(
    path: Path,
    experiment: Experiment,
    family: Family,
    encoder: EncoderConfig,
    inputs: Mapping[str, str],
) -> None:
    """Write down what run a folder holds; of one that goes on once its checkpoint has been read."""
    new = {
        "format": FORMAT,
        "experiment": serialization.to_json(experiment),
        "inputs": dict(inputs),
        "student": {"family": family.model_type, "config": dataclasses.asdict(encoder)},
    }
    write_json(path / TEMPORARY, new)
    os.replace(path / TEMPORARY, path / EXPERIMENT)
    gcs.send(path / EXPERIMENT)


def check(path: Path, experiment: Experiment, inputs: Mapping[str, str] | None = None) -> None:
    """Raise UserError unless a folder is free or holds this very experiment, free fields aside; names the fields."""
    if not is_workdir(path):
        free = {"data", TEMPORARY, LOCK}
        if path.is_file() or not gcs.entries(path) <= free:
            raise UserError(
                f"{path} exists and is no run of flaxdistill; choose another --workdir or an empty folder"
            )
        return
    differ = serialization.differences(
        _stored(path, "experiment"), serialization.to_json(experiment)
    )
    if inputs is not None:
        differ += serialization.differences(_stored(path, "inputs"), inputs, "inputs.")
    if differ:
        raise UserError(
            f"{path} holds another experiment ({'; '.join(differ)}); choose another --workdir, or run it as it was"
        )


def _stored(path: Path, part: str) -> dict[str, Any]:
    given = read_json(path / EXPERIMENT)
    found = given.get(part)
    if given.get("format") != FORMAT or not isinstance(found, dict):
        raise UserError(
            f"{path / EXPERIMENT} is damaged or of another version, with no {part!r} to read; start the run anew "
            "elsewhere"
        )
    return found


def read_experiment(path: Path) -> Experiment:
    """Read what run lives in a folder; raises UserError where none does."""
    if not is_workdir(path):
        raise UserError(
            f"{path} is no workdir of flaxdistill: it has no {EXPERIMENT}; give the --workdir of a run"
        )
    found = serialization.from_json(_stored(path, "experiment"), source=str(path / EXPERIMENT))
    if not isinstance(found, Experiment):
        raise UserError(f"{path / EXPERIMENT} holds no experiment; give the --workdir of a run")
    serialization.check_types(found, f"{path / EXPERIMENT}: experiment")
    return found


def read_inputs(path: Path) -> dict[str, str]:
    """Read the hashes of what a workdir's run was given."""
    inputs = _stored(path, "inputs")
    if not all(isinstance(value, str) and value.isalnum() for value in inputs.values()):
        raise UserError(
            f"{path / EXPERIMENT} is damaged: its inputs are no hashes; start the run anew elsewhere"
        )
    return inputs


def trained_on(model: checkpoint.Model, corpus: Corpus) -> bool:
    """Tell whether a model is the student of a run that trained its vocabulary on this very corpus."""
    path = model.directory.parent
    if not (model.directory.name == TOKENIZER and is_workdir(path)):
        return False
    e = read_experiment(path)
    return e.corpus == corpus and not (e.teacher or e.reference or e.start_path())


def read_config(path: Path) -> tuple[Family, EncoderConfig]:
    """Read which student a workdir trains."""
    stored = _stored(path, "student")
    try:
        return find_family(stored["family"]), checkpoint.encoder_config(stored["config"])
    except (KeyError, UserError) as error:
        raise UserError(
            f"{path / EXPERIMENT} does not fit this version of flaxdistill: {error}"
        ) from None


def blocks(path: Path, e: Experiment) -> Path:
    """Find the folder of a run's blocks: where its experiment says, or beside it, as of a stage."""
    name = read_inputs(path).get("blocks", "")
    places = [gcs_paths.here(e.data_dir)] if e.data_dir else [path / "data", path.parent / "data"]
    folder = next(
        (place for place in places if gcs.reach(place / name, MANIFEST).is_dir()), places[0]
    )
    return folder / name


def evaluations(path: Path) -> list[Row]:
    """Find the evaluation of the student that a run gives, the last or the best, of each lane; {} where there is none."""
    e, step = read_experiment(path), latest_step(path) or 0
    rows = [row for row in read_rows(path / "metrics.jsonl") if row.get("split") == "held_out"]
    rows = [row for row in rows if row["step"] <= step]  # of what the checkpoint has seen
    found = []
    for lane in e.lanes():
        own = [
            row
            for row in rows
            if lane == (row.get("seed", lane.seed), row.get("learning_rate", lane.learning_rate))
        ]
        scores = [higher_is_better(row, e.task.metric) for row in own]
        if e.select == "best" and max(scores, default=-math.inf) > -math.inf:
            found.append(own[scores.index(max(scores))])
        else:
            found.append(last(own, "held_out"))
    return found


def best_lane(rows: Sequence[Row], metric: str) -> int:
    """Find the lane whose evaluation is worth most, the first of equal ones: the student that a run gives."""
    scores = [higher_is_better(row, metric) for row in rows]
    return scores.index(max(scores))


def describe(path_or_id: str) -> checkpoint.Model:
    """Read what ``read_model`` does but the weights; ``params`` and ``digest`` are empty."""
    path = gcs.local(path_or_id, gcs.RUN)
    if not is_workdir(path):
        return checkpoint.describe(path_or_id)
    return checkpoint.Model(path_or_id, *read_config(path), {}, path / TOKENIZER, "", "")


def read_model(path_or_id: str) -> checkpoint.Model:
    """Read the student of a workdir at its newest checkpoint, or else any model that ``hub`` can read.

    Of several lanes the one whose evaluation is worth most.
    """
    path = gcs.local(path_or_id, gcs.RUN)
    if not is_workdir(path):
        return checkpoint.read_model(path_or_id)
    return _students(path, every=False)[0]


def read_lanes(path_or_id: str) -> list[checkpoint.Model]:
    """Read what ``read_model`` does, of several lanes every one's student."""
    path = gcs.local(path_or_id, gcs.RUN)
    if not is_workdir(path):
        return [checkpoint.read_model(path_or_id)]
    return _students(path, every=True)


def _students(path: Path, *, every: bool) -> list[checkpoint.Model]:
    family, encoder = read_config(path)
    step = latest_step(path)
    if step is None:
        raise UserError(f"{path} has no complete checkpoint yet; run it until it saves one")
    e, shapes, seen = read_experiment(path), shapes_of(encoder), evaluations(path)
    lanes = e.lanes()
    if len(lanes) > 1:
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((len(lanes), *leaf.shape), leaf.dtype), shapes
        )
    # Before an evaluation with a number the best that is kept is what the run began with.
    best = [e.select == "best" and higher_is_better(row, e.task.metric) > -math.inf for row in seen]
    chosen = range(len(lanes)) if every else [best_lane(seen, e.task.metric)]
    read = {
        kept: split(read_student(path, step, shapes, best=kept), len(lanes))
        for kept in {best[n] for n in chosen}
    }
    students = []
    for n in chosen:
        source = f"{path} at step {step}"
        source += (
            f", seed {lanes[n].seed}, rate {lanes[n].learning_rate:g}" if len(lanes) > 1 else ""
        )
        source += f", its best of step {seen[n]['step']}" if best[n] else ""
        params = read[best[n]][n]
        digest = checkpoint.digest_of(family, encoder, params)
        students.append(
            checkpoint.Model(source, family, encoder, params, path / TOKENIZER, digest, "")
        )
    return students


EXPORT = "export"
"""The folder in a workdir that a finished run is exported to."""
