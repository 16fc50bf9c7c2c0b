"""What there is to tell of runs, measured: every model judged, timed and compared with its teacher."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from flaxdistill.data.store import open_store
from flaxdistill.errors import UserError
from flaxdistill.experiment import abstract, build, evaluate, results, workdir
from flaxdistill.experiment.build import Report
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.workdir import EXPORT
from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.families.base import count
from flaxdistill.metrics import LOWER_IS_BETTER, higher_is_better
from flaxdistill.param_paths import flatten
from flaxdistill.report import speed
from flaxdistill.report.disagreement import disagreements
from flaxdistill.report.facts import Disagreement, Facts, ModelFacts, RunFacts
from flaxdistill.runtime import gcs, gcs_paths
from flaxdistill.train.checkpoint import latest_step
from flaxdistill.train.log import Row, read_rows
from flaxdistill.version import __version__


def measure(paths: Sequence[Path], *, times: int, report: Report) -> Facts:
    """Measure runs, or all stages of a config's workdir; ``times`` timed turns of every batch, 0 for none.

    Raises UserError for what is no run, for a run without a checkpoint, and where a model or blocks are gone.
    """
    runs = {path: workdir.read_experiment(path) for given in paths for path in stages_of(given)}
    taught_by = {
        path: [_source(path, how.path) for how in e.reference_models().values()]
        for path, e in runs.items()
    }
    names = _names(
        [*map(str, runs), *(source for sources in taught_by.values() for source in sources)]
    )
    models: dict[str, Model] = {}
    for (
        path,
        e,
    ) in runs.items():  # all of them, before the first one is judged, which takes its time
        models[str(path)] = workdir.read_model(str(path))
        for source, how in zip(taught_by[path], e.reference_models().values(), strict=True):
            models.setdefault(source, build.read(how.path, path))
        open_store(workdir.blocks(path, e))
    teachers = {source for sources in taught_by.values() for source in sources}
    found = []
    for path, e in runs.items():
        report(f"{names[str(path)]}: judging and comparing")
        role = (
            "student"
            if e.teacher
            else "teacher"
            if str(path) in teachers
            else "control"
            if e.reference
            else "model"
        )
        found.append(_run(path, e, role, taught_by[path], models, names))
    if times:
        report(f"timing {len(models)} models, {times} turns")
        reads = min(model.config.max_positions for model in models.values())
        longest = min(reads, max(e.corpus.max_length for e in runs.values()))
        named = {names[source]: model for source, model in models.items()}
        found = _clocked(found, speed.milliseconds(named, speed.shapes(longest), times=times))
    devices = jax.devices()
    return Facts(
        version=__version__,
        device=devices[0].device_kind
        if len(devices) == 1
        else f"{len(devices)} x {devices[0].device_kind}",
        peak=len(devices) * speed.peak() if times else 0.0,
        runs=found,
    )


def stages_of(given: Path) -> list[Path]:
    """Find the runs at a place: itself, or the stages in it, each after those it learns from, students before controls.

    Raises UserError where there is none with a checkpoint.
    """
    path = gcs.local(given, gcs.RUN)
    path = path if gcs_paths.of(path) else path.resolve()
    below = (
        [entry for entry in path.iterdir() if workdir.is_workdir(entry)] if path.is_dir() else []
    )
    runs = [path] if workdir.is_workdir(path) else below
    if not runs:
        raise UserError(
            f"{given} is no workdir of flaxdistill and holds none; give the --workdir of a run"
        )
    trained = {run.name: run for run in sorted(runs) if latest_step(run) is not None}
    if not trained:
        raise UserError(f"{given} has no complete checkpoint yet; run it until it saves one")
    known = {name: workdir.read_experiment(run) for name, run in trained.items()}
    earlier = {name: set(e.earlier()) & set(known) for name, e in known.items()}
    ordered: list[Path] = []
    while earlier:
        # Of a folder that was put together by hand stages may seem to learn from each other.
        ready = [name for name, others in earlier.items() if not others & set(earlier)] or list(
            earlier
        )
        ordered += [
            trained[name] for name in sorted(ready, key=lambda name: known[name].teacher is None)
        ]
        for name in ready:
            del earlier[name]
    return ordered


def _source(run: Path, model: str) -> str:
    """Give the place of a model that a run names, a stage's being beside the run; of an id the id itself."""
    path = run.parent / model[1:] if model.startswith("@") else gcs_paths.here(model)
    if gcs_paths.of(path) or not path.exists():
        return str(path) if gcs_paths.of(path) or model.startswith("@") else model
    return str(path.resolve())


