"""What is said about a task's answers: the labels' cross-entropy or squared error, and the teacher's soft labels."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss, Terms
from flaxdistill.losses.schedule import Schedule, constant
from flaxdistill.ops.divergence import Divergence, answers_objective
from flaxdistill.pytrees import Batch, Outputs, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels(Loss):
    """Give the right answers: cross-entropy of classes or ends of spans, squared error of numbers.

    A mean over what has a label in a batch, as PyTorch's ``ignore_index`` gives it: beside rows without labels the few that
    have one count as much as a whole batch of them.
    """

    kind = "supervised"
    about = "answers"

    weight: Schedule = constant(1.0)

    def weights(self, step: jax.Array) -> Terms:
        return {"labels": self.weight(step)}

    def count(self, batch: Batch) -> Terms:
        return {"labels": jnp.sum(_known(batch))}

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        known, logits = _known(batch), _logits(student)
        if _numbers(batch):
            labels = jnp.where(
                known > 0, batch.labels, 0.0
            )  # before the difference: NaN times 0 is NaN
            total = jnp.sum(known * jnp.square(logits[..., 0] - labels))
            return scale["labels"] * total, {"labels": jax.lax.stop_gradient(total)}
        zero, one = jnp.zeros_like(known), 1.0
        objective, values = answers_objective(
            logits, (), batch.labels, zero, scale["labels"] * known, one
        )
        return objective, {"labels": jnp.sum(values["ce"] * known)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftLabels(Loss):
    """Give the teacher's answers: a divergence of two distributions over classes or places, or of two numbers.

    ``weight`` x T^2 KL(teacher || student), a mean over all that is asked, whether it has a label or not (Hinton et al.,
    2015); beside ``Labels`` weights of 1 - alpha and alpha make the usual sum. Several teachers are averaged as
    probabilities. The term is named after the ``divergence``; ``mse`` compares logits, summed over classes, and is the
    only one for numbers, which have no distribution. ``squared`` False leaves T^2 out, as TextBrewer and TinyBERT do.
    """

    kind = "match"
    needs_teacher = True
    about = "answers"

    weight: Schedule = constant(1.0)
    temperature: Schedule = constant(2.0)
    divergence: Divergence = "kl"
    squared: bool = True

    def __post_init__(self):
        for value in (self.temperature.start, self.temperature.end):
            if value <= 0:
                raise UserError(f"temperature is {self.temperature}; it must be above 0")

    def weights(self, step: jax.Array) -> Terms:
        return {self.divergence: self.weight(step)}

    def count(self, batch: Batch) -> Terms:
        return {self.divergence: jnp.sum(_asked(batch))}

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        ours = _answered(student)
        for teacher in teachers:
            theirs = _answered(teacher)
            if ours.shape[1:] != theirs.shape[1:]:
                raise UserError(
                    f"the student answers with {ours.shape[-1]} classes and the teacher with {theirs.shape[-1]}; train "
                    "the teacher on the same task"
                )
        if ours.shape[-1] == 1 and self.divergence != "mse":
            raise UserError(
                f"a number has no distribution for divergence {self.divergence!r}; set it to mse"
            )
        return {}

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        asked, theirs = _asked(batch), tuple(_logits(teacher) for teacher in teachers)
        temperature = (
            self.temperature.start if self.temperature.constant else self.temperature(step)
        )
        if not self.squared and self.divergence != "mse":
            asked = asked / jnp.square(jnp.asarray(temperature, jnp.float32))
        nothing = jnp.zeros(asked.shape, jnp.int32)
        objective, values = answers_objective(
            _logits(student),
            theirs,
            nothing,
            scale[self.divergence] * asked,
            jnp.zeros_like(asked),
            temperature,
            self.divergence,
        )
        return objective, {self.divergence: jnp.sum(values["soft"] * asked)}


def _logits(outputs: Outputs) -> jax.Array:
    return _answered(outputs).astype(jnp.float32)


def _answered(outputs: Outputs) -> jax.Array:
    if outputs.logits is None:
        raise UserError(
            "there are no answers to compare: the model has no task head; set the experiment's task"
        )
    return outputs.logits


def _numbers(batch: Batch) -> bool:
    return bool(jnp.issubdtype(batch.labels.dtype, jnp.floating))


def _known(batch: Batch) -> jax.Array:
    """Mark the questions whose answer is known, float32 [B, N]."""
    known = ~jnp.isnan(batch.labels) if _numbers(batch) else batch.labels >= 0
    return jnp.where(known, batch.weight[:, None], 0.0)


def _asked(batch: Batch) -> jax.Array:
    """Mark the questions that are asked, answer known or not, float32 [B, N]."""
    asked = jnp.ones(batch.labels.shape, bool) if _numbers(batch) else batch.labels != -1
    return jnp.where(asked, batch.weight[:, None], 0.0)
