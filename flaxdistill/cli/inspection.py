"""Descriptions of a model, a run or prepared data, for ``flaxdistill inspect``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxdistill import param_paths
from flaxdistill.data.store import STORE_MANIFEST, open_store
from flaxdistill.experiment import run_models, workdir
from flaxdistill.hub import checkpoint
from flaxdistill.models.architecture import count_parameters, shapes_of
from flaxdistill.runtime import gcs, sharding
from flaxdistill.train.checkpoint import latest_step
from flaxdistill.train.log import last_row, read_rows

Sections = dict[str, Mapping[str, Any]]
"""Titles mapped to tables of names and values."""


def describe(path_or_id: str) -> Sections:
    """Describe a path or Hub id. Raises UserError if it holds no model, run or prepared data."""
    path = gcs.local_copy(path_or_id, gcs.RUN_FILES)
    if STORE_MANIFEST in gcs.list_names(path):
        return _describe_store(gcs.download(path, STORE_MANIFEST))
    if workdir.is_workdir(path):
        return _describe_run(path)
    entries = sorted(path.iterdir()) if path.is_dir() else []
    if stages := [entry for entry in entries if workdir.is_workdir(entry)]:
        return {
            title: section for stage in stages for title, section in _describe_run(stage).items()
        }
    return _describe_model(checkpoint.read_model(path_or_id))


def _describe_model(model: checkpoint.Checkpoint) -> Sections:
    leaves = param_paths.flatten(model.params)
    facts = {
        "family": model.hub_family().model_type,
        "parameters": f"{sum(leaf.size for leaf in leaves.values()):,}",
        "dtypes": ", ".join(sorted({leaf.dtype.name for leaf in leaves.values()})),
        "digest": model.digest,
        "note": model.note or "every tensor is used",
    }
    shapes = {path: f"{leaf.dtype.name} {list(leaf.shape)}" for path, leaf in leaves.items()}
    return {model.source: facts, "config": vars(model.config), "parameters": shapes}


def _describe_run(path: Path) -> Sections:
    experiment = workdir.read_experiment(path)
    family, config = workdir.read_config(path)
    rows = read_rows(path / "metrics.jsonl")
    kind = family.model_type if family else type(config).__name__
    facts = {
        "step": f"{latest_step(path) or 0} of {experiment.steps}",
        "student": f"{kind}, {count_parameters(config):,} parameters",
        "last logged step": last_row(rows),
        "evaluations": run_models.lane_evaluations(path),  # one per lane
    }
    shapes = shapes_of(config)
    fits = jax.device_count() % (experiment.fsdp * experiment.tensor) == 0
    mesh = sharding.make_mesh(*((experiment.fsdp, experiment.tensor) if fits else ()))
    shardings = param_paths.flatten(
        sharding.state_shardings({"student": shapes}, mesh, config.sharding)
    )
    layout = {
        name: f"{list(shape.shape)} {shardings['student/' + name].spec}"
        for name, shape in param_paths.flatten(shapes).items()
    }
    return {
        str(path): facts,
        "experiment": vars(experiment),
        f"sharding over {dict(mesh.shape)}": layout,
    }


def _describe_store(path: Path) -> Sections:
    store = open_store(path)
    lengths = np.array([len(blocks) for blocks in store.train])
    facts = {
        "training blocks": f"{lengths.sum():,} of {store.length} tokens, "
        f"from {len(lengths)} sources",
        "held-out blocks": f"{len(store.held_out):,}",
        "vocabulary": store.vocabulary().size,
    }
    return {str(path): facts, "settings": store.manifest["settings"]}
