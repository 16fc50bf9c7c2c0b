"""How a model is judged on held-out rows: the same rows and masks in every run, so that figures compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np

from flaxdistill.data.store import Store
from flaxdistill.experiment.config import Experiment, Teacher
from flaxdistill.hub.checkpoint import Model
from flaxdistill.hub.frozen import freeze
from flaxdistill.losses.base import Loss
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import VocabReport
from flaxdistill.metrics import Score
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import make_apply
from flaxdistill.pytrees import Apply, Params
from flaxdistill.runtime import sharding
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train import batches as feed
from flaxdistill.train import evaluate as evaluation
from flaxdistill.train import predict as answers

EVAL_SEED = 20190810
"""Held-out masks are the same in every run, for every seed and every model of one vocabulary: losses compare."""

Evaluator = Callable[[Params, tuple[Params, ...]], Score]
"""Evaluate parameters, beside those of the models they are compared with, which are the same in every call."""


def make_evaluator(
    e: Experiment,
    config: EncoderConfig,
    references: Collection[Model],
    applies: tuple[Apply, ...],
    store: Store,
    mesh: Any,
    theirs: list[answers.Rows] | None = None,
) -> Evaluator:
    """Compile the evaluation of a model of ``config`` on a store's held-out rows, computed as the student is.

    Masked-LM figures for text, the task's own for labelled rows. Compares with the references where there are any; cosine
    only where all widths are equal. What references answer to labelled rows is the same every time: ``theirs`` keeps it,
    for other models judged on the same rows too.
    """
    encode = make_apply(config, e.student.dtype, e.student.attention)

    def apply(params: Params, rows: Any) -> Any:
        return encode(params, rows, None)

    if isinstance(e.task, Labelled):
        task, everywhere = (
            e.task,
            sharding.replicated(mesh),
        )  # on every process: each scores all rows
        predict = [
            sharding.jit(answers.make_predict(a), mesh, out_shardings=everywhere)
            for a in (apply, *applies)
        ]

        kept = [] if theirs is None else theirs

        def score(params: Params, others: tuple[Params, ...]) -> Score:
            batches = feed.bucketed(store.held_out, e.eval_batch_size, mesh)
            asked = (params["student"], *(() if kept else others))
            said, labels = answers.collect(predict[: len(asked)], asked, batches)
            kept.extend(said[1:])
            compared = answers.agreement(said[0], kept, labels) if others else {}
            scored = task.score(said[0], labels, store)
            if not all(np.isfinite(row).all() for row in said[0]):
                # Some class is the likeliest all the same, and would be right now and then.
                return Score(dict.fromkeys(scored.metrics, math.nan))
            return scored._replace(metrics=scored.metrics | compared)

        return score

    vocabulary = store.vocabulary()
    draw = MLM().make_masks(
        mask_id=vocabulary.mask,
        special_ids=vocabulary.special_ids,
        counts=np.ones(vocabulary.size),
        seed=EVAL_SEED,
    )
    losses: dict[str, Loss] = {"report": VocabReport(judged=bool(references))}
    if references and {reference.config.hidden_size for reference in references} == {
        config.hidden_size
    }:
        losses["cosine"] = HiddenCosine()
    evaluate = sharding.jit(
        evaluation.make_evaluate(apply, applies, draw, losses),
        mesh,
        out_shardings=sharding.replicated(mesh),
    )

    def report(params: Params, others: tuple[Params, ...]) -> Score:
        batches = feed.held_out_batches(store.held_out, e.eval_batch_size, mesh)
        return Score(evaluation.run(evaluate, params, others, batches))

    return report


def freeze_teachers(
    models: Iterable[Model], teachers: Iterable[Teacher], mesh: Any
) -> tuple[tuple[Apply, ...], tuple[Params, ...]]:
    """Freeze several models, each with the dtype, kernel and placement of its ``Teacher``."""
    frozen = [
        freeze(
            model, mesh, dtype=teacher.dtype, attention=teacher.attention, sharded=teacher.sharded
        )
        for model, teacher in zip(models, teachers, strict=True)
    ]
    return tuple(apply for apply, _ in frozen), tuple(params for _, params in frozen)
