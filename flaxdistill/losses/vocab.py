"""What is said about vocabulary logits: masked-LM cross-entropy, temperature KL, and the report of both."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp

from flaxdistill.errors import UserError
from flaxdistill.losses.base import Loss, Terms, token_mask
from flaxdistill.losses.schedule import Schedule, constant
from flaxdistill.ops.divergence import Divergence
from flaxdistill.ops.vocab import vocab_objective, vocab_statistics
from flaxdistill.pytrees import Batch, Outputs, Params, VocabProjection, VocabTargets

V = TypeVar("V", VocabProjection, VocabTargets)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedLM(Loss):
    """Predict the masked tokens: cross-entropy, a mean over them (Devlin et al., 2019)."""

    kind = "supervised"
    about = "words"

    weight: Schedule = constant(1.0)
    chunk: int = (
        0  # tokens of every row whose logits exist at one time; 0: as many as suit the device
    )

    def __post_init__(self):
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
    """Match the teacher's vocabulary distribution and predict the masked tokens, in one pass over the logits.

    ``kl``: T^2 KL(teacher || student), a mean over ``tokens``; ``mlm``: cross-entropy, a mean over masked tokens
    (Sanh et al., 2019). The defaults are the published single-GPU recipe: weights 5 and 2, temperature 2, KL on every
    token but padding. Several teachers are averaged as probabilities. Another ``divergence`` takes the place, the weight
    and the name of the KL's term: cross-entropy differs by a constant, ``mse`` is of logits and summed over words,
    ``jsd`` is Jensen-Shannon. ``squared`` False leaves T^2 out, as TextBrewer and TinyBERT do.
    """

    kind = "match"
    needs_teacher = True
    about = "words"

    kl: Schedule = constant(5.0)
    mlm: Schedule = constant(2.0)
    temperature: Schedule = constant(2.0)
    divergence: Divergence = "kl"
    squared: bool = True
    tokens: Literal["real", "masked", "content"] = "real"
    chunk: int = (
        0  # tokens of every row whose logits exist at one time; 0: as many as suit the device
    )

    def __post_init__(self):
        _check_chunk(self.chunk)
        for value in (self.temperature.start, self.temperature.end):
            if value <= 0:
                raise UserError(f"temperature is {self.temperature}; it must be above 0")

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
        if self.tokens == "masked":
            # Only labelled positions have a say: gather them, so that the heads cost K tokens of a row and not T.
            head, heads = (
                at_labels(student.vocab, batch),
                tuple(at_labels(t.vocab, batch) for t in teachers),
            )
            labels, kl_mask = batch.labels, token_mask(batch, "masked")
        else:
            head, heads = student.vocab, tuple(t.vocab for t in teachers)
            labels, kl_mask = spread_labels(batch), token_mask(batch, self.tokens)
        ce_mask = jnp.where(labels >= 0, batch.weight[:, None], 0.0)
        temperature = (
            self.temperature.start if self.temperature.constant else self.temperature(step)
        )
        if not self.squared and self.divergence != "mse":
            kl_mask = kl_mask / jnp.square(jnp.asarray(temperature, jnp.float32))
        objective, values = vocab_objective(
            head,
            heads,
            labels,
            scale[self.divergence] * kl_mask,
            scale["mlm"] * ce_mask,
            temperature,
            self.chunk,
            self.divergence,
        )
        soft, ce = jnp.sum(values["soft"] * kl_mask), jnp.sum(values["ce"] * ce_mask)
        return objective, {self.divergence: soft, "mlm": ce}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabReport(Loss):
    """Report, on masked tokens: MLM loss and accuracy, KL at temperature 1 and top-1 agreement with the teacher.

    ``kl`` and ``agreement`` only where ``judged`` says that there is one. Nothing here has a gradient.
    """

    kind = "supervised"

    judged: bool = False

    def terms(self) -> dict[str, str]:
        """Map each term to its name among the op's statistics."""
        compared = {"kl": "kl", "agreement": "agreement"} if self.judged else {}
        return {"mlm": "ce", "accuracy": "correct"} | compared

    def weights(self, step: jax.Array) -> Terms:
        return {term: jnp.zeros((), jnp.float32) for term in self.terms()}

    def count(self, batch: Batch) -> Terms:
        n = jnp.sum(token_mask(batch, "masked"))
        return dict.fromkeys(self.terms(), n)

    def __call__(
        self,
        params: Params,
        student: Outputs,
        teachers: tuple[Outputs, ...],
        batch: Batch,
        scale: Terms,
        step: jax.Array,
    ) -> tuple[jax.Array, Terms]:
        heads = tuple(at_labels(t.vocab, batch) for t in teachers)
        values = vocab_statistics(at_labels(student.vocab, batch), heads, batch.labels)
        masked = token_mask(batch, "masked")
        totals = {term: jnp.sum(values[name] * masked) for term, name in self.terms().items()}
        return jnp.zeros((), jnp.float32), totals


def _check_chunk(chunk: int) -> None:
    if chunk < 0:
        raise UserError(
            f"chunk is {chunk}; it is a number of tokens, or 0 for as many as suit the device"
        )


def at_labels(head: V, batch: Batch) -> V:
    """Keep the hidden states at the labelled positions: [B, T, D] to [B, K, D]; stored targets are only those."""
    if isinstance(head, VocabTargets):
        return head
    hidden = jnp.take_along_axis(head.hidden, batch.label_positions[:, :, None], axis=1)
    return VocabProjection(hidden, head.kernel, head.bias)


def spread_labels(batch: Batch) -> jax.Array:
    """Put labels [B, K] back at their places: int32 [B, T], -1 elsewhere."""

    def row(labels, positions):
        # Unused entries all point somewhere; the greatest value wins, and no label is -1.
        return jnp.full(batch.input_ids.shape[1:], -1, jnp.int32).at[positions].max(labels)

    return jax.vmap(row)(batch.labels, batch.label_positions)
