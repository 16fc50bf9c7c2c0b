"""What a run reads: its models and its prepared data, checked against each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.preparation.text import prepare
from flaxdistill.data.store import Store
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.experiment import run_models, workdir
from flaxdistill.experiment.checks import check_tensor
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import stage_name
from flaxdistill.experiment.student_config import resolve_student
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.compatibility import describe_assumed_labels
from flaxdistill.hub.families.base import Family
from flaxdistill.models.architecture import Architecture
from flaxdistill.runtime import gcs, gcs_paths, processes
from flaxdistill.train.loop import ReportLine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Models:
    """The models that a run reads.

    ``references`` are those that evaluations compare with, by role; ``start`` is the model whose
    weights or sizes the student takes.
    """

    references: dict[str, Checkpoint]
    start: Checkpoint | None

    @property
    def teacher(self) -> Checkpoint | None:
        """The first teacher."""
        return self.references.get("teacher")

    @property
    def template(self) -> Checkpoint | None:
        """The model that sets the student's vocabulary and the sizes that its config leaves out."""
        return self.start or next(iter(self.references.values()), None)

    @property
    def digests(self) -> dict[str, str]:
        """The hash of each model, by role."""
        models = self.references | ({"start": self.start} if self.start else {})
        return {role: model.digest for role, model in models.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """Models, prepared data and the student's config, all of which fit together.

    ``digests`` identify models and data: a run resumes with the same ones only.
    """

    models: Models
    store: Store
    vocabulary: Vocabulary
    family: Family | None
    config: Architecture
    digests: dict[str, str]


def read_models(e: Experiment, path: Path, report: ReportLine) -> Models:
    """Read the models of the experiment in the folder ``path``."""
    references = {
        role: load_model(reference.path, path, report)
        for role, reference in e.reference_models().items()
    }
    for model in references.values():
        check_tensor(model.config, e.tensor, model.source)
    start_path = e.start_path()
    if e.teacher and start_path == e.teacher.path:
        return Models(references=references, start=references["teacher"])
    start = load_model(start_path, path, report) if start_path else None
    return Models(references=references, start=start)


def prepare_inputs(
    e: Experiment, models: Models, path: Path, *, data: Path, report: ReportLine
) -> Inputs:
    """Prepare the data of the experiment in the folder ``path`` and resolve the student's config.

    Raises UserError for models that do not fit, before any text is read if possible.
    """
    template = models.template
    tokenizer = e.corpus.tokenizer or (str(template.directory) if template else None)
    known = load_vocabulary(tokenizer) if tokenizer else None
    family, config = resolve_student(e, models.references, models.start, known, None)
    if family is None:
        report(
            f"no model family holds a {type(config).__name__}: the student can be evaluated and "
            "used by flaxdistill, and is not exported"
        )

    def check_resumable(blocks: str) -> None:
        """Raise UserError if a run would resume with other data, before that data is written."""
        if workdir.is_workdir(path):
            workdir.check_experiment(path, e, models.digests | {"blocks": blocks})

    with processes.main_first("blocks"):
        store = prepare_blocks(e, data, template, report, check_resumable)
    vocabulary = store.vocabulary()
    family, config = resolve_student(e, models.references, models.start, vocabulary, store.labels)
    for model in models.references.values():
        if line := describe_assumed_labels(model, store.labels):
            report(line)
    digests = {"blocks": store.path.name} | models.digests
    return Inputs(
        models=models,
        store=store,
        vocabulary=vocabulary,
        family=family,
        config=config,
        digests=digests,
    )


def prepare_blocks(
    e: Experiment,
    data: Path,
    template: Checkpoint | None,
    report: ReportLine,
    check: Callable[[str], None] = lambda name: None,
) -> Store:
    """Prepare the corpus of an experiment in ``e.data_dir`` or else in ``data``.

    Uses the vocabulary of ``template`` if the config names none. Calls ``check`` with the name of
    the blocks before they are written.
    """
    corpus, folder = e.corpus, gcs_paths.local_path(e.data_dir) if e.data_dir else data
    if task := e.task.rows:
        if corpus.tokenizer is None and template is not None:
            corpus = dataclasses.replace(corpus, tokenizer=str(template.directory))
        return prepare_examples(
            corpus,
            task.row_builder(),
            folder,
            has_teacher=e.teacher is not None,
            report=report,
            check=check,
        )
    if corpus.tokenizer is None and template is not None:
        # An earlier stage may have trained its vocabulary on the same corpus: then its blocks fit,
        # unless the text has changed since.
        if run_models.trained_vocabulary_on(template, corpus):
            store = prepare(corpus, folder, engine=e.engine, report=report)
            if store.vocabulary().digest == load_vocabulary(template.directory).digest:
                return store
        corpus = dataclasses.replace(corpus, tokenizer=str(template.directory))
    return prepare(corpus, folder, engine=e.engine, report=report, check=check)


def load_model(path: str, run: Path, report: ReportLine = lambda line: None) -> Checkpoint:
    """Read a model by directory, Hub id or, from the folder next to ``run``, ``@stage``."""
    if (stage := stage_name(path)) is not None:
        folder = run.absolute().parent / stage
        gcs.refresh(folder)
        path = str(folder)
    model = run_models.read_model(path)
    if model.note:
        report(f"{model.source}: {model.note}")
    return model
