"""Evaluation on held-out rows: the same rows and masks in every run, so that metrics compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from flaxdistill.data.store import Store
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.losses.base import Loss
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import VocabReport
from flaxdistill.metrics import Score
from flaxdistill.models.architecture import Architecture, make_frozen
from flaxdistill.pytrees import Apply, Params
from flaxdistill.runtime import sharding
from flaxdistill.tasks.base import Labelled
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train import batches, evaluate, predict

EVAL_SEED = 20190810
"""Seed of the held-out masks: the same in every run, for every model of one vocabulary."""

Evaluator = Callable[[Params, tuple[Params, ...]], Score]
"""From a model's parameters and those of the reference models, always the same, to its score."""


def make_evaluator(
    e: Experiment,
    config: Architecture,
    references: Collection[Checkpoint],
    applies: tuple[Apply, ...],
    store: Store,
    mesh: Any,
    reference_logits: list[predict.RowArrays] | None = None,
) -> Evaluator:
    """Compile the evaluation of models of ``config`` on the held-out rows of a store.

    Models run with the student's dtype and attention kernel. Labelled rows get the metrics of the
    task, text those of masked-language modeling. Compares with the reference models, if any; with
    cosines if all widths are equal. ``reference_logits`` stores the references' logits for
    labelled rows, so that evaluators of other models on the same rows need not compute them again.
    """
    apply = make_frozen(config, e.student.compute)
    if e.task.rows:
        cache: list[predict.RowArrays] = [] if reference_logits is None else reference_logits
        return _labelled_evaluator(e, e.task.rows, (apply, *applies), store, mesh, cache)
    widths = {reference.config.hidden_size for reference in references}
    losses: dict[str, Loss] = {"report": VocabReport(with_teacher=bool(references))}
    if widths == {config.hidden_size}:
        losses["cosine"] = HiddenCosine()
    return _masked_lm_evaluator(e, apply, applies, losses, store, mesh)


def _labelled_evaluator(
    e: Experiment,
    task: Labelled,
    applies: tuple[Apply, ...],
    store: Store,
    mesh: Any,
    reference_logits: list[predict.RowArrays],
) -> Evaluator:
    # Replicated outputs: every process scores all rows.
    replicated = sharding.replicated(mesh)
    predicts = [
        sharding.jit(predict.make_predict_logits(apply), mesh, out_shardings=replicated)
        for apply in applies
    ]

    def score(params: Params, reference_params: tuple[Params, ...]) -> Score:
        rows = batches.batches_by_length(store.held_out, e.eval_batch_size, mesh)
        models = (params["student"], *(() if reference_logits else reference_params))
        logits, labels = predict.collect_logits(predicts[: len(models)], models, rows)
        reference_logits.extend(logits[1:])
        student_logits = logits[0]
        agreement = (
            predict.agreement_metrics(student_logits, reference_logits, labels)
            if reference_params
            else {}
        )
        score = task.score(student_logits, labels, store)
        if not all(np.isfinite(row).all() for row in student_logits):
            # NaN logits still have an argmax, which is right now and then.
            return Score(dict.fromkeys(score.metrics, math.nan))
        return score._replace(metrics=score.metrics | agreement)

    return score


def _masked_lm_evaluator(
    e: Experiment,
    apply: Apply,
    reference_applies: tuple[Apply, ...],
    losses: dict[str, Loss],
    store: Store,
    mesh: Any,
) -> Evaluator:
    vocabulary = store.vocabulary()
    draw_masks = MLM().make_masks(
        mask_id=vocabulary.mask,
        special_ids=vocabulary.special_ids,
        counts=np.ones(vocabulary.size),
        seed=EVAL_SEED,
    )
    compiled = sharding.jit(
        evaluate.make_evaluate(apply, reference_applies, draw_masks, losses),
        mesh,
        out_shardings=sharding.replicated(mesh),
    )

    def score(params: Params, reference_params: tuple[Params, ...]) -> Score:
        rows = batches.held_out_batches(store.held_out, e.eval_batch_size, mesh)
        return Score(evaluate.evaluate_batches(compiled, params, reference_params, rows))

    return score
