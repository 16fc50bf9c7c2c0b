"""What a run begins with: the student's first weights and the losses' own parameters."""

from __future__ import annotations

from typing import Any

import jax

from flaxdistill.experiment.config import Experiment
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import make_frozen, make_init, shapes_of
from flaxdistill.models.student_init import start_from
from flaxdistill.pytrees import Apply, Params
from flaxdistill.train import batches


def first_params(
    e: Experiment,
    seed: Any,
    config: EncoderConfig,
    copied: EncoderConfig | None,
    start_params: Params,
    teachers: tuple[Apply, ...],
    teacher_params: Any,
) -> dict[str, Params]:
    """Make the parameters of a student of ``config``, from a model of config ``copied`` if there is one, and of the losses.

    ``teacher_params`` may be shapes. Raises UserError for a start and for losses that do not fit the models.
    """
    student = make_init(config)(jax.random.key(seed))
    if copied is not None:
        student = start_from(e.student.start, copied, start_params, config, student)
    return {"student": student, "losses": _init_losses(e, seed, config, teachers, teacher_params)}


def _init_losses(
    e: Experiment, seed: Any, config: EncoderConfig, teachers: tuple[Apply, ...], params: Any
) -> Params:
    batch = batches.abstract_batch(e.corpus.max_length)
    student = jax.eval_shape(make_frozen(config, e.student.dtype), shapes_of(config), batch)
    outputs = tuple(
        jax.eval_shape(apply, p, batch) for apply, p in zip(teachers, params, strict=True)
    )
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), len(e.losses))
    return {
        name: loss.init(key, student, outputs)
        for key, (name, loss) in zip(keys, e.losses.items(), strict=True)
    }
