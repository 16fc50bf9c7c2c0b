"""Measurements of runs for a report: scores, similarity, disagreements and speed of all models."""

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
from flaxdistill.experiment import abstract, evaluate, inputs, results, run_models, workdir
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import stage_name
from flaxdistill.experiment.workdir import EXPORT
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.metrics import LOWER_IS_BETTER, signed_metric
from flaxdistill.models.architecture import count_parameters
from flaxdistill.param_paths import flatten
from flaxdistill.report import speed
from flaxdistill.report.disagreement import disagreements
from flaxdistill.report.facts import Disagreement, Facts, ModelFacts, RunFacts
from flaxdistill.runtime import gcs, gcs_paths
from flaxdistill.train.checkpoint import latest_step
from flaxdistill.train.lanes import Lane
from flaxdistill.train.log import LogRow, read_rows
from flaxdistill.train.loop import ReportLine
from flaxdistill.version import __version__


def measure(paths: Sequence[Path], *, times: int, report: ReportLine) -> Facts:
    """Measure runs, or all stages in a workdir; ``times`` rounds of timing, 0 for none.

    Raises UserError for a path that is not a run, for a run without a checkpoint, and if a model or
    its data is missing.
    """
    runs = {path: workdir.read_experiment(path) for root in paths for path in stages_of(root)}
    teachers = {
        path: [_source(path, teacher.path) for teacher in e.reference_models().values()]
        for path, e in runs.items()
    }
    names = _names([*map(str, runs), *(source for group in teachers.values() for source in group)])
    models: dict[str, Checkpoint] = {}
    # Read all models first, so that a missing one is reported before the first slow evaluation.
    for path, e in runs.items():
        models[str(path)] = run_models.read_model(str(path))
        for source, teacher in zip(teachers[path], e.reference_models().values(), strict=True):
            models.setdefault(source, inputs.load_model(teacher.path, path))
        open_store(workdir.blocks_folder(path, e))
    run_facts = []
    for path, e in runs.items():
        report(f"{names[str(path)]}: evaluating, and comparing with its teacher")
        role = _role(path, e, teachers)
        run_facts.append(_measure_run(path, e, role, teachers[path], models, names))
    if times:
        report(f"timing {len(models)} models, {times} round{'s' if times > 1 else ''}")
        longest = min(
            *(model.config.max_positions for model in models.values()),
            max(e.corpus.max_length for e in runs.values()),
        )
        named = {names[source]: model for source, model in models.items()}
        latencies = speed.milliseconds(named, speed.timed_shapes(longest), times=times)
        run_facts = _with_latencies(run_facts, latencies)
    devices = jax.devices()
    kind = devices[0].device_kind
    return Facts(
        version=__version__,
        device=kind if len(devices) == 1 else f"{len(devices)} x {kind}",
        peak=len(devices) * speed.peak() if times else 0.0,
        runs=run_facts,
    )


def stages_of(root: Path) -> list[Path]:
    """Return the runs in ``root``: itself, or its stages, teachers before students before controls.

    Raises UserError if there is no run with a checkpoint.
    """
    path = gcs.local_copy(root, gcs.RUN_FILES)
    path = path if gcs_paths.url(path) else path.resolve()
    entries = path.iterdir() if path.is_dir() else ()
    runs = [path] if workdir.is_workdir(path) else [e for e in entries if workdir.is_workdir(e)]
    if not runs:
        raise UserError(
            f"{root} is not a workdir of flaxdistill and contains none; give the --workdir of a run"
        )
    trained = {run.name: run for run in sorted(runs) if latest_step(run) is not None}
    if not trained:
        raise UserError(f"{root} has no complete checkpoint yet; train until one is saved")
    experiments = {name: workdir.read_experiment(run) for name, run in trained.items()}
    pending = {name: set(e.earlier_stages()) & set(trained) for name, e in experiments.items()}
    ordered: list[Path] = []
    while pending:
        # Stages in a folder assembled by hand may depend on each other; then take them all.
        ready = [name for name, earlier in pending.items() if not earlier & set(pending)]
        ready = sorted(ready or pending, key=lambda name: experiments[name].teacher is None)
        ordered += [trained[name] for name in ready]
        for name in ready:
            del pending[name]
    return ordered


def _role(path: Path, e: Experiment, teachers: Mapping[Path, Sequence[str]]) -> str:
    if e.teacher:
        return "student"
    if any(str(path) in sources for sources in teachers.values()):
        return "teacher"
    return "control" if e.reference else "model"


def _source(run: Path, model: str) -> str:
    """Return the absolute path of a model named by a run (``@STAGE`` or a path), or its Hub id."""
    stage = stage_name(model)
    path = gcs_paths.local_path(model) if stage is None else run.parent / stage
    if gcs_paths.url(path) or not path.exists():
        return model if stage is None and not gcs_paths.url(path) else str(path)
    return str(path.resolve())


