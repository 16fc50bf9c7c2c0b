"""The teachers of a step: frozen models, or the cached outputs of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from flaxdistill.data.order import Order
from flaxdistill.errors import UserError
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.inputs import Inputs
from flaxdistill.experiment.model_configs import Teacher
from flaxdistill.experiment.program import Program
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.hub.frozen import freeze
from flaxdistill.losses.base import Loss
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.ops.dense import operand_dtype
from flaxdistill.pytrees import Apply, Params
from flaxdistill.runtime import gcs_paths
from flaxdistill.runtime.class_json import to_json
from flaxdistill.train import teacher_cache
from flaxdistill.train.loop import ReportLine


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenModels:
    """Forward passes without gradient and their weights on a mesh, one each per model."""

    applies: tuple[Apply, ...] = ()
    params: tuple[Params, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTeachers:
    """What takes the place of the teachers in the step.

    With a cache, ``targets`` are the stored outputs, which the step reads with each batch.
    """

    applies: tuple[Apply, ...]
    params: tuple[Params, ...]
    targets: teacher_cache.CachedOutputs | None = None


def freeze_models(
    models: Iterable[Checkpoint], configs: Iterable[Teacher], mesh: jax.sharding.Mesh
) -> FrozenModels:
    """Freeze several models, each with the dtype, kernel and placement of its config."""
    frozen = [
        freeze(model, mesh, compute=config.compute, sharded=config.sharded)
        for model, config in zip(models, configs, strict=True)
    ]
    return FrozenModels(
        applies=tuple(apply for apply, _ in frozen), params=tuple(params for _, params in frozen)
    )


def make_step_teachers(
    program: Program,
    inputs: Inputs,
    order: Order,
    mesh: jax.sharding.Mesh,
    *,
    data: Path,
    report: ReportLine,
) -> StepTeachers:
    """Return the program's teachers or, with ``cache_top_k``, compute and cache their outputs.

    The losses are still initialized with the teacher itself.
    """
    e, teacher = program.experiment, inputs.models.teacher
    if not (teacher and e.teacher and e.teacher.cache_top_k):
        return StepTeachers(applies=program.teachers, params=program.teacher_params)
    spec = cache_spec(
        e.losses,
        e.teacher.cache_top_k,
        student=program.config.num_layers,
        teacher=teacher.config.num_layers,
    )
    targets = teacher_cache.cache_outputs(
        gcs_paths.local_path(e.data_dir) if e.data_dir else data,
        _fingerprint(e, inputs, teacher, spec),
        teacher_cache.make_compute_outputs(
            program.teachers[0], program.prepare(e.lanes()[0]), spec
        ),
        program.teacher_params[0],
        inputs.store.train,
        order,
        mesh,
        needed=e.steps * e.batch_size,
        batch_size=e.eval_batch_size,
        report=report,
    )
    return StepTeachers(
        applies=(teacher_cache.make_cached_teacher(spec),), params=({},), targets=targets
    )


def cached_loss(losses: Mapping[str, Loss]) -> VocabKD:
    """Return the loss that reads the cached token probabilities.

    Raises UserError for losses that a cache cannot serve.
    """
    vocab_losses = [
        loss for loss in (named.unwrap() for named in losses.values()) if isinstance(loss, VocabKD)
    ]
    if len(vocab_losses) != 1 or not vocab_losses[0].temperature.constant:
        raise UserError(
            "teacher.cache_top_k caches probabilities at one temperature: it needs exactly one "
            "VocabKD loss, with a constant temperature; set it to 0 for others"
        )
    if vocab_losses[0].divergence != "kl":
        raise UserError(
            "teacher.cache_top_k caches the most probable tokens only, which does not allow "
            f"divergence {vocab_losses[0].divergence}; use kl, or set teacher.cache_top_k to 0"
        )
    return vocab_losses[0]


def cache_spec(
    losses: Mapping[str, Loss], k: int, *, student: int, teacher: int
) -> teacher_cache.CacheSpec:
    """Return what the losses read of a teacher; ``student`` and ``teacher`` are numbers of layers.

    Raises UserError for a loss that does not declare it, and as ``cached_loss`` does.
    """
    vocab = cached_loss(losses)
    reads = {name: loss.reads(student, teacher) for name, loss in losses.items()}
    for name, loss in losses.items():
        if loss.needs_teacher and not reads[name]:
            raise UserError(
                f"losses.{name} does not declare what it reads of a teacher, so that "
                "teacher.cache_top_k cannot cache it; give its class a reads() method, or set "
                "teacher.cache_top_k to 0"
            )
    return teacher_cache.CacheSpec(
        k=k,
        temperature=vocab.temperature.start,
        masked=vocab.tokens == "masked",
        states=tuple(sorted(frozenset().union(*reads.values()) - {"vocab"})),
        layers=teacher,
    )


def _fingerprint(
    e: Experiment, inputs: Inputs, teacher: Checkpoint, spec: teacher_cache.CacheSpec
) -> dict[str, Any]:
    """Return everything that the cached outputs depend on: rows, masks, teacher and spec."""
    return {
        "blocks": inputs.store.path.name,
        "weights": [source.weight for source in e.corpus.sources],
        "seed": e.lanes()[0].seed,
        "task": to_json(e.task),
        "teacher": teacher.digest,
        "dtype": operand_dtype(e.teacher.dtype if e.teacher else "auto").name,
        "wanted": dataclasses.asdict(spec),
    }
