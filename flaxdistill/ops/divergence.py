"""How far two distributions are from each other, given as logits, with gradients in the student's.

Shapes: [..., V] logits, [...] weights and values per token.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from flaxdistill.pytrees import VocabTargets

Divergence = Literal["kl", "ce", "mse", "jsd"]
"""How far a student is from its teacher: KL(teacher || student), cross-entropy, squared difference of logits, summed over
words, or Jensen-Shannon divergence."""

LEAST = 1e-6
"""A share below which float32 cannot tell what a sum leaves of 1."""


def compare(logits, theirs, label, temperature, *, square, divergence):
    """Compare float32 logits [..., V]: per token CE and divergence, and gradients in the logits, per token's weight.

    ``student(w)`` is w q at temperature 1, ``soft(w)`` the gradient of w times the divergence. Every exponential is taken
    once: sums, probabilities and KL all follow from exp((z - max) / T).
    """
    z = logits - jnp.max(logits, -1, keepdims=True)
    warm = jnp.exp(z / temperature) if theirs else None
    # The maximum changes nothing, and keeps XLA from writing exp(a) exp(a) as exp(2a): one more exponential.
    plain = jnp.exp(z) if warm is None or not square else jnp.maximum(warm, 0.0) * warm
    total = jnp.sum(plain, -1)
    at_label = jnp.take_along_axis(z, jnp.maximum(label, 0)[..., None], -1)[..., 0]
    values = {"ce": jnp.log(total) - at_label}
    shares: dict[str, Any] = {"student": lambda w: plain * (w / total)[..., None]}
    if warm is None:
        return values, shares
    if divergence == "mse":
        difference = logits - sum(theirs) / len(theirs)
        values["soft"] = jnp.sum(jnp.square(difference), -1)
        shares["soft"] = lambda w: 2 * w[..., None] * difference
        return values, shares
    q = (z, warm, jnp.sum(warm, -1))
    if isinstance(theirs[0], VocabTargets):
        soft, gradient = _cut_teacher(*q, theirs[0], temperature)
    elif divergence == "jsd":
        soft, gradient = _jensen_shannon(*q, _log_mean(theirs, temperature), temperature)
    elif len(theirs) == 1:
        soft, gradient = _teacher(*q, theirs[0], temperature)
    else:
        soft, gradient = _ensemble(*q, _log_mean(theirs, temperature), temperature)
    if divergence == "ce":
        log_p = _log_mean(theirs, temperature)
        soft -= jnp.sum(jnp.exp(log_p) * log_p, -1)
    values["soft"] = temperature**2 * soft
    shares["soft"] = lambda w: gradient(w * temperature)
    return values, shares


def _teacher(z, warm, total, logits, temperature):
    t = logits - jnp.max(logits, -1, keepdims=True)
    p = jnp.exp(t / temperature)
    p_total = jnp.sum(p, -1)
    kl = jnp.sum(p * (t - z), -1) / (p_total * temperature) + jnp.log(total) - jnp.log(p_total)
    return kl, lambda w: warm * (w / total)[..., None] - p * (w / p_total)[..., None]


def _ensemble(z, warm, total, log_p, temperature):
    p = jnp.exp(log_p)
    kl = jnp.sum(p * (log_p - z / temperature), -1) + jnp.log(total)
    return kl, lambda w: w[..., None] * (warm / total[..., None] - p)


def _log_mean(theirs, temperature):
    # In logarithms: a mean of probabilities may be as small as they are.
    log_p = functools.reduce(jnp.logaddexp, (jax.nn.log_softmax(t / temperature) for t in theirs))
    return log_p - math.log(len(theirs))


def _jensen_shannon(z, warm, total, log_p, temperature):
    """Half of KL(p || m) + KL(q || m), m their mean (Lin, 1991)."""
    p, q = jnp.exp(log_p), warm / total[..., None]
    log_q = z / temperature - jnp.log(total)[..., None]
    log_m = jnp.logaddexp(log_p, log_q) - math.log(2)
    own = jnp.sum(q * (log_q - log_m), -1)
    jsd = (jnp.sum(p * (log_p - log_m), -1) + own) / 2
    return jsd, lambda w: w[..., None] / 2 * q * (log_q - log_m - own[..., None])


def _cut_teacher(z, warm, total, kept, temperature):
    """The words that were kept, and one more for all others: p and q both cut so.

    The gradient gives the others what the teacher left them, in the student's own proportions.
    """
    words, log_p = kept.token_ids, kept.log_probs
    p = jnp.exp(log_p)
    log_q = jnp.take_along_axis(z, words, -1) / temperature - jnp.log(total)[..., None]
    q = jnp.exp(log_q)
    others_p = jnp.maximum(1 - jnp.sum(p, -1), LEAST)
    others_q = jnp.maximum(1 - jnp.sum(q, -1), LEAST)
    kl = jnp.sum(p * (log_p - log_q), -1) + others_p * (jnp.log(others_p) - jnp.log(others_q))

    def difference(w):
        dense = warm * (w * (1 - others_p / others_q) / total)[..., None]
        return jnp.put_along_axis(dense, words, w[..., None] * (q - p), -1, inplace=False)

    return kl, difference


def answers_objective(
    logits: jax.Array,
    theirs: tuple[jax.Array, ...],
    labels: jax.Array,
    soft_weight: jax.Array,
    hard_weight: jax.Array,
    temperature: jax.Array | float,
    divergence: Divergence = "kl",
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum weighted divergences from the teachers and cross-entropies with labels, of logits small enough to exist.

    ``logits`` and those of each teacher float32 [..., C]; ``labels`` int32 and weights float32 [...], 0 where a label
    means nothing. Returns the objective, differentiable in ``logits``, and values per question: ``ce``, ``soft``.
    """
    square = isinstance(temperature, float) and temperature == 2.0
    temperature = jnp.asarray(temperature, jnp.float32)
    fixed = (theirs, labels, soft_weight, hard_weight, temperature)
    return _answers(square, divergence, logits, *jax.lax.stop_gradient(fixed))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _answers(square, divergence, logits, *fixed):
    return _answers_forward(square, divergence, logits, *fixed)[0]


def _answers_forward(
    square, divergence, logits, theirs, labels, soft_weight, hard_weight, temperature
):
    values, shares = compare(
        logits, theirs, labels, temperature, square=square, divergence=divergence
    )
    hit = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    gradient = shares["student"](hard_weight) - jnp.where(hit, hard_weight[..., None], 0.0)
    objective = jnp.sum(hard_weight * values["ce"])
    if theirs:
        objective += jnp.sum(soft_weight * values["soft"])
        gradient += shares["soft"](soft_weight)
    return (objective, values), (gradient, len(theirs))


def _answers_backward(square, divergence, saved, cotangents):
    gradient, _ = saved
    return gradient * cotangents[0], None, None, None, None, None


_answers.defvjp(_answers_forward, _answers_backward)
