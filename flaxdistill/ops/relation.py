"""Relations between the tokens of a sequence, compared without an array [T, T].

Two objectives: the KL divergence of softmaxes of scores, and the squared error of scores.
Shapes: B rows, T tokens, A heads, d width of a head, c queries of a block.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flaxdistill.ops.attention import MASK_VALUE
from flaxdistill.runtime.mesh_axes import num_shards

BLOCK_SCORES = 2**22
"""The number of scores per device that exist at one time, over all of its rows and all heads."""

Factors = tuple[jax.Array, jax.Array]
"""The two factors x and y of the scores x y^T / sqrt(d), [B, T, A, d] each: queries and keys, or
the same array twice."""

Result = tuple[jax.Array, jax.Array]
"""The objective, and a value per query, float32 [B, T]."""

Compare = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""A function of student scores, teacher scores and mask [B, A, c, T] that returns the value of each
pair and its derivative in the student score."""


def relation_kl(
    student: Factors, teacher: Factors, segments: Factors, weight: jax.Array, block: int = 0
) -> Result:
    """Sum ``weight`` KL(teacher || student) of softmax(x y^T / sqrt(d)) over queries.

    With queries and keys these are attention distributions; with values twice, the value relation
    of MiniLM (Wang et al., 2020). With heads split into relation heads they are the relations of
    MiniLM v2 (Wang et al., 2021).

    The weights are known before the forward pass, so one scan over blocks of queries computes value
    and gradients together, and no [T, T] array is saved.

    Args:
      student: Two arrays [B, T, A, d].
      teacher: Two arrays [B, T, A, d']. The width of a head may differ from the student's, the
        number of heads may not.
      segments: int32 [B, T] of queries and of keys. A query sees the keys of an equal segment.
      weight: float32 [B, T] per query.
      block: Queries per block; 0 chooses as many as ``BLOCK_SCORES`` allows.

    Returns:
      The float32 objective, differentiable in ``student``, and the KL of each query, float32 [B,
      T]; both are means over heads.
    """
    return _over_blocks(_kl, block, student, *jax.lax.stop_gradient((teacher, segments, weight)))


def score_mse(
    student: Factors, teacher: Factors, segments: Factors, weight: jax.Array, block: int = 0
) -> Result:
    """Sum ``weight`` (student score - teacher score)^2 over queries and the keys that they see.

    Scores are x y^T / sqrt(d), before the softmax: the attention loss of TinyBERT (Jiao et al.,
    2020, equation 7). Arguments and results are those of ``relation_kl``, with each query's sum of
    squares instead of its KL.
    """
    return _over_blocks(
        _squared_error, block, student, *jax.lax.stop_gradient((teacher, segments, weight))
    )


def _kl(
    student_scores: jax.Array, teacher_scores: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    log_q, log_p = (
        jax.nn.log_softmax(jnp.where(mask, scores, MASK_VALUE))
        for scores in (student_scores, teacher_scores)
    )
    p = jnp.exp(log_p)
    return p * (log_p - log_q), jnp.exp(log_q) - p


def _squared_error(
    student_scores: jax.Array, teacher_scores: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array]:
    difference = student_scores - teacher_scores
    return jnp.square(difference), 2 * difference


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _over_blocks(compare: Compare, block: int, student: Factors, *constants: Any) -> Result:
    return _forward(compare, block, student, *constants)[0]


def _forward(
    compare: Compare,
    block: int,
    student: Factors,
    teacher: Factors,
    segments: Factors,
    weight: jax.Array,
) -> tuple[Result, Factors]:
    """Scan over blocks of queries; returns the result and the gradients of the objective."""
    (x, y), (teacher_x, teacher_y), (B, T, A, d) = student, teacher, student[0].shape
    c = min(block or max(BLOCK_SCORES * num_shards(B, A) // (B * T * A), 1), T)
    n = -(-T // c)

    def split(a: jax.Array) -> jax.Array:
        """Split [B, T, ...] into [n, B, c, ...]."""
        a = jnp.pad(a, [(0, 0), (0, n * c - T)] + [(0, 0)] * (a.ndim - 2))
        return jnp.moveaxis(a.reshape(B, n, c, *a.shape[2:]), 1, 0)

    def body(dy: jax.Array, queries: tuple[jax.Array, ...]) -> tuple[jax.Array, Factors]:
        x, teacher_x, segment, w = queries
        mask = segment[:, None, :, None] == segments[1][:, None, None, :]
        pair_value, slope = compare(_scores(x, y), _scores(teacher_x, teacher_y), mask)
        value = jnp.sum(jnp.where(mask, pair_value, 0.0), (1, 3)) / A
        dscores = jnp.where(mask, slope, 0.0) * (w[:, None, :, None] / (A * math.sqrt(d)))
        dscores = dscores.astype(y.dtype)
        dx = jnp.einsum("bact,btad->bcad", dscores, y, preferred_element_type=jnp.float32)
        dy += jnp.einsum("bact,bcad->btad", dscores, x, preferred_element_type=jnp.float32)
        return dy, (value, dx.astype(x.dtype))

    blocks = tuple(split(a) for a in (x, teacher_x, segments[0], weight))
    dy, (value, dx) = jax.lax.scan(body, jnp.zeros(y.shape, jnp.float32), blocks)
    value, dx = (jnp.moveaxis(a, 0, 1).reshape(B, n * c, *a.shape[3:])[:, :T] for a in (value, dx))
    return (jnp.sum(weight * value), value), (dx, dy.astype(y.dtype))


def _scores(x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute x y^T / sqrt(d): [B, c, A, d] and [B, T, A, d] to float32 [B, A, c, T]."""
    scores = jnp.einsum("bcad,btad->bact", x, y, preferred_element_type=jnp.float32)
    return scores * x.shape[-1] ** -0.5


def _backward(
    compare: Compare, block: int, gradients: Factors, cotangents: Result
) -> tuple[Any, ...]:
    scale = cotangents[0]
    scaled = tuple((g.astype(jnp.float32) * scale).astype(g.dtype) for g in gradients)
    return scaled, None, None, None


_over_blocks.defvjp(_forward, _backward)