def _names(sources: Sequence[str]) -> dict[str, str]:
    """Name models by their folders, Hub ids whole; numbered where they would be the same, so that no path is told."""
    names: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for source in dict.fromkeys(sources):
        path = Path(source)
        name = source
        if path.is_absolute():
            name = path.parent.name if path.name == EXPORT else path.name
            name = os.fsencode(name).decode(errors="replace") or "run"
        taken[name] += 1
        names[source] = name if taken[name] == 1 else f"{name} ({taken[name]})"
    return names


def _run(
    path: Path,
    e: Experiment,
    role: str,
    sources: Sequence[str],
    models: Mapping[str, Model],
    names: Mapping[str, str],
) -> RunFacts:
    store, student = open_store(workdir.blocks(path, e)), models[str(path)]
    theirs = []
    for source in sources:
        # Of a teacher with several seeds the best one has taught.
        best = max(
            evaluate.evaluate(path, source), key=lambda row: higher_is_better(row, e.task.metric)
        )
        theirs.append(_model(names[source], "teacher", models[source], [best], e, None))
    lanes = evaluate.evaluate(path)[: len(e.lanes())]
    ours = _model(names[str(path)], role, student, lanes, e, theirs[0] if theirs else None)
    looked_at, differ, listed = 0, 0, list[Disagreement]()
    if sources:
        looked_at, differ, listed = disagreements(e, store, student, models[sources[0]])
    layers = evaluate.align(path) if sources else {}
    return RunFacts(
        name=names[str(path)],
        task=type(e.task).__name__,
        metric=e.task.metric,
        data=workdir.read_inputs(path)["blocks"],
        steps=e.steps,
        rows=read_rows(path / "metrics.jsonl"),
        mflop=_step_mflop(path, e),
        models=[*theirs, ours],
        layers={
            name: [[round(float(x), 4) for x in row] for row in table]
            for name, table in layers.items()
        },
        looked_at=looked_at,
        differ=differ,
        disagreements=listed,
    )


def _model(
    name: str,
    role: str,
    model: Model,
    lanes: Sequence[Row],
    e: Experiment,
    teacher: ModelFacts | None,
) -> ModelFacts:
    metric = e.task.metric
    rate = results.best_rate(lanes, metric)
    seeds = [row for row in lanes if row.get("learning_rate") == rate]
    middle = sorted(seeds, key=lambda row: higher_is_better(row, metric))[(len(seeds) - 1) // 2]
    median = results.median(lanes, metric)
    metrics = {k: v for k, v in median.items() if isinstance(v, float) and k != "rate"}
    shared = (
        metric if metric not in LOWER_IS_BETTER else "accuracy"
    )  # a share of a loss says nothing
    kept = (
        metrics[shared] / teacher.metrics[shared]
        if teacher and teacher.metrics[shared] > 0
        else math.nan
    )
    bounds = middle.get("interval")
    return ModelFacts(
        name=name,
        role=role,
        parameters=count(model.config),
        megabytes=sum(leaf.nbytes for leaf in flatten(model.params).values()) / 1e6,
        mflop=speed.forward_mflop(model, e.corpus.max_length),
        metrics=metrics,
        scores=[row[metric] for row in seeds],
        interval=(bounds[0], bounds[1]) if bounds and all(map(math.isfinite, bounds)) else None,
        kept=kept if math.isfinite(kept) else None,
        milliseconds={},
    )


def _clocked(runs: Sequence[RunFacts], taken: Mapping[str, dict[str, float]]) -> list[RunFacts]:
    return [
        dataclasses.replace(
            run,
            models=[
                dataclasses.replace(model, milliseconds=taken[model.name]) for model in run.models
            ],
        )
        for run in runs
    ]


def _step_mflop(path: Path, e: Experiment) -> float | None:
    """Count the arithmetic of a token in a run's step; None where its teacher did not run, or what it began from is gone."""
    if e.teacher and e.teacher.cache_top_k:
        return None
    try:
        earlier = {name: workdir.describe(str(path.parent / name)) for name in e.earlier()}
        run = abstract.sketch(e, earlier)
    except (UserError, OSError):
        return None
    tokens = e.batch_size * e.corpus.max_length * len(e.lanes())
    return abstract.step_cost(run, e.batch_size).flops / tokens / 1e6
