"""The first parameters of a run: the student's weights and those of the losses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.loss_features import check_features
from flaxdistill.models.architecture import Architecture, make_frozen, make_init, shapes_of
from flaxdistill.models.parametrization import Chain
from flaxdistill.pytrees import Apply, Params
from flaxdistill.train import batches


def init_params(
    e: Experiment,
    seed: Any,
    config: Architecture,
    copied: Architecture | None,
    start_params: Params,
    teachers: tuple[Apply, ...],
    teacher_params: Any,
) -> tuple[dict[str, Params], Params]:
    """Initialize a student of ``config`` and the losses: what is trained, and what is frozen.

    If ``copied`` is a config, the student starts from ``start_params`` of a model of that config.
    ``teacher_params`` may be shapes. Raises UserError for a start and for losses that do not fit
    the models.
    """
    student = make_init(config)(jax.random.key(seed))
    if copied is not None:
        student = config.init_from(e.student.start, copied, start_params, student)
    losses = _init_losses(e, seed, config, teachers, teacher_params)
    parametrization = Chain(e.student.parametrize)
    key = jax.random.fold_in(jax.random.key(seed), 2)
    trained, frozen = parametrization.init(config, student, key)
    if not jax.tree.leaves(trained):
        raise UserError(
            "student.parametrize trains no parameter of the student; leave one to train, or remove "
            "it"
        )
    _check_penalties(e, parametrization, trained, frozen)
    return {"student": trained, "losses": losses}, {"student": frozen} if frozen else {}


def _check_penalties(e: Experiment, parametrization: Chain, trained: Any, frozen: Any) -> None:
    """Raise UserError for a penalty with the name of a loss term, which would hide it."""
    step = jax.ShapeDtypeStruct((), jnp.int32)
    penalties = jax.eval_shape(parametrization.penalty, trained, frozen, step)
    terms = {term for loss in e.losses.values() for term in jax.eval_shape(loss.weights, step)}
    if repeated := sorted(set(penalties) & (terms | {"loss", "grad_norm", "tokens"})):
        raise UserError(
            f"student.parametrize has a penalty {', '.join(repeated)}, which is the name of "
            "another metric; rename the penalty"
        )


def _init_losses(
    e: Experiment,
    seed: Any,
    config: Architecture,
    teachers: tuple[Apply, ...],
    teacher_params: Any,
) -> Params:
    batch = batches.abstract_batch(e.corpus.max_length)
    student = jax.eval_shape(make_frozen(config, e.student.compute), shapes_of(config), batch)
    teacher_outputs = tuple(
        jax.eval_shape(apply, params, batch)
        for apply, params in zip(teachers, teacher_params, strict=True)
    )
    check_features(e.losses, config, student, teacher_outputs)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), len(e.losses))
    return {
        name: loss.init(key, student, teacher_outputs)
        for key, (name, loss) in zip(keys, e.losses.items(), strict=True)
    }
