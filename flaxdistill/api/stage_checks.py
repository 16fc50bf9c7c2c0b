"""Checks of all stages, made before the first one trains for hours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flaxdistill.errors import UserError
from flaxdistill.experiment import abstract, build, inputs, run_models, workdir
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import stage_name
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.runtime.files import check_checkpoint_path
from flaxdistill.train.checkpoint import latest_step

Stages = Mapping[str, Experiment]
"""Experiments by stage name, in order; '' names a single experiment."""


def check_stages(stages: Stages, root: Path) -> None:
    """Raise UserError if a stage cannot run in ``root`` or does not fit the stages before it."""
    for name, experiment in stages.items():
        check_order(name, experiment, list(stages))
        check_checkpoint_path(root / name)
        workdir.check_experiment(root / name, experiment)
        _check_extension(name, experiment, stages, root)
        if (latest_step(root / name) or 0) < experiment.steps:
            build.check(experiment)
    if len(stages) > 1:
        _check_sizes(stages, root)


def check_order(name: str, experiment: Experiment, names: list[str]) -> None:
    """Raise UserError if a stage needs one that does not come before it."""
    before = names[: names.index(name)]
    for earlier in experiment.earlier_stages():
        if earlier not in before:
            choices = (
                f"earlier stages are {', '.join(before)}" if before else "there is no earlier stage"
            )
            raise UserError(f"stage {name!r} needs stage {earlier!r}, but {choices}")


def check_inputs(path: Path, experiment: Experiment) -> None:
    """Raise UserError if an earlier stage has changed since a finished run learned from it."""
    stored = workdir.read_inputs(path)
    paths = {name: teacher.path for name, teacher in experiment.reference_models().items()}
    paths["start"] = experiment.start_path() or ""
    current = {
        name: inputs.load_model(source, path).digest
        for name, source in paths.items()
        if name in stored and stage_name(source) is not None
    }
    workdir.check_experiment(path, experiment, stored | current)


def _check_sizes(stages: Stages, root: Path) -> None:
    """Raise UserError if sizes of models do not fit together, before the models exist."""
    students: dict[str, Checkpoint] = {}
    for name, experiment in stages.items():
        if workdir.is_workdir(root / name):
            students[name] = run_models.describe(str(root / name))
        else:
            students[name] = abstract.abstract_run(experiment, students).student


def _check_extension(name: str, experiment: Experiment, stages: Stages, root: Path) -> None:
    """Raise UserError if a finished stage gets more steps after a later stage learned from it."""
    step = latest_step(root / name)
    if step is None or step >= experiment.steps or not name:
        return
    if workdir.read_experiment(root / name).steps > step:
        # Not finished: it was only interrupted.
        return
    for later, other in stages.items():
        if name in other.earlier_stages() and workdir.is_workdir(root / later):
            raise UserError(
                f"stage {name!r} is finished at step {step} and {root / later} has learned from "
                f"it; leave its steps at {step}, or choose another --workdir"
            )
