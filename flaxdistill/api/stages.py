"""Training of one experiment or several stages in order, each in its own workdir."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from flaxdistill.api.export import export
from flaxdistill.api.signals import Stopped, catch_signals, should_stop
from flaxdistill.api.stage_checks import Stages, check_inputs, check_order, check_stages
from flaxdistill.errors import PeersLost, UserError, out_of_memory
from flaxdistill.experiment import build, evaluate, inputs, run_models, workdir
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import stage_name
from flaxdistill.experiment.results import summarize
from flaxdistill.experiment.workdir import EXPORT
from flaxdistill.models.architecture import count_parameters
from flaxdistill.runtime import gcs, gcs_paths, processes
from flaxdistill.runtime.files import error_summary
from flaxdistill.train import loop
from flaxdistill.train.checkpoint import latest_step
from flaxdistill.train.log import LogRow

ShowStageRow = Callable[[str, Experiment, LogRow], None]
"""``show(stage, experiment, row)``, called for every logged row."""


def run_stages(
    stages: Stages, root: Path, *, show: ShowStageRow, report: loop.ReportLine
) -> list[LogRow]:
    """Train every stage that is not finished and return the rows of the results table.

    Stage ``name`` is stored in ``root/name``, a single experiment in ``root``. Every finished stage
    is exported to ``export/`` in its workdir and verified. Raises Stopped after a signal.
    """
    _sync(root)
    check_stages(stages, root)
    for name, experiment in stages.items():
        path = root / name
        if workdir.is_workdir(path) and (latest_step(path) or 0) >= experiment.steps:
            check_inputs(path, experiment)
            report(f"{name or path}: finished at step {latest_step(path)}, skipped")
        else:
            _train(name, experiment, path, root / "data", show, report)
        out = path / EXPORT
        with processes.main_first("export"):
            exportable = workdir.read_config(path)[0] is not None
            if processes.is_main() and exportable and not (out / "config.json").is_file():
                # Remove an interrupted upload.
                gcs.remove(out)
                report(f"{name or path}: {export(path, out)}")
        _sync(root)
    return summary_rows(stages, root)


def prepare_stages(stages: Stages, root: Path, *, report: loop.ReportLine) -> None:
    """Prepare the data of every stage as its run would.

    A stage that learns from an untrained one uses the tokenizer from which that one starts.
    """
    gcs.refresh(root)
    for name, experiment in stages.items():
        check_order(name, experiment, list(stages))
        experiment.corpus.check()
    for name, experiment in stages.items():
        path, tokenizer = experiment.model_path(), experiment.corpus.tokenizer
        while (stage := stage_name(path)) is not None and latest_step(root / stage) is None:
            earlier = stages[stage]
            path, tokenizer = earlier.model_path(), tokenizer or earlier.corpus.tokenizer
        corpus = dataclasses.replace(experiment.corpus, tokenizer=tokenizer)
        template = inputs.load_model(path, root / name, report) if path and not tokenizer else None
        with_corpus = dataclasses.replace(experiment, corpus=corpus)
        inputs.prepare_blocks(with_corpus, root / "data", template, report)


def summary_rows(stages: Stages, root: Path) -> list[LogRow]:
    """Return the rows of the results table: parameters, held-out metrics and speed.

    A teacher that is not a stage is evaluated and listed before its first student.
    """
    rows: list[LogRow] = []
    teachers: set[str] = set()
    for name, experiment in stages.items():
        path = root / name
        teacher = experiment.teacher.path if experiment.teacher else None
        if teacher and stage_name(teacher) is None and teacher not in teachers:
            parameters = {"parameters": count_parameters(run_models.read_model(teacher).config)}
            metrics = evaluate.evaluate_model(path, teacher).metrics
            rows.append({"name": f"teacher {Path(teacher).name}"} | parameters | metrics)
            teachers.add(teacher)
        lanes = run_models.lane_evaluations(path)
        for lane, row in zip(experiment.lanes(), lanes, strict=True) if len(lanes) > 1 else ():
            title = f"{name or 'student'}, seed {lane.seed}, rate {lane.learning_rate:g}"
            rows.append(row | {"name": title})
        summary = summarize(path)
        rate = f", rate {summary['learning_rate']:g}" if "learning_rate" in summary else ""
        rows.append({"name": f"{name or 'student'}{rate}"} | summary)
    return rows


def _sync(root: Path) -> None:
    """Let every process see what the others wrote to a bucket; no process writes meanwhile."""
    if gcs_paths.url(root):
        gcs.refresh(root)
        processes.barrier("reach")


def _train(
    name: str,
    experiment: Experiment,
    path: Path,
    data: Path,
    show: ShowStageRow,
    report: loop.ReportLine,
) -> None:
    with contextlib.ExitStack() as stack:
        try:
            run = build.build(experiment, path, data=data, report=report)
            stack.callback(run.lock.close)
            stack.callback(run.log.close)
            stack.callback(run.checkpoints.close)
            if processes.is_main():
                # The export of a finished run that now gets more steps is outdated.
                gcs.remove(path / EXPORT)
            with catch_signals() as caught:
                state = loop.fit(
                    run,
                    show=lambda row: show(name, experiment, row),
                    report=report,
                    stop=lambda step: should_stop(step, caught),
                )
        except jax.errors.JaxRuntimeError as error:
            if out_of_memory(error):
                raise _out_of_memory_error(experiment) from None
            if jax.process_count() == 1:
                raise
            raise PeersLost(
                f"another process of this run is gone ({error_summary(error)}); start all of them "
                f"again to resume from step {latest_step(path) or 0}"
            ) from error
    # A signal during the last step must also prevent the next stage.
    if caught:
        raise Stopped(name, int(np.max(state.step)), caught[0])


def _out_of_memory_error(experiment: Experiment) -> UserError:
    devices = jax.device_count() // experiment.tensor
    rows = experiment.batch_size // experiment.accumulate // devices
    factor = next((n for n in range(2, rows + 1) if rows % n == 0), 1)
    if rows > 1:
        advice = (
            f"try --accumulate {experiment.accumulate * factor}, which gives the same result with "
            f"{rows // factor} rows at a time"
        )
    else:
        advice = "use a smaller model, shorter rows or --fsdp"
    return UserError(
        f"the device is out of memory with micro-batches of {rows} rows per device; {advice}"
    )