def _names(sources: Sequence[str]) -> dict[str, str]:
    """Name models by folder or Hub id, numbering duplicates; a report shows no whole paths."""
    names: dict[str, str] = {}
    used: Counter[str] = Counter()
    for source in dict.fromkeys(sources):
        path = Path(source)
        name = source
        if path.is_absolute():
            name = path.parent.name if path.name == EXPORT else path.name
            name = os.fsencode(name).decode(errors="replace") or "run"
        used[name] += 1
        names[source] = name if used[name] == 1 else f"{name} ({used[name]})"
    return names


def _measure_run(
    path: Path,
    e: Experiment,
    role: str,
    sources: Sequence[str],
    models: Mapping[str, Checkpoint],
    names: Mapping[str, str],
) -> RunFacts:
    store, student = open_store(workdir.blocks_folder(path, e)), models[str(path)]
    teachers = []
    for source in sources:
        # Of a teacher with several seeds, the best one taught.
        best = max(
            evaluate.evaluate(path, source), key=lambda row: signed_metric(row, e.task.metric)
        )
        teachers.append(_measure_model(names[source], "teacher", models[source], [best], e, None))
    lanes = evaluate.evaluate(path)[: len(e.lanes())]
    first = teachers[0] if teachers else None
    student_facts = _measure_model(names[str(path)], role, student, lanes, e, first)
    compared, differ, listed = 0, 0, list[Disagreement]()
    if sources:
        compared, differ, listed = disagreements(e, store, student, models[sources[0]])
    layers = evaluate.compare_layers(path) if sources else {}
    return RunFacts(
        name=names[str(path)],
        task=type(e.task).__name__,
        metric=e.task.metric,
        data=workdir.read_inputs(path)["blocks"],
        steps=e.steps,
        rows=read_rows(path / "metrics.jsonl"),
        mflop=_step_mflop(path, e),
        models=[*teachers, student_facts],
        layers={
            measure: [[round(float(x), 4) for x in row] for row in table]
            for measure, table in layers.items()
        },
        compared=compared,
        differ=differ,
        disagreements=listed,
    )


def _measure_model(
    name: str,
    role: str,
    model: Checkpoint,
    lanes: Sequence[LogRow],
    e: Experiment,
    teacher: ModelFacts | None,
) -> ModelFacts:
    metric = e.task.metric
    rate = results.best_learning_rate(lanes, metric)
    seeds = [row for row in lanes if row.get("learning_rate") == rate]
    middle = sorted(seeds, key=lambda row: signed_metric(row, metric))[(len(seeds) - 1) // 2]
    medians = results.median_over_seeds(lanes, metric)
    metrics = {k: v for k, v in medians.items() if isinstance(v, float) and k not in Lane._fields}
    bounds = middle.get("interval")
    return ModelFacts(
        name=name,
        role=role,
        parameters=count_parameters(model.config),
        megabytes=sum(leaf.nbytes for leaf in flatten(model.params).values()) / 1e6,
        mflop=speed.forward_mflop(model, e.corpus.max_length),
        metrics=metrics,
        scores=[row[metric] for row in seeds],
        interval=(bounds[0], bounds[1]) if bounds and all(map(math.isfinite, bounds)) else None,
        retention=_retention(metrics, teacher, metric) if teacher else None,
        milliseconds={},
    )


def _retention(metrics: Mapping[str, float], teacher: ModelFacts, metric: str) -> float | None:
    """Return the score divided by the teacher's; of accuracy if the score is a loss."""
    name = "accuracy" if metric in LOWER_IS_BETTER else metric
    reference = teacher.metrics[name]
    ratio = metrics[name] / reference if reference > 0 else math.nan
    return ratio if math.isfinite(ratio) else None


def _with_latencies(
    runs: Sequence[RunFacts], latencies: Mapping[str, dict[str, float]]
) -> list[RunFacts]:
    return [
        dataclasses.replace(
            run,
            models=[
                dataclasses.replace(model, milliseconds=latencies[model.name])
                for model in run.models
            ],
        )
        for run in runs
    ]


def _step_mflop(path: Path, e: Experiment) -> float | None:
    """Return the MFLOP per token of a step; None if it is unknown.

    It is unknown if the teacher's outputs were cached or a model that the run starts from is gone.
    """
    if e.teacher and e.teacher.cache_top_k:
        return None
    try:
        earlier = {
            name: run_models.describe(str(path.parent / name)) for name in e.earlier_stages()
        }
        run = abstract.abstract_run(e, earlier)
    except (UserError, OSError):
        return None
    tokens = e.batch_size * e.corpus.max_length * len(e.lanes())
    return abstract.step_cost(run, e.batch_size).flops / tokens / 1e6
