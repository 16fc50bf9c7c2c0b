"""One experiment or several in a row: each a workdir, finished ones skipped, one table at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxdistill.api.export import export
from flaxdistill.errors import PeersLost, UserError, out_of_memory
from flaxdistill.experiment import abstract, build, evaluate, workdir
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.results import summary
from flaxdistill.experiment.workdir import EXPORT
from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.families.base import count
from flaxdistill.runtime import gcs, gcs_paths, processes
from flaxdistill.runtime.files import brief, refuse_brackets
from flaxdistill.train import loop
from flaxdistill.train.checkpoint import latest_step
from flaxdistill.train.log import Row

Show = Callable[[str, Experiment, Row], None]
Stages = Mapping[str, Experiment]


class Stopped(Exception):  # noqa: N818 - no error: the user asked for it
    """A signal ended the run after a step, with everything saved."""

    def __init__(self, stage: str, step: int, signal_number: int):
        self.stage, self.step, self.signal_number = stage, step, signal_number


def run(stages: Stages, root: Path, *, show: Show, report: build.Report) -> list[Row]:
    """Run every stage that is not finished and return the rows of the closing table.

    Stage ``name`` lives in ``root/name``, a single experiment (named '') in ``root``. Every finished stage is exported
    to ``export/`` in its workdir, read back and compared. Raises Stopped after a signal.
    """
    _reach(root)
    for name, experiment in stages.items():  # before the first one spends hours
        _check_earlier(name, experiment, list(stages))
        refuse_brackets(root / name)
        workdir.check(root / name, experiment)
        _check_later(name, experiment, stages, root)
        if (latest_step(root / name) or 0) < experiment.steps:
            build.check(experiment)
    _check_sizes(stages, root)
    for name, experiment in stages.items():
        path = root / name
        if workdir.is_workdir(path) and (latest_step(path) or 0) >= experiment.steps:
            _check_inputs(path, experiment)
            report(f"{name or path}: finished at step {latest_step(path)}, skipped")
        else:
            _train(name, experiment, path, root / "data", show, report)
        out = path / EXPORT
        with processes.in_turn("export"):
            if processes.first() and not (out / "config.json").is_file():
                gcs.remove(out)  # what was sent of it, and cut short
                report(f"{name or path}: {export(path, out)}")
        _reach(root)
    return table(stages, root)


def prepare(stages: Stages, root: Path, *, report: build.Report) -> None:
    """Prepare the blocks of every stage, as its run would; a stage that is yet to be trained lends its vocabulary."""
    gcs.refresh(root)
    for name, experiment in stages.items():
        _check_earlier(name, experiment, list(stages))
        experiment.corpus.check()
    for name, experiment in stages.items():
        path, given = experiment.model_path(), experiment.corpus.tokenizer
        while path and path.startswith("@") and latest_step(root / path[1:]) is None:
            earlier = stages[path[1:]]
            path, given = earlier.model_path(), given or earlier.corpus.tokenizer
        corpus = dataclasses.replace(experiment.corpus, tokenizer=given)
        model = build.read(path, root / name, report) if path and not given else None
        build.prepare_blocks(
            dataclasses.replace(experiment, corpus=corpus), root / "data", model, report
        )


def _reach(root: Path) -> None:
    """Let every process see what the others have left in a bucket; none of them writes meanwhile."""
    if gcs_paths.of(root):
        gcs.refresh(root)
        processes.meet("reach")


def table(stages: Stages, root: Path) -> list[Row]:
    """Summarise finished stages: parameters, held-out figures, speed. A teacher from elsewhere stands before its student."""
    rows: list[Row] = []
    seen: set[str] = set()
    for name, experiment in stages.items():
        path = root / name
        teacher = experiment.teacher.path if experiment.teacher else "@"
        if not teacher.startswith("@") and teacher not in seen:
            parameters = {"parameters": count(workdir.read_model(teacher).config)}
            judged = evaluate.reference(path, teacher).metrics
            rows.append({"name": f"teacher {Path(teacher).name}"} | parameters | judged)
            seen.add(teacher)
        lanes = workdir.evaluations(path)
        for lane, row in zip(experiment.lanes(), lanes, strict=True) if len(lanes) > 1 else ():
            rows.append(
                row
                | {"name": f"{name or 'student'}, seed {lane.seed}, rate {lane.learning_rate:g}"}
            )
        found = summary(path)
        at = f", rate {found['learning_rate']:g}" if "learning_rate" in found else ""
        rows.append({"name": f"{name or 'student'}{at}"} | found)
    return rows


def _train(
    name: str, experiment: Experiment, path: Path, data: Path, show: Show, report: build.Report
) -> None:
    with contextlib.ExitStack() as stack:
        try:
            live = build.build(experiment, path, data=data, report=report)
            stack.callback(live.lock.close)
            stack.callback(live.log.close)
            stack.callback(live.checkpoints.close)
            if processes.first():
                gcs.remove(path / EXPORT)  # of the run before it was lengthened
            with _signals() as caught:
                state = loop.fit(
                    live,
                    show=lambda row: show(name, experiment, row),
                    report=report,
                    stop=lambda step: _stop(step, caught),
                )
        except jax.errors.JaxRuntimeError as error:
            if out_of_memory(error):
                raise _memory(experiment) from None
            if jax.process_count() == 1:
                raise
            raise PeersLost(
                f"another process of this run is gone ({brief(error)}); start all of them again: they go on from step "
                f"{latest_step(path) or 0}"
            ) from error
    if caught:  # in the last step too: the next stage must not start
        raise Stopped(name, int(np.max(state.step)), caught[0])


def _memory(experiment: Experiment) -> UserError:
    groups = jax.device_count() // experiment.tensor
    rows = experiment.batch_size // experiment.accumulate // groups
    parts = next((n for n in range(2, rows + 1) if rows % n == 0), 1)
    least = f"try --accumulate {experiment.accumulate * parts}"
    less = f"{least}, which gives the same result with {rows // parts} rows at a time"
    more = (
        less
        if rows > 1
        else "a row a device is the least: use a smaller model, shorter blocks or --fsdp"
    )
    return UserError(
        f"the device is out of memory with micro-batches of {rows} rows a device; {more}"
    )


def _check_inputs(path: Path, experiment: Experiment) -> None:
    """Raise UserError if an earlier stage has changed since a finished one learnt from it."""
    stored = workdir.read_inputs(path)
    paths = {name: teacher.path for name, teacher in experiment.reference_models().items()}
    paths["start"] = experiment.start_path() or ""
    now = {
        name: build.read(source, path).digest
        for name, source in paths.items()
        if name in stored and source.startswith("@")
    }
    workdir.check(path, experiment, stored | now)


def _check_earlier(name: str, experiment: Experiment, names: list[str]) -> None:
    before = names[: names.index(name)]
    for earlier in experiment.earlier():
        if earlier not in before:
            choices = (
                f"earlier stages are {', '.join(before)}" if before else "there is no earlier stage"
            )
            raise UserError(f"stage {name!r} needs stage {earlier!r}, but {choices}")


def _check_sizes(stages: Stages, root: Path) -> None:
    """Raise UserError for a stage that will not fit the earlier ones, by the sizes of models that are yet to be trained."""
    students: dict[str, Model] = {}
    for name, experiment in stages.items() if len(stages) > 1 else ():
        begun = workdir.is_workdir(root / name)
        students[name] = (
            workdir.describe(str(root / name))
            if begun
            else abstract.sketch(experiment, students).student
        )


def _check_later(name: str, experiment: Experiment, stages: Stages, root: Path) -> None:
    """Raise UserError for a stage to be lengthened that a later one, begun, has learnt from."""
    done = latest_step(root / name)
    if done is None or done >= experiment.steps or not name:
        return
    if (
        workdir.read_experiment(root / name).steps
    ) > done:  # not lengthened, only stopped on its way
        return
    for later, e in stages.items():
        if name in e.earlier() and workdir.is_workdir(root / later):
            raise UserError(
                f"stage {name!r} is finished at step {done} and {root / later} has learnt from it; leave its steps at "
                f"{done}, or choose another --workdir"
            )


def _stop(step: int, caught: list[int]) -> bool:
    """Tell whether to stop after a step: when a signal came or, of several processes, when all know that one has."""
    if jax.process_count() > 1 and processes.preempted(step):
        caught.append(signal.SIGTERM)
    return bool(caught)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying; a second one kills as usual.

    Of several processes JAX has ears of its own for SIGTERM, and tells the others; SIGINT is passed on as one.
    """
    caught: list[int] = []
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # the only one that may hear signals
        yield caught
        return
    several = jax.process_count() > 1

    def note(number: int, frame: Any) -> None:
        if several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            caught.append(number)
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)

    numbers = (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
