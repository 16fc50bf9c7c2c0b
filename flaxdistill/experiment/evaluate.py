"""What ``eval`` tells: a run's students, or other models, on its held-out rows or on other ones, and how sure that is."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from flaxdistill.data.preparation.labelled import prepare_examples
from flaxdistill.data.sources import given
from flaxdistill.data.store import Store, open_store
from flaxdistill.errors import UserError
from flaxdistill.experiment import build, checks, evaluator, workdir
from flaxdistill.experiment.config import Experiment, Teacher
from flaxdistill.experiment.results import best_rate, median
from flaxdistill.hub import compatibility, frozen
from flaxdistill.hub.checkpoint import Model
from flaxdistill.metrics import Score, interval
from flaxdistill.pytrees import Apply, Params
from flaxdistill.runtime import gcs, sharding
from flaxdistill.tasks.base import Labelled
from flaxdistill.train import batches as feed
from flaxdistill.train import layer_similarity, predict
from flaxdistill.train.log import Row
from flaxdistill.train.loop import Report


def evaluate(
    path: Path,
    model: str | None = None,
    *,
    against: str | None = None,
    data: str | None = None,
    report: Report = lambda line: None,
    **fields: str | None,
) -> list[Row]:
    """Evaluate a run's students, or another model, on the run's held-out rows or on those of ``data``: one row each.

    Compares with the run's teachers or reference where it has any. Of labelled rows ``interval`` bounds the task's figure with
    95 % confidence, and ``per_class`` holds precision, recall, f1 and support of every class. ``against`` adds another run or
    model, and of labelled rows the difference, of runs with several learning rates at the best one of each. ``fields`` are
    those of ``Source`` in which ``data`` differs from the run's own held-out rows. A model may name its classes in another
    order; ``report`` is told what those without names are taken for. Raises UserError for models of other vocabularies or
    heads, and for ``data`` without labels.
    """
    place = dataclasses.replace(_place(path.absolute(), data, given(data, **fields)), report=report)
    whats = [model or str(path), *([against] if against else [])]
    # Both are read and fit before one of them is judged, which takes its time.
    sides = [
        _judged(place, what, models)
        for what, models in [(what, _models(place, what)) for what in whats]
    ]
    metric, rows = place.experiment.task.metric, list[Row]()
    for side in sides:
        rows += side.rows
        if len(side.rows) > 1:
            middle = median(side.rows, metric)
            at = f", rate {middle['learning_rate']:g}" if "learning_rate" in middle else ""
            rows.append({"name": f"median{at}"} | middle)
    if against and isinstance(place.experiment.task, Labelled):
        ours, theirs = (side.chosen(metric) for side in sides)
        rows.append({"name": "difference"} | _difference(ours, theirs, metric))
    return rows


def _difference(ours: Sequence[Score], theirs: Sequence[Score], metric: str) -> Row:
    apart = statistics.mean(s.metrics[metric] for s in ours) - statistics.mean(
        s.metrics[metric] for s in theirs
    )
    if not all(metric in score.per_example for score in (*ours, *theirs)):
        return {metric: apart}
    return {
        metric: apart,
        "interval": interval(*([s.per_example[metric] for s in side] for side in (ours, theirs))),
    }


def reference(path: Path, model: str) -> Score:
    """Evaluate one model on a run's held-out rows."""
    place = _place(path.absolute())
    return _scores(place, [_fitting(place, workdir.read_model(model))])[0]


def alone(path: Path) -> list[Score]:
    """Evaluate a run's students on its held-out rows, one for each lane, compared with nobody."""
    place = dataclasses.replace(_place(path.absolute()), hows=())
    return _scores(place, _models(place, str(path)))


