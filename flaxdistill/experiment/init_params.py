"""The first parameters of a run: the student's weights and those of the losses."""

from __future__ import annotations

from typing import Any

import jax

from flaxdistill.experiment.config import Experiment
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import make_frozen, make_init, shapes_of
from flaxdistill.models.student_init import start_from
from flaxdistill.pytrees import Apply, Params
from flaxdistill.train import batches


def init_params(
    e: Experiment,
    seed: Any,
    config: EncoderConfig,
    copied: EncoderConfig | None,
    start_params: Params,
    teachers: tuple[Apply, ...],
    teacher_params: Any,
) -> dict[str, Params]:
    """Initialize a student of ``config`` and the losses.

    If ``copied`` is a config, the student starts from ``start_params`` of a model of that config.
    ``teacher_params`` may be shapes. Raises UserError for a start and for losses that do not fit
    the models.
    """
    student = make_init(config)(jax.random.key(seed))
    if copied is not None:
        student = start_from(e.student.start, copied, start_params, config, student)
    return {"student": student, "losses": _init_losses(e, seed, config, teachers, teacher_params)}


def _init_losses(
    e: Experiment,
    seed: Any,
    config: EncoderConfig,
    teachers: tuple[Apply, ...],
    teacher_params: Any,
) -> Params:
    batch = batches.abstract_batch(e.corpus.max_length)
    student = jax.eval_shape(make_frozen(config, e.student.dtype), shapes_of(config), batch)
    teacher_outputs = tuple(
        jax.eval_shape(apply, params, batch)
        for apply, params in zip(teachers, teacher_params, strict=True)
    )
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), len(e.losses))
    return {
        name: loss.init(key, student, teacher_outputs)
        for key, (name, loss) in zip(keys, e.losses.items(), strict=True)
    }
