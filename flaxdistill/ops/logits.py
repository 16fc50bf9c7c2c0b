"""The objective over logits that fit in memory, such as those of a classifier.

``ops.vocab`` computes the same for vocabulary logits, which do not.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from flaxdistill.ops.divergence import Divergence, compare_logits

Result = tuple[jax.Array, dict[str, jax.Array]]
"""The objective, and values [...] by name."""


def logits_objective(
    student_logits: jax.Array,
    teacher_logits: tuple[jax.Array, ...],
    labels: jax.Array,
    soft_weight: jax.Array,
    hard_weight: jax.Array,
    temperature: jax.Array | float,
    divergence: Divergence = "kl",
) -> Result:
    """Sum ``soft_weight`` T^2 KL(teacher || student) + ``hard_weight`` CE(label) over all rows.

    This is the loss of Hinton et al., 2015, section 2, with a weight per row.

    Args:
      student_logits: float32 [..., C].
      teacher_logits: float32 [..., C] of each teacher; they are averaged as probabilities (as
        logits for ``mse``).
      labels: int32 [...].
      soft_weight: float32 [...], the weight of the divergence.
      hard_weight: float32 [...], the weight of the cross-entropy; 0 where there is no label.
      temperature: T. A Python float 2.0 saves an exponential: exp(z) is the square of exp(z / 2).
      divergence: Replaces the KL divergence. ``mse`` has no T^2.

    Returns:
      The float32 objective, differentiable in ``student_logits``, and values [...]: ``ce`` and,
      with a teacher, ``soft`` (T^2 times the divergence).

    Example:
      >>> import jax.numpy as jnp
      >>> student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[2.0, 0.0]])
      >>> one = jnp.ones(1)
      >>> objective, values = logits_objective(student, (teacher,), jnp.array([0]), one, one, 2.0)
      >>> {name: round(float(value[0]), 4) for name, value in values.items()}
      {'ce': 0.6931, 'soft': 0.4438}
      >>> round(float(objective), 4)
      1.1369
    """
    square = isinstance(temperature, float) and temperature == 2.0
    temperature = jnp.asarray(temperature, jnp.float32)
    constants = (teacher_logits, labels, soft_weight, hard_weight, temperature)
    return _objective(square, divergence, student_logits, *jax.lax.stop_gradient(constants))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _objective(
    square: bool, divergence: Divergence, student_logits: jax.Array, *constants: Any
) -> Result:
    return _forward(square, divergence, student_logits, *constants)[0]


def _forward(
    square: bool,
    divergence: Divergence,
    student_logits: jax.Array,
    teacher_logits: tuple[jax.Array, ...],
    labels: jax.Array,
    soft_weight: jax.Array,
    hard_weight: jax.Array,
    temperature: jax.Array,
) -> tuple[Result, jax.Array]:
    values, gradients = compare_logits(
        student_logits, teacher_logits, labels, temperature, square=square, divergence=divergence
    )
    one_hot = jax.nn.one_hot(labels, student_logits.shape[-1], dtype=bool)
    gradient = gradients["logsumexp"](hard_weight)
    gradient = gradient - jnp.where(one_hot, hard_weight[..., None], 0.0)
    objective = jnp.sum(hard_weight * values["ce"])
    if teacher_logits:
        objective += jnp.sum(soft_weight * values["soft"])
        gradient += gradients["soft"](soft_weight)
    return (objective, values), gradient


def _backward(
    square: bool, divergence: Divergence, gradient: jax.Array, cotangents: Result
) -> tuple[jax.Array | None, ...]:
    return gradient * cotangents[0], None, None, None, None, None


_objective.defvjp(_forward, _backward)
