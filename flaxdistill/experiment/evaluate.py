"""Evaluation of runs and models on the held-out rows of a run or on other rows."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.sources import source_fields
from flaxdistill.data.store import Store, open_store
from flaxdistill.errors import UserError
from flaxdistill.experiment import checks, evaluator, inputs, run_models, workdir
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Teacher
from flaxdistill.experiment.results import best_learning_rate, median_over_seeds
from flaxdistill.experiment.teachers import FrozenModels, freeze_models
from flaxdistill.hub import compatibility, frozen
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.metrics import Score, bootstrap_interval
from flaxdistill.models.architecture import Compute
from flaxdistill.pytrees import Apply, Params
from flaxdistill.runtime import gcs, sharding
from flaxdistill.train import batches, layer_similarity, predict
from flaxdistill.train.log import LogRow
from flaxdistill.train.loop import ReportLine


def evaluate(
    path: Path,
    model: str | None = None,
    *,
    against: str | None = None,
    data: str | None = None,
    report: ReportLine = lambda line: None,
    **fields: str | None,
) -> list[LogRow]:
    """Evaluate a run's students, or another model, on held-out rows: the run's own or ``data``.

    Returns one row per student, then a median over seeds. Compares with the run's teachers or
    reference model, if any. Rows of a labelled task have an ``interval``, the 95 % confidence
    interval of the task's metric, and ``per_class``: precision, recall, f1 and support of each
    class. ``against`` adds another run or model and, for a labelled task, the difference; of
    several learning rates each side takes its best. ``fields`` are the fields of ``Source`` in
    which ``data`` differs from the run's own held-out rows. A model may order its classes
    differently; ``report`` receives the names assumed for classes without names. Raises UserError
    for models with another vocabulary or head, and for ``data`` without labels.
    """
    setup = _open_setup(path.absolute(), data, source_fields(data, **fields))
    setup = dataclasses.replace(setup, report=report)
    sources = [model or str(path), *([against] if against else [])]
    # Read and check both sides first: an evaluation takes long.
    models = [_read_students(setup, source) for source in sources]
    sides = [_evaluate_side(setup, *side) for side in zip(sources, models, strict=True)]
    metric, rows = setup.experiment.task.metric, list[LogRow]()
    for side in sides:
        rows += side.rows
        if len(side.rows) > 1:
            medians = median_over_seeds(side.rows, metric)
            rate = f", rate {medians['learning_rate']:g}" if "learning_rate" in medians else ""
            rows.append({"name": f"median{rate}"} | medians)
    if against and setup.experiment.task.rows:
        first, second = (side.best_scores(metric) for side in sides)
        rows.append({"name": "difference"} | _difference(first, second, metric))
    return rows


def evaluate_model(path: Path, model: str) -> Score:
    """Evaluate one model on a run's held-out rows."""
    setup = _open_setup(path.absolute())
    return _score(setup, [_check_model(setup, run_models.read_model(model))])[0]


def evaluate_students(path: Path) -> list[Score]:
    """Evaluate the student of each lane of a run on its held-out rows, without reference models."""
    setup = dataclasses.replace(_open_setup(path.absolute()), reference_configs=())
    return _score(setup, _read_students(setup, str(path)))


