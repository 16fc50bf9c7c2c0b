"""A run from Python: experiments followed to their end, and what is in a run's folder then."""

from __future__ import annotations

import functools
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from rich.console import Console

from flaxdistill import terminal
from flaxdistill.api import export, library_logging, stages
from flaxdistill.api.model import Model, load
from flaxdistill.experiment import config_file, results, workdir
from flaxdistill.experiment import evaluate as evaluation
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub.push import Repo
from flaxdistill.runtime import compilation_cache, gcs, gcs_paths
from flaxdistill.train.log import Row, read_rows


@overload
def distill(experiments: Experiment, workdir: str | Path, *, quiet: bool = False) -> Run: ...


@overload
def distill(
    experiments: dict[str, Experiment], workdir: str | Path, *, quiet: bool = False
) -> dict[str, Run]: ...


def distill(
    experiments: Experiment | dict[str, Experiment], workdir: str | Path, *, quiet: bool = False
) -> Run | dict[str, Run]:
    """Run an experiment, or several in a row as stages, and give the run of each.

    As the verbs ``distill`` and ``train``: what was begun in ``workdir`` goes on where it stopped, what is finished is left
    as it is, and one table is shown at the end. A stage lives in ``workdir/NAME`` and may name an earlier one by
    ``Stage(NAME)``.
    An interrupt (Ctrl-C, or a notebook's stop) finishes the step, saves it and raises KeyboardInterrupt; the same call goes
    on from there. ``quiet`` shows nothing. Raises UserError for experiments that cannot run, before anything is trained.
    """
    named = config_file.check(experiments, "distill")
    following = {"": named} if isinstance(named, Experiment) else named
    root = gcs_paths.here(workdir)
    compilation_cache.keep()
    stopped = None
    try:
        with library_logging.quiet():
            follow(following, root, terminal.console(quiet=quiet))
    except stages.Stopped as error:
        stopped = error.signal_number
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped:
        signal.raise_signal(stopped)  # what it does by itself, such as to end
    runs = {name: Run(root / name) for name in following}
    return runs[""] if isinstance(named, Experiment) else runs


def follow(
    experiments: stages.Stages, root: Path, console: Console, reports: Sequence[str] = ()
) -> list[Row]:
    """Run stages below a folder with a bar and the closing table, whose rows are returned; raises as ``stages.run`` does."""
    with terminal.Bar(console) as bar:

        def report(line: str) -> None:
            bar.report(gcs_paths.told(line))

        for line in reports:
            report(line)
        try:
            rows = stages.run(
                experiments,
                root,
                show=lambda name, experiment, row: bar.show(name, experiment.steps, row),
                report=report,
            )
        except stages.Stopped as stopped:
            report(
                f"stopped after step {stopped.step}, which is saved; the same command goes on from there"
            )
            raise
    console.print(terminal.results(rows))
    return rows


class Run:
    """A run in its folder, begun by `distill` or by the command line: its experiment, its student, its figures.

    Everything is read from the folder when it is asked for; the student once, when it is first asked for. Raises UserError
    for a folder that holds no run.
    """

    def __init__(self, path: str | Path):
        compilation_cache.keep()
        self.path = gcs.local(path, gcs.RUN)
        self.experiment = workdir.read_experiment(self.path)

    def __repr__(self) -> str:
        return f"Run({gcs_paths.told(str(self.path))!r})"

    @functools.cached_property
    def student(self) -> Model:
        """The student that the run gives, its last or its best; of several lanes the one whose evaluation is worth most."""
        return load(self.path)

    @property
    def metrics(self) -> Row:
        """What the closing table tells of it: parameters, and medians of tokens a second and of the best rate's seeds."""
        return results.summary(self.path)

    @property
    def history(self) -> list[Row]:
        """The log, ready for ``pandas.DataFrame``: a dict a logged step; those of evaluations have ``split``.

        ``step`` counts from 1, ``loss`` is the weighted sum of its terms, which follow by name.
        """
        return read_rows(self.path / "metrics.jsonl")

    def evaluate(
        self,
        model: str | Path | None = None,
        *,
        against: str | Path | None = None,
        data: str | Path | None = None,
        **fields: str | None,
    ) -> list[Row]:
        """Evaluate the student of every lane, or another model, on the run's held-out rows or on those of ``data``.

        One dict a model; on labelled rows with ``interval``, the 95 % bounds of the task's figure. ``against`` adds another
        run or model and, on labelled rows, their difference. ``data`` is a labelled file, folder or ``hf:NAME``; ``fields``
        are those of ``Source`` in which it differs from the run's own rows: ``column``, ``pair``, ``label``, ``split``,
        ``header``. Raises UserError for models of another vocabulary or head.
        """
        asked, other, rows = (
            None if what is None else str(what) for what in (model, against, data)
        )
        with library_logging.quiet():
            return evaluation.evaluate(
                self.path,
                asked,
                against=other,
                data=rows,
                report=lambda line: print(gcs_paths.told(line)),
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
        """Write the student as a Hugging Face directory with its card, as the verb does; returns where it is.

        A process of its own must say what the student says. ``stablehlo`` adds the model for jax without this package;
        ``push`` commits it all to a repository ``USER/REPO`` on the Hub, ``private`` if it is to be, by HF_TOKEN or the
        token of ``hf auth login``. Raises UserError where ``out`` holds anything, and where one of these fails; a finished
        run has an export already, in its ``path / "export"``.
        """
        path, repo = gcs_paths.here(out), Repo(push, private) if push else None
        with library_logging.quiet():
            export.export(self.path, path, apart=True, portable=stablehlo, push=repo)
        return path
