"""Losses on the logits of a task head: the labels, and the teacher's soft labels.

Shapes: B rows, N predictions of a row (1 for text classification, T for token classification, 2 for
the start and end of an answer span), C classes or positions.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss, Terms
from flaxdistill.losses.schedule import Schedule, check_temperature, constant
from flaxdistill.ops.divergence import Divergence
from flaxdistill.ops.logits import logits_objective
from flaxdistill.pytrees import Batch, Feature, Outputs, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels(Loss):
    """Predict the labels: cross-entropy of classes or span ends, squared error for regression.

    The mean is over the labelled predictions of a batch, as PyTorch's ``ignore_index`` computes it:
    in a batch of mostly unlabelled rows, the few labelled ones weigh as much as a whole batch of
    labelled rows.

    Needs a labelled task, and no teacher. Term: ``labels``.
    """

    kind = "supervised"
    needs = frozenset({Feature.LOGITS})

    weight: Schedule = constant(1.0)
    """The weight of the term."""

    def weights(self, step: jax.Array) -> Terms:
        return {"labels": self.weight(step)}

    def count(self, batch: Batch) -> Terms:
        return {"labels": jnp.sum(_labelled_mask(batch))}

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        mask, logits = _labelled_mask(batch), _float32_logits(student)
        if _is_regression(batch):
            # A missing label is NaN, and NaN times 0 is NaN: replace it before the difference.
            labels = jnp.where(mask > 0, batch.labels, 0.0)
            total = jnp.sum(mask * jnp.square(logits[..., 0] - labels))
            return scale["labels"] * total, {"labels": jax.lax.stop_gradient(total)}
        zero, one = jnp.zeros_like(mask), 1.0
        objective, values = logits_objective(
            logits, (), batch.labels, zero, scale["labels"] * mask, one
        )
        return objective, {"labels": jnp.sum(values["ce"] * mask)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftLabels(Loss):
    """Match the teacher's distribution over classes or positions, or its predicted number.

    ``weight`` T^2 KL(p || q), with p = softmax(t/T) of the teacher's logits t and q = softmax(z/T)
    of the student's z (Hinton et al., 2015). The mean is over all predictions, labelled or not.
    ``Labels`` with weight 1 - alpha and ``SoftLabels`` with weight alpha are the usual sum. Several
    teachers are averaged as probabilities.

    Needs a teacher trained on the same task. Term: the name of ``divergence``.

    Example:
      >>> from flaxdistill import Labels, SoftLabels
      >>> losses = {"labels": Labels(weight=0.1), "soft": SoftLabels(weight=0.9, temperature=4.0)}
      >>> {term: round(float(w), 1) for term, w in losses["soft"].weights(step=0).items()}
      {'kl': 0.9}
    """

    kind = "match"
    needs_teacher = True
    needs = frozenset({Feature.LOGITS})

    weight: Schedule = constant(1.0)
    """The weight of the term."""
    temperature: Schedule = constant(2.0)
    """T, above 0."""
    divergence: Divergence = "kl"
    """The divergence: ``kl``; ``ce``, the cross-entropy -sum p log q; ``mse``, squared differences
    of logits, summed over classes; or ``jsd``, the Jensen-Shannon divergence. Regression needs
    ``mse``, because a number has no distribution. The term is named after it."""
    squared: bool = True
    """Whether the divergence is multiplied by T^2; TextBrewer and TinyBERT leave it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.temperature)

    def weights(self, step: jax.Array) -> Terms:
        return {self.divergence: self.weight(step)}

    def count(self, batch: Batch) -> Terms:
        return {self.divergence: jnp.sum(_prediction_mask(batch))}

    def init(self, key: jax.Array, student: Outputs, teachers: tuple[Outputs, ...]) -> Params:
        shape = _logits(student).shape
        for teacher in teachers:
            teacher_shape = _logits(teacher).shape
            if shape[1:] != teacher_shape[1:]:
                raise UserError(
                    f"the student predicts {shape[-1]} classes and the teacher "
                    f"{teacher_shape[-1]}; train the teacher on the same task"
                )
        if shape[-1] == 1 and self.divergence != "mse":
            raise UserError(
                f"divergence {self.divergence} compares distributions, and a regression task "
                "predicts a number; set divergence to mse"
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
        mask = _prediction_mask(batch)
        teacher_logits = tuple(_float32_logits(teacher) for teacher in teachers)
        temperature = self.temperature.value_at(step)
        if not self.squared and self.divergence != "mse":
            mask = mask / jnp.square(jnp.asarray(temperature, jnp.float32))
        no_labels = jnp.zeros(mask.shape, jnp.int32)
        objective, values = logits_objective(
            _float32_logits(student),
            teacher_logits,
            no_labels,
            scale[self.divergence] * mask,
            jnp.zeros_like(mask),
            temperature,
            self.divergence,
        )
        return objective, {self.divergence: jnp.sum(values["soft"] * mask)}


def _float32_logits(outputs: Outputs) -> jax.Array:
    return _logits(outputs).astype(jnp.float32)


def _logits(outputs: Outputs) -> jax.Array:
    assert outputs.logits is not None  # as ``needs`` says
    return outputs.logits


def _is_regression(batch: Batch) -> bool:
    return bool(jnp.issubdtype(batch.labels.dtype, jnp.floating))


def _labelled_mask(batch: Batch) -> jax.Array:
    """Mark the predictions that have a label. float32 [B, N]."""
    labelled = ~jnp.isnan(batch.labels) if _is_regression(batch) else batch.labels >= 0
    return jnp.where(labelled, batch.weight[:, None], 0.0)


def _prediction_mask(batch: Batch) -> jax.Array:
    """Mark the predictions that exist, labelled or not; label -1 means none. float32 [B, N]."""
    exists = jnp.ones(batch.labels.shape, bool) if _is_regression(batch) else batch.labels != -1
    return jnp.where(exists, batch.weight[:, None], 0.0)