def align(path: Path, model: str | None = None) -> dict[str, Any]:
    """Compare every layer of a run's student, or of another model, with every layer of its teacher or reference.

    Gives what ``alignment.similarity`` does, on the run's held-out rows without masks. Raises UserError where there is
    nobody to compare with.
    """
    place = _place(path.absolute())
    if not place.hows:
        raise UserError(
            f"{path} has no teacher or reference whose layers could be compared with; set reference in its config"
        )
    apply, params = _freeze(place, _fitting(place, workdir.read_model(model or str(path))))
    applies, others = place.asked
    compute = sharding.jit(
        layer_similarity.make_align(apply, applies[0]),
        place.mesh,
        out_shardings=sharding.replicated(place.mesh),
    )
    batches = feed.held_out_batches(
        place.store.held_out, place.experiment.eval_batch_size, place.mesh
    )
    return layer_similarity.similarity(compute(params, others[0], batch) for batch in batches)


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """Where models are judged, and by whom."""

    path: Path
    experiment: Experiment
    store: Store
    mesh: Any
    hows: tuple[Teacher, ...]
    report: Report = lambda line: None
    said: list[predict.Rows] = dataclasses.field(
        default_factory=list
    )  # by the references, once asked

    @functools.cached_property
    def references(self) -> list[Model]:
        """Whom models are compared with."""
        return [build.read(how.path, self.path) for how in self.hows]

    @functools.cached_property
    def asked(self) -> tuple[tuple[Apply, ...], tuple[Params, ...]]:
        """The references, ready to be asked; the same ones beside every model."""
        return evaluator.freeze_teachers(self.references, self.hows, self.mesh)


class _Side(NamedTuple):
    """One run with its lanes, or one model."""

    rows: list[Row]
    scores: list[Score]

    def chosen(self, metric: str) -> list[Score]:
        """Give the scores of all seeds of the best learning rate."""
        rate = best_rate(self.rows, metric)
        lanes = zip(self.rows, self.scores, strict=True)
        return [score for row, score in lanes if row.get("learning_rate") == rate]


def _place(
    path: Path, data: str | None = None, fields: Mapping[str, Any] = MappingProxyType({})
) -> _Place:
    e = workdir.read_experiment(path)
    blocks = workdir.blocks(path, e)
    folder, store = blocks.parent, open_store(blocks)
    if data:
        if not isinstance(e.task, Labelled):
            raise UserError(f"{path} has no labelled rows; --data reads those of a task")
        like = next(
            source for source in (*e.corpus.held_out_sources, *e.corpus.sources) if source.label
        )
        source = dataclasses.replace(like, path=data, **{"rows": None, **fields})
        corpus = dataclasses.replace(
            e.corpus, held_out_sources=(source,), tokenizer=str(path / workdir.TOKENIZER)
        )
        store = prepare_examples(corpus, e.task.row_builder(), folder, labels=store.labels)
    return _Place(path, e, store, sharding.make_mesh(), tuple(e.reference_models().values()))


def _models(place: _Place, what: str) -> list[Model]:
    """Read a model, or every lane's of a run."""
    return [_fitting(place, model) for model in workdir.read_lanes(what)]


def _judged(place: _Place, what: str, models: list[Model]) -> _Side:
    scores, metric = _scores(place, models), place.experiment.task.metric
    lanes: list[Row] = [{"name": what}]
    if len(models) > 1:
        those = workdir.read_experiment(gcs.local(what, gcs.RUN)).lanes()
        lanes = [
            {"name": model.source} | lane._asdict()
            for model, lane in zip(models, those, strict=True)
        ]
    rows = []
    for lane, score in zip(lanes, scores, strict=True):
        sure = (
            {"interval": interval([score.per_example[metric]])}
            if metric in score.per_example
            else {}
        )
        rows.append(
            lane
            | score.metrics
            | sure
            | ({"per_class": score.per_class} if score.per_class else {})
        )
    return _Side(rows, scores)


def _scores(place: _Place, models: Sequence[Model]) -> list[Score]:
    """Evaluator models of one config, which is compiled once."""
    applies, others = place.asked
    give = evaluator.make_evaluator(
        place.experiment,
        models[0].config,
        place.references,
        applies,
        place.store,
        place.mesh,
        place.said,
    )
    return [give({"student": _freeze(place, model)[1], "losses": {}}, others) for model in models]


def _fitting(place: _Place, model: Model) -> Model:
    e = place.experiment
    compatibility.check_vocabulary(model, place.store.vocabulary())
    model = compatibility.reordered(model, place.store.labels)
    compatibility.check_head(model, e.task.head, place.store.labels)
    if line := compatibility.presumed(model, place.store.labels):
        place.report(line)
    checks.check_compared(
        model.source, model.config, place.references, place.store.length, place.store.labels
    )
    checks.check_pairs(e, [model.config, *(reference.config for reference in place.references)])
    return model


def _freeze(place: _Place, model: Model) -> tuple[Apply, Params]:
    return frozen.freeze(model, place.mesh, dtype="float32")
