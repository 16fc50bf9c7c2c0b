"""Losses on vocabulary logits: masked-LM cross-entropy, distillation, and a report."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss, Terms, token_mask
from flaxdistill.losses.schedule import Schedule, check_temperature, constant
from flaxdistill.ops.divergence import Divergence
from flaxdistill.ops.vocab import at_labels, vocab_objective, vocab_statistics
from flaxdistill.pytrees import Batch, Feature, Outputs, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(Loss):
    """Predict the masked tokens: -log softmax(z)[label], a mean over them (Devlin et al., 2019).

    Needs a masked-language-model task, and no teacher. Term: ``mlm``.
    """

    kind = "supervised"
    needs = frozenset({Feature.VOCAB})
    needs_masks = True

    weight: Schedule = constant(1.0)
    """The weight of the term."""
    chunk: int = 0
    """The maximum number of tokens per row whose logits exist at one time; 0 chooses it for the
    device."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_chunk(self.chunk)

    def weights(self, step: jax.Array) -> Terms:
        return {"mlm": self.weight(step)}

    def count(self, batch: Batch) -> Terms:
        return {"mlm": jnp.sum(token_mask(batch, "masked"))}

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        masked = token_mask(batch, "masked")
        head, zero, one = at_labels(student.vocab, batch), jnp.zeros_like(masked), 1.0
        objective, values = vocab_objective(
            head, (), batch.labels, zero, scale["mlm"] * masked, one, self.chunk
        )
        return objective, {"mlm": jnp.sum(values["ce"] * masked)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabKD(Loss):
    """Distill the teacher's vocabulary distribution and predict the masked tokens, in one pass.

    ``kl`` T^2 KL(p || q) + ``mlm`` CE(label), with p = softmax(t/T) of the teacher's logits t and
    q = softmax(z/T) of the student's z (Hinton et al., 2015; Sanh et al., 2019). The first term
    is a mean over ``tokens``, the second over the masked tokens. Several teachers are averaged as
    probabilities.

    The defaults are DistilBERT's published single-GPU recipe: weights 5 and 2, temperature 2, KL on
    every token except padding.

    Needs a teacher with the same vocabulary and a masked-language-model task; the teacher may be of
    any width. Terms: the name of ``divergence``, and ``mlm``.

    Example:
      >>> loss = VocabKD(kl=5.0, mlm=2.0, temperature="4:1:1000")
      >>> {term: float(weight) for term, weight in loss.weights(step=0).items()}
      {'kl': 5.0, 'mlm': 2.0}
      >>> float(loss.temperature(500))
      2.5
    """

    kind = "match"
    needs_teacher = True
    needs = frozenset({Feature.VOCAB})

    kl: Schedule = constant(5.0)
    """The weight of the divergence."""
    mlm: Schedule = constant(2.0)
    """The weight of the cross-entropy with the masked tokens; 0 leaves it out of the objective."""
    temperature: Schedule = constant(2.0)
    """T, above 0."""
    divergence: Divergence = "kl"
    """The divergence: ``kl``; ``ce``, the cross-entropy -sum p log q, which differs from KL by a
    constant; ``mse``, squared differences of logits, summed over the vocabulary; or ``jsd``, the
    Jensen-Shannon divergence. The term is named after it."""
    squared: bool = True
    """Whether the divergence is multiplied by T^2; TextBrewer and TinyBERT leave it out."""
    tokens: Literal["real", "masked", "content"] = "real"
    """The tokens on which student and teacher are compared."""
    chunk: int = 0
    """The maximum number of tokens per row whose logits exist at one time; 0 chooses it for the
    device."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_chunk(self.chunk)
        check_temperature(self.temperature)

    @property
    def needs_masks(self) -> bool:  # type: ignore[override]
        """Whether it predicts the masked tokens, or compares the models on them alone."""
        return self.tokens == "masked" or self.mlm != constant(0.0)

    def reads(self, student: int, teacher: int) -> frozenset[str]:
        return frozenset({"vocab"})

    def weights(self, step: jax.Array) -> Terms:
        return {self.divergence: self.kl(step), "mlm": self.mlm(step)}

    def count(self, batch: Batch) -> Terms:
        return {
            self.divergence: jnp.sum(token_mask(batch, self.tokens)),
            "mlm": jnp.sum(token_mask(batch, "masked")),
        }

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        soft_mask = token_mask(batch, self.tokens)
        if self.tokens == "masked":
            # Only the K labelled positions matter, so the heads compute K tokens of a row, not T.
            student_head = at_labels(student.vocab, batch)
            teacher_heads = tuple(at_labels(teacher.vocab, batch) for teacher in teachers)
            labels = batch.labels
        else:
            student_head = student.vocab
            teacher_heads = tuple(teacher.vocab for teacher in teachers)
            labels = scatter_labels(batch)
        hard_mask = jnp.where(labels >= 0, batch.weight[:, None], 0.0)
        temperature = self.temperature.value_at(step)
        if not self.squared and self.divergence != "mse":
            soft_mask = soft_mask / jnp.square(jnp.asarray(temperature, jnp.float32))
        objective, values = vocab_objective(
            student_head,
            teacher_heads,
            labels,
            scale[self.divergence] * soft_mask,
            scale["mlm"] * hard_mask,
            temperature,
            self.chunk,
            self.divergence,
        )
        soft, ce = jnp.sum(values["soft"] * soft_mask), jnp.sum(values["ce"] * hard_mask)
        return objective, {self.divergence: soft, "mlm": ce}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabReport(Loss):
    """Report metrics on the masked tokens, for evaluation; nothing has a gradient.

    Terms: ``mlm``, the cross-entropy, and ``accuracy``; ``with_teacher`` also ``kl`` at temperature
    1 and ``agreement``, the fraction of tokens on which both models predict the same token.
    """

    kind = "supervised"
    needs = frozenset({Feature.VOCAB})
    needs_masks = True

    with_teacher: bool = False
    """Whether to compare with a teacher."""

    def terms(self) -> dict[str, str]:
        """Map each term to its name in the result of ``vocab_statistics``."""
        compared = {"kl": "kl", "agreement": "agreement"} if self.with_teacher else {}
        return {"mlm": "ce", "accuracy": "correct"} | compared

    def weights(self, step: jax.Array) -> Terms:
        return {term: jnp.zeros((), jnp.float32) for term in self.terms()}

    def count(self, batch: Batch) -> Terms:
        return dict.fromkeys(self.terms(), jnp.sum(token_mask(batch, "masked")))

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        teacher_heads = tuple(at_labels(teacher.vocab, batch) for teacher in teachers)
        student_head = at_labels(student.vocab, batch)
        values = vocab_statistics(student_head, teacher_heads, batch.labels)
        masked = token_mask(batch, "masked")
        totals = {term: jnp.sum(values[name] * masked) for term, name in self.terms().items()}
        return jnp.zeros((), jnp.float32), totals


def _check_chunk(chunk: int) -> None:
    if chunk < 0:
        raise UserError(
            f"chunk is {chunk}; give a number of tokens, or 0 to choose it for the device"
        )


def scatter_labels(batch: Batch) -> jax.Array:
    """Scatter labels [B, K] to their positions: int32 [B, T], -1 elsewhere."""

    def scatter_row(labels: jax.Array, positions: jax.Array) -> jax.Array:
        # Unused entries have label -1 and an arbitrary position, so the maximum is the label.
        row = jnp.full(batch.input_ids.shape[1:], -1, jnp.int32)
        return row.at[positions].max(labels)

    return jax.vmap(scatter_row)(batch.labels, batch.label_positions)