def compare_layers(path: Path, model: str | None = None) -> dict[str, Any]:
    """Compare every layer of a student, or of another model, with every layer of its reference.

    Returns the output of ``layer_similarity.layer_similarity`` on the run's held-out rows, without
    masks. Raises UserError for a run without teacher and reference model.
    """
    setup = _open_setup(path.absolute())
    if not setup.reference_configs:
        raise UserError(
            f"{path} has no teacher or reference to compare layers with; set reference in its "
            "config"
        )
    student = _check_model(setup, run_models.read_model(model or str(path)))
    apply, params = _freeze(setup, student)
    reference_apply, reference_params = (
        setup.frozen_references.applies[0],
        setup.frozen_references.params[0],
    )
    compute = sharding.jit(
        layer_similarity.make_layer_sums(apply, reference_apply),
        setup.mesh,
        out_shardings=sharding.replicated(setup.mesh),
    )
    rows = batches.held_out_batches(
        setup.store.held_out, setup.experiment.eval_batch_size, setup.mesh
    )
    return layer_similarity.layer_similarity(
        compute(params, reference_params, batch) for batch in rows
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Setup:
    """The held-out rows of a run and the models to compare with."""

    path: Path
    experiment: Experiment
    store: Store
    mesh: Any
    reference_configs: tuple[Teacher, ...]
    report: ReportLine = lambda line: None
    reference_logits: list[predict.RowArrays] = dataclasses.field(default_factory=list)
    """Cache of the reference models' logits for labelled rows."""

    @functools.cached_property
    def references(self) -> list[Checkpoint]:
        """The reference models, read once."""
        return [inputs.load_model(config.path, self.path) for config in self.reference_configs]

    @functools.cached_property
    def frozen_references(self) -> FrozenModels:
        """The reference models on the mesh, placed once."""
        return freeze_models(self.references, self.reference_configs, self.mesh)


class _Side(NamedTuple):
    """The evaluation of one model, or of one run with its lanes."""

    rows: list[LogRow]
    scores: list[Score]

    def best_scores(self, metric: str) -> list[Score]:
        """Return the scores of all seeds of the best learning rate."""
        rate = best_learning_rate(self.rows, metric)
        lanes = zip(self.rows, self.scores, strict=True)
        return [score for row, score in lanes if row.get("learning_rate") == rate]


def _open_setup(
    path: Path, data: str | None = None, fields: Mapping[str, Any] = MappingProxyType({})
) -> _Setup:
    e = workdir.read_experiment(path)
    blocks = workdir.blocks_folder(path, e)
    store = open_store(blocks)
    if data:
        if not (task := e.task.rows):
            raise UserError(f"{path} has no labelled rows; --data reads labelled rows only")
        sources = (*e.corpus.held_out_sources, *e.corpus.sources)
        template = next(source for source in sources if source.label)
        source = dataclasses.replace(template, path=data, **{"rows": None, **fields})
        corpus = dataclasses.replace(
            e.corpus, held_out_sources=(source,), tokenizer=str(path / workdir.TOKENIZER)
        )
        store = prepare_examples(corpus, task.row_builder(), blocks.parent, labels=store.labels)
    return _Setup(path, e, store, sharding.make_mesh(), tuple(e.reference_models().values()))


def _read_students(setup: _Setup, source: str) -> list[Checkpoint]:
    """Read a model, or the student of every lane of a run."""
    return [_check_model(setup, model) for model in run_models.read_students(source)]


def _evaluate_side(setup: _Setup, source: str, models: list[Checkpoint]) -> _Side:
    scores, metric = _score(setup, models), setup.experiment.task.metric
    names: list[LogRow] = [{"name": source}]
    if len(models) > 1:
        lanes = workdir.read_experiment(gcs.local_copy(source, gcs.RUN_FILES)).lanes()
        names = [
            {"name": model.source} | lane._asdict()
            for model, lane in zip(models, lanes, strict=True)
        ]
    rows = []
    for name, score in zip(names, scores, strict=True):
        row = name | score.metrics
        if metric in score.per_example:
            row["interval"] = bootstrap_interval([score.per_example[metric]])
        if score.per_class:
            row["per_class"] = score.per_class
        rows.append(row)
    return _Side(rows, scores)


def _difference(first: Sequence[Score], second: Sequence[Score], metric: str) -> LogRow:
    """Return how much the first side's mean is above the second's, with an interval if possible."""
    first_mean, second_mean = (
        statistics.mean(score.metrics[metric] for score in side) for side in (first, second)
    )
    row: LogRow = {metric: first_mean - second_mean}
    if all(metric in score.per_example for score in (*first, *second)):
        row["interval"] = bootstrap_interval(
            *([score.per_example[metric] for score in side] for side in (first, second))
        )
    return row


def _score(setup: _Setup, models: Sequence[Checkpoint]) -> list[Score]:
    """Evaluate models of one config, which is compiled once."""
    references = setup.frozen_references
    score = evaluator.make_evaluator(
        setup.experiment,
        models[0].config,
        setup.references,
        references.applies,
        setup.store,
        setup.mesh,
        setup.reference_logits,
    )
    return [
        score({"student": _freeze(setup, model)[1], "losses": {}}, references.params)
        for model in models
    ]


def _check_model(setup: _Setup, model: Checkpoint) -> Checkpoint:
    """Return the model with its classes in the order of the data; raise UserError if it misfits."""
    e, labels = setup.experiment, setup.store.labels
    compatibility.check_vocabulary(model, setup.store.vocabulary())
    model = compatibility.reorder_labels(model, labels)
    compatibility.check_head(model, e.task.head, labels)
    if line := compatibility.describe_assumed_labels(model, labels):
        setup.report(line)
    checks.check_compared(model.source, model.config, setup.references, setup.store.length, labels)
    checks.check_pairs(e, [model.config, *(reference.config for reference in setup.references)])
    return model


def _freeze(setup: _Setup, model: Checkpoint) -> tuple[Apply, Params]:
    return frozen.freeze(model, setup.mesh, compute=Compute(dtype="float32"))
