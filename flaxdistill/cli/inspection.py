"""What ``inspect`` tells of a model, a run or a store of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxdistill import param_paths
from flaxdistill.data.store import MANIFEST, open_store
from flaxdistill.experiment import workdir
from flaxdistill.hub import checkpoint
from flaxdistill.hub.families import base
from flaxdistill.models.encoder import shapes_of
from flaxdistill.runtime import gcs, sharding
from flaxdistill.train.checkpoint import latest_step
from flaxdistill.train.log import last, read_rows

Sections = dict[str, Mapping[str, Any]]


def inspect(path_or_id: str) -> Sections:
    """Describe what lies at a path or Hub id, as titled tables of names and values; raises UserError for what is nothing."""
    path = gcs.local(path_or_id, gcs.RUN)
    if MANIFEST in gcs.entries(path):
        return _store(gcs.reach(path, MANIFEST))
    if workdir.is_workdir(path):
        return _run(path)
    below = (
        sorted(entry for entry in path.iterdir() if workdir.is_workdir(entry))
        if path.is_dir()
        else []
    )
    if below:
        return {title: section for entry in below for title, section in _run(entry).items()}
    return _model(checkpoint.read_model(path_or_id))


def _model(model: checkpoint.Model) -> Sections:
    leaves = param_paths.flatten(model.params)
    facts = {
        "family": model.family.model_type,
        "parameters": f"{sum(leaf.size for leaf in leaves.values()):,}",
        "dtypes": ", ".join(sorted({leaf.dtype.name for leaf in leaves.values()})),
        "digest": model.digest,
        "note": model.note or "every tensor is used",
    }
    shapes = {path: f"{leaf.dtype.name} {list(leaf.shape)}" for path, leaf in leaves.items()}
    return {model.source: facts, "config": vars(model.config), "parameters": shapes}


def _run(path: Path) -> Sections:
    experiment = workdir.read_experiment(path)
    family, config = workdir.read_config(path)
    rows = read_rows(path / "metrics.jsonl")
    facts = {
        "step": f"{latest_step(path) or 0} of {experiment.steps}",
        "student": f"{family.model_type}, {base.count(config):,} parameters",
        "last step": last(rows),
        "evaluations": workdir.evaluations(path),  # of the student that each lane gives
    }
    shapes = shapes_of(config)
    fits = jax.device_count() % (experiment.fsdp * experiment.tensor) == 0
    mesh = sharding.make_mesh(*((experiment.fsdp, experiment.tensor) if fits else ()))
    placed = param_paths.flatten(sharding.state_shardings({"student": shapes}, mesh))
    where = {
        name: f"{list(shape.shape)} {placed['student/' + name].spec}"
        for name, shape in param_paths.flatten(shapes).items()
    }
    return {
        str(path): facts,
        "experiment": vars(experiment),
        f"sharding over {dict(mesh.shape)}": where,
    }


def _store(path: Path) -> Sections:
    store = open_store(path)
    lengths = np.array([len(blocks) for blocks in store.train])
    facts = {
        "training blocks": f"{lengths.sum():,} of {store.length} tokens, from {len(lengths)} sources",
        "held-out blocks": f"{len(store.held_out):,}",
        "vocabulary": store.vocabulary().size,
    }
    return {str(path): facts, "settings": store.manifest["settings"]}
