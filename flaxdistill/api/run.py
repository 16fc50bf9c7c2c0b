"""Runs from Python: `distill` trains experiments, and `Run` reads a run's folder."""

from __future__ import annotations

import functools
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from rich.console import Console

from flaxdistill import terminal
from flaxdistill.api import export, library_logging, signals, stages
from flaxdistill.api.model import Model, load
from flaxdistill.api.stage_checks import Stages
from flaxdistill.experiment import config_file, results, workdir
from flaxdistill.experiment import evaluate as evaluation
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub.push import Repo
from flaxdistill.runtime import compilation_cache, gcs, gcs_paths
from flaxdistill.train.log import LogRow, read_rows


@overload
def distill(experiments: Experiment, workdir: str | Path, *, quiet: bool = False) -> Run: ...


@overload
def distill(
    experiments: dict[str, Experiment], workdir: str | Path, *, quiet: bool = False
) -> dict[str, Run]: ...


def distill(
    experiments: Experiment | dict[str, Experiment], workdir: str | Path, *, quiet: bool = False
) -> Run | dict[str, Run]:
    """Train an experiment, or several stages in order, and return a `Run` for each.

    The commands ``distill`` and ``train`` do the same: unfinished runs in ``workdir`` resume,
    finished ones are skipped, and a table is printed at the end. A stage is stored in
    ``workdir/NAME``; later stages refer to it as ``Stage(NAME)``. ``quiet`` prints nothing.

    An interrupt (Ctrl-C, or stop in a notebook) finishes and saves the step and raises
    KeyboardInterrupt; the same call resumes. Raises UserError, before training starts, for
    experiments that cannot run.
    """
    config = config_file.check_config(experiments, "distill")
    named = {"": config} if isinstance(config, Experiment) else config
    root = gcs_paths.local_path(workdir)
    compilation_cache.enable()
    signal_number = None
    try:
        with library_logging.silenced():
            run_with_progress(named, root, terminal.console(quiet=quiet))
    except signals.Stopped as stopped:
        signal_number = stopped.signal_number
    if signal_number == signal.SIGINT:
        raise KeyboardInterrupt
    if signal_number:
        # Let the signal have its usual effect, such as ending the process.
        signal.raise_signal(signal_number)
    runs = {name: Run(root / name) for name in named}
    return runs[""] if isinstance(config, Experiment) else runs


def run_with_progress(
    experiments: Stages, root: Path, console: Console, notes: Sequence[str] = ()
) -> list[LogRow]:
    """Run stages with a progress bar, print the results table and return its rows.

    ``notes`` are printed first. Raises as ``stages.run_stages`` does.
    """
    with terminal.ProgressBar(console) as bar:

        def report(line: str) -> None:
            bar.report(gcs_paths.display(line))

        for note in notes:
            report(note)
        try:
            rows = stages.run_stages(
                experiments,
                root,
                show=lambda name, experiment, row: bar.update(name, experiment.steps, row),
                report=report,
            )
        except signals.Stopped as stopped:
            report(
                f"stopped after step {stopped.step}, which is saved; run the same command again to "
                "resume"
            )
            raise
    console.print(terminal.results_table(rows))
    return rows


class Run:
    """A run in its folder: its experiment, student, metrics and log.

    Files are read when an attribute is used; the student is loaded once. Raises UserError if the
    folder holds no run.
    """

    def __init__(self, path: str | Path):
        compilation_cache.enable()
        self.path = gcs.local_copy(path, gcs.RUN_FILES)
        self.experiment = workdir.read_experiment(self.path)

    def __repr__(self) -> str:
        return f"Run({gcs_paths.display(str(self.path))!r})"

    @functools.cached_property
    def student(self) -> Model:
        """The run's student, last or best as ``select`` requires; of several lanes the best one."""
        return load(self.path)

    @property
    def metrics(self) -> LogRow:
        """The run's row of the results table.

        It has the number of parameters, the median tokens per second, and medians over the seeds of
        the best learning rate.
        """
        return results.summarize(self.path)

    @property
    def history(self) -> list[LogRow]:
        """The log, ready for ``pandas.DataFrame``: one dict per logged step.

        Rows of evaluations have ``split``. ``step`` counts from 1; ``loss`` is the weighted sum of
        the loss terms, which have their own keys.
        """
        return read_rows(self.path / "metrics.jsonl")

    def evaluate(
        self,
        model: str | Path | None = None,
        *,
        against: str | Path | None = None,
        data: str | Path | None = None,
        **fields: str | None,
    ) -> list[LogRow]:
        """Evaluate the student of every lane, or another model, on held-out rows or on ``data``.

        Args:
            model: a model to evaluate instead of the students.
            against: another run or model; on labelled rows the difference is added.
            data: a labelled file, folder or ``hf:NAME``.
            **fields: fields of ``Source`` in which ``data`` differs from the run's held-out rows:
                ``column``, ``pair``, ``label``, ``split``, ``header``.

        Returns one dict per model; on labelled rows ``interval`` is the 95 % interval of the task's
        metric. Raises UserError for a model with another vocabulary or head.
        """
        model_path, other, rows = (
            None if value is None else str(value) for value in (model, against, data)
        )
        with library_logging.silenced():
            return evaluation.evaluate(
                self.path,
                model_path,
                against=other,
                data=rows,
                report=lambda line: print(gcs_paths.display(line)),
                **fields,
            )

    def export(
        self,
        out: str | Path,
        *,
        stablehlo: bool = False,
        push: str | None = None,
        private: bool = False,
    ) -> Path:
        """Write the student as a Hugging Face directory with a model card and return its path.

        A new process must compute the same outputs from the files. ``stablehlo`` adds the model for
        jax without this package. ``push`` uploads the files to a Hub repository ``USER/REPO``, a
        new one being ``private`` if set, with HF_TOKEN or the token of ``hf auth login``.

        Raises UserError if ``out`` is not empty and if a step fails. A finished run already has an
        export in ``path / "export"``.
        """
        path, repo = gcs_paths.local_path(out), Repo(push, private) if push else None
        with library_logging.silenced():
            export.export(self.path, path, verify=True, stablehlo=stablehlo, push=repo)
        return path
