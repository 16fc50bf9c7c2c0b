"""Divergences between student and teacher distributions given as logits, and their gradients.

Shapes: [..., V] logits, [...] labels, weights and values per token. In the formulas z are student
logits, t teacher logits, T the temperature, q = softmax(z / T) and p = softmax(t / T).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from flaxdistill.pytrees import VocabTargets

Divergence = Literal["kl", "ce", "mse", "jsd"]
"""How far the student is from the teacher: KL(p || q), the cross-entropy -sum p log q, the squared
difference of logits summed over classes, or the Jensen-Shannon divergence of p and q."""

MIN_REMAINDER = 1e-6
"""The smallest probability left for all other tokens; float32 cannot resolve 1 - sum(p) below
it."""

Gradient = Callable[[jax.Array], jax.Array]
"""A function of weights [...] that returns the gradient [..., V] of the weighted sum in the student
logits."""


class _Softened(NamedTuple):
    """The student at temperature T."""

    z: jax.Array
    """Logits minus their maximum. [..., V]"""
    exp: jax.Array
    """exp(z / T). [..., V]"""
    total: jax.Array
    """The sum of ``exp``. [...]"""


def compare_logits(
    student_logits: jax.Array,
    teacher_logits: Sequence[Any],
    labels: jax.Array,
    temperature: jax.Array,
    *,
    square: bool,
    divergence: Divergence,
) -> tuple[dict[str, jax.Array], dict[str, Gradient]]:
    """Compute cross-entropy and divergence per token, and functions that give their gradients.

    Every exponential is computed once: sums, probabilities and KL all follow from exp(z / T).

    Args:
      student_logits: float32 [..., V].
      teacher_logits: float32 [..., V] of each teacher, or one ``VocabTargets`` at ``temperature``.
        Several teachers are averaged as probabilities (as logits for ``mse``).
      labels: int32 [...]; where a label is negative, ``ce`` has no meaning.
      temperature: float32 scalar T.
      square: Whether T is 2, so that exp(z) is the square of exp(z / T).
      divergence: Which divergence to compute.

    Returns:
      Values [...]: ``ce`` = logsumexp(z) - z[label] and, with a teacher, ``soft`` = T^2 times the
      divergence (``mse`` has no T^2). Gradients: ``logsumexp`` (w softmax(z), the part of the
      cross-entropy's gradient that does not depend on the label) and, with a teacher, ``soft``.
    """
    z = student_logits - jnp.max(student_logits, -1, keepdims=True)
    softened = jnp.exp(z / temperature) if teacher_logits else None
    # The maximum changes no value. It stops XLA from rewriting exp(a) exp(a) as exp(2a), which
    # would be one more exponential.
    exp = jnp.exp(z) if softened is None or not square else jnp.maximum(softened, 0.0) * softened
    total = jnp.sum(exp, -1)
    label_z = jnp.take_along_axis(z, jnp.maximum(labels, 0)[..., None], -1)[..., 0]
    values = {"ce": jnp.log(total) - label_z}
    gradients: dict[str, Gradient] = {"logsumexp": lambda w: exp * (w / total)[..., None]}
    if softened is None:
        return values, gradients
    if divergence == "mse":
        difference = student_logits - sum(teacher_logits) / len(teacher_logits)
        values["soft"] = jnp.sum(jnp.square(difference), -1)
        gradients["soft"] = lambda w: 2 * w[..., None] * difference
        return values, gradients
    student = _Softened(z, softened, jnp.sum(softened, -1))
    soft, gradient = _divergence(student, teacher_logits, temperature, divergence)
    values["soft"] = temperature**2 * soft
    gradients["soft"] = lambda w: gradient(w * temperature)
    return values, gradients


def _divergence(
    student: _Softened,
    teacher_logits: Sequence[Any],
    temperature: jax.Array,
    divergence: Divergence,
) -> tuple[jax.Array, Gradient]:
    """Compute a divergence of probabilities, without T^2, and its gradient in z / T."""
    if isinstance(teacher_logits[0], VocabTargets):
        soft, gradient = _top_k_kl(student, teacher_logits[0], temperature)
    elif divergence == "jsd":
        soft, gradient = _jsd(student, _mean_log_p(teacher_logits, temperature), temperature)
    elif len(teacher_logits) == 1:
        soft, gradient = _kl(student, teacher_logits[0], temperature)
    else:
        soft, gradient = _ensemble_kl(
            student, _mean_log_p(teacher_logits, temperature), temperature
        )
    if divergence == "ce":
        log_p = _mean_log_p(teacher_logits, temperature)
        soft -= jnp.sum(jnp.exp(log_p) * log_p, -1)
    return soft, gradient


def _kl(
    student: _Softened, teacher_logits: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, Gradient]:
    """Compute KL(p || q) of one teacher."""
    z, exp, total = student
    t = teacher_logits - jnp.max(teacher_logits, -1, keepdims=True)
    p = jnp.exp(t / temperature)
    p_total = jnp.sum(p, -1)
    kl = jnp.sum(p * (t - z), -1) / (p_total * temperature) + jnp.log(total) - jnp.log(p_total)
    return kl, lambda w: exp * (w / total)[..., None] - p * (w / p_total)[..., None]


def _ensemble_kl(
    student: _Softened, log_p: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, Gradient]:
    """Compute KL(p || q) for p the mean of several teachers."""
    z, exp, total = student
    p = jnp.exp(log_p)
    kl = jnp.sum(p * (log_p - z / temperature), -1) + jnp.log(total)
    return kl, lambda w: w[..., None] * (exp / total[..., None] - p)


def _mean_log_p(teacher_logits: Sequence[jax.Array], temperature: jax.Array) -> jax.Array:
    """Compute the logarithm of the teachers' mean probabilities.

    It is computed in logarithms, because a mean of probabilities would underflow as they do.
    """
    log_p = functools.reduce(
        jnp.logaddexp, (jax.nn.log_softmax(t / temperature) for t in teacher_logits)
    )
    return log_p - math.log(len(teacher_logits))


def _jsd(
    student: _Softened, log_p: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, Gradient]:
    """Compute (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2 (Lin, 1991)."""
    z, exp, total = student
    p, q = jnp.exp(log_p), exp / total[..., None]
    log_q = z / temperature - jnp.log(total)[..., None]
    log_m = jnp.logaddexp(log_p, log_q) - math.log(2)
    student_kl = jnp.sum(q * (log_q - log_m), -1)
    jsd = (jnp.sum(p * (log_p - log_m), -1) + student_kl) / 2
    return jsd, lambda w: w[..., None] / 2 * q * (log_q - log_m - student_kl[..., None])


def _top_k_kl(
    student: _Softened, targets: VocabTargets, temperature: jax.Array
) -> tuple[jax.Array, Gradient]:
    """Compute the KL of p and q over the teacher's top k tokens and one class for all other tokens.

    The gradient moves the probability of the other tokens as a whole: relative to each other they
    stay as the student has them.
    """
    z, exp, total = student
    token_ids, log_p = targets.token_ids, targets.log_probs
    p = jnp.exp(log_p)
    log_q = jnp.take_along_axis(z, token_ids, -1) / temperature - jnp.log(total)[..., None]
    q = jnp.exp(log_q)
    others_p = jnp.maximum(1 - jnp.sum(p, -1), MIN_REMAINDER)
    others_q = jnp.maximum(1 - jnp.sum(q, -1), MIN_REMAINDER)
    kl = jnp.sum(p * (log_p - log_q), -1) + others_p * (jnp.log(others_p) - jnp.log(others_q))

    def gradient(w: jax.Array) -> jax.Array:
        others = exp * (w * (1 - others_p / others_q) / total)[..., None]
        return jnp.put_along_axis(others, token_ids, w[..., None] * (q - p), -1, inplace=False)

    return kl, gradient
