"""What there is to tell of runs, measured: every model judged, timed and compared with its teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from flaxdistill import ahead, bucket, build, evaluation, workdir
from flaxdistill.data.store import open_store
from flaxdistill.errors import UserError
from flaxdistill.experiment import Experiment
from flaxdistill.hub import Model
from flaxdistill.metrics import LOWER
from flaxdistill.report import speed
from flaxdistill.report.disagreement import disagreements
from flaxdistill.report.facts import Disagreement, Facts, ModelFacts, RunFacts
from flaxdistill.stages import count
from flaxdistill.train.checkpoint import latest_step
from flaxdistill.train.log import Row, read_rows
from flaxdistill.tree import flatten
from flaxdistill.version import __version__

Report = Callable[[str], None]


def measure(paths: Sequence[Path], *, times: int, report: Report) -> Facts:
    """Measure runs, or all stages of a config's workdir; ``times`` timed turns of every batch, 0 for none.

    Raises UserError for what is no run, for a run without a checkpoint, and where a model or blocks are gone.
    """
    runs = {path: workdir.read_experiment(path) for given in paths for path in stages_of(given)}
    names = _names(list(runs))
    teachers = {_source(path, how.path) for path, e in runs.items() for how in e.compared().values()}
    models: dict[str, Model] = {}
    found = []
    for path, e in runs.items():
        report(f"{names[path]}: judging and comparing")
        found.append(_run(path, e, names, teachers, models))
    peak = 0.0
    clocked: dict[str, dict[str, float]] = {}
    if times:
        report(f"timing {len(models)} models, {times} turns")
        longest = min(e.corpus.length for e in runs.values())
        clocked = speed.milliseconds(models, speed.shapes(longest), times=times)
        peak = speed.peak()
    for run in found:
        for model in run.models:
            model.milliseconds.update(clocked.get(model.name, {}))
    return Facts(version=__version__, device=jax.devices()[0].device_kind, peak=peak, runs=found)


def stages_of(given: Path) -> list[Path]:
    """Find the runs at a place: itself, or the stages in it; raises UserError where there is none with a checkpoint."""
    path = bucket.local(given, bucket.RUN)
    below = sorted(entry for entry in path.iterdir() if workdir.is_workdir(entry)) if path.is_dir() else []
    runs = [path] if workdir.is_workdir(path) else sorted(below, key=_began)
    if not runs:
        raise UserError(f"{given} is no workdir of flaxdistill and holds none; give the --workdir of a run")
    trained = [run for run in runs if latest_step(run) is not None]
    if not trained:
        raise UserError(f"{given} has no complete checkpoint yet; run it until it saves one")
    return [run.absolute() for run in trained]


def _began(run: Path) -> float:
    """Order stages as they ran; what a teacher's stage wrote is older than its student's."""
    return (run / workdir.EXPERIMENT).stat().st_mtime


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name runs by their folders, with as much of the path before it as tells them apart."""
    for depth in range(1, 1 + max(len(path.parts) for path in paths)):
        names = {path: "/".join(path.parts[-depth:]) for path in paths}
        if len(set(names.values())) == len(set(paths)):
            break
    return names


def _source(run: Path, model: str) -> str:
    """Give the place of a model that a run names, a stage's being beside the run."""
    return str(run.parent / model[1:]) if model.startswith("@") else model


def _run(
    path: Path, e: Experiment, names: dict[Path, str], teachers: set[str], models: dict[str, Model]
) -> RunFacts:
    store = open_store(workdir.blocks(path, e))
    judges = {_source(path, how.path): build.read(how.path, path) for how in list(e.compared().values())[:1]}
    student = workdir.read_model(str(path))
    role = "student" if e.teacher else "teacher" if str(path) in teachers else "control"
    theirs = []
    for source, judge in judges.items():
        name = names.get(Path(source), Path(source).name if Path(source).exists() else source)
        rows = evaluation.evaluate(path, source)
        theirs.append(_model(name, "teacher", judge, rows[:1], e, None))
        models[name] = judge
    given = _model(
        names[path],
        role,
        student,
        evaluation.evaluate(path)[: len(e.lanes())],
        e,
        theirs[0] if theirs else None,
    )
    models[given.name] = student
    looked_at, differ, listed = 0, 0, list[Disagreement]()
    for judge in judges.values():
        looked_at, differ, listed = disagreements(e, store, student, judge)
    layers = evaluation.align(path) if judges else {}
    rows = read_rows(path / "metrics.jsonl")
    return RunFacts(
        name=names[path],
        task=type(e.task).__name__,
        figure=e.task.figure,
        data=workdir.read_inputs(path)["blocks"],
        steps=e.steps,
        rows=rows,
        mflop=_step_mflop(path, e),
        models=[*theirs, given],
        layers={name: [[round(float(x), 4) for x in row] for row in table] for name, table in layers.items()},
        looked_at=looked_at,
        differ=differ,
        disagreements=listed,
    )


def _model(
    name: str, role: str, model: Model, lanes: Sequence[Row], e: Experiment, teacher: ModelFacts | None
) -> ModelFacts:
    figure = e.task.figure
    ranked = sorted(lanes, key=lambda row: row[figure])
    middle = ranked[(len(ranked) - 1) // 2]
    figures = {k: v for k, v in evaluation.median(lanes).items() if isinstance(v, float)}
    shared = figure if figure not in LOWER else "accuracy"  # a share of a loss says nothing
    kept = None
    if teacher and teacher.figures.get(shared, 0) > 0:
        kept = figures[shared] / teacher.figures[shared]
    bounds = middle.get("interval")
    return ModelFacts(
        name=name,
        role=role,
        parameters=count(model.config),
        megabytes=sum(leaf.nbytes for leaf in flatten(model.params).values()) / 1e6,
        mflop=speed.forward_mflop(model, e.corpus.length),
        figures=figures,
        scores=[row[figure] for row in lanes],
        interval=tuple(bounds) if bounds and all(map(math.isfinite, bounds)) else None,
        kept=kept,
        milliseconds={},
    )


def _step_mflop(path: Path, e: Experiment) -> float | None:
    """Count the arithmetic of a token in a run's step; None where what it began from is gone."""
    places = {name: str(path.parent / name) for name in e.earlier()}
    try:
        run = ahead.sketch(e, {name: workdir.describe(place) for name, place in places.items()})
    except (UserError, OSError):
        return None
    tokens = e.batch_size * e.corpus.length * len(e.lanes())
    return ahead.step_cost(run, e.batch_size).flops / tokens / 1e6
